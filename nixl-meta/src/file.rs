//! A directory that the agents share: on one machine, or over a network file system.
//!
//! One file for each blob, `<agent>@<label>`, both percent-encoded so that no name can leave the
//! directory. A blob is written to a temporary file of mode 0600 beside it, synced, and renamed.
//! Everything happens relative to the directory that was opened and checked, so swapping the path
//! afterwards changes nothing. Watching polls inode and modification time.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use nixl_core::{Error, ErrorKind, Result, auth::random};
use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use crate::{Change, DEFAULT_MAX_BLOB, Exchange, Watch, check_name, deadline_after};

/// Pause between two looks at the directory.
const POLL: Duration = Duration::from_millis(50);

/// Temporary files begin so; no encoded name does.
const TEMP: &str = ".tmp-";

/// A temporary file this old belongs to a publisher that died, in seconds.
const STALE: i64 = 3600;

/// Longest file name of Linux file systems in bytes.
const NAME_MAX: usize = 255;

/// A directory as the exchange. Cheap to clone.
#[derive(Clone)]
pub struct FileExchange(Arc<Dir>);

struct Dir {
    fd: OwnedFd,
    path: PathBuf,
    max_blob: usize,
}

type Key = (String, String);
/// Inode, modification time (s, ns), size: a replaced blob differs in at least one.
type Stamp = (u64, i64, i64, i64);

impl FileExchange {
    /// Opens the directory, or creates it with mode 0700 (its parent must exist).
    ///
    /// Errors: `NotAllowed` when it is a symbolic link, belongs to another user, or others may
    /// write to it; `Backend` for what the system refuses.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::with_max_blob(path, DEFAULT_MAX_BLOB)
    }

    /// As [`FileExchange::open`], for blobs of up to `max_blob` bytes.
    pub fn with_max_blob(path: impl AsRef<Path>, max_blob: usize) -> Result<Self> {
        let path = path.as_ref();
        let os = |what: &str, e| Error::os(format_args!("{what} {}", path.display()), e);
        match fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(os("create the directory", e)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty()).map_err(|e| match e {
            Errno::NOTDIR | Errno::LOOP => refuse(path, "it is no directory, or a symbolic link"),
            e => os("open the directory", e),
        })?;
        let stat = fs::fstat(&fd).map_err(|e| os("fstat", e))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            let owner = format!("it belongs to user {}", stat.st_uid);
            return Err(refuse(path, &owner));
        }
        if stat.st_mode & 0o022 != 0 {
            return Err(refuse(path, "others may write to it; chmod 700 it"));
        }
        let dir = Dir {
            fd,
            path: path.to_owned(),
            max_blob,
        };
        dir.sweep()?;
        Ok(Self(Arc::new(dir)))
    }
}

fn refuse(path: &Path, why: &str) -> Error {
    Error::new(
        ErrorKind::NotAllowed,
        format!("refusing {} as an exchange: {why}", path.display()),
    )
}

impl Exchange for FileExchange {
    /// `Exhausted` when the disk is full (or a quota or file size limit is reached).
    fn publish(&self, agent: &str, label: &str, blob: Bytes) -> Result<()> {
        let dir = &*self.0;
        let name = file_name(agent, label)?;
        if blob.len() > dir.max_blob {
            return Err(dir.too_large(&name, blob.len()));
        }
        let temp = format!("{TEMP}{:032x}", u128::from_ne_bytes(random()?));
        let written = dir.write(&temp, &blob).and_then(|()| {
            fs::renameat(&dir.fd, &temp, &dir.fd, &name).map_err(std::io::Error::from)
        });
        if let Err(e) = written {
            // It may not even have been created.
            let _ = fs::unlinkat(&dir.fd, &temp, AtFlags::empty());
            return Err(dir.write_error(&name, &e));
        }
        fs::fsync(&dir.fd).map_err(|e| dir.os("sync the directory of", &name, e))
    }

    fn fetch(&self, agent: &str, label: &str, wait: Duration) -> Result<Bytes> {
        let name = file_name(agent, label)?;
        let deadline = deadline_after(wait);
        loop {
            if let Some(blob) = self.0.read(&name)? {
                return Ok(blob);
            }
            if !pause(deadline) {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!(
                        "agent {agent:?} published no {label:?} in {} within {wait:?}",
                        self.0.path.display()
                    ),
                ));
            }
        }
    }

    fn remove(&self, agent: &str, label: &str) -> Result<()> {
        self.0.unlink(&file_name(agent, label)?)
    }

    fn remove_agent(&self, agent: &str) -> Result<()> {
        check_name("the agent's name", agent)?;
        for (name, label) in self.list()? {
            if name == agent {
                self.remove(&name, &label)?;
            }
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<(String, String)>> {
        Ok(self.0.scan()?.into_keys().collect())
    }

    fn watch(&self) -> Result<Box<dyn Watch>> {
        Ok(Box::new(FileWatch {
            dir: Arc::clone(&self.0),
            seen: BTreeMap::new(),
            pending: Vec::new(),
        }))
    }
}

impl Dir {
    fn write(&self, temp: &str, blob: &[u8]) -> std::io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(&self.fd, temp, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(fd);
        file.write_all(blob)?;
        file.sync_all()
    }

    fn read(&self, name: &str) -> Result<Option<Bytes>> {
        // NONBLOCK: opening a FIFO must not wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(self.os("open", name, e)),
        };
        let stat = fs::fstat(&fd).map_err(|e| self.os("fstat", name, e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.os("read", name, "it is no regular file"));
        }
        let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
        if size > self.max_blob {
            return Err(self.too_large(name, size));
        }
        let mut blob = Vec::with_capacity(size);
        File::from(fd)
            .take(size as u64)
            .read_to_end(&mut blob)
            .map_err(|e| self.os("read", name, e))?;
        Ok(Some(blob.into()))
    }

    fn unlink(&self, name: &str) -> Result<()> {
        match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.os("remove", name, e)),
        }
    }

    /// Calls `each` with every entry that still exists.
    fn entries(&self, mut each: impl FnMut(&str, &Stat) -> Result<()>) -> Result<()> {
        let entries = fs::Dir::read_from(&self.fd).map_err(|e| self.os("list", ".", e))?;
        for entry in entries {
            let entry = entry.map_err(|e| self.os("list", ".", e))?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => each(name, &stat)?,
                Err(Errno::NOENT) => {}
                Err(e) => return Err(self.os("stat", name, e)),
            }
        }
        Ok(())
    }

    fn scan(&self) -> Result<BTreeMap<Key, Stamp>> {
        let mut found = BTreeMap::new();
        self.entries(|name, stat| {
            let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if let (true, Some(key)) = (regular, parse_name(name)) {
                // The types of these fields differ between architectures.
                #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
                let stamp = (
                    stat.st_ino.into(),
                    stat.st_mtime as i64,
                    stat.st_mtime_nsec as i64,
                    stat.st_size as i64,
                );
                found.insert(key, stamp);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Removes what publishers that died in the middle left behind.
    fn sweep(&self) -> Result<()> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        self.entries(|name, stat| {
            if name.starts_with(TEMP) && now.saturating_sub(stat.st_mtime) > STALE {
                return self.unlink(name);
            }
            Ok(())
        })
    }

    fn os(&self, what: &str, name: &str, e: impl std::fmt::Display) -> Error {
        let path = self.path.join(name);
        Error::os(format_args!("{what} {}", path.display()), e)
    }

    fn too_large(&self, name: &str, size: usize) -> Error {
        Error::new(
            ErrorKind::Exhausted,
            format!(
                "{} has {size} bytes and max_blob is {}; raise it",
                self.path.join(name).display(),
                self.max_blob
            ),
        )
    }

    fn write_error(&self, name: &str, e: &std::io::Error) -> Error {
        use std::io::ErrorKind as K;
        if !matches!(
            e.kind(),
            K::StorageFull | K::QuotaExceeded | K::FileTooLarge
        ) {
            return self.os("publish", name, e);
        }
        Error::new(
            ErrorKind::Exhausted,
            format!(
                "no room in {} for {name}: {e}; free some, or use another directory (what was \
                 published before is unchanged)",
                self.path.display()
            ),
        )
    }
}

struct FileWatch {
    dir: Arc<Dir>,
    seen: BTreeMap<Key, Stamp>,
    /// Changes found and not yet handed out, the next one last.
    pending: Vec<Change>,
}

impl Watch for FileWatch {
    fn next(&mut self, wait: Duration) -> Result<Option<Change>> {
        let deadline = deadline_after(wait);
        while self.pending.is_empty() {
            self.look()?;
            if self.pending.is_empty() && !pause(deadline) {
                return Ok(None);
            }
        }
        Ok(self.pending.pop())
    }
}

impl FileWatch {
    fn look(&mut self) -> Result<()> {
        let now = self.dir.scan()?;
        for ((agent, label), stamp) in now.iter().rev() {
            let key = (agent.clone(), label.clone());
            if self.seen.remove(&key).as_ref() != Some(stamp) {
                let (agent, label) = key;
                self.pending.push(Change::Published { agent, label });
            }
        }
        let gone = std::mem::replace(&mut self.seen, now);
        self.pending.extend(
            gone.into_keys()
                .map(|(agent, label)| Change::Removed { agent, label }),
        );
        Ok(())
    }
}

/// Waits for the next look; false once the deadline has passed.
fn pause(deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    thread::sleep(left.min(POLL));
    !left.is_zero()
}

fn file_name(agent: &str, label: &str) -> Result<String> {
    check_name("the agent's name", agent)?;
    check_name("the label", label)?;
    let name = format!("{}@{}", encode(agent), encode(label));
    if name.len() > NAME_MAX {
        return Err(Error::new(
            ErrorKind::ApiMisuse,
            format!(
                "agent {agent:?} with label {label:?} needs a file name of {} bytes; {NAME_MAX} are \
                 possible: use shorter names",
                name.len()
            ),
        ));
    }
    Ok(name)
}

fn parse_name(name: &str) -> Option<Key> {
    let (agent, label) = name.split_once('@')?;
    let key = (decode(agent)?, decode(label)?);
    // Only the one spelling that publish uses.
    (file_name(&key.0, &key.1).ok()? == name).then_some(key)
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_') {
            out.push(char::from(b));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        if b == b'%' {
            let (hex, tail) = rest.split_at_checked(2)?;
            out.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
            rest = tail;
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).ok()
}
