//! The settings that we know, with what UCX takes for each.
//!
//! Names and values as `ucx_info -fc` of 1.13 lists them; which version has which setting was
//! seen by `ucp_config_modify` of the releases 1.13 to 1.22.

use super::tls;

/// A UCX version, major and minor: `(1, 22)`.
pub type UcxVersion = (u32, u32);

/// When and how a setting takes effect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Applies {
    /// By `ucp_config_modify`.
    Modify,
    /// Only from the environment, before libucs is loaded.
    BeforeLoad,
}

/// A known setting.
pub(super) struct Known {
    /// Its name, without `UCX_`.
    pub(super) key: &'static str,
    /// What it takes, in words.
    pub(super) allowed: &'static str,
    check: fn(&str) -> bool,
    pub(super) applies: Applies,
    /// First version that has it.
    pub(super) since: UcxVersion,
    /// Last version that has it.
    pub(super) until: Option<UcxVersion>,
}

impl Known {
    const fn new(key: &'static str, allowed: &'static str, check: fn(&str) -> bool) -> Self {
        Self {
            key,
            allowed,
            check,
            applies: Applies::Modify,
            since: (1, 13),
            until: None,
        }
    }

    const fn since(self, major: u32, minor: u32) -> Self {
        Self {
            since: (major, minor),
            ..self
        }
    }

    const fn until(self, major: u32, minor: u32) -> Self {
        Self {
            until: Some((major, minor)),
            ..self
        }
    }

    const fn before_load(self) -> Self {
        Self {
            applies: Applies::BeforeLoad,
            ..self
        }
    }

    /// Whether UCX takes `value`.
    pub(super) fn takes(&self, value: &str) -> bool {
        (self.check)(value)
    }

    /// Why UCX of this version does not have it.
    pub(super) fn missing_in(&self, version: UcxVersion) -> Option<String> {
        let (major, minor) = version;
        if version < self.since {
            let (a, b) = self.since;
            return Some(format!(
                "UCX {major}.{minor} lacks it, which came with {a}.{b}"
            ));
        }
        let (a, b) = self.until.filter(|&until| version > until)?;
        Some(format!(
            "UCX {major}.{minor} lacks it, which ended with {a}.{b}"
        ))
    }
}

const TERNARY: &str = "y, n or try";
const MEMORY: &str = "bytes (8192, 8k, 1mb), 0, inf, auto, or intra:BYTES,inter:BYTES";
const SCHEMES: [&str; 7] = [
    "auto",
    "get_zcopy",
    "put_zcopy",
    "get_ppln",
    "put_ppln",
    "am",
    "rkey_ptr",
];
const LEVELS: [&str; 12] = [
    "fatal", "error", "warn", "diag", "info", "debug", "trace", "req", "data", "async", "func",
    "poll",
];

/// All that we know, in the order in which they are applied and reported.
pub(super) const KNOWN: [Known; 16] = [
    Known::new("TLS", tls::ALLOWED, |v| tls::Tls::parse(v).is_ok()),
    Known::new(
        "NET_DEVICES",
        "all, or devices separated by commas (mlx5_0:1,eth0); it has no ^",
        is_devices,
    ),
    Known::new(
        "RNDV_SCHEME",
        "auto, get_zcopy, put_zcopy, get_ppln, put_ppln, am or rkey_ptr",
        |v| is_one_of(v, &SCHEMES),
    ),
    Known::new("RNDV_THRESH", MEMORY, is_threshold),
    Known::new(
        "ZCOPY_THRESH",
        "bytes (8192, 8k, 1mb), 0, inf or auto",
        is_memory_units,
    ),
    Known::new(
        "IB_REG_METHODS",
        "odp, rcache, direct, separated by commas, best first",
        |v| list(v).all(|method| ["odp", "rcache", "direct"].contains(&method)),
    )
    .until(1, 15),
    Known::new("RCACHE_ENABLE", TERNARY, is_ternary),
    Known::new(
        "REG_NONBLOCK_MEM_TYPES",
        "host, cuda, cuda-managed, rocm, rocm-managed, rdma or ze-host, separated by commas",
        is_names,
    )
    .since(1, 15),
    Known::new("IB_GID_INDEX", "auto, or 0 to 254", is_gid_index),
    Known::new("RC_RETRY_COUNT", "0 to 7", |v| {
        v.parse().is_ok_and(|count: u8| count <= 7)
    }),
    Known::new("PROTO_EMULATION_ENABLE", "y or n", is_bool).since(1, 21),
    Known::new("CMA_MEMORY_INVALIDATE", "y or n", is_bool),
    Known::new(
        "LOG_LEVEL",
        "fatal, error, warn, diag, info, debug, trace, req, data, async, func or poll",
        |v| is_one_of(v, &LEVELS),
    ),
    Known::new("LOG_FILE", "a path; %p stands for the process id", is_text).before_load(),
    Known::new(
        "STATS_DEST",
        "file:PATH, udp:HOST:PORT, stdout or stderr",
        is_text,
    )
    .before_load(),
    Known::new(
        "STATS_TRIGGER",
        "exit, timer:SECONDS or signal:NUMBER",
        is_text,
    )
    .before_load(),
];

/// First version whose `ucp_config_modify` knows a module's settings by their whole names. Before,
/// it takes any name, and complains of these on standard output when a worker is made.
const WHOLE_NAMES_SINCE: UcxVersion = (1, 17);

/// What `ucp_config_modify` of UCX `version` knows the setting `key` by: variables always have the
/// whole name.
pub(super) fn name_in(key: &str, version: Option<UcxVersion>) -> &str {
    if version.is_none_or(|version| version >= WHOLE_NAMES_SINCE) {
        return key;
    }
    match key {
        "IB_GID_INDEX" => "GID_INDEX",
        "IB_REG_METHODS" => "REG_METHODS",
        "CMA_MEMORY_INVALIDATE" => "MEMORY_INVALIDATE",
        _ => key,
    }
}

/// The known setting of this name.
pub(super) fn known(key: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.key == key)
}

/// Whether `key` looks like the name of a UCX setting.
pub(super) fn is_key(key: &str) -> bool {
    let rest = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    key.starts_with(|c: char| c.is_ascii_uppercase()) && key.chars().all(rest) && key.len() <= 64
}

/// Whether `value` is text that C and a terminal can take.
pub(super) fn is_text(value: &str) -> bool {
    !value.is_empty() && value.len() <= 4096 && !value.chars().any(char::is_control)
}

/// What UCX reads as yes or as try.
pub(super) fn is_on(value: &str) -> bool {
    !is_one_of(value, &["n", "no", "0"])
}

/// The parts of a list.
pub(super) fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',')
}

fn is_one_of(value: &str, words: &[&str]) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(value))
}

fn is_bool(value: &str) -> bool {
    is_one_of(value, &["y", "yes", "1", "n", "no", "0"])
}

fn is_ternary(value: &str) -> bool {
    is_bool(value) || is_one_of(value, &["try", "maybe"])
}

fn is_names(value: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c == '-' || c == '_';
    list(value).all(|name| !name.is_empty() && name.chars().all(letter))
}

fn is_devices(value: &str) -> bool {
    list(value).all(|device| {
        let odd = |c: char| c.is_whitespace() || c == '^';
        is_text(device) && !device.contains(odd)
    })
}

fn is_gid_index(value: &str) -> bool {
    // 255 stands for "none" in a packed address.
    value.eq_ignore_ascii_case("auto") || value.parse().is_ok_and(|index: u8| index < 255)
}

fn is_threshold(value: &str) -> bool {
    if !value.contains(':') {
        return is_memory_units(value);
    }
    list(value).all(|part| {
        let value = part
            .strip_prefix("intra:")
            .or_else(|| part.strip_prefix("inter:"));
        value.is_some_and(is_memory_units)
    })
}

/// `ucs_str_to_memunits`: digits, then b or one of k, m, g, t with or without b.
fn is_memory_units(value: &str) -> bool {
    if is_one_of(value, &["inf", "auto"]) {
        return true;
    }
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match value[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" => 10,
        "m" | "mb" => 20,
        "g" | "gb" => 30,
        "t" | "tb" => 40,
        _ => return false,
    };
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let number: Option<u64> = digits.parse().ok().filter(|_| plain);
    number.is_some_and(|n| n.leading_zeros() >= shift)
}
