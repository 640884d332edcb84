# Our get and put need as many packets as ucx_perftest's for the same bytes, within 2 %. What
# connecting and checking costs cancels out: each is the difference between a long and a short run.
use_ucx
compare() {
    local op=$1 test=$2 short long
    perftest "$test" 65536 64; short=$moved
    perftest "$test" 65536 1088; long=$moved
    theirs=$((long - short))
    agents "$op" 65536 64 4; short=$moved
    agents "$op" 65536 64 20; long=$moved
    ours=$((long - short))
    # Hundredths of a per cent.
    off=$(((ours - theirs) * 10000 / theirs))
    echo "$op: $ours packets, $test: $theirs, $off / 100 %"
    [ "${off#-}" -le 200 ] || fail "$op of 64 MiB: $ours packets, $test $theirs"
    notes="${notes:-}${notes:+; }$op $ours, $test $theirs"
}
compare read ucp_get
compare write ucp_put_bw
result "64 MiB: $notes"
