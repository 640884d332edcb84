//! What a setting takes.

use nixl_core::ErrorKind;

use super::*;

fn refusal(key: &str, value: &str) -> String {
    let error = UcxConfig::default().set(key, value).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ApiMisuse);
    error.to_string()
}

#[test]
fn every_value_of_the_reference_is_taken() {
    for (key, values) in [
        (
            "TLS",
            &[
                "rc_x,rc,dc_x,dc,cuda_copy,cuda_ipc",
                "srd,cuda_copy,tcp",
                "^mm",
                "^tcp,sysv",
                "all",
                "\\rc_verbs,rc_mlx5:aux",
            ][..],
        ),
        ("RNDV_SCHEME", &["get_zcopy", "put_zcopy", "auto", "AUTO"]),
        (
            "RNDV_THRESH",
            &[
                "0",
                "8192",
                "auto",
                "inf",
                "INF",
                "8k",
                "1MB",
                "16GB",
                "4b",
                "intra:inf,inter:0",
            ],
        ),
        ("IB_REG_METHODS", &["odp,rcache", "direct", "rcache"]),
        ("IB_GID_INDEX", &["3", "0", "254", "auto"]),
        ("NET_DEVICES", &["mlx5_0:1", "mlx5_0:1,eth0", "all"]),
        (
            "LOG_LEVEL",
            &[
                "fatal", "error", "warn", "info", "debug", "trace", "data", "func", "INFO",
            ],
        ),
        ("LOG_FILE", &["/tmp/ucx.log", "/tmp/ucx %p.log"]),
        ("STATS_DEST", &["file:/tmp/stats", "stdout"]),
        ("STATS_TRIGGER", &["exit", "timer:1s"]),
        ("PROTO_EMULATION_ENABLE", &["y", "n", "0"]),
        ("RCACHE_ENABLE", &["y", "n", "try"]),
        ("REG_NONBLOCK_MEM_TYPES", &["host", "host,cuda-managed"]),
        // Not in the reference: UCX judges it.
        ("MAX_RMA_RAILS", &["2", "many"]),
    ] {
        for value in values {
            config(&[(key, value)]);
        }
    }
}

#[test]
fn refusals_name_key_value_and_what_is_allowed() {
    for (key, value, allowed) in [
        ("TLS", "", "a name is empty"),
        ("TLS", "rc,,dc", "a name is empty"),
        ("TLS", "^", "a name is empty"),
        ("TLS", "rc,^tcp", "^ stands only at the beginning"),
        ("TLS", "^all", "nothing"),
        ("TLS", "RC", "posix,cma,self"),
        ("TLS", "rc dc", "no name of a transport"),
        ("RNDV_SCHEME", "zcopy", "get_zcopy, put_zcopy"),
        ("RNDV_SCHEME", "", "get_zcopy, put_zcopy"),
        ("RNDV_THRESH", "-1", "inf, auto"),
        ("RNDV_THRESH", "+1", "inf, auto"),
        ("RNDV_THRESH", "1.5m", "inf, auto"),
        ("RNDV_THRESH", "kb", "inf, auto"),
        ("RNDV_THRESH", "8 k", "inf, auto"),
        ("RNDV_THRESH", "18446744073709551616", "inf, auto"),
        ("RNDV_THRESH", "99999999999gb", "inf, auto"),
        ("RNDV_THRESH", "18014398509481984k", "inf, auto"),
        ("RNDV_THRESH", "intra:1,2", "intra:BYTES"),
        ("IB_REG_METHODS", "odp, rcache", "odp, rcache, direct"),
        ("IB_REG_METHODS", "cache", "odp, rcache, direct"),
        ("IB_GID_INDEX", "255", "0 to 254"),
        ("IB_GID_INDEX", "-1", "0 to 254"),
        ("NET_DEVICES", "^mlx5_0:1", "no ^"),
        ("NET_DEVICES", "", "separated by commas"),
        ("NET_DEVICES", "mlx5_0:1, mlx5_1:1", "separated by commas"),
        ("LOG_LEVEL", "loud", "debug, trace"),
        ("LOG_FILE", "", "a path"),
        ("LOG_FILE", "a\nb", "a path"),
        ("PROTO_EMULATION_ENABLE", "try", "y or n"),
        ("RCACHE_ENABLE", "on", "y, n or try"),
        ("REG_NONBLOCK_MEM_TYPES", "host,", "cuda-managed"),
        ("MAX_RMA_RAILS", "", "text of one line"),
        ("MAX_RMA_RAILS", "2\0", "text of one line"),
    ] {
        let text = refusal(key, value);
        let named = format!("UCX setting {key} = {value:?}: ");
        assert!(text.contains(&named) && text.contains(allowed), "{text}");
    }
}

#[test]
fn names_are_checked_too() {
    for key in ["", "tls", "UCX_", "TLS=", "T L", "1A", "Ü", "UCX_UCX_\0"] {
        assert!(refusal(key, "1").contains("expected a name"), "{key:?}");
    }
    let mut config = config(&[("UCX_TLS", "rc")]);
    assert_eq!(config.get("TLS"), Some("rc"));
    let twice = config.set("TLS", "dc").unwrap_err().to_string();
    assert!(twice.contains("set already, to \"rc\""), "{twice}");
}

#[test]
fn profiles_have_names() {
    for profile in Profile::ALL {
        assert_eq!(profile.to_string().parse::<Profile>().unwrap(), profile);
    }
    let error = "fast".parse::<Profile>().unwrap_err().to_string();
    assert!(
        error.contains("\"fast\": expected rdma, efa, staged or local"),
        "{error}"
    );
}

/// What the profiles say is what UCX takes.
#[test]
fn profiles_pass_their_own_checks() {
    for profile in Profile::ALL {
        for (key, value, _) in profile.settings() {
            config(&[(key, value)]);
        }
    }
}
