"""Real torch's tensors, on the CPU. Without torch nothing of this runs; test_memory.py has stand-ins."""

import gc
import weakref

import numpy as np
import pytest

import nixl_rs as nx
from conftest import LIMIT, pattern
from nixl_rs import compat

torch = pytest.importorskip("torch", reason="torch: not installed, nothing was tried with it")

SIZE = 8192


def image(tensor):
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def pull(pair, target):
    """Fills `target` with the pattern, by a transfer."""
    there, here = pair
    source = there.allocate(SIZE)
    source.write(pattern(1, SIZE)[0])
    region = here.register(target)
    assert region.nbytes == SIZE and region.writable
    here.load_metadata(there.metadata())
    here.request("read", region, source, peer="prefill").post().wait(LIMIT)
    return region


KINDS = {
    "bfloat16": lambda: torch.zeros(SIZE // 2, dtype=torch.bfloat16),
    "int8": lambda: torch.zeros(SIZE, dtype=torch.int8),
    "complex": lambda: torch.zeros((32, SIZE // 256), dtype=torch.complex64),
    "a slice": lambda: torch.zeros((4, SIZE // 4), dtype=torch.float32)[2:3],
    "a leaf with a gradient": lambda: torch.zeros(SIZE // 4, requires_grad=True),
    "a parameter": lambda: torch.nn.Parameter(torch.zeros(SIZE // 4)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_filled_in_place(pair, kind):
    target = KINDS[kind]()
    region = pull(pair, target)
    assert region.address == target.data_ptr()
    assert image(target) == pattern(1, SIZE).tobytes()


class OnlyDlpack:
    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **kwargs):
        return self.tensor.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


def test_dlpack_shares_the_tensor_s_memory(pair):
    target = torch.zeros(SIZE // 4, dtype=torch.float32)
    region = pull(pair, OnlyDlpack(target))
    assert region.address == target.data_ptr()
    assert image(target) == pattern(1, SIZE).tobytes()


def test_memory_of_an_agent_is_a_tensor(pair):
    region = pair[1].allocate(SIZE)
    tensor = torch.from_numpy(np.asarray(region))
    assert tensor.data_ptr() == region.address
    region.write(pattern(1, SIZE)[0])
    assert image(tensor) == pattern(1, SIZE).tobytes()
    tensor[5] = 9
    assert region.read(5, 1) == b"\t"
    del region
    gc.collect()
    # Were the memory gone, this would crash.
    assert tensor[5] == 9


BAD = {
    "transposed": lambda: torch.zeros((8, 16)).t(),
    "strided": lambda: torch.zeros((8, 16))[:, ::2],
    "expanded": lambda: torch.zeros(1).expand(64),
    "empty": lambda: torch.zeros(0),
    "meta": lambda: torch.zeros(64, device="meta"),
    "sparse": lambda: torch.zeros(8, 8).to_sparse(),
    "strided dlpack": lambda: OnlyDlpack(torch.zeros((8, 16)).t()),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_has_no_plain_memory_is_refused(pair, kind):
    # Of a sparse one torch itself says that it has no pointer.
    with pytest.raises((nx.ApiMisuseError, nx.UnsupportedError, RuntimeError)):
        pair[0].register(BAD[kind]())


def test_a_tensor_is_kept_until_it_is_released(pair):
    tensor = torch.zeros(SIZE // 4)
    gone = weakref.ref(tensor)
    region = pull(pair, tensor)
    del tensor
    gc.collect()
    assert image(gone()) == pattern(1, SIZE).tobytes()
    region.release()
    del region
    gc.collect()
    assert gone() is None


NIXL = f"""
import gc, sys, weakref
import torch
sys.path[:0] = [{compat.DIRECTORY!r}]
from nixl._api import nixl_agent, nixl_agent_config

agent = nixl_agent("a", nixl_agent_config(backends=["UCX"]))
cache, target = torch.arange(4096, dtype=torch.float32).reshape(4, 1024), torch.zeros(4, 1024)
first, second = agent.register_memory(cache), agent.register_memory([target])
gone = weakref.ref(target)
there = agent.get_xfer_descs([cache[row] for row in (3, 1, 2, 0)])
here = agent.get_xfer_descs([target[row] for row in range(4)])
assert agent.get_xfer_descs(torch.zeros(8, 8).t()) is None
handle = agent.initialize_xfer("READ", here, there, "a")
state = agent.transfer(handle)
while state != "DONE":
    state = agent.check_xfer_state(handle)
assert torch.equal(target, cache[[3, 1, 2, 0]])
del target, here
gc.collect()
assert gone() is not None
agent.release_xfer_handle(handle)
agent.deregister_memory(second)
del second
gc.collect()
assert gone() is None
"""


def test_nixl_s_calls_take_tensors(run):
    run(NIXL)
