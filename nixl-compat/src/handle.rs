//! The table behind the handles that C holds.

use std::{
    any::Any,
    collections::HashMap,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::RwLock;

use crate::status::{Result, Status};

type Object = Arc<dyn Any + Send + Sync>;

static OBJECTS: LazyLock<RwLock<HashMap<usize, Object>>> = LazyLock::new(Default::default);

/// Numbers are never used twice. C takes them for addresses, of which 0 is none.
static NEXT: AtomicUsize = AtomicUsize::new(1);

/// What C holds of an object: a number where its headers say pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Handle(usize);

impl Handle {
    pub(crate) const NULL: Self = Self(0);

    /// A number that C made up.
    #[cfg(test)]
    pub(crate) fn invented(number: usize) -> Self {
        Self(number)
    }

    /// Enters an object into the table.
    pub(crate) fn new<T: Send + Sync + 'static>(object: T) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        OBJECTS.write().insert(number, Arc::new(object));
        Self(number)
    }

    /// The object. Errors: `InvalidParam` unless the handle is a live one of a `T`.
    pub(crate) fn get<T: Send + Sync + 'static>(self) -> Result<Arc<T>> {
        let object = OBJECTS.read().get(&self.0).cloned();
        let object = object.ok_or(Status::InvalidParam)?;
        object.downcast().map_err(|_| Status::InvalidParam)
    }

    /// The object, unless the handle is null.
    pub(crate) fn optional<T: Send + Sync + 'static>(self) -> Result<Option<Arc<T>>> {
        (self != Self::NULL).then(|| self.get()).transpose()
    }

    /// Takes the object out of the table; calls that use it still keep it alive.
    pub(crate) fn take<T: Send + Sync + 'static>(self) -> Result<Arc<T>> {
        let mut objects = OBJECTS.write();
        match objects.get(&self.0) {
            Some(object) if object.is::<T>() => {}
            _ => return Err(Status::InvalidParam),
        }
        let object = objects.remove(&self.0).ok_or(Status::InvalidParam)?;
        drop(objects);
        object.downcast().map_err(|_| Status::InvalidParam)
    }
}
