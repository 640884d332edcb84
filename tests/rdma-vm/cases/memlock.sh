# Memory that may not be pinned: an error that says so, at once. The kernel heeds the limit only of
# processes that may not exceed it, so the capability goes as well.
use_ucx
limited() {
    local bytes=$1
    shift
    prlimit --memlock="$bytes:$bytes" setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock "$@"
}
# 1 MiB does not do for UCX's own queues; 192 MiB do, but not for the benchmark's 256 MiB.
for limit in 1048576 201326592; do
    UCX_NET_DEVICES=rxe0:1 "$NIXL" bench --backend ucx --listen 127.0.0.1:7000 > target 2>&1 &
    server=$!
    await_port 7000 "$server"
    begun=$(date +%s%N)
    rc=0
    UCX_NET_DEVICES=rxe1:1 limited "$limit" "$NIXL" bench --backend ucx --connect 127.0.0.1:7000 \
        --op read --block 4194304 --count 64 --iters 1 > report 2>&1 || rc=$?
    ms=$((($(date +%s%N) - begun) / 1000000))
    echo "limit $limit: exit status $rc after $ms ms"
    cat report
    [ "$rc" -eq 1 ] || fail "$limit bytes: exit status $rc"
    grep -q '^error: .*\(ulimit -l\|memlock\|may be pinned\)' report || fail "$limit bytes: the error does not say why"
    [ "$ms" -le 20000 ] || fail "$limit bytes: $ms ms"
    kill -9 "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    notes="${notes:-}${notes:+; }$((limit >> 20)) MiB: said after $ms ms"
done
result "$notes"
