"""NIXL's Python API on nixl_rs. See `nixl_rs.compat`."""

from . import _api, _bindings, _utils, logging
from ._api import (
    DEFAULT_COMM_PORT,
    nixl_agent,
    nixl_agent_config,
    nixl_backend_handle,
    nixl_prepped_dlist_handle,
    nixl_thread_sync_t,
    nixl_xfer_handle,
)

__all__ = [
    "DEFAULT_COMM_PORT",
    "nixl_agent",
    "nixl_agent_config",
    "nixl_backend_handle",
    "nixl_prepped_dlist_handle",
    "nixl_thread_sync_t",
    "nixl_xfer_handle",
]
for _module in (_bindings, _utils, logging):
    for _name in vars(_module):
        if not _name.startswith("_"):
            globals().setdefault(_name, getattr(_module, _name))
            __all__.append(_name)
