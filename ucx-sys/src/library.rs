//! A libucp in this process.

use core::ffi::CStr;
use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use libc::c_void;

use crate::process;
use crate::status::MAJOR;
use crate::table::Symbols;

/// The oldest version that is accepted.
const FLOOR: (u32, u32) = (1, 13);

/// What libucp is made of besides itself, each after what it needs.
const PARTS: [&str; 3] = ["libucm", "libucs", "libuct"];

/// A NIXL wheel bundles libibverbs and libnl, but its module for EFA needs the system's libefa, which
/// needs the system's libibverbs and libnl. Loaded after the bundled ones, the system's libnl
/// registers itself in the tables of the bundled one, and its destructor crashes the process when it
/// exits. Loaded before them, each keeps to itself.
const EFA: &str = "libefa.so.1";

/// The module that needs [`EFA`], where a wheel has renamed the parts of UCX.
const EFA_MODULE: &str = "libuct_ib_efa.so.0.0.0";

/// A version of UCX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number: what the interface has.
    pub minor: u32,
    /// Third number.
    pub release: u32,
}

impl Version {
    /// Whether this is `major.minor` or newer.
    pub fn at_least(self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.release)
    }
}

/// Why a file did not become a [`Library`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such file, or no libucp in the directory.
    #[error("no libucp there")]
    Missing,
    /// The path has a NUL byte in it.
    #[error("not a path: it contains a NUL byte")]
    NotAPath,
    /// `dlopen` refused, with these words.
    #[error("cannot be loaded: {0}")]
    Load(String),
    /// Parts of another UCX with the same names are loaded, and would be used in place of this
    /// one's.
    #[error(
        "would be mixed with {0}, which something else in this process loaded before: use that one, or load this one first"
    )]
    Mixed(PathBuf),
    /// Its interface is not the one that the bindings are for.
    #[error("is UCX {0}; 1.13 or a later 1.x is needed")]
    Version(Version),
    /// It lacks functions that every supported version has.
    #[error("lacks {}", .0.join(", "))]
    Symbols(Vec<&'static str>),
}

/// A libucp that is open, for the rest of the process: UCX starts threads, installs hooks and hands
/// out callbacks that would not survive unloading.
#[derive(Clone, Debug)]
pub struct Library {
    symbols: Symbols,
    version: Version,
    path: Option<PathBuf>,
    module_dir: Option<PathBuf>,
    /// `ucs_log_push_handler` of its libucs.
    push_handler: Option<LogHook>,
}

/// The address of a function of libucs.
#[derive(Clone, Copy, Debug)]
struct LogHook(NonNull<c_void>);

// SAFETY: INV-6, the address of code, which never changes.
unsafe impl Send for LogHook {}
// SAFETY: INV-6, as above.
unsafe impl Sync for LogHook {}

impl Library {
    /// Opens `path`: libucp itself or the directory that it is in. The parts of UCX beside it are
    /// the ones that it gets.
    ///
    /// # Errors
    ///
    /// Says why it cannot be used. What was loaded stays loaded.
    pub fn open(path: &Path) -> Result<Library, OpenError> {
        let path = libucp_at(path).ok_or(OpenError::Missing)?;
        // The linker follows links too, and a NIXL wheel is found by its real name.
        let path = path.canonicalize().unwrap_or(path);
        let parts = parts_beside(&path);
        if let Some(other) = loaded_elsewhere(&path, &parts) {
            return Err(OpenError::Mixed(other));
        }
        if parts.is_empty() && modules_of(&path).join(EFA_MODULE).exists() {
            // Where it is not installed, the module stays out, which is no error.
            let _ = dlopen(OsStr::new(EFA), libc::RTLD_NOW);
        }
        for part in parts {
            // libucm names functions of libucs without saying that it needs it. They are found
            // once libucp, which says so, is there.
            let alone = file_name(&part).starts_with(PARTS[0]);
            let bind = if alone {
                libc::RTLD_LAZY
            } else {
                libc::RTLD_NOW
            };
            dlopen(part.as_os_str(), bind)?;
        }
        Library::adopt(dlopen(path.as_os_str(), libc::RTLD_NOW)?)
    }

    /// Opens the libucp that the system's linker finds, which is the one that is loaded already
    /// if there is one.
    ///
    /// # Errors
    ///
    /// As [`Library::open`].
    pub fn open_system() -> Result<Library, OpenError> {
        Library::adopt(dlopen(OsStr::new("libucp.so.0"), libc::RTLD_NOW)?)
    }

    /// Makes a library of functions that are given: a fake one for tests.
    ///
    /// # Safety
    ///
    /// `ucp_get_version` of the table may be called.
    ///
    /// # Errors
    ///
    /// [`OpenError::Version`], if the functions say a version that is not supported.
    pub unsafe fn from_symbols(symbols: Symbols) -> Result<Library, OpenError> {
        // SAFETY: INV-7, the caller says that it may be called.
        let version = unsafe { version_of(symbols.ucp_get_version) };
        supported(version)?;
        Ok(Library {
            symbols,
            version,
            path: None,
            module_dir: None,
            push_handler: None,
        })
    }

    /// Takes a libucp that `dlopen` returned.
    fn adopt(handle: NonNull<c_void>) -> Result<Library, OpenError> {
        let mut symbol = |name: &CStr| dlsym(handle, name);
        let get_version = symbol(c"ucp_get_version").ok_or_else(|| {
            let missing = Symbols::REQUIRED.iter().copied();
            OpenError::Symbols(missing.filter(|name| *name == "ucp_get_version").collect())
        })?;
        // SAFETY: INV-7, the function of that name has had this type in every UCX.
        let callable = unsafe { std::mem::transmute::<NonNull<c_void>, GetVersion>(get_version) };
        // SAFETY: INV-7, it may be called at any time.
        let version = unsafe { version_of(callable) };
        supported(version)?;
        // SAFETY: INV-7, the addresses are those of the names in a libucp of a supported version,
        // and it is never closed.
        let symbols = unsafe { Symbols::resolve(&mut symbol) }.map_err(OpenError::Symbols)?;
        let path = file_of(get_version);
        let ucs = dlsym(handle, c"ucs_status_string").and_then(file_of);
        let module_dir = ucs.map(|file| modules_of(&file));
        Ok(Library {
            symbols,
            version,
            path,
            module_dir,
            push_handler: dlsym(handle, c"ucs_log_push_handler").map(LogHook),
        })
    }

    /// From here on, [`said`](crate::said) returns what this library logs. It goes on logging as it
    /// did; one that has no way to be listened to stays unheard.
    pub fn listen(&self) {
        if let Some(LogHook(push)) = self.push_handler {
            // SAFETY: INV-7, the function of that name, of a library that is never closed.
            unsafe { crate::log::hook(push) };
        }
    }

    /// The table of its functions.
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// The version that it says it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The file that it was loaded from; `None` of one made by [`Library::from_symbols`].
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The directory in which it looks for its transports, whether or not that exists.
    pub fn module_dir(&self) -> Option<&Path> {
        self.module_dir.as_deref()
    }

    /// The transport modules of its own that it has loaded until now, which it does when the first
    /// context is made. Transports that are built into libuct (TCP, shared memory) are no modules.
    pub fn modules(&self) -> Vec<PathBuf> {
        let Some(dir) = self.module_dir() else {
            return Vec::new();
        };
        let mut modules = process::mapped("libuct_");
        modules.retain(|file| file.parent() == Some(dir));
        modules
    }
}

type GetVersion = unsafe extern "C" fn(*mut u32, *mut u32, *mut u32);

/// # Safety
///
/// `get_version` may be called, and writes to nothing but its arguments.
unsafe fn version_of(get_version: GetVersion) -> Version {
    let (mut major, mut minor, mut release) = (0, 0, 0);
    // SAFETY: INV-5, the pointers are to variables of the type that is written; INV-7.
    unsafe { get_version(&raw mut major, &raw mut minor, &raw mut release) };
    Version {
        major,
        minor,
        release,
    }
}

fn supported(version: Version) -> Result<(), OpenError> {
    if version.major == MAJOR && version.at_least(FLOOR.0, FLOOR.1) {
        return Ok(());
    }
    Err(OpenError::Version(version))
}

/// Where UCX looks for the transports of the `libucp`.
pub(crate) fn modules_of(libucp: &Path) -> PathBuf {
    libucp.with_file_name("ucx")
}

/// `path` if it is a file, else the libucp in it: `libucp.so.0`, or one that a wheel renamed.
pub(crate) fn libucp_at(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path.to_owned());
    }
    let mut renamed: Vec<PathBuf> = path
        .read_dir()
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|file| file_name(file).starts_with("libucp-") && file_name(file).contains(".so"))
        .collect();
    renamed.sort();
    let usual = ["libucp.so.0", "libucp.so"].map(|name| path.join(name));
    usual
        .into_iter()
        .find(|file| file.is_file())
        .or_else(|| renamed.into_iter().next())
}

/// The other parts of UCX beside `libucp`, where they have their usual names. A library that was
/// not installed where the linker looks would otherwise get the system's.
fn parts_beside(libucp: &Path) -> Vec<PathBuf> {
    if !file_name(libucp).starts_with("libucp.so") {
        return Vec::new();
    }
    PARTS
        .iter()
        .map(|part| libucp.with_file_name(format!("{part}.so.0")))
        .filter_map(|file| file.canonicalize().ok())
        .collect()
}

/// A file of another UCX that this process has mapped and that would be taken for one of
/// `libucp`'s parts, because the linker knows them by the same name.
fn loaded_elsewhere(libucp: &Path, parts: &[PathBuf]) -> Option<PathBuf> {
    let of_its_own = |file: &PathBuf| file == libucp || parts.contains(file);
    let mut stems = parts
        .iter()
        .filter_map(|part| file_name(part).split_once(".so").map(|(s, _)| s.to_owned()));
    stems.find_map(|stem| {
        let mapped = process::mapped(&format!("{stem}.so"));
        mapped.into_iter().find(|file| !of_its_own(file))
    })
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn dlopen(path: &OsStr, bind: libc::c_int) -> Result<NonNull<c_void>, OpenError> {
    let path = CString::new(path.as_bytes()).map_err(|_| OpenError::NotAPath)?;
    // SAFETY: INV-5, the string is valid and NUL-terminated; INV-7, UCX's initialisers may run at
    // any time.
    let handle = unsafe { libc::dlopen(path.as_ptr(), bind | libc::RTLD_LOCAL) };
    NonNull::new(handle).ok_or_else(|| OpenError::Load(dlerror()))
}

fn dlsym(handle: NonNull<c_void>, name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: INV-5, the handle is of a library that is never closed, the name NUL-terminated.
    NonNull::new(unsafe { libc::dlsym(handle.as_ptr(), name.as_ptr()) })
}

/// What went wrong with this thread's last `dlopen`.
fn dlerror() -> String {
    // SAFETY: INV-5, it takes nothing.
    let message = unsafe { libc::dlerror() };
    if message.is_null() {
        return "dlopen gave no reason".to_owned();
    }
    // SAFETY: INV-5, a NUL-terminated string that is valid until this thread's next dl* call.
    let message = unsafe { CStr::from_ptr(message) };
    message.to_string_lossy().into_owned()
}

/// The file that `address` was loaded from.
fn file_of(address: NonNull<c_void>) -> Option<PathBuf> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: INV-5, the structure is of the type that is written.
    let found = unsafe { libc::dladdr(address.as_ptr(), info.as_mut_ptr()) };
    // SAFETY: INV-5, zeroed, which its fields may be, or written.
    let info = unsafe { info.assume_init() };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: INV-5, a NUL-terminated string that lives as long as the library, which is never
    // closed.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    let path = Path::new(OsStr::from_bytes(name.to_bytes()));
    Some(path.canonicalize().unwrap_or_else(|_| path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn version<const MINOR: u32>(
        major: *mut u32,
        minor: *mut u32,
        release: *mut u32,
    ) {
        for (at, value) in [(major, 1), (minor, MINOR), (release, 7)] {
            // SAFETY: INV-5, the caller's pointers are valid.
            unsafe { at.write(value) };
        }
    }

    /// A table of nothing: its functions are never called, but for the one that is given.
    fn table(get_version: GetVersion) -> Symbols {
        extern "C" fn nothing() {}
        let address = NonNull::new(nothing as extern "C" fn() as *mut c_void);
        // SAFETY: INV-7, none of these is called.
        let mut table = unsafe { Symbols::resolve(&mut |_| address) }.unwrap();
        table.ucp_get_version = get_version;
        table
    }

    fn fake(get_version: GetVersion) -> Result<Library, OpenError> {
        // SAFETY: INV-7, a Rust function of that type.
        unsafe { Library::from_symbols(table(get_version)) }
    }

    #[test]
    fn rust_functions_make_a_library() {
        let library = fake(version::<22>).unwrap();
        assert_eq!(library.version().to_string(), "1.22.7");
        assert_eq!((library.path(), library.modules()), (None, Vec::new()));
    }

    #[test]
    fn an_old_library_is_refused() {
        assert!(fake(version::<13>).is_ok());
        let why = fake(version::<12>).unwrap_err();
        assert_eq!(
            why.to_string(),
            "is UCX 1.12.7; 1.13 or a later 1.x is needed"
        );
    }

    #[test]
    fn missing_functions_are_named_unless_they_are_optional() {
        extern "C" fn nothing() {}
        let address = NonNull::new(nothing as extern "C" fn() as *mut c_void);
        let lacking = |names: &'static [&str]| {
            let mut resolve = |name: &CStr| {
                let lacks = names.contains(&name.to_str().unwrap());
                if lacks { None } else { address }
            };
            // SAFETY: INV-7, none of these is called.
            unsafe { Symbols::resolve(&mut resolve) }
        };
        assert!(lacking(&["ucp_memh_pack"]).unwrap().ucp_memh_pack.is_none());
        let missing = lacking(&["ucp_put_nbx", "ucp_cleanup"]).unwrap_err();
        assert_eq!(missing, ["ucp_cleanup", "ucp_put_nbx"]);
    }
}
