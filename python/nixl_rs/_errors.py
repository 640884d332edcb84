"""Exceptions, by who is to blame."""


class NixlError(Exception):
    """What every exception of this package is.

    Attributes: `kind` (the kind's name), `status` (a stable number: NIXL's `nixl_status_t` where it
    has one, else -100 and below), `message` (without peer and path), `peer` and `path` (or None).
    """

    kind = "Backend"
    status = -3
    message = ""
    peer = None
    path = None


class ApiMisuseError(NixlError, ValueError):
    """The caller passed something that cannot be right."""


class RepostActiveError(NixlError):
    """The request is still active, so it cannot be posted again."""


class NotPostedError(NixlError):
    """The request was never posted."""


class NotRegisteredError(NixlError, LookupError):
    """A descriptor lies in no registered region."""


class NotFoundError(NixlError, LookupError):
    """A name (peer, key, file) is not known here."""


class MismatchError(NixlError, ValueError):
    """Counts or lengths of two lists differ."""


class NotAllowedError(NixlError):
    """Policy or configuration forbids it."""


class UnsupportedError(NixlError):
    """No path or feature can do it; the message says why."""


class MalformedError(NixlError, ValueError):
    """Metadata or a message does not decode."""


class StaleError(NixlError):
    """Metadata older than what is loaded, or replayed."""


class UnauthenticatedError(NixlError):
    """The peer could not prove who it is."""


class PeerMisbehavedError(NixlError):
    """The peer broke the protocol."""


class PeerGoneError(NixlError, ConnectionError):
    """The peer died, closed or was cut off."""


class NameConflictError(NixlError):
    """Another living agent has this name."""


class TimedOutError(NixlError, TimeoutError):
    """The deadline passed."""


class RequestCancelledError(NixlError):
    """The caller cancelled it."""


class StillMappedError(NixlError):
    """A peer or a request still uses the memory; it stays registered."""


class ExhaustedError(NixlError):
    """A queue, descriptor or memory limit was reached."""


class AbandonedError(NixlError):
    """The backend dropped an operation without completing it."""


class BackendError(NixlError):
    """A system call or device failed."""


_ODD = {"Timeout": TimedOutError, "Cancelled": RequestCancelledError}


def make(kind, status, text, message, peer, path):
    """The exception for an error of the library."""
    error = (_ODD.get(kind) or globals().get(kind + "Error") or NixlError)(text)
    error.kind, error.status, error.message = kind, status, message
    error.peer, error.path = peer, path
    return error
