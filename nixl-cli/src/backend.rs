//! `--backend`: which paths a command may use.

use std::{fmt, str::FromStr};

use nixl::{Config, Error, ErrorKind, Result};

/// A choice of paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BackendChoice {
    /// Whatever is best.
    Auto,
    /// Only this backend's paths, or this one path.
    Only(String),
}

/// Names that can be asked for: backends, and paths between two processes.
const NAMES: [&str; 5] = ["ipc", "shm", "cma", "tcp", "ucx"];

impl FromStr for BackendChoice {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "auto" => Ok(Self::Auto),
            s if NAMES.contains(&s) => Ok(Self::Only(s.to_owned())),
            _ => Err(format!("one of auto, {}", NAMES.join(", "))),
        }
    }
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(name) => f.write_str(name),
        }
    }
}

impl BackendChoice {
    /// The user's configuration (file and environment) narrowed to this choice.
    pub(crate) fn config(&self) -> Result<Config> {
        let mut config = Config::load()?;
        let Self::Only(name) = self else {
            return Ok(config);
        };
        if name == "ucx" && !nixl::backends().contains(&"ucx") {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this build has no UCX backend; use auto, ipc or tcp",
            ));
        }
        config.policy.only = vec![name.clone()];
        Ok(config)
    }
}
