"""NIXL's enumerations."""

import enum


class _Number(enum.Enum):
    def __int__(self):
        return self.value

    __index__ = __int__

    def __eq__(self, other):
        return self is other or (isinstance(other, int) and self.value == other)

    def __hash__(self):
        return self.value


class nixl_thread_sync_t(_Number):
    """Accepted and ignored: everything here is thread-safe."""

    NIXL_THREAD_SYNC_NONE = 0
    NIXL_THREAD_SYNC_STRICT = 1
    NIXL_THREAD_SYNC_RW = 2
    NIXL_THREAD_SYNC_DEFAULT = 0


class nixl_mem_t(_Number):
    """Kind of memory."""

    DRAM_SEG = 0
    VRAM_SEG = 1
    BLK_SEG = 2
    OBJ_SEG = 3
    FILE_SEG = 4


class nixl_xfer_op_t(_Number):
    """Direction, seen by who asks."""

    NIXL_READ = 0
    NIXL_WRITE = 1


class nixl_cost_t(_Number):
    """How a cost was estimated."""

    NIXL_COST_ANALYTICAL_BACKEND = 0


class nixl_status_t(_Number):
    """How something stands or ended."""

    NIXL_IN_PROG = 1
    NIXL_SUCCESS = 0
    NIXL_ERR_NOT_POSTED = -1
    NIXL_ERR_INVALID_PARAM = -2
    NIXL_ERR_BACKEND = -3
    NIXL_ERR_NOT_FOUND = -4
    NIXL_ERR_MISMATCH = -5
    NIXL_ERR_NOT_ALLOWED = -6
    NIXL_ERR_REPOST_ACTIVE = -7
    NIXL_ERR_UNKNOWN = -8
    NIXL_ERR_NOT_SUPPORTED = -9


ALL = (nixl_thread_sync_t, nixl_mem_t, nixl_xfer_op_t, nixl_cost_t, nixl_status_t)
for _enum in ALL:
    _enum.__module__ = "nixl._bindings"
