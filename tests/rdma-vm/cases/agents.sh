# Two processes, one on each device: READ and WRITE of scattered blocks, every byte checked.
use_ucx
for op in read write; do
    agents "$op" 32768 256 3
    echo "$report"
    if grep -v '^{.*}$' report; then fail "standard output has more than JSON"; fi
    case $report in *'"verified":true'*) ;; *) fail "$op: bytes are wrong" ;; esac
    case $report in *'"lanes":"ucx:rc_verbs/'*) ;; *) fail "$op did not use rc_verbs: $report" ;; esac
    [ "$moved" -ge 6144 ] || fail "$op sent $moved packets for 24 MiB"
    notes="${notes:-}${notes:+; }$op $moved packets"
done
result "8 MiB each, all bytes right; $notes"
