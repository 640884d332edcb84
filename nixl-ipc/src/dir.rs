//! The one directory that holds the agents' sockets: ours, 0700, never a link.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use nixl_core::{ErrorKind, Result, auth, error::fail};
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, Uid, mkdirat, openat, renameat, statat, unlinkat},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen},
    process::geteuid,
};

use crate::{fault, sock};

const SUFFIX: &str = ".sock";
/// Longest socket file name in bytes.
const MAX_NAME: usize = 64;
const BACKLOG: i32 = 128;

/// Where the sockets lie unless configured: `$XDG_RUNTIME_DIR/nixl-rs`, else `/tmp/nixl-rs-<uid>`.
pub(crate) fn default_path() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match runtime {
        Some(dir) if dir.is_absolute() && dir.is_dir() => dir.join("nixl-rs"),
        _ => PathBuf::from(format!("/tmp/nixl-rs-{}", geteuid().as_raw())),
    }
}

/// The directory, open and checked.
pub(crate) struct SocketDir {
    fd: OwnedFd,
    path: PathBuf,
}

impl SocketDir {
    /// Opens the directory; makes it first where it is missing and `create` is set.
    ///
    /// Errors: `NotAllowed` for a link, something that is no directory, a foreign owner, or a mode
    /// that lets others in; `Unsupported` where it is missing.
    pub(crate) fn open(path: &Path, create: bool) -> Result<Self> {
        if create {
            match mkdirat(CWD, path, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(missing(path, e)),
            }
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let fd = match openat(CWD, path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(unsafe_dir(path, "it is a link or no directory"));
            }
            Err(Errno::ACCESS | Errno::PERM) => {
                return Err(unsafe_dir(path, "we may not enter it"));
            }
            Err(e @ Errno::NOENT) => return Err(missing(path, e)),
            Err(e) => return Err(fault::os(format_args!("opening {}", path.display()), e)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|e| fault::os("fstat", e))?;
        if Uid::from_raw(stat.st_uid) != geteuid() {
            return Err(unsafe_dir(
                path,
                &format!("it belongs to uid {}", stat.st_uid),
            ));
        }
        if stat.st_mode & 0o077 != 0 {
            return Err(unsafe_dir(
                path,
                &format!("its mode is {:o}, others may enter", stat.st_mode & 0o777),
            ));
        }
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// The address of an entry, through the open directory: what `path` names later does not
    /// matter, and neither does its length.
    fn address(&self, name: &str) -> Result<SocketAddrUnix> {
        SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd()))
            .map_err(|e| fault::os("naming a socket", e))
    }

    /// Listens under a fresh random name, which appears only once the socket accepts.
    pub(crate) fn listen(self) -> Result<Listener> {
        let name = format!("{:032x}{SUFFIX}", u128::from_le_bytes(auth::random()?));
        let making = format!(".{name}");
        let socket = sock::open()?;
        let what = |call| {
            let path = self.path.display().to_string();
            move |e| fault::os(format_args!("{call} in {path} (is /proc mounted?)"), e)
        };
        bind(&socket, &self.address(&making)?).map_err(what("binding a socket"))?;
        let listener = Listener {
            dir: self,
            name: making,
            socket,
        };
        listen(&listener.socket, BACKLOG).map_err(|e| fault::os("listen", e))?;
        listener.publish(name)
    }

    /// Connects `socket` to the peer's `name`. `Ok(false)`: its queue is full, try again.
    ///
    /// Errors: `PeerGone` where the name is not in our directory or nobody listens on it,
    /// `NotAllowed` where it is no socket of ours.
    pub(crate) fn connect(&self, socket: &OwnedFd, name: &str) -> Result<bool> {
        let stat = statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| match e {
            Errno::NOENT => fail(
                ErrorKind::PeerGone,
                format!(
                    "no shared socket: the peer's {name} is not in {}; the peer is gone, or its \
                     socket directory is another one (containers: mount the same directory)",
                    self.path.display()
                ),
            ),
            e => fault::os(format_args!("looking for the peer's socket {name}"), e),
        })?;
        let is_ours = FileType::from_raw_mode(stat.st_mode) == FileType::Socket
            && Uid::from_raw(stat.st_uid) == geteuid();
        if !is_ours {
            return Err(fail(
                ErrorKind::NotAllowed,
                format!("{name} in the socket directory is no socket of ours; remove it"),
            ));
        }
        match connect(socket, &self.address(name)?) {
            Ok(()) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(Errno::CONNREFUSED) => Err(fault::gone(
                "nobody listens on the peer's socket: the peer is dead or shut down",
            )),
            Err(e) => Err(fault::os("connecting to the peer's socket", e)),
        }
    }

    /// Removes what dead agents left behind.
    pub(crate) fn sweep(&self) {
        let Ok(entries) = rustix::fs::Dir::read_from(self.fd.as_fd()) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if check_name(name).is_ok() && self.is_dead(name) {
                tracing::debug!(name, "removing the socket of a dead agent");
                let _ = unlinkat(&self.fd, name, AtFlags::empty());
            }
        }
    }

    /// Whether nobody listens. Asked with a socket of another type, which a living listener
    /// refuses (`EPROTOTYPE`) without noticing.
    fn is_dead(&self, name: &str) -> bool {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(probe) =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
        else {
            return false;
        };
        match self.address(name) {
            Ok(address) => connect(&probe, &address) == Err(Errno::CONNREFUSED),
            Err(_) => false,
        }
    }
}

/// A listening socket; its file is removed with it.
pub(crate) struct Listener {
    dir: SocketDir,
    name: String,
    socket: OwnedFd,
}

impl Listener {
    fn publish(mut self, name: String) -> Result<Self> {
        renameat(&self.dir.fd, &self.name, &self.dir.fd, &name)
            .map_err(|e| fault::os("renaming a socket", e))?;
        self.name = name;
        Ok(self)
    }

    /// The file name for the agent card.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = unlinkat(&self.dir.fd, &self.name, AtFlags::empty());
    }
}

/// Checks a file name that came from a peer: `[0-9a-z]+.sock`, at most [`MAX_NAME`] bytes.
pub(crate) fn check_name(name: &str) -> Result<&str> {
    let stem = name.strip_suffix(SUFFIX).unwrap_or("");
    let plain = stem
        .bytes()
        .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    if stem.is_empty() || !plain || name.len() > MAX_NAME {
        return Err(fail(
            ErrorKind::Malformed,
            format!("the peer's card names no socket file of ours: {name:.64?}"),
        ));
    }
    Ok(name)
}

fn missing(path: &Path, errno: Errno) -> nixl_core::Error {
    fail(
        ErrorKind::Unsupported,
        format!(
            "no socket directory {}: {errno}; make its parent, or configure another directory",
            path.display()
        ),
    )
}

fn unsafe_dir(path: &Path, why: &str) -> nixl_core::Error {
    fail(
        ErrorKind::NotAllowed,
        format!(
            "refusing the socket directory {}: {why}; it must be a directory of ours with mode 0700",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn refused(path: &Path) -> String {
        let e = SocketDir::open(path, true).err().expect("it was taken");
        assert_eq!(e.kind(), ErrorKind::NotAllowed, "{e}");
        e.message().to_owned()
    }

    #[test]
    fn a_directory_is_made_for_us_alone() {
        let top = scratch();
        let path = top.path().join("sockets");
        SocketDir::open(&path, true).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        SocketDir::open(&path, false).unwrap();
    }

    #[test]
    fn links_files_and_open_directories_are_refused() {
        let top = scratch();
        let good = top.path().join("good");
        SocketDir::open(&good, true).unwrap();
        let link = top.path().join("link");
        symlink(&good, &link).unwrap();
        assert!(refused(&link).contains("a link"));
        let file = top.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(refused(&file).contains("no directory"));
        for mode in [0o701, 0o710, 0o777, 0o1777, 0o750] {
            std::fs::set_permissions(&good, PermissionsExt::from_mode(mode)).unwrap();
            assert!(refused(&good).contains("others may enter"), "{mode:o}");
        }
    }

    #[test]
    fn a_foreign_directory_is_refused() {
        let top = scratch();
        let path = top.path().join("foreign");
        SocketDir::open(&path, true).unwrap();
        if chown(&path, Some(12_345), None).is_err() {
            println!("SKIP foreign socket directory: chown needs root");
            return;
        }
        assert!(refused(&path).contains("uid 12345"));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let top = scratch();
        let path = top.path().join("no/such");
        for create in [true, false] {
            let e = SocketDir::open(&path, create).err().unwrap();
            assert_eq!(e.kind(), ErrorKind::Unsupported);
            assert!(e.message().contains("no/such"), "{e}");
        }
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        check_name("0123456789abcdef.sock").unwrap();
        let long = format!("{}.sock", "a".repeat(MAX_NAME));
        for name in [
            "",
            ".sock",
            "..",
            "../a.sock",
            "a/b.sock",
            "/a.sock",
            ".a.sock",
            "a\0.sock",
            "A.sock",
            "a",
            &long,
        ] {
            let e = check_name(name).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Malformed, "{name:?}");
        }
    }

    #[test]
    fn sockets_of_the_dead_go_and_those_of_the_living_stay() {
        let top = scratch();
        let path = top.path().join("s");
        let open = || SocketDir::open(&path, true).unwrap();
        let names = || {
            let entries = std::fs::read_dir(&path).unwrap();
            entries.flatten().count()
        };
        let living = open().listen().unwrap();
        let dead = open().listen().unwrap();
        let dead_name = dead.name().to_owned();
        // What is left of a killed agent: the file, and no socket behind it.
        let left = path.join(&dead_name);
        drop(dead);
        assert!(!left.exists(), "a listener leaves its file");
        let socket = sock::open().unwrap();
        bind(&socket, &open().address(&dead_name).unwrap()).unwrap();
        drop(socket);
        std::fs::write(path.join("note"), "not ours").unwrap();
        assert_eq!(names(), 3);
        open().sweep();
        assert!(!left.exists());
        assert!(path.join(living.name()).exists());
        assert_eq!(names(), 2);
        let client = sock::open().unwrap();
        assert!(open().connect(&client, living.name()).unwrap());
        assert_eq!(
            rustix::net::accept_with(living.socket(), SocketFlags::empty()).map(drop),
            Ok(()),
            "the sweep left nothing in the queue but the client"
        );
        assert!(rustix::net::accept_with(living.socket(), SocketFlags::empty()).is_err());
    }

    #[test]
    fn only_sockets_of_ours_are_connected_to() {
        let top = scratch();
        let path = top.path().join("s");
        let dir = SocketDir::open(&path, true).unwrap();
        let living = SocketDir::open(&path, true).unwrap().listen().unwrap();
        let socket = sock::open().unwrap();
        std::fs::write(path.join("file.sock"), "").unwrap();
        symlink(living.name(), path.join("link.sock")).unwrap();
        for name in ["file.sock", "link.sock"] {
            let e = dir.connect(&socket, name).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::NotAllowed, "{e}");
        }
        let e = dir.connect(&socket, "none.sock").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PeerGone, "{e}");
        assert!(e.message().contains("no shared socket"), "{e}");
        assert!(dir.connect(&socket, living.name()).unwrap());
    }

    #[test]
    fn a_full_queue_asks_for_patience() {
        let top = scratch();
        let path = top.path().join("s");
        let listener = SocketDir::open(&path, true).unwrap().listen().unwrap();
        let dir = SocketDir::open(&path, true).unwrap();
        let mut clients = Vec::new();
        let full = (0..=BACKLOG + 1).any(|_| {
            let client = sock::open().unwrap();
            let connected = dir.connect(&client, listener.name()).unwrap();
            clients.push(client);
            !connected
        });
        assert!(full);
    }
}
