//! Merging profile, configuration, policy and environment.

use nixl_core::{Error, ErrorKind, Result};

use super::{
    UcxConfig, UserEnv, gid,
    known::{self, Applies, KNOWN, UcxVersion},
    misuse,
    profile::{self, Profile},
    registration,
    report::{Facts, GpuMemory, Origin, Report, Setting, Warning, WarningCode},
    tls::Tls,
};
use crate::detect::{Driver, Fact, Machine, Memlock};

/// First version where emulation can be switched off.
const STRICT_SINCE: UcxVersion = (1, 21);

/// First version that uses CMA for one-sided operations.
pub(crate) const CMA_SINCE: UcxVersion = (1, 16);

/// First version with a transport for EFA.
const SRD_SINCE: UcxVersion = (1, 20);

/// How UCX is to be set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to give to `ucp_config_modify`, name and value, in this order. The user's variables
    /// are not among them: UCX reads those itself.
    pub settings: Vec<(String, String)>,
    /// What is in force and why.
    pub report: Report,
}

/// Decides how UCX is set up on `machine`: `env` wins over `config`, which wins over the profile.
///
/// Without a `version` (no libucp was opened), settings are listed that some versions lack.
///
/// Errors: `ApiMisuse` where `strict` contradicts a setting or a variable; `Unsupported` where
/// this UCX cannot be strict.
pub fn plan(
    machine: &Machine,
    config: &UcxConfig,
    env: &UserEnv,
    version: Option<UcxVersion>,
) -> Result<Plan> {
    let choice = profile::choose(machine, config.profile);
    let mut merge = Merge {
        config,
        env,
        version,
        proposals: Vec::new(),
        warnings: choice.warnings,
    };
    merge.propose(machine, choice.profile);
    let mut settings = merge.settings();
    if config.strict {
        make_strict(&mut settings, version)?;
    }
    let mut report = Report {
        profile: choice.profile,
        why: choice.why,
        strict: config.strict,
        gpu: choice.gpu,
        registration_cache: false,
        settings,
        warnings: merge.warnings,
        facts: Facts::of(machine),
    };
    leave_out(&mut report, version);
    report.registration_cache = registration::is_cached(version, |key| report.in_force(key));
    warn(&mut report, machine, version);
    let ours = |s: &&Setting| s.origin != Origin::Environment && s.ignored.is_none();
    let settings = report.settings.iter().filter(ours).map(|s| {
        let name = known::name_in(&s.key, version);
        (name.to_owned(), s.value.clone())
    });
    Ok(Plan {
        settings: settings.collect(),
        report,
    })
}

struct Merge<'a> {
    config: &'a UcxConfig,
    env: &'a UserEnv,
    version: Option<UcxVersion>,
    /// Name, value and reason of what the profile wants.
    proposals: Vec<(&'static str, String, String)>,
    warnings: Vec<Warning>,
}

impl Merge<'_> {
    /// What the user wants for `key`.
    fn wish(&self, key: &str) -> Option<&str> {
        self.env.get(key).or_else(|| self.config.get(key))
    }

    fn propose(&mut self, machine: &Machine, profile: Profile) {
        let (transports, why) = profile.transports(machine);
        self.proposals.push(("TLS", transports, why.to_owned()));
        for &(key, value, why) in profile.settings() {
            self.proposals.push((key, value.to_owned(), why.to_owned()));
        }
        if matches!(profile, Profile::Rdma | Profile::Staged) {
            let gid = gid::choose(machine, self.wish("NET_DEVICES"));
            self.warnings.extend(gid.warnings);
            if let Some((value, why)) = gid.index {
                self.proposals.push(("IB_GID_INDEX", value, why));
            }
            if machine.usable_devices().any(|d| d.driver == Driver::Rxe) {
                let why =
                    "7, UCX's default, is without end to Soft-RoCE: a dead peer is not noticed";
                let value = "6".to_owned();
                self.proposals
                    .push(("RC_RETRY_COUNT", value, why.to_owned()));
            }
        }
        if profile == Profile::Local && self.version.is_none_or(|v| v >= CMA_SINCE) {
            let why = "else endpoints that report failures do not use cma";
            self.proposals
                .push(("CMA_MEMORY_INVALIDATE", "y".to_owned(), why.to_owned()));
        }
        let methods = self.wish("IB_REG_METHODS");
        let derived = registration::derive(methods, self.version, profile.uses_rdma());
        let derived = derived
            .into_iter()
            .map(|(key, value, why)| (key, value.to_owned(), why));
        self.proposals.extend(derived);
    }

    /// Every setting that somebody chose: the known ones in their order, then the others by name.
    fn settings(&mut self) -> Vec<Setting> {
        let mut keys: Vec<String> = KNOWN.iter().map(|known| known.key.to_owned()).collect();
        let configured = self.config.settings.keys().cloned();
        let mut others: Vec<String> = configured.chain(self.env.0.keys().cloned()).collect();
        others.retain(|key| !keys.contains(key));
        others.sort();
        others.dedup();
        keys.append(&mut others);
        let settings = keys.into_iter().filter_map(|key| self.setting(key));
        settings.collect()
    }

    fn setting(&mut self, key: String) -> Option<Setting> {
        let proposal = self.proposals.iter().find(|(k, ..)| *k == key);
        let ours = match (self.config.get(&key), proposal) {
            (Some(value), _) => Some((value.to_owned(), Origin::Configuration, String::new())),
            (None, Some((_, value, why))) => Some((value.clone(), Origin::Profile, why.clone())),
            (None, None) => None,
        };
        let (value, origin, why) = match (self.env.get(&key), ours) {
            (Some(value), ours) => {
                let why = match ours {
                    Some((ours, origin, _)) if ours != value => {
                        let text = format!(
                            "UCX_{key}={value} of the environment wins over {ours} ({origin})"
                        );
                        self.warnings
                            .push(Warning::new(WarningCode::EnvironmentWins, text));
                        format!("wins over {ours} ({origin})")
                    }
                    _ => String::new(),
                };
                (value.to_owned(), Origin::Environment, why)
            }
            (None, ours) => ours?,
        };
        Some(Setting {
            key,
            value,
            origin,
            why,
            ignored: None,
        })
    }
}

/// Applies the policy `strict`, or says why it cannot be.
fn make_strict(settings: &mut Vec<Setting>, version: Option<UcxVersion>) -> Result<()> {
    const EMULATION: &str = "PROTO_EMULATION_ENABLE";
    if let Some((major, minor)) = version.filter(|&version| version < STRICT_SINCE) {
        let text = format!(
            "strict needs UCX 1.21 or newer, where emulation can be switched off; this is \
             {major}.{minor}: install a newer libucp, or leave strict"
        );
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    for setting in settings.iter_mut() {
        match setting.key.as_str() {
            "TLS" => strict_tls(setting)?,
            EMULATION if known::is_on(&setting.value) => {
                return Err(contradiction(setting, "n, or nothing"));
            }
            _ => {}
        }
    }
    if !settings.iter().any(|setting| setting.key == EMULATION) {
        settings.push(Setting {
            key: EMULATION.to_owned(),
            value: "n".to_owned(),
            origin: Origin::Strict,
            why: "an operation that the transport lacks is an error".to_owned(),
            ignored: None,
        });
    }
    Ok(())
}

fn strict_tls(setting: &mut Setting) -> Result<()> {
    let without = Tls::parse(&setting.value).and_then(|tls| Ok((tls.strict()?, tls)));
    let (strict, tls) = match without {
        Ok(found) => found,
        Err(why) => return Err(contradiction(setting, &format!("other transports: {why}"))),
    };
    if strict == tls {
        return Ok(());
    }
    if setting.origin == Origin::Environment {
        return Err(contradiction(setting, &strict.to_string()));
    }
    let why = match setting.why.as_str() {
        "" => String::new(),
        why => format!("{why}; "),
    };
    setting.why = format!("{why}{tls} without what strict forbids");
    setting.value = strict.to_string();
    Ok(())
}

/// The user asked for strict and for what it forbids.
fn contradiction(setting: &Setting, expected: &str) -> Error {
    let Setting {
        key, value, origin, ..
    } = setting;
    misuse(format!(
        "UCX setting {key} = {value:?} ({origin}) contradicts strict, which allows no tcp, no \
         sysv and no emulation: expected {expected}; change it, or leave strict"
    ))
}

/// Marks what cannot be in force.
fn leave_out(report: &mut Report, version: Option<UcxVersion>) {
    let mut missing = Vec::new();
    for setting in &report.settings {
        let Some(known) = known::known(&setting.key) else {
            continue;
        };
        if known.applies == Applies::BeforeLoad && setting.origin != Origin::Environment {
            let text = format!(
                "libucs reads it only before it is loaded; start the process with UCX_{}={}",
                setting.key, setting.value
            );
            missing.push((setting.key.clone(), text));
        } else if let Some(mut text) = version.and_then(|version| known.missing_in(version)) {
            if setting.key == "IB_REG_METHODS" {
                text.push_str("; RCACHE_ENABLE and REG_NONBLOCK_MEM_TYPES stand for it");
            }
            missing.push((setting.key.clone(), text));
        }
    }
    for (key, why) in missing {
        report.ignore(&key, &why);
    }
}

/// What the operator should know about the settings in force.
fn warn(report: &mut Report, machine: &Machine, version: Option<UcxVersion>) {
    let mut warnings = Vec::new();
    for setting in &report.settings {
        environment_value(setting, &mut warnings);
    }
    if let Some(list) = report.in_force("TLS") {
        warn_tls(report, list, &mut warnings);
    }
    if report.profile.uses_rdma() {
        let devices = report.in_force("NET_DEVICES");
        warnings.extend(devices.and_then(|list| gid::check_devices(machine, list)));
        if let Fact::Known(limit @ Memlock::Bytes(_)) = machine.memlock {
            let text = format!(
                "only {limit} may be pinned: raise the limit (ulimit -l unlimited), or add the \
                 capability IPC_LOCK"
            );
            warnings.push(Warning::new(WarningCode::Memlock, text));
        }
    }
    if report.profile == Profile::Efa {
        warn_efa(report, version, &mut warnings);
    }
    report.warnings.append(&mut warnings);
}

/// UCX judges its variables; a newer one may take what we do not know.
fn environment_value(setting: &Setting, warnings: &mut Vec<Warning>) {
    let known = known::known(&setting.key).filter(|known| !known.takes(&setting.value));
    if let (Origin::Environment, Some(known)) = (setting.origin, known) {
        let text = format!(
            "UCX_{}={} is no value that we know, and UCX may refuse to start: expected {}",
            setting.key, setting.value, known.allowed
        );
        warnings.push(Warning::new(WarningCode::EnvironmentValue, text));
    }
}

fn warn_tls(report: &Report, list: &str, warnings: &mut Vec<Warning>) {
    let Ok(tls) = Tls::parse(list) else {
        return;
    };
    for name in tls.unknown() {
        let text = format!("TLS={list}: {name} is no transport that we know");
        warnings.push(Warning::new(WarningCode::UnknownTransport, text));
    }
    let direct = matches!(report.gpu, GpuMemory::Direct(_));
    if direct && !tls.admits_gpu() {
        let text = format!(
            "TLS={list} has neither cuda_copy nor cuda_ipc, so UCX does not recognise GPU memory: \
             add them"
        );
        warnings.push(Warning::new(WarningCode::TlsWithoutCuda, text));
    }
}

fn warn_efa(report: &Report, version: Option<UcxVersion>, warnings: &mut Vec<Warning>) {
    if let Some((major, minor)) = version.filter(|&version| version < SRD_SINCE) {
        let text = format!("UCX {major}.{minor} has no srd, which came with 1.20: EFA is not used");
        warnings.push(Warning::new(WarningCode::EfaVersion, text));
    }
    let zero_copy = |value: &&str| value.to_ascii_lowercase().ends_with("_zcopy");
    if let Some(scheme) = report.in_force("RNDV_SCHEME").filter(zero_copy) {
        let text = format!(
            "RNDV_SCHEME={scheme} on EFA crashes with GPU memory from Linux 6.8 on; ours stays \
             host-staged, but leave the setting to the profile"
        );
        warnings.push(Warning::new(WarningCode::EfaKernel, text));
    }
}
