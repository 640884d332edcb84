"""Registered memory as a memoryview."""

import ctypes


def of(region):
    """The memory of a region, which the view keeps."""
    memory = (ctypes.c_ubyte * region.nbytes).from_address(region.address)
    memory.region = region
    return memoryview(memory).cast("B")
