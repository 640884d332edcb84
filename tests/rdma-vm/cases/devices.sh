# Both devices are up, and count what they send.
for device in rxe0 rxe1; do
    state=$(cat /sys/class/infiniband/$device/ports/1/state)
    [ "$state" = "4: ACTIVE" ] || fail "$device is $state"
    [ -e /sys/class/infiniband/$device/ports/1/hw_counters/sent_pkts ] || fail "$device does not count"
    ls /dev/infiniband/uverbs"${device#rxe}" > /dev/null
done
result "rxe0 and rxe1 active, kernel $(uname -r)"
