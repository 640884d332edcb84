"""What can be registered, and how long it is kept."""

import array
import gc
import mmap
import types
import weakref

import numpy as np
import pytest

import nixl_rs as nx
from conftest import LIMIT, pattern

SIZE = 8192


class Dlpack:
    """Only DLPack, no buffer protocol."""

    def __init__(self, memory, device=None):
        self.memory, self.device = memory, device

    def __dlpack__(self, **kwargs):
        return self.memory.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.device or self.memory.__dlpack_device__()


class Tensor:
    """What of a torch tensor is used."""

    def __init__(self, memory, device="cpu", contiguous=True):
        self.memory, self.contiguous = memory, contiguous
        self.device = types.SimpleNamespace(type=device)

    def data_ptr(self):
        return self.memory.ctypes.data

    def numel(self):
        return self.memory.size

    def element_size(self):
        return self.memory.itemsize

    def is_contiguous(self):
        return self.contiguous

    def untyped_storage(self):
        return self.memory


def mapped():
    return mmap.mmap(-1, SIZE)


KINDS = {
    "bytearray": lambda: bytearray(SIZE),
    "array": lambda: array.array("Q", bytes(SIZE)),
    "memoryview": lambda: memoryview(bytearray(SIZE)),
    "mmap": mapped,
    "numpy": lambda: np.zeros(SIZE // 4, dtype=np.float32),
    "fortran": lambda: np.zeros((64, SIZE // 64), dtype=np.uint8, order="F"),
    "dlpack": lambda: Dlpack(np.zeros((SIZE // 8, 2), dtype=np.int32)),
    "tensor": lambda: Tensor(np.zeros(SIZE // 2, dtype=np.float16)),
}


def bytes_of(obj):
    obj = getattr(obj, "memory", obj)
    return obj.tobytes("A") if isinstance(obj, np.ndarray) else bytes(obj)


@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_transferred_in_place(pair, kind):
    there, here = pair
    source = there.allocate(SIZE)
    source.write(pattern(1, SIZE)[0])
    target = KINDS[kind]()
    region = here.register(target)
    assert region.nbytes == SIZE and region.writable and not region.shareable
    here.load_metadata(there.metadata())
    here.request("read", region, source, peer="prefill").post().wait(LIMIT)
    assert bytes_of(target) == pattern(1, SIZE).tobytes()
    region.release()


def test_read_only_memory_is_read_and_never_written(pair):
    there, here = pair
    data = pattern(1, SIZE).tobytes()
    with pytest.raises(nx.ApiMisuseError, match="read_only=True"):
        there.register(data)
    source, target = there.register(data, read_only=True), here.allocate(SIZE)
    assert not source.writable
    here.load_metadata(there.metadata())
    here.request("read", target, source, peer="prefill").post().wait(LIMIT)
    assert target.read() == data
    with pytest.raises(nx.NotAllowedError):
        here.request("write", target, source, peer="prefill")


def cuda_array():
    interface = {"data": (1 << 40, False), "shape": (8,), "typestr": "|u1", "version": 3}
    return types.SimpleNamespace(__cuda_array_interface__=interface)


GPU = {
    "cuda_array_interface": cuda_array,
    "dlpack": lambda: Dlpack(np.zeros(8), device=(2, 0)),
    "tensor": lambda: Tensor(np.zeros(8), device="cuda"),
}


@pytest.mark.parametrize("kind", GPU)
def test_gpu_memory_is_refused_and_says_what_to_do(pair, kind):
    with pytest.raises(nx.UnsupportedError, match="GPU memory.*host") as caught:
        pair[0].register(GPU[kind]())
    assert caught.value.status == -9


BAD = {
    "strided": lambda: np.zeros((8, 8))[:, ::2],
    "strided dlpack": lambda: Dlpack(np.zeros((8, 8))[:, ::2]),
    "strided tensor": lambda: Tensor(np.zeros(8), contiguous=False),
    "empty": lambda: bytearray(),
    "number": lambda: 5,
    "text": lambda: "text",
    "none": lambda: None,
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_memory_is_refused(pair, kind):
    with pytest.raises(nx.ApiMisuseError, match="cannot register"):
        pair[0].register(BAD[kind]())


def test_an_object_is_kept_until_it_is_released(pair):
    agent, _ = pair
    memory = np.zeros(SIZE, dtype=np.uint8)
    gone = weakref.ref(memory)
    region = agent.register(memory)
    del memory
    gc.collect()
    assert gone() is not None
    region.release()
    assert region.released and gone() is not None, "the handle keeps what it names"
    del region
    gc.collect()
    assert gone() is None


def test_registered_memory_outlives_its_handle(pair):
    agent, _ = pair
    memory = np.zeros(SIZE, dtype=np.uint8)
    gone = weakref.ref(memory)
    agent.register(memory)
    del memory
    gc.collect()
    assert gone() is not None, "still registered"
    agent.close()
    gc.collect()
    assert gone() is None


def test_a_bytearray_cannot_be_resized_while_registered(pair):
    memory = bytearray(SIZE)
    region = pair[0].register(memory)
    with pytest.raises(BufferError):
        memory.extend(b"more")
    region.release()
    del region
    memory.extend(b"more")


def test_an_active_request_keeps_what_it_writes_to(peer):
    other = peer(2, 1 << 20, "plain", config={"backends": ["tcp"]})
    with nx.Agent("here", {"backends": ["tcp"]}) as agent:
        memory = np.zeros(2 << 20, dtype=np.uint8)
        gone = weakref.ref(memory)
        region = agent.register(memory)
        agent.load_metadata(other.metadata)
        request = agent.request("read", region, [(other.address, 2 << 20)], peer="peer")
        # First a path, so that the next post is held up in the middle.
        request.post().wait(LIMIT)
        assert bytes(memory) == pattern(2, 1 << 20).tobytes()
        other.stop()
        request.post()
        with pytest.raises(nx.StillMappedError):
            region.release(timeout=0.05)
        del memory, region
        gc.collect()
        assert gone() is not None and request.status in ("active", "stalled")
        other.go_on()
        request.wait(LIMIT)


def test_views_share_the_memory_and_keep_it(pair):
    agent, _ = pair
    region = agent.allocate(SIZE)
    array_of, view = np.asarray(region), region.view()
    view[5] = 7
    array_of[6] = 8
    assert region.read(5, 2) == b"\7\10"
    region.write(b"abc", 1)
    assert bytes(view[:4]) == b"\0abc" and array_of.flags.writeable
    address = region.address
    region.release()
    del region
    gc.collect()
    # Were the memory gone, this would crash.
    assert bytes(view[1:4]) == b"abc" and array_of.ctypes.data == address


@pytest.mark.parametrize("offset, nbytes", [(SIZE, 1), (SIZE + 1, None), (0, SIZE + 1), (1, 1 << 62)])
def test_bounds_are_checked(pair, offset, nbytes):
    region = pair[0].allocate(SIZE)
    with pytest.raises(nx.ApiMisuseError, match="outside"):
        region.read(offset, nbytes)
    with pytest.raises(nx.ApiMisuseError, match="outside"):
        region.write(b"x" * 2, SIZE - 1)


def test_a_region_is_a_context(pair):
    agent, _ = pair
    with agent.allocate(SIZE) as region:
        assert len(region) == SIZE and not region.released
    assert region.released
    with pytest.raises(nx.NotRegisteredError):
        region.release()
    with pytest.raises(nx.NotRegisteredError):
        agent.prepare_local(region)


def test_an_address_is_vouched_for_by_the_caller(pair):
    memory = np.zeros(SIZE, dtype=np.uint8)
    gone = weakref.ref(memory)
    region = pair[0].register_address(memory.ctypes.data, SIZE, owner=memory)
    del memory
    region.write(b"here")
    assert gone()[:4].tobytes() == b"here"
    region.release()
