//! `[ucx]`: what UCX is told.

#[cfg(feature = "ucx")]
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de};

#[cfg(feature = "ucx")]
use super::misuse;
#[cfg(feature = "ucx")]
use nixl_core::{ForeignMetadata, PathClass, Result, negotiate::Mode};
#[cfg(feature = "ucx")]
use nixl_ucx::{MAX_WORKERS, Options, UcxBackend, config::UcxConfig, detect::Machine};

/// `[ucx]`
///
/// Values are as UCX takes them; an empty one leaves the setting to the profile. The user's `UCX_*`
/// variables win over all of them. `nixl_ucx::config` says how they are merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UcxSection {
    /// Path of the libucp to load; empty: it is searched for.
    pub lib: String,
    /// `auto`, `rdma`, `efa`, `staged` or `local`.
    pub profile: String,
    /// Workers, 1 to 64.
    pub workers: usize,
    /// `auto`, `rma` or `rendezvous`: how data moves.
    pub mode: String,
    /// Transports, or `^` and those to exclude.
    pub tls: String,
    /// Devices.
    pub net_devices: String,
    /// Rendezvous scheme of messages.
    pub rndv_scheme: String,
    /// Bytes from which on messages are sent by rendezvous.
    #[serde(deserialize_with = "text_or_number")]
    pub rndv_thresh: String,
    /// How memory is registered.
    pub ib_reg_methods: String,
    /// Index of the GID that RoCE uses.
    #[serde(deserialize_with = "text_or_number")]
    pub ib_gid_index: String,
    /// What UCX logs.
    pub log_level: String,
    /// Where UCX logs.
    pub log_file: String,
    /// Where UCX writes statistics.
    pub stats_dest: String,
    /// When UCX writes statistics.
    pub stats_trigger: String,
    /// Other settings of UCX, each `NAME=VALUE`.
    pub options: Vec<String>,
}

impl Default for UcxSection {
    fn default() -> Self {
        Self {
            lib: String::new(),
            profile: "auto".to_owned(),
            workers: 1,
            mode: "auto".to_owned(),
            tls: String::new(),
            net_devices: String::new(),
            rndv_scheme: String::new(),
            rndv_thresh: String::new(),
            ib_reg_methods: String::new(),
            ib_gid_index: String::new(),
            log_level: String::new(),
            log_file: String::new(),
            stats_dest: String::new(),
            stats_trigger: String::new(),
            options: Vec::new(),
        }
    }
}

#[cfg(feature = "ucx")]
impl UcxSection {
    /// The crate's form of it, for an agent whose policy is `mode`.
    pub(super) fn config(&self, mode: Mode) -> Result<UcxConfig> {
        let mut config = UcxConfig::default();
        config.lib = (!self.lib.is_empty()).then(|| self.lib.clone().into());
        config.profile = match self.profile.as_str() {
            "auto" => None,
            name => Some(name.parse().map_err(|_| {
                misuse(format!(
                    "ucx.profile = {name:?}: expected auto, rdma, efa, staged or local"
                ))
            })?),
        };
        if !(1..=MAX_WORKERS).contains(&self.workers) {
            let workers = self.workers;
            return Err(misuse(format!(
                "ucx.workers = {workers}: expected 1 to {MAX_WORKERS}"
            )));
        }
        let data = self.mode.parse();
        config.mode =
            data.map_err(|e: nixl_core::Error| misuse(format!("ucx.mode: {}", e.message())))?;
        // Whoever allows TCP at last does not mind it inside UCX.
        config.strict = matches!(mode, Mode::Strict(floor) if floor < PathClass::Tcp);
        for (key, value) in self.named().into_iter().filter(|(_, v)| !v.is_empty()) {
            let name = key.to_ascii_uppercase();
            let set = config.set(&name, value);
            set.map_err(|e| misuse(format!("ucx.{key}: {}", e.message())))?;
        }
        for option in &self.options {
            let wrong = |why: &str| misuse(format!("ucx.options: {option:?}: {why}"));
            let parts = option.split_once('=');
            let (name, value) = parts.ok_or_else(|| wrong("expected NAME=VALUE"))?;
            config.set(name, value).map_err(|e| wrong(e.message()))?;
        }
        Ok(config)
    }

    fn named(&self) -> [(&'static str, &str); 10] {
        [
            ("tls", &self.tls),
            ("net_devices", &self.net_devices),
            ("rndv_scheme", &self.rndv_scheme),
            ("rndv_thresh", &self.rndv_thresh),
            ("ib_reg_methods", &self.ib_reg_methods),
            ("ib_gid_index", &self.ib_gid_index),
            ("log_level", &self.log_level),
            ("log_file", &self.log_file),
            ("stats_dest", &self.stats_dest),
            ("stats_trigger", &self.stats_trigger),
        ]
    }
}

#[cfg(feature = "ucx")]
impl super::Config {
    /// The UCX backend, where it is wanted.
    ///
    /// Errors: why UCX cannot be used, where the configuration insists on it.
    pub(super) fn ucx_backend(&self) -> Result<Option<UcxBackend>> {
        let wish = self.wish_for_ucx(has_rdma);
        if wish == Wish::No {
            return Ok(None);
        }
        let options = Options {
            workers: self.ucx.workers,
            connect_timeout: Duration::from_millis(self.agent.connect_timeout_ms),
            rdma_is_expected: wish == Wish::Yes,
        };
        match UcxBackend::open(&self.ucx_config()?, options) {
            Ok(backend) => return Ok(Some(backend)),
            Err(why) if self.insists_on_ucx() => return Err(why),
            Err(why) if wish == Wish::Yes => tracing::warn!(%why, "going on without UCX"),
            Err(why) => tracing::info!(%why, "no UCX, so NIXL's agents are not reached"),
        }
        Ok(None)
    }

    /// For everything but RDMA and NIXL's agents there are better ones, and loading UCX has its
    /// price.
    fn wish_for_ucx(&self, has_rdma: impl Fn() -> bool) -> Wish {
        let listed = self.backends.is_empty() || self.backends.iter().any(is_ucx);
        let named = self.insists_on_ucx() || self.policy.prefer.iter().any(is_ucx);
        let foreign = || self.agent.foreign_metadata.parse() == Ok(ForeignMetadata::Accept);
        match listed {
            true if named || has_rdma() => Wish::Yes,
            true if foreign() => Wish::ForNixl,
            _ => Wish::No,
        }
    }

    fn insists_on_ucx(&self) -> bool {
        self.backends.iter().chain(&self.policy.only).any(is_ucx)
    }
}

/// Whether UCX is wanted.
#[cfg(feature = "ucx")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    No,
    /// Nobody named it; it reaches NIXL's agents.
    ForNixl,
    /// There is RDMA, or it was named.
    Yes,
}

#[cfg(feature = "ucx")]
fn is_ucx(name: &String) -> bool {
    name == "ucx" || name.starts_with("ucx_")
}

#[cfg(feature = "ucx")]
fn has_rdma() -> bool {
    Machine::read("/").usable_devices().next().is_some()
}

/// Some values are numbers and words: `3` is as good as `"3"`.
fn text_or_number<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<String, D::Error> {
    struct Visitor;

    impl de::Visitor<'_> for Visitor {
        type Value = String;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string or a number")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> std::result::Result<String, E> {
            Ok(number.to_string())
        }
    }

    deserializer.deserialize_any(Visitor)
}

#[cfg(all(test, feature = "ucx"))]
mod tests {
    use super::super::{Config, ErrorKind};
    use super::*;
    use nixl_ucx::config::Mode as UcxMode;

    fn parse(text: &str) -> Result<UcxConfig> {
        Config::from_toml(text)?.ucx_config()
    }

    #[test]
    fn every_key_reaches_ucx() {
        let text = r#"
            [ucx]
            lib = "/opt/ucx/lib/libucp.so.0"
            profile = "staged"
            mode = "rendezvous"
            tls = "^mm"
            net_devices = "mlx5_0:1"
            rndv_scheme = "put_zcopy"
            rndv_thresh = 8192
            ib_reg_methods = "odp,rcache"
            ib_gid_index = 3
            log_level = "info"
            log_file = "/tmp/ucx.log"
            stats_dest = "stdout"
            stats_trigger = "exit"
            options = ["MAX_RMA_RAILS=2", "UCX_ADDRESS_VERSION=v2", "X=a=b"]
        "#;
        let config = parse(text).unwrap();
        assert_eq!(
            config.lib.as_deref().unwrap().to_str(),
            Some("/opt/ucx/lib/libucp.so.0")
        );
        assert_eq!(config.profile.unwrap().name(), "staged");
        assert_eq!(config.mode, UcxMode::Rendezvous);
        for (key, value) in [
            ("TLS", "^mm"),
            ("NET_DEVICES", "mlx5_0:1"),
            ("RNDV_SCHEME", "put_zcopy"),
            ("RNDV_THRESH", "8192"),
            ("IB_REG_METHODS", "odp,rcache"),
            ("IB_GID_INDEX", "3"),
            ("LOG_LEVEL", "info"),
            ("LOG_FILE", "/tmp/ucx.log"),
            ("STATS_DEST", "stdout"),
            ("STATS_TRIGGER", "exit"),
            ("MAX_RMA_RAILS", "2"),
            ("ADDRESS_VERSION", "v2"),
            ("X", "a=b"),
        ] {
            assert_eq!(config.get(key), Some(value), "{key}");
        }
    }

    #[test]
    fn nothing_said_is_nothing_set() {
        assert_eq!(parse("").unwrap(), UcxConfig::default());
        assert_eq!(
            parse("[ucx]\nrndv_thresh = \"inf\"")
                .unwrap()
                .get("RNDV_THRESH"),
            Some("inf")
        );
    }

    #[test]
    fn ucx_is_used_for_rdma_for_nixls_agents_or_by_name() {
        for (text, rdma, wish) in [
            ("", false, Wish::No),
            ("", true, Wish::Yes),
            ("backends = [\"tcp\"]", true, Wish::No),
            ("backends = [\"ucx\"]", false, Wish::Yes),
            ("[policy]\nprefer = [\"ucx_cma\"]", false, Wish::Yes),
            (
                "[agent]\nforeign_metadata = \"accept\"",
                false,
                Wish::ForNixl,
            ),
            ("[agent]\nforeign_metadata = \"accept\"", true, Wish::Yes),
            (
                "backends = [\"tcp\"]\n[agent]\nforeign_metadata = \"accept\"",
                true,
                Wish::No,
            ),
        ] {
            let config = Config::from_toml(text).unwrap();
            assert_eq!(config.wish_for_ucx(|| rdma), wish, "{text} {rdma}");
        }
    }

    #[test]
    fn a_strict_policy_is_strict_inside_ucx_too() {
        for (mode, strict) in [
            ("warn", false),
            ("any", false),
            ("strict", true),
            ("strict:rdma", true),
            ("strict:tcp", false),
        ] {
            let config = parse(&format!("[policy]\nmode = {mode:?}")).unwrap();
            assert_eq!(config.strict, strict, "{mode}");
        }
    }

    #[test]
    fn errors_name_the_key() {
        for (line, words) in [
            (
                "profile = \"fast\"",
                ["ucx.profile = \"fast\"", "auto, rdma, efa"],
            ),
            ("mode = \"both\"", ["ucx.mode: ", "auto, rma or rendezvous"]),
            (
                "rndv_scheme = \"zcopy\"",
                ["ucx.rndv_scheme: ", "get_zcopy, put_zcopy"],
            ),
            ("workers = 0", ["ucx.workers = 0", "1 to 64"]),
            ("rndv_thresh = -1", ["ucx.rndv_thresh: ", "\"-1\""]),
            (
                "rndv_thresh = true",
                ["rndv_thresh", "a string or a number"],
            ),
            ("tls = \"rc,^tcp\"", ["ucx.tls: ", "only at the beginning"]),
            (
                "options = [\"TLS\"]",
                ["ucx.options: \"TLS\"", "NAME=VALUE"],
            ),
            (
                "tls = \"rc\"\noptions = [\"TLS=dc\"]",
                ["ucx.options: \"TLS=dc\"", "set already"],
            ),
            ("gid = 3", ["gid", "unknown field"]),
        ] {
            let error = parse(&format!("[ucx]\n{line}")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ApiMisuse);
            let text = error.to_string();
            assert!(
                words.iter().all(|word| text.contains(word)),
                "{line}: {text}"
            );
        }
    }
}
