# ucx_perftest's get and put cross the devices: at least one packet for each 4096 bytes.
for test in ucp_get ucp_put_bw; do
    perftest "$test" 65536 100
    [ "$moved" -ge 1600 ] || fail "$test sent $moved packets for 6.25 MiB"
    notes="${notes:-}${notes:+; }$test $moved packets"
done
result "100 x 64 KiB: $notes"
