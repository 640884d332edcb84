"""NIXL's exceptions, and which of them an error of ours is.

Their text is NIXL's; what happened stands in `__cause__`.
"""

import nixl_rs as _nx


def _define(name, text):
    made = type(name, (Exception,), {"__module__": "nixl._bindings", "__doc__": text})
    made.text = text
    return made


nixlNotPostedError = _define("nixlNotPostedError", "NIXL_ERR_NOT_POSTED")
nixlInvalidParamError = _define("nixlInvalidParamError", "NIXL_ERR_INVALID_PARAM")
nixlBackendError = _define("nixlBackendError", "NIXL_ERR_BACKEND")
nixlNotFoundError = _define("nixlNotFoundError", "NIXL_ERR_NOT_FOUND")
nixlMismatchError = _define("nixlMismatchError", "NIXL_ERR_MISMATCH")
nixlNotAllowedError = _define("nixlNotAllowedError", "NIXL_ERR_NOT_ALLOWED")
nixlRepostActiveError = _define("nixlRepostActiveError", "NIXL_ERR_REPOST_ACTIVE")
nixlUnknownError = _define("nixlUnknownError", "NIXL_ERR_UNKNOWN")
nixlNotSupportedError = _define("nixlNotSupportedError", "NIXL_ERR_NOT_SUPPORTED")
nixlRemoteDisconnectError = _define("nixlRemoteDisconnectError", "NIXL_ERR_REMOTE_DISCONNECT")
nixlCancelledError = _define("nixlCancelledError", "NIXL_ERR_CANCELED")
nixlNoTelemetryError = _define("nixlNoTelemetryError", "NIXL_ERR_NO_TELEMETRY")

_BY_STATUS = {
    -1: nixlNotPostedError,
    -2: nixlInvalidParamError,
    -3: nixlBackendError,
    -4: nixlNotFoundError,
    -5: nixlMismatchError,
    -6: nixlNotAllowedError,
    -7: nixlRepostActiveError,
    -9: nixlNotSupportedError,
    -10: nixlRemoteDisconnectError,
    -11: nixlCancelledError,
}
_BY_KIND = {
    # A peer that does not answer any more.
    "Timeout": nixlRemoteDisconnectError,
    # Another agent has this name, as seen from its connection info.
    "NameConflict": nixlNotAllowedError,
    "Unauthenticated": nixlNotAllowedError,
    "Stale": nixlMismatchError,
}
# What is checked when a request is made: counts and lengths, and that the peer is still loaded.
_WHEN_MADE = {"Mismatch": nixlInvalidParamError, "PeerGone": nixlNotFoundError}


def of(error, when_made=False):
    """NIXL's exception for an error of ours."""
    found = _WHEN_MADE.get(error.kind) if when_made else None
    found = found or _BY_KIND.get(error.kind) or _BY_STATUS.get(error.status, nixlBackendError)
    made = new(found)
    made.__cause__ = error
    return made


def new(kind, why=None):
    """An exception of `kind`, caused by ours that says why."""
    made = kind(kind.text)
    if why:
        made.__cause__ = _nx.NixlError(why)
    return made
