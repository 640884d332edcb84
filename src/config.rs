//! Configuration: defaults, then a TOML file, then `NIXL_RS_*` variables.

use std::{path::PathBuf, time::Duration};

use nixl_core::{
    AgentBuilder, AgentConfig, Error, ErrorKind, Progress, Result,
    negotiate::{Mode, Policy},
};
use serde::{Deserialize, Serialize};

mod ucx;

pub use ucx::UcxSection;

/// Prefix of our environment variables. Unknown ones are errors; upstream's `NIXL_*` never are.
const PREFIX: &str = "NIXL_RS_";

/// Variables with the prefix that are no settings: the file, logging, required checks.
const OTHER: [&str; 4] = ["ALLOW_UNAUTHENTICATED", "CONFIG", "LOG", "REQUIRE"];

/// Names of the backends compiled into this build.
pub fn backends() -> &'static [&'static str] {
    &[
        #[cfg(feature = "ipc")]
        "ipc",
        #[cfg(feature = "tcp")]
        "tcp",
        #[cfg(feature = "ucx")]
        "ucx",
    ]
}

/// Settings of the agents of one process. `docs/configuration.md` lists every key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Backends to use; empty: all that are compiled in.
    pub backends: Vec<String>,
    /// Threads and deadlines.
    pub agent: AgentSection,
    /// Which paths may be used.
    pub policy: PolicySection,
    /// The TCP backend.
    pub tcp: TcpSection,
    /// The same-host backend.
    pub ipc: IpcSection,
    /// UCX.
    pub ucx: UcxSection,
}

/// `[agent]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentSection {
    /// Threads that copy and move payload; 0: none of our own, the caller drives progress.
    pub copy_threads: usize,
    /// Microseconds that a thread polls after its last event before it blocks.
    pub spin_us: u64,
    /// Milliseconds until a request must have ended.
    pub deadline_ms: u64,
    /// Milliseconds to reach a peer over one backend.
    pub connect_timeout_ms: u64,
    /// Milliseconds to prove one path.
    pub probe_timeout_ms: u64,
    /// Milliseconds without a byte after which an active request counts as stalled.
    pub stall_after_ms: u64,
    /// Bytes of notifications that one sender may leave undelivered.
    pub notification_window: u64,
    /// Deliver notifications of senders that are not loaded.
    pub accept_unverified: bool,
    /// NIXL's agents: `refuse` or `accept`.
    pub foreign_metadata: String,
}

/// `[policy]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicySection {
    /// `any`, `warn`, `strict` or `strict:CLASS`.
    pub mode: String,
    /// Paths or backends to use first.
    pub prefer: Vec<String>,
    /// Paths or backends never to use.
    pub forbid: Vec<String>,
    /// If not empty, the only paths or backends to use.
    pub only: Vec<String>,
    /// Refuse paths that need the peer's threads where the peer has none.
    pub refuse_idle_targets: bool,
}

/// `[tcp]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TcpSection {
    /// Address to listen on; empty: every interface.
    pub bind: String,
    /// Port to listen on; 0: the kernel picks one.
    pub port: u16,
    /// Addresses or host names to publish; empty: those of the interfaces.
    pub advertise: Vec<String>,
    /// Data streams to each peer, 1 to 16.
    pub streams: u16,
    /// Milliseconds without an acknowledgement after which the peer's host counts as gone.
    pub user_timeout_ms: u64,
    /// Milliseconds between signs of life while requests are in flight.
    pub heartbeat_ms: u64,
}

/// `[ipc]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IpcSection {
    /// Directory of the Unix sockets; empty: `$XDG_RUNTIME_DIR/nixl-rs`.
    pub dir: String,
}

impl Default for AgentSection {
    fn default() -> Self {
        let core = AgentConfig::default();
        let copy_threads = match core.progress {
            Progress::Threads { copy_threads } => copy_threads,
            Progress::Caller => 0,
        };
        let ms = |time: Duration| time.as_millis() as u64;
        Self {
            copy_threads,
            spin_us: core.spin.as_micros() as u64,
            deadline_ms: ms(core.deadline),
            connect_timeout_ms: ms(core.connect_timeout),
            probe_timeout_ms: ms(core.probe_timeout),
            stall_after_ms: ms(core.stall_after),
            notification_window: core.notification_window,
            accept_unverified: core.accept_unverified,
            foreign_metadata: core.foreign_metadata.as_str().to_owned(),
        }
    }
}

impl Default for PolicySection {
    fn default() -> Self {
        Self {
            mode: "warn".to_owned(),
            prefer: Vec::new(),
            forbid: Vec::new(),
            only: Vec::new(),
            refuse_idle_targets: false,
        }
    }
}

impl Default for TcpSection {
    fn default() -> Self {
        Self {
            bind: String::new(),
            port: 0,
            advertise: Vec::new(),
            streams: 4,
            user_timeout_ms: 10_000,
            heartbeat_ms: 2_000,
        }
    }
}

impl Config {
    /// The file that `NIXL_RS_CONFIG` names, if it is set, then the other `NIXL_RS_*` variables.
    ///
    /// Errors: `ApiMisuse` names the key that is unknown or has a bad value.
    pub fn load() -> Result<Self> {
        let vars = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            Some((name.strip_prefix(PREFIX)?.to_owned(), value))
        });
        let vars: Vec<(String, String)> = vars
            .map(|(name, value)| match value.into_string() {
                Ok(value) => Ok((name, value)),
                Err(_) => Err(misuse(format!("{PREFIX}{name} is not UTF-8"))),
            })
            .collect::<Result<_>>()?;
        let file = vars.iter().find(|(name, _)| name == "CONFIG");
        let text = match file {
            None => String::new(),
            Some((_, path)) => std::fs::read_to_string(PathBuf::from(path))
                .map_err(|e| misuse(format!("{PREFIX}CONFIG={path}: {e}")))?,
        };
        Self::from_parts(&text, &vars)
    }

    /// A configuration from TOML text.
    pub fn from_toml(text: &str) -> Result<Self> {
        Self::from_parts(text, &[])
    }

    fn from_parts(text: &str, vars: &[(String, String)]) -> Result<Self> {
        let mut table: toml::Table = text
            .parse()
            .map_err(|e| misuse(format!("configuration file: {e}")))?;
        let keys = Self::keys()?;
        for (name, value) in vars {
            if OTHER.contains(&name.as_str()) {
                continue;
            }
            let Some((section, key, like)) = keys.iter().find(|(s, k, _)| variable(s, k) == *name)
            else {
                return Err(misuse(format!(
                    "unknown variable {PREFIX}{name}; docs/configuration.md lists them"
                )));
            };
            let value = parse_like(like, value).ok_or_else(|| {
                misuse(format!(
                    "{PREFIX}{name}={value}: expected a {}",
                    like.type_str()
                ))
            })?;
            let target = match section.as_str() {
                "" => &mut table,
                s => table
                    .entry(s)
                    .or_insert_with(|| toml::Table::new().into())
                    .as_table_mut()
                    .ok_or_else(|| misuse(format!("configuration file: {s} is not a section")))?,
            };
            target.insert(key.clone(), value);
        }
        let config: Self = table
            .try_into()
            .map_err(|e| misuse(format!("configuration: {e}")))?;
        config.core()?;
        #[cfg(feature = "ucx")]
        config.ucx_config()?;
        Ok(config)
    }

    /// Every key: section (empty at the top), name, default value.
    fn keys() -> Result<Vec<(String, String, toml::Value)>> {
        let defaults = toml::Table::try_from(Self::default())
            .map_err(|e| misuse(format!("configuration: {e}")))?;
        let mut keys = Vec::new();
        for (name, value) in defaults {
            match value {
                toml::Value::Table(section) => {
                    keys.extend(section.into_iter().map(|(k, v)| (name.clone(), k, v)));
                }
                value => keys.push((String::new(), name, value)),
            }
        }
        Ok(keys)
    }

    /// Core's part.
    fn core(&self) -> Result<AgentConfig> {
        Ok(AgentConfig {
            progress: match self.agent.copy_threads {
                0 => Progress::Caller,
                copy_threads => Progress::Threads { copy_threads },
            },
            spin: Duration::from_micros(self.agent.spin_us),
            deadline: millis("agent.deadline_ms", self.agent.deadline_ms)?,
            connect_timeout: millis("agent.connect_timeout_ms", self.agent.connect_timeout_ms)?,
            probe_timeout: millis("agent.probe_timeout_ms", self.agent.probe_timeout_ms)?,
            stall_after: millis("agent.stall_after_ms", self.agent.stall_after_ms)?,
            notification_window: self.agent.notification_window,
            accept_unverified: self.agent.accept_unverified,
            foreign_metadata: self.agent.foreign_metadata.parse()?,
            policy: Policy {
                mode: self.policy.mode.parse::<Mode>()?,
                prefer: self.policy.prefer.clone(),
                forbid: self.policy.forbid.clone(),
                only: self.policy.only.clone(),
                refuse_idle_targets: self.policy.refuse_idle_targets,
            },
        })
    }

    /// Begins to build an agent with these settings and the backends compiled in.
    pub fn agent(&self, name: &str) -> Result<AgentBuilder> {
        let mut builder = nixl_core::Agent::builder(name).config(self.core()?);
        for wanted in &self.backends {
            if !backends().contains(&wanted.as_str()) {
                return Err(misuse(format!(
                    "backend {wanted:?} is not in this build, which has {}",
                    backends().join(", ")
                )));
            }
        }
        let use_backend =
            |name: &str| self.backends.is_empty() || self.backends.iter().any(|b| b == name);
        #[cfg(feature = "ipc")]
        if use_backend("ipc") {
            builder = builder.backend(nixl_ipc::IpcBackend::new(self.ipc_config()));
        }
        #[cfg(feature = "tcp")]
        if use_backend("tcp") {
            builder = builder.backend(nixl_tcp::TcpBackend::new(self.tcp_config()?)?);
        }
        #[cfg(feature = "ucx")]
        if let Some(backend) = self.ucx_backend()? {
            builder = builder.backend(backend);
        }
        Ok(builder)
    }

    #[cfg(feature = "ipc")]
    fn ipc_config(&self) -> nixl_ipc::IpcConfig {
        nixl_ipc::IpcConfig {
            dir: (!self.ipc.dir.is_empty()).then(|| PathBuf::from(&self.ipc.dir)),
            ..nixl_ipc::IpcConfig::default()
        }
    }

    #[cfg(feature = "ucx")]
    fn ucx_config(&self) -> Result<nixl_ucx::config::UcxConfig> {
        self.ucx.config(self.policy.mode.parse()?)
    }

    #[cfg(feature = "tcp")]
    fn tcp_config(&self) -> Result<nixl_tcp::TcpConfig> {
        let bind = match self.tcp.bind.as_str() {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|_| misuse(format!("tcp.bind = {text:?} is no IP address")))?,
            ),
        };
        Ok(nixl_tcp::TcpConfig {
            bind,
            port: self.tcp.port,
            advertise: self.tcp.advertise.clone(),
            streams: self.tcp.streams,
            connect_timeout: Duration::from_millis(self.agent.connect_timeout_ms),
            user_timeout: millis("tcp.user_timeout_ms", self.tcp.user_timeout_ms)?,
            heartbeat: millis("tcp.heartbeat_ms", self.tcp.heartbeat_ms)?,
            ..nixl_tcp::TcpConfig::default()
        })
    }
}

fn variable(section: &str, key: &str) -> String {
    let name = match section {
        "" => key.to_owned(),
        s => format!("{s}_{key}"),
    };
    name.to_ascii_uppercase()
}

/// Reads `text` as a value of the same type as `like`; lists are separated by commas.
fn parse_like(like: &toml::Value, text: &str) -> Option<toml::Value> {
    Some(match like {
        toml::Value::Integer(_) => text.parse::<i64>().ok()?.into(),
        toml::Value::Boolean(_) => text.parse::<bool>().ok()?.into(),
        toml::Value::Array(_) => {
            let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
            parts.map(toml::Value::from).collect::<Vec<_>>().into()
        }
        _ => text.into(),
    })
}

/// A time that can be added to any clock: a millisecond to a year.
fn millis(key: &str, ms: u64) -> Result<Duration> {
    const YEAR: u64 = 365 * 24 * 3_600_000;
    if !(1..=YEAR).contains(&ms) {
        return Err(misuse(format!(
            "{key} = {ms}: expected 1 to {YEAR} milliseconds"
        )));
    }
    Ok(Duration::from_millis(ms))
}

fn misuse(text: String) -> Error {
    Error::new(ErrorKind::ApiMisuse, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, vars: &[(&str, &str)]) -> Result<Config> {
        let vars: Vec<_> = vars
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        Config::from_parts(text, &vars)
    }

    #[test]
    fn variables_override_the_file() {
        let text = "[tcp]\nstreams = 2\nport = 9\n[policy]\nforbid = [\"cma\"]";
        let config = load(
            text,
            &[
                ("TCP_STREAMS", "8"),
                ("POLICY_MODE", "strict:tcp"),
                ("BACKENDS", "tcp, ipc"),
                ("AGENT_ACCEPT_UNVERIFIED", "false"),
                ("REQUIRE", "etcd"),
            ],
        )
        .unwrap();
        assert_eq!((config.tcp.streams, config.tcp.port), (8, 9));
        assert_eq!(config.policy.forbid, ["cma"]);
        assert_eq!(config.backends, ["tcp", "ipc"]);
        assert!(!config.agent.accept_unverified);
    }

    #[test]
    fn unknown_keys_and_bad_values_are_named() {
        for (text, vars, word) in [
            ("[tcp]\nsteams = 2", vec![], "steams"),
            ("[udp]\nport = 2", vec![], "udp"),
            ("", vec![("TCP_STEAMS", "2")], "NIXL_RS_TCP_STEAMS"),
            ("", vec![("TCP_PORT", "many")], "integer"),
            ("", vec![("POLICY_MODE", "fast")], "fast"),
            ("[agent]\nforeign_metadata = \"some\"", vec![], "some"),
            ("tcp = 3", vec![("TCP_PORT", "1")], "tcp"),
            ("", vec![("AGENT_DEADLINE_MS", "0")], "agent.deadline_ms"),
            (
                "[agent]\nstall_after_ms = 9000000000000000000",
                vec![],
                "agent.stall_after_ms",
            ),
        ] {
            let e = load(text, &vars).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::ApiMisuse);
            assert!(e.to_string().contains(word), "{text} {vars:?}: {e}");
        }
    }

    /// The page that users read has a row for every key, with its variable and default.
    #[test]
    fn every_key_is_documented() {
        const PAGE: &str = include_str!("../docs/configuration.md");
        let row = |start: &str| PAGE.lines().find(|line| line.starts_with(start));
        let keys = Config::keys().unwrap();
        for (section, key, default) in &keys {
            let name = match section.as_str() {
                "" => key.clone(),
                s => format!("{s}.{key}"),
            };
            let row = row(&format!("| `{name}` |")).unwrap_or_else(|| panic!("no row for {name}"));
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            if name != "agent.copy_threads" {
                assert_eq!(cells[2], format!("`{default}`"), "default of {name}");
            }
            let variable = format!("`{PREFIX}{}`", variable(section, key));
            assert_eq!(cells[3], variable, "variable of {name}");
            assert!(cells[4].len() > 10, "meaning of {name}");
        }
        for name in OTHER {
            assert!(row(&format!("| `{PREFIX}{name}` |")).is_some(), "{name}");
        }
        let documented = PAGE.lines().filter(|l| l.starts_with("| `")).count();
        assert_eq!(documented, keys.len() + OTHER.len(), "rows of no key");
    }

    #[test]
    fn defaults_are_those_of_the_crates() {
        let agent = Config::default().core().unwrap();
        assert_eq!(
            format!("{agent:?}"),
            format!("{:?}", AgentConfig::default())
        );
    }

    #[cfg(feature = "tcp")]
    #[test]
    fn tcp_defaults_are_those_of_the_crate() {
        let ours = Config::default().tcp_config().unwrap();
        let theirs = nixl_tcp::TcpConfig {
            connect_timeout: AgentConfig::default().connect_timeout,
            ..nixl_tcp::TcpConfig::default()
        };
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }

    #[test]
    fn a_backend_that_is_not_compiled_in_is_refused() {
        let config = load("backends = [\"cuda\"]", &[]).unwrap();
        let e = config.agent("a").err().unwrap();
        assert!(e.to_string().contains("cuda"), "{e}");
    }
}
