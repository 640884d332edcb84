//! The table of libucp's functions.

use core::ffi::CStr;
use std::ptr::NonNull;

use libc::{FILE, c_void};

use crate::bindings::*;

/// Finds the address of a function by its name.
pub(crate) type Resolve<'a> = &'a mut dyn FnMut(&CStr) -> Option<NonNull<c_void>>;

/// Makes [`Symbols`] and its loader from the list that bindgen wrote.
macro_rules! symbols {
    (
        required { $(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;)* }
        optional { $(fn $oname:ident($($oarg:ident: $oty:ty),* $(,)?) $(-> $oret:ty)?;)* }
    ) => {
        /// libucp's functions: those of a library that was opened, or Rust functions in their
        /// place.
        ///
        /// What each does, and who may call it when, is said in UCX's header `ucp/api/ucp.h`. The
        /// ones that are an `Option` are not in every libucp that can be used.
        #[derive(Clone, Copy, Debug)]
        #[allow(missing_docs)]
        pub struct Symbols {
            $(pub $name: unsafe extern "C" fn($($arg: $ty),*) $(-> $ret)?,)*
            $(pub $oname: Option<unsafe extern "C" fn($($oarg: $oty),*) $(-> $oret)?>,)*
        }

        impl Symbols {
            /// The names of the functions that a libucp must have.
            pub const REQUIRED: &[&str] = &[$(stringify!($name)),*];
            /// The names of the functions that it may lack.
            pub const OPTIONAL: &[&str] = &[$(stringify!($oname)),*];

            /// Fills the table; the error is the names of the required functions that are not
            /// there.
            ///
            /// # Safety
            ///
            /// Every address that `resolve` returns is that of the C function of the asked name,
            /// as the headers declare it, and stays callable for the rest of the process.
            pub(crate) unsafe fn resolve(resolve: Resolve<'_>) -> Result<Symbols, Vec<&'static str>> {
                let mut missing = Vec::new();
                $(let $name = resolve(c_name(concat!(stringify!($name), "\0")));
                if $name.is_none() {
                    missing.push(stringify!($name));
                })*
                $(let $oname = resolve(c_name(concat!(stringify!($oname), "\0")));)*
                let ($(Some($name),)*) = ($($name,)*) else {
                    return Err(missing);
                };
                Ok(Symbols {
                    $($name: {
                        type Function = unsafe extern "C" fn($($arg: $ty),*) $(-> $ret)?;
                        // SAFETY: INV-7, the caller says that this is the function of that name,
                        // whose type is generated from its declaration.
                        unsafe { std::mem::transmute::<NonNull<c_void>, Function>($name) }
                    },)*
                    $($oname: $oname.map(|address| {
                        type Function = unsafe extern "C" fn($($oarg: $oty),*) $(-> $oret)?;
                        // SAFETY: INV-7, as above.
                        unsafe { std::mem::transmute::<NonNull<c_void>, Function>(address) }
                    }),)*
                })
            }
        }
    };
}

include!("symbols.rs");

/// `name`, which ends in the only NUL it has.
fn c_name(name: &'static str) -> &'static CStr {
    CStr::from_bytes_with_nul(name.as_bytes()).unwrap_or_default()
}
