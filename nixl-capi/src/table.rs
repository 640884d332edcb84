//! The table behind the handles that C holds.
//!
//! A handle names a slot and carries a serial number that is never used again, so one that was
//! freed is found out. Looking one up takes no lock and writes to nothing shared: it is on the way
//! of every call.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use nixl::{Error, ErrorKind, forks};
use parking_lot::Mutex;

use crate::status::{Result, misuse};

/// Slots of the first chunk; each further one has twice as many as the one before.
const FIRST: usize = 1 << 10;
const CHUNKS: usize = 14;
/// Bits of a handle that name its slot; the others are the serial number.
const SLOT_BITS: u32 = 24;

struct Entry {
    handle: u64,
    /// Of the process that made it.
    forks: u32,
    object: Object,
}

type Slot = ArcSwapOption<Entry>;

static SLOTS: [OnceLock<Box<[Slot]>>; CHUNKS] = [const { OnceLock::new() }; CHUNKS];

static FREE: Mutex<Free> = Mutex::new(Free {
    slots: Vec::new(),
    unused: 0,
    serial: 1,
});

/// Slots that nothing is in.
struct Free {
    slots: Vec<usize>,
    /// The first slot that was never used.
    unused: usize,
    serial: u64,
}

/// What a handle can stand for.
pub(crate) trait Kind: Sized + Send + Sync + 'static {
    /// For messages.
    const NAME: &'static str;
    fn of(object: &Object) -> Option<&Self>;
    fn from(object: Object) -> Option<Self>;
    fn into(self) -> Object;
}

macro_rules! kinds {
    ($($variant:ident($type:ty), $name:literal;)*) => {
        /// Every kind of object.
        pub(crate) enum Object {
            $($variant($type),)*
        }

        impl Object {
            fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)*
                }
            }
        }

        $(impl Kind for $type {
            const NAME: &'static str = $name;

            fn of(object: &Object) -> Option<&Self> {
                match object {
                    Object::$variant(found) => Some(found),
                    _ => None,
                }
            }

            fn from(object: Object) -> Option<Self> {
                match object {
                    Object::$variant(found) => Some(found),
                    _ => None,
                }
            }

            fn into(self) -> Object {
                Object::$variant(self)
            }
        })*
    };
}

kinds! {
    Agent(crate::agent::Agent), "agent";
    Region(crate::memory::Memory), "region";
    List(crate::list::List), "list";
    Local(nixl::PreparedLocal), "prepared local list";
    Remote(nixl::PreparedRemote), "prepared remote list";
    Request(nixl::Request), "request";
    Blob(crate::blob::Blob), "blob";
    Notification(crate::notify::Notification), "notification";
    Listener(crate::exchange::Listener), "listener";
}

/// Chunk and place in it of a slot.
fn place(slot: usize) -> (usize, usize) {
    let chunk = (slot / FIRST + 1).ilog2() as usize;
    (chunk, slot - FIRST * ((1 << chunk) - 1))
}

fn slot(index: usize) -> Option<&'static Slot> {
    let (chunk, at) = place(index);
    SLOTS.get(chunk)?.get()?.get(at)
}

fn slot_of(handle: u64) -> Option<&'static Slot> {
    slot((handle & ((1 << SLOT_BITS) - 1)) as usize)
}

/// Enters an object; returns its handle. Errors: `Exhausted` when there are as many handles as
/// there can be.
pub(crate) fn enter<T: Kind>(object: T) -> Result<u64> {
    let mut free = FREE.lock();
    let index = match free.slots.pop() {
        Some(index) => index,
        None => {
            let index = free.unused;
            let (chunk, _) = place(index);
            let Some(chunk_slots) = SLOTS.get(chunk) else {
                let text = format!("{index} handles are live; free some");
                return Err(Error::new(ErrorKind::Exhausted, text).into());
            };
            chunk_slots.get_or_init(|| (0..FIRST << chunk).map(|_| Slot::empty()).collect());
            free.unused += 1;
            index
        }
    };
    let handle = (free.serial << SLOT_BITS) | index as u64;
    free.serial += 1;
    drop(free);
    let object = object.into();
    if let Some(slot) = slot(index) {
        let forks = forks();
        slot.store(Some(Arc::new(Entry {
            handle,
            forks,
            object,
        })));
    }
    Ok(handle)
}

/// Runs `run` with the object, which stays until `run` returns, whoever frees the handle
/// meanwhile. Errors: `ApiMisuse` unless the handle is a live one of a `T`; `NotAllowed` in a child
/// of the process that made it.
#[inline]
pub(crate) fn with<T: Kind, R>(handle: u64, run: impl FnOnce(&T) -> Result<R>) -> Result<R> {
    let Some(slot) = slot_of(handle) else {
        return Err(none::<T>(handle, None));
    };
    let entry = slot.load();
    match entry.as_deref() {
        Some(entry) if entry.handle == handle => match T::of(&entry.object) {
            Some(_) if entry.forks != forks() => Err(of_the_parent::<T>()),
            Some(object) => run(object),
            None => Err(none::<T>(handle, Some(entry.object.name()))),
        },
        _ => Err(none::<T>(handle, None)),
    }
}

/// Takes the object out of the table. `None` when calls on other threads still use it: it goes
/// when they return. Errors: as [`with`].
pub(crate) fn take<T: Kind>(handle: u64) -> Result<Option<T>> {
    let entry = {
        let mut free = FREE.lock();
        with::<T, _>(handle, |_| Ok(()))?;
        let index = (handle & ((1 << SLOT_BITS) - 1)) as usize;
        let entry = slot(index).and_then(|slot| slot.swap(None));
        free.slots.push(index);
        entry
    };
    let entry = entry.and_then(Arc::into_inner);
    Ok(entry.and_then(|entry| T::from(entry.object)))
}

#[cold]
fn none<T: Kind>(handle: u64, other: Option<&'static str>) -> crate::status::Stop {
    let name = T::NAME;
    misuse(match other {
        _ if handle == 0 => format!("a handle of a {name} is NULL"),
        Some(other) => format!("{handle:#x} is the handle of a {other}, not of a {name}"),
        None => format!("{handle:#x} is not the handle of a {name}: freed already, or never made"),
    })
}

#[cold]
fn of_the_parent<T: Kind>() -> crate::status::Stop {
    let text = format!(
        "the {} belongs to the process that was forked, whose threads this one has not; make a new \
         agent after the fork",
        T::NAME
    );
    Error::new(ErrorKind::NotAllowed, text).into()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn slots_fill_the_chunks_without_a_gap() {
        let (mut chunk, mut at) = (0, 0);
        for index in 0..FIRST * 7 {
            assert_eq!(place(index), (chunk, at));
            at += 1;
            if at == FIRST << chunk {
                (chunk, at) = (chunk + 1, 0);
            }
        }
        let last = FIRST * ((1 << CHUNKS) - 1) - 1;
        assert_eq!(place(last).0, CHUNKS - 1);
        assert!(last < 1 << SLOT_BITS);
        // Every slot number that a handle can hold is looked up without a panic.
        assert!(slot((1 << SLOT_BITS) - 1).is_none());
    }

    fn list() -> crate::list::List {
        crate::list::List(Mutex::new(nixl::DescList::dram([(1, 2)])))
    }

    /// Of all that free one handle one succeeds, and nobody sees what is in its slot later.
    #[test]
    fn a_handle_is_freed_once_whoever_looks_at_it() {
        use crate::list::List;
        for _ in 0..200 {
            let handle = enter(list()).unwrap();
            let freed: usize = std::thread::scope(|scope| {
                let race = || {
                    let seen = with::<List, _>(handle, |list| Ok(list.0.lock().len()));
                    assert!(seen.is_err() || seen.is_ok_and(|len| len == 1));
                    usize::from(take::<List>(handle).is_ok())
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(race)).collect();
                threads.into_iter().map(|t| t.join().unwrap()).sum()
            });
            assert_eq!(freed, 1);
            let next = enter(list()).unwrap();
            assert_ne!(next, handle);
            assert!(with::<List, _>(handle, |_| Ok(())).is_err());
            assert!(take::<List>(next).unwrap().is_some());
        }
    }

    #[test]
    fn what_a_call_uses_stays_until_it_returns() {
        use crate::list::List;
        let handle = enter(list()).unwrap();
        let len = with::<List, _>(handle, |list| {
            assert!(take::<List>(handle).unwrap().is_none());
            Ok(list.0.lock().len())
        });
        assert_eq!(len.unwrap(), 1);
        assert!(with::<List, _>(handle, |_| Ok(())).is_err());
    }
}
