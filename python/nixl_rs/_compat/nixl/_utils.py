"""Memory by address, for test programs."""

import ctypes as _ctypes

_libc = _ctypes.CDLL(None)
_libc.aligned_alloc.restype = _ctypes.c_void_p
_libc.aligned_alloc.argtypes = [_ctypes.c_size_t, _ctypes.c_size_t]
_libc.free.argtypes = [_ctypes.c_void_p]
_PAGE = 4096


def malloc_passthru(size):
    """The address of `size` bytes that begin a page."""
    address = _libc.aligned_alloc(_PAGE, -(-size // _PAGE) * _PAGE)
    if not address:
        raise MemoryError(f"no {size} bytes")
    return address


def free_passthru(address):
    """Frees what malloc_passthru returned."""
    _libc.free(address)


def ba_buf(address, size):
    """Fills memory with 0xBA."""
    _ctypes.memset(address, 0xBA, size)


def verify_transfer(first, second, size):
    """Fails unless two stretches of memory are equal."""
    assert _ctypes.string_at(first, size) == _ctypes.string_at(second, size), "the memory differs"
