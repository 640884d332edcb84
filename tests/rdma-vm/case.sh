# case.sh UCX SCRIPT: runs a case with what the scripts share. `result TEXT` goes into the summary.
set -euo pipefail
ucx=$1 script=$2
. /run/ctl/vars
scratch=$(mktemp -d /run/case.XXXXXX)
cd "$scratch"

result() { echo "RESULT $*"; }
fail() {
    echo "FAIL $*"
    # A server that stays would answer the next case.
    kill -9 $(jobs -p) 2>/dev/null || true
    exit 1
}

# The UCX of this case, for our own programs; $perftest and $info are Debian's always.
use_ucx() {
    case $ucx in
        debian)
            export NIXL_RS_UCX_LIB=$ROOT/target/ucx/debian/lib
            # 1.13 drops what rxe delivers for an IPv4 GID.
            export UCX_UD_VERBS_ETH_DGID_CHECK=n ;;
        nixl)
            export NIXL_RS_UCX_LIB=$ROOT/target/ucx/nixl/lib
            # The wheel has its own libibverbs, without a provider for rxe. Debian's provider fits,
            # if it finds the wheel's library under the name that it was linked to.
            mkdir -p "$scratch/verbs"
            ln -s "$ROOT"/target/ucx/nixl/lib/libibverbs-*.so* "$scratch/verbs/libibverbs.so.1"
            export LD_LIBRARY_PATH=$scratch/verbs:/usr/lib/x86_64-linux-gnu/libibverbs ;;
        *) : ;;
    esac
}

# Debian's tools over Debian's UCX, whatever else is installed.
tool() {
    LD_LIBRARY_PATH=$ROOT/target/ucx/debian/lib UCX_UD_VERBS_ETH_DGID_CHECK=n UCX_TLS=rc "$@"
}

# Packets that device $1 has sent: a process that moved bytes elsewhere leaves it as it is.
sent() { cat "/sys/class/infiniband/$1/ports/1/hw_counters/sent_pkts"; }
packets() { echo $(($(sent rxe0) + $(sent rxe1))); }

# Waits until a process listens on TCP port $1; the case's limit ends it.
await_port() {
    local hex
    hex=$(printf ':%04X' "$1")
    until awk -v p="$hex" '$4 == "0A" && index($2, p) {found = 1} END {exit !found}' \
        /proc/net/tcp /proc/net/tcp6; do
        [ -z "${2:-}" ] || kill -0 "$2" 2>/dev/null || fail "the server ended before it listened"
        /run/busybox usleep 50000
    done
}

# ucx_perftest TEST SIZE COUNT: a server on rxe0, a client on rxe1; its packets in $moved.
perftest() {
    local before server
    before=$(packets)
    UCX_NET_DEVICES=rxe0:1 tool ucx_perftest -p 13337 > "$scratch/server" 2>&1 &
    server=$!
    await_port 13337 "$server"
    UCX_NET_DEVICES=rxe1:1 tool ucx_perftest 10.99.0.1 -p 13337 -t "$1" -s "$2" -n "$3" -w 0 \
        > "$scratch/client" 2>&1 || { cat "$scratch/client" "$scratch/server"; fail "$1"; }
    wait "$server" || { cat "$scratch/server"; fail "$1: its server"; }
    moved=$(($(packets) - before))
}

# Two agents, one on each device: `agents OP BLOCK COUNT ITERS` leaves the report in $report and
# the packets in $moved.
agents() {
    local before server
    before=$(packets)
    UCX_NET_DEVICES=rxe0:1 "$NIXL" bench --backend ucx --listen 127.0.0.1:7000 > "$scratch/target" 2>&1 &
    server=$!
    await_port 7000 "$server"
    UCX_NET_DEVICES=rxe1:1 "$NIXL" bench --backend ucx --connect 127.0.0.1:7000 --json --op "$1" \
        --block "$2" --count "$3" --iters "$4" > "$scratch/report" 2> "$scratch/initiator" \
        || { cat "$scratch/initiator" "$scratch/target"; fail "bench --op $1"; }
    wait "$server" || { cat "$scratch/target"; fail "the target of bench --op $1"; }
    report=$(cat "$scratch/report")
    moved=$(($(packets) - before))
}

# Drops every packet between the devices, in both directions, until `mend_wire`.
cut_wire() {
    for i in 0 1; do tc qdisc add dev "veth$i" root netem loss 100%; done
}
mend_wire() {
    for i in 0 1; do tc qdisc del dev "veth$i" root 2>/dev/null || true; done
}

# A benchmark of 64 MiB a round from rxe1 against a target on rxe0; comes back when 32 MiB have
# crossed, so that what is moving then is its data. Leaves $server, $client, and both outputs.
bench_against_target() {
    local before
    UCX_NET_DEVICES=rxe0:1 "$NIXL" bench --backend ucx --listen 127.0.0.1:7000 > target 2>&1 &
    server=$!
    await_port 7000 "$server"
    UCX_NET_DEVICES=rxe1:1 "$NIXL" bench --backend ucx --connect 127.0.0.1:7000 --op "$1" \
        --block 1048576 --count 64 --iters 1000 > report 2>&1 &
    client=$!
    before=$(packets)
    until [ $(($(packets) - before)) -gt 8192 ]; do
        kill -0 "$client" 2>/dev/null || { cat report target; fail "$1 ended too early"; }
        /run/busybox usleep 20000
    done
}

mend_wire
. "$HERE/cases/$script.sh"
