# The conformance suite of backends over rc_verbs; none of it may be skipped.
use_ucx
before=$(packets)
"$SUITE" rdma:: --test-threads 1 --nocapture 2>&1 | tee out
if grep -q 'SKIP ' out; then fail "the suite was skipped"; fi
passed=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' out)
[ "${passed:-0}" -gt 0 ] || fail "no test ran"
[ $(($(packets) - before)) -gt 0 ] || fail "nothing crossed the devices"
result "$passed tests, $(($(packets) - before)) packets"
