# The link goes down while a READ or WRITE moves: the initiator ends by itself within its deadline,
# and once the link is up again, new agents reach each other over it.
use_ucx
for op in read write; do
    bench_against_target "$op"
    ip link set veth1 down
    cut=$(date +%s%N)
    rc=0
    wait "$client" || rc=$?
    ms=$((($(date +%s%N) - cut) / 1000000))
    cat report
    [ "$rc" -eq 1 ] || fail "$op: exit status $rc"
    grep -q 'error: PeerGone\|error: Timeout' report || fail "$op: neither PeerGone nor Timeout"
    # The benchmark's deadline is 30 s, and leaving takes at most 5 s more.
    [ "$ms" -le 40000 ] || fail "$op: ended $ms ms after the link"
    kill -9 "$server"
    wait "$server" 2>/dev/null || true
    ip link set veth1 up
    await_active rxe0
    await_active rxe1
    notes="${notes:-}${notes:+; }$op ended after $ms ms"
done
agents read 32768 256 3
case $report in *'"verified":true'*) ;; *) fail "after the link came back, bytes are wrong" ;; esac
case $report in *'"lanes":"ucx:rc_verbs/'*) ;; *) fail "no rc_verbs after the link came back: $report" ;; esac
result "$notes; then 8 MiB right"
