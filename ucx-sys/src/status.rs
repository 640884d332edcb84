//! What UCX does with macros: statuses inside pointers, data types inside numbers.

use std::fmt;

use crate::bindings::{UCP_API_MAJOR, ucp_datatype_t, ucp_dt_type, ucs_status_ptr_t, ucs_status_t};

/// What a non-blocking call returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// Done at once; no callback comes and there is no request.
    Done,
    /// Under way; the callback comes, and the request must be freed.
    Pending(ucs_status_ptr_t),
    /// Refused; no callback comes and there is no request.
    Failed(ucs_status_t),
}

impl Posted {
    /// Reads what a `ucp_*_nbx` function returned. UCX puts a status into the pointer: zero is
    /// `UCS_OK`, the last hundred addresses are errors, all others are requests.
    pub fn from_ptr(pointer: ucs_status_ptr_t) -> Posted {
        let address = pointer.addr();
        let first_error = usize::MAX - (ucs_status_t::UCS_ERR_LAST.0.unsigned_abs() as usize) + 1;
        if address == 0 {
            Posted::Done
        } else if address >= first_error {
            // The low byte is the status: -1 to -100.
            Posted::Failed(ucs_status_t(address.to_le_bytes()[0].cast_signed()))
        } else {
            Posted::Pending(pointer)
        }
    }
}

impl ucs_status_t {
    /// Whether this is an error; `UCS_INPROGRESS` is none.
    pub fn is_error(self) -> bool {
        self.0 < 0
    }

    /// The name of the constant, or `None` of one that came after these bindings.
    pub fn name(self) -> Option<&'static str> {
        NAMES
            .iter()
            .find(|(status, _)| *status == self)
            .map(|(_, name)| *name)
    }
}

/// The name, or the number of an unknown one.
impl fmt::Display for ucs_status_t {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "UCS status {}", self.0),
        }
    }
}

/// The data type of `count` elements of `size` bytes each.
pub const fn contig(size: usize) -> ucp_datatype_t {
    ((size as u64) << ucp_dt_type::UCP_DATATYPE_SHIFT.0) | ucp_dt_type::UCP_DATATYPE_CONTIG.0 as u64
}

/// The data type of an array of `ucp_dt_iov_t`.
pub const IOV: ucp_datatype_t = ucp_dt_type::UCP_DATATYPE_IOV.0 as u64;

/// The data type of a scatter-gather list: `ucp_dt_local_sgl_t` here, `ucp_dt_remote_sgl_t` there.
/// From UCX 1.22 on.
pub const SGL: ucp_datatype_t = ucp_dt_type::UCP_DATATYPE_SGL.0 as u64;

/// The major version of UCX's interface that these bindings are for.
pub(crate) const MAJOR: u32 = UCP_API_MAJOR;

macro_rules! names {
    ($($name:ident)*) => {
        const NAMES: &[(ucs_status_t, &str)] = &[$((ucs_status_t::$name, stringify!($name))),*];
    };
}

names! {
    UCS_OK UCS_INPROGRESS UCS_ERR_NO_MESSAGE UCS_ERR_NO_RESOURCE UCS_ERR_IO_ERROR
    UCS_ERR_NO_MEMORY UCS_ERR_INVALID_PARAM UCS_ERR_UNREACHABLE UCS_ERR_INVALID_ADDR
    UCS_ERR_NOT_IMPLEMENTED UCS_ERR_MESSAGE_TRUNCATED UCS_ERR_NO_PROGRESS
    UCS_ERR_BUFFER_TOO_SMALL UCS_ERR_NO_ELEM UCS_ERR_SOME_CONNECTS_FAILED UCS_ERR_NO_DEVICE
    UCS_ERR_BUSY UCS_ERR_CANCELED UCS_ERR_SHMEM_SEGMENT UCS_ERR_ALREADY_EXISTS
    UCS_ERR_OUT_OF_RANGE UCS_ERR_TIMED_OUT UCS_ERR_EXCEEDS_LIMIT UCS_ERR_UNSUPPORTED
    UCS_ERR_REJECTED UCS_ERR_NOT_CONNECTED UCS_ERR_CONNECTION_RESET UCS_ERR_FIRST_LINK_FAILURE
    UCS_ERR_LAST_LINK_FAILURE UCS_ERR_FIRST_ENDPOINT_FAILURE UCS_ERR_ENDPOINT_TIMEOUT
    UCS_ERR_LAST_ENDPOINT_FAILURE UCS_ERR_LAST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_a_status_or_a_request() {
        let at = |address: isize| {
            Posted::from_ptr(std::ptr::without_provenance_mut(address.cast_unsigned()))
        };
        assert_eq!(at(0), Posted::Done);
        assert_eq!(at(-1), Posted::Failed(ucs_status_t::UCS_ERR_NO_MESSAGE));
        assert_eq!(at(-2), Posted::Failed(ucs_status_t::UCS_ERR_NO_RESOURCE));
        assert_eq!(at(-100), Posted::Failed(ucs_status_t::UCS_ERR_LAST));
        assert!(matches!(at(-101), Posted::Pending(_)));
        assert!(matches!(at(0x1000), Posted::Pending(_)));
    }

    #[test]
    fn unknown_statuses_are_fine() {
        assert_eq!(ucs_status_t(-99).to_string(), "UCS status -99");
        assert!(ucs_status_t(-99).is_error());
        assert_eq!(ucs_status_t::UCS_ERR_BUSY.to_string(), "UCS_ERR_BUSY");
        assert!(!ucs_status_t::UCS_INPROGRESS.is_error());
    }

    #[test]
    fn data_types_are_numbers_as_in_the_headers() {
        assert_eq!((contig(1), IOV, SGL), (8, 2, 4));
    }
}
