# The wire between the devices is cut while a READ or WRITE moves: the initiator ends by itself within
# its deadline, and once the wire is whole again, new agents reach each other over it. Packets are
# dropped behind the devices: one whose own interface is down makes UCX abort (ud_verbs).
use_ucx
for op in read write; do
    bench_against_target "$op"
    cut_wire
    cut=$(date +%s%N)
    rc=0
    wait "$client" || rc=$?
    ms=$((($(date +%s%N) - cut) / 1000000))
    cat report
    [ "$rc" -eq 1 ] || fail "$op: exit status $rc"
    grep -q 'error: PeerGone\|error: Timeout' report || fail "$op: neither PeerGone nor Timeout"
    # The benchmark's deadline is 30 s, and leaving takes at most 5 s more.
    [ "$ms" -le 40000 ] || fail "$op: ended $ms ms after the cut"
    # It may have ended by itself: its peer is gone.
    kill -9 "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    mend_wire
    notes="${notes:-}${notes:+; }$op ended after $ms ms"
done
agents read 32768 256 3
case $report in *'"verified":true'*) ;; *) fail "after the wire was mended, bytes are wrong" ;; esac
case $report in *'"lanes":"ucx:rc_verbs/'*) ;; *) fail "no rc_verbs after the wire was mended: $report" ;; esac
result "$notes; then 8 MiB right"
