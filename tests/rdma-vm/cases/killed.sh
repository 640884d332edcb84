# The target is killed while a READ or WRITE moves: the initiator ends with PeerGone by itself.
use_ucx
for op in read write; do
    UCX_NET_DEVICES=rxe0:1 "$NIXL" bench --backend ucx --listen 127.0.0.1:7000 > target 2>&1 &
    server=$!
    await_port 7000 "$server"
    UCX_NET_DEVICES=rxe1:1 "$NIXL" bench --backend ucx --connect 127.0.0.1:7000 --op "$op" \
        --block 1048576 --count 64 --iters 1000 > report 2>&1 &
    client=$!
    # 32 MiB have crossed: what is moving now is the benchmark's data.
    before=$(packets)
    until [ $(($(packets) - before)) -gt 8192 ]; do
        kill -0 "$client" 2>/dev/null || { cat report target; fail "$op ended too early"; }
        /run/busybox usleep 20000
    done
    kill -9 "$server"
    killed=$(date +%s%N)
    rc=0
    wait "$client" || rc=$?
    ms=$((($(date +%s%N) - killed) / 1000000))
    cat report
    [ "$rc" -eq 1 ] || fail "$op: exit status $rc"
    grep -qi 'gone\|died\|lost\|ended' report || fail "$op: the error does not say that the peer is gone"
    notes="${notes:-}${notes:+; }$op noticed after $ms ms"
    wait "$server" 2>/dev/null || true
done
result "$notes"
