"""KV-cache transfer between agents: register memory, exchange metadata, move scattered blocks.

    import nixl_rs as nx

    with nx.Agent("prefill") as prefill, nx.Agent("decode") as decode:
        cache, memory = prefill.allocate(1 << 20), decode.allocate(1 << 20)
        decode.load_metadata(prefill.metadata())
        here = [(memory.address + slot * 4096, 4096) for slot in range(3)]
        there = [(cache.address + block * 4096, 4096) for block in (7, 3, 5)]
        request = decode.request("read", here, there, peer="prefill")
        request.post().wait(5)
        print(request.receipt)

Nothing here imports numpy or asyncio before it is needed.
"""

import atexit as _atexit

from . import _native
from ._errors import (
    AbandonedError,
    ApiMisuseError,
    BackendError,
    ExhaustedError,
    MalformedError,
    MismatchError,
    NameConflictError,
    NixlError,
    NotAllowedError,
    NotFoundError,
    NotPostedError,
    NotRegisteredError,
    PeerGoneError,
    PeerMisbehavedError,
    RepostActiveError,
    RequestCancelledError,
    StaleError,
    StillMappedError,
    TimedOutError,
    UnauthenticatedError,
    UnsupportedError,
)
from ._native import (
    BACKENDS,
    BUILD,
    Agent,
    Descriptors,
    Events,
    Explanation,
    Listener,
    Notification,
    PreparedLocal,
    PreparedRemote,
    Receipt,
    Region,
    Request,
    __version__,
    fetch_metadata,
    forget_at,
    send_metadata,
)

# Seconds that each agent is given when the interpreter exits.
_EXIT = 1.0

_atexit.register(_native.close_all, _EXIT)

__all__ = [name for name in globals() if not name.startswith("_")]
