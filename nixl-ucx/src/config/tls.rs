//! Lists of transports, as `UCX_TLS` takes them.

use std::fmt;

pub(super) const ALLOWED: &str = "all, transports and aliases separated by commas \
     (rc,dc_x,srd,cuda_copy,cuda_ipc,tcp,posix,cma,self), or ^ before such a list to exclude it";

/// Transports that `strict` does without: TCP is ours, and `sysv` attaches to the wrong segment
/// where PID namespaces differ.
const NOT_STRICT: [&str; 2] = ["tcp", "sysv"];

/// Aliases that hold one of them, and what is left of each.
const STRICT_ALIASES: [(&str, &[&str]); 3] = [
    ("mm", &["posix", "xpmem"]),
    ("sm", &["posix", "xpmem", "knem", "cma"]),
    ("shm", &["posix", "xpmem", "knem", "cma"]),
];

/// Transports and aliases of UCX 1.13 to 1.22.
const NAMES: [&str; 44] = [
    "all",
    "self",
    "tcp",
    "mm",
    "sm",
    "shm",
    "posix",
    "sysv",
    "xpmem",
    "knem",
    "cma",
    "ib",
    "rc",
    "rc_v",
    "rc_x",
    "rc_verbs",
    "rc_mlx5",
    "dc",
    "dc_x",
    "dc_mlx5",
    "ud",
    "ud_v",
    "ud_x",
    "ud_verbs",
    "ud_mlx5",
    "srd",
    "gga",
    "gga_mlx5",
    "gga_x",
    "cuda",
    "cuda_copy",
    "cuda_ipc",
    "gdr_copy",
    "rocm",
    "rocm_copy",
    "rocm_ipc",
    "rocm_gdr",
    "ze",
    "ze_copy",
    "ze_ipc",
    "ze_gdr",
    "rdmacm",
    "sockcm",
    "ugni",
];

/// A list of transports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tls {
    /// Whether the names are those that may not be used.
    excludes: bool,
    names: Vec<String>,
}

impl Tls {
    /// Parses a list. The error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (excludes, list) = match text.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let names: Vec<String> = list.split(',').map(str::to_owned).collect();
        for name in &names {
            // A backslash before a name keeps it from being an alias.
            let bare = name.strip_prefix('\\').unwrap_or(name);
            if bare.is_empty() {
                return Err("a name is empty".to_owned());
            }
            if bare.contains('^') {
                return Err("^ stands only at the beginning, for the whole list".to_owned());
            }
            let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
            if !bare.chars().all(letter) {
                return Err(format!("{name:?} is no name of a transport"));
            }
        }
        if excludes && names.iter().any(|name| name == "all") {
            return Err("all but everything is nothing".to_owned());
        }
        Ok(Self { excludes, names })
    }

    /// Names that no UCX known to us has.
    pub(super) fn unknown(&self) -> impl Iterator<Item = &str> {
        let bare = self.names.iter().map(|name| bare(name));
        bare.filter(|name| !NAMES.contains(name))
    }

    /// Whether UCX may use a transport by which it recognises GPU memory.
    pub(super) fn admits_gpu(&self) -> bool {
        let named = |wanted: &str| self.names.iter().any(|name| bare(name) == wanted);
        match self.excludes {
            true => !(named("cuda") || named("cuda_copy") && named("cuda_ipc")),
            false => ["all", "cuda", "cuda_copy", "cuda_ipc"]
                .into_iter()
                .any(named),
        }
    }

    /// The list without what `strict` does without; an error where nothing is left.
    pub(super) fn strict(&self) -> Result<Self, String> {
        let mut names = Vec::new();
        if self.excludes || self.names.iter().any(|name| name == "all") {
            let excluded = self.names.iter().filter(|_| self.excludes).cloned();
            names.extend(excluded);
            for name in NOT_STRICT {
                push(&mut names, name);
            }
            return Ok(Self {
                excludes: true,
                names,
            });
        }
        for name in &self.names {
            let alias = STRICT_ALIASES.iter().find(|(alias, _)| alias == name);
            match alias {
                Some((_, rest)) => rest.iter().for_each(|name| push(&mut names, name)),
                None if NOT_STRICT.contains(&bare(name)) => {}
                None => push(&mut names, name),
            }
        }
        if names.is_empty() {
            return Err(format!("nothing of {self} is left without tcp and sysv"));
        }
        Ok(Self {
            excludes: false,
            names,
        })
    }
}

impl fmt::Display for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.excludes { "^" } else { "" };
        write!(f, "{sign}{}", self.names.join(","))
    }
}

fn push(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
}

/// The name without the mark of an explicit one, and without a `:aux` behind it.
fn bare(name: &str) -> &str {
    let name = name.strip_prefix('\\').unwrap_or(name);
    name.split(':').next().unwrap_or(name)
}
