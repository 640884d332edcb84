//! How UCX is set up, and why: a pure function of the machine's facts and the user's wishes.
//!
//! [`plan()`] chooses a [`Profile`] and merges, the strongest first: the user's `UCX_*` variables,
//! which UCX reads itself, the policy `strict`, our configuration, the profile. The result is a
//! list for `ucp_config_modify` and a [`Report`]. No variable is ever written.
#![forbid(unsafe_code)]

mod gid;
mod known;
mod mode;
mod plan;
mod profile;
mod registration;
mod report;
#[cfg(test)]
mod tests;
mod text;
mod tls;

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use nixl_core::{Error, ErrorKind, Result};

pub use known::UcxVersion;
pub use mode::Mode;
pub(crate) use plan::CMA_SINCE;
pub use plan::{Plan, plan};
pub use profile::Profile;
pub use report::{Facts, GpuMemory, Origin, Report, Setting, Warning, WarningCode};

/// What the user wants of UCX.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UcxConfig {
    /// The libucp to load; `None`: it is searched for.
    pub lib: Option<PathBuf>,
    /// The profile; `None`: the one that the machine calls for.
    pub profile: Option<Profile>,
    /// No `tcp`, no `sysv` and no emulation; UCX older than 1.21 is refused.
    pub strict: bool,
    /// How data moves.
    pub mode: Mode,
    settings: BTreeMap<String, String>,
}

impl UcxConfig {
    /// Sets the UCX setting `key`, with or without `UCX_` before it, to `value`.
    ///
    /// Settings of the reference are checked; others only for their shape, UCX judges the rest.
    ///
    /// Errors: `ApiMisuse` where `key` is no name of a setting or is set already, or UCX does not
    /// take `value`; it names what is allowed.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let key = key.strip_prefix("UCX_").unwrap_or(key);
        if !known::is_key(key) {
            return Err(misuse(format!(
                "UCX setting {key:?}: expected a name such as RNDV_SCHEME"
            )));
        }
        if let Some(before) = self.settings.get(key) {
            return Err(misuse(format!(
                "UCX setting {key} = {value:?}: it is set already, to {before:?}"
            )));
        }
        check(key, value)?;
        self.settings.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// The value that was set for `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str)
    }
}

fn check(key: &str, value: &str) -> Result<()> {
    let wrong = |why: &str| misuse(format!("UCX setting {key} = {value:?}: {why}"));
    if let ("TLS", Err(why)) = (key, tls::Tls::parse(value)) {
        return Err(wrong(&format!("{why}; expected {}", tls::ALLOWED)));
    }
    match known::known(key) {
        Some(known) if !known.takes(value) => Err(wrong(&format!("expected {}", known.allowed))),
        None if !known::is_text(value) => Err(wrong("expected text of one line")),
        _ => Ok(()),
    }
}

/// The user's `UCX_*` variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserEnv(BTreeMap<String, String>);

impl UserEnv {
    /// Those of this process. They are read once, here.
    pub fn of_process() -> Self {
        Self::new(std::env::vars_os())
    }

    /// Those among `vars`. What is not UTF-8 is shown with replacements; UCX reads it as it is.
    pub fn new(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let ours = vars.into_iter().filter_map(|(name, value)| {
            let key = name.to_str()?.strip_prefix("UCX_")?.to_owned();
            Some((key, value.to_string_lossy().into_owned()))
        });
        Self(ours.collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

fn misuse(text: String) -> Error {
    Error::new(ErrorKind::ApiMisuse, text)
}
