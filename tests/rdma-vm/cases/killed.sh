# The target is killed while a READ or WRITE moves: the initiator ends with PeerGone by itself. With
# the seven tries that our profile asks of Soft-RoCE, a second each, the queue pair gives up.
use_ucx
for op in read write; do
    bench_against_target "$op"
    kill -9 "$server"
    killed=$(date +%s%N)
    rc=0
    wait "$client" || rc=$?
    ms=$((($(date +%s%N) - killed) / 1000000))
    cat report
    [ "$rc" -eq 1 ] || fail "$op: exit status $rc"
    grep -q 'error: PeerGone' report || fail "$op: the error does not say that the peer is gone"
    [ "$ms" -le 35000 ] || fail "$op: noticed after $ms ms"
    notes="${notes:-}${notes:+; }$op noticed after $ms ms"
    wait "$server" 2>/dev/null || true
done
result "$notes"
