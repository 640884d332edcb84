# UCX itself offers rc_verbs on both devices.
LD_LIBRARY_PATH=$ROOT/target/ucx/debian/lib ucx_info -d > info
for device in rxe0 rxe1; do
    grep -A 1 'Transport: rc_verbs' info | grep -q "Device: $device:1" || { cat info; fail "no rc_verbs on $device"; }
done
result "$(LD_LIBRARY_PATH=$ROOT/target/ucx/debian/lib ucx_info -v | sed -n 's/.*[Vv]ersion \([0-9.]*\).*/UCX \1/p' | head -1): rc_verbs on rxe0 and rxe1"
