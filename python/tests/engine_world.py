"""The two workers of engine.py, on NIXL's API alone."""

import importlib
import json
import os
import subprocess
import sys
import time

import numpy as np

try:
    import nixl
except ImportError:
    # NIXL's wheel, without the package that chooses among wheels.
    import nixl_cu12 as nixl

    for part in ("_api", "_bindings", "_utils", "logging"):
        sys.modules[f"nixl.{part}"] = importlib.import_module(f"nixl_cu12.{part}")
    sys.modules["nixl"] = nixl

from nixl._api import nixl_agent, nixl_agent_config, nixl_thread_sync_t

BLOCKS, BLOCK = 256, 8192
LIMIT = 30


def pattern(seed):
    words = BLOCK // 8
    block = np.arange(BLOCKS, dtype=np.uint64)[:, None] << np.uint64(32)
    word = np.arange(words, dtype=np.uint64)[None, :] << np.uint64(8)
    return (block | word | np.uint64(seed)).view(np.uint8).reshape(BLOCKS, BLOCK)


def rows(memory, order=range(BLOCKS)):
    order = np.asarray(order, dtype=np.uint64)
    made = np.zeros((len(order), 3), dtype=np.uint64)
    made[:, 0] = np.uint64(memory.ctypes.data) + order * np.uint64(BLOCK)
    made[:, 1] = BLOCK
    return made


def name_of(function, *args, **kwargs):
    """The name and text of what a call raises, or what it returns."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        kind = type(error).__name__
        return [kind, str(error)] if kind.startswith("nixl") else [kind]


def until(check):
    """Polls, as engines do, until check() is true."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.0005)
    raise AssertionError("it did not happen in time")


def finish(agent, handle, state=None):
    state = state or agent.transfer(handle)
    assert state in ("DONE", "PROC"), state
    if state == "PROC":
        until(lambda: agent.check_xfer_state(handle) == "DONE")


def one_notif(agent):
    got = {}

    def poll():
        for sender, messages in agent.get_new_notifs().items():
            got.setdefault(sender, []).extend(messages)
        return got

    return until(poll)


class Remote:
    """The other worker."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        told = self.read()
        self.address, self.metadata = told["address"], bytes.fromhex(told["metadata"])

    def read(self):
        for line in self.process.stdout:
            # Logs go to standard output too.
            if line.startswith("{"):
                return json.loads(line)
        raise AssertionError("the peer is gone")

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()

    def rows(self, order=range(BLOCKS)):
        order = np.asarray(order, dtype=np.uint64)
        made = np.zeros((len(order), 3), dtype=np.uint64)
        made[:, 0] = np.uint64(self.address) + order * np.uint64(BLOCK)
        made[:, 1] = BLOCK
        return made


def peer():
    agent = nixl_agent("peer", nixl_agent_config(backends=["UCX"]))
    memory = np.empty((BLOCKS, BLOCK), dtype=np.uint8)
    memory[:] = pattern(1)
    agent.register_memory([(memory.ctypes.data, memory.nbytes, 0, "")], "DRAM")
    told = {"address": memory.ctypes.data, "metadata": agent.get_agent_metadata().hex()}
    print(json.dumps(told), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        if "load" in request:
            answer["name"] = agent.add_remote_agent(bytes.fromhex(request["load"])).decode()
        if "await" in request:
            got = one_notif(agent)
            answer["got"] = {k: [m.decode() for m in v] for k, v in got.items()}
        if "seed" in request:
            answer["wrong"] = int((memory != pattern(request["seed"])).sum())
        if "fill" in request:
            memory[:] = pattern(request["fill"])
        if "notify" in request:
            agent.send_notif(request["notify"], b"from the peer")
        print(json.dumps(answer), flush=True)
    os._exit(0)


class World:
    """This worker, which knows the other."""

    def __init__(self):
        config = nixl_agent_config(
            backends=["UCX"],
            capture_telemetry=True,
            sync_mode=nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT,
        )
        self.agent = nixl_agent("here", config)
        self.memory = np.zeros((BLOCKS, BLOCK), dtype=np.uint8)
        self.descs = self.agent.get_reg_descs(
            [(self.memory.ctypes.data, self.memory.nbytes, 0, "")], "DRAM"
        )
        self.agent.register_memory(self.descs)
        self.remote = Remote()
        self.name = self.agent.add_remote_agent(self.remote.metadata)
        assert self.remote.ask(load=self.agent.get_agent_metadata().hex()) == {"name": "here"}
        self.local_side = self.agent.prep_xfer_dlist(
            "NIXL_INIT_AGENT", self.agent.get_xfer_descs(rows(self.memory), "DRAM")
        )
        self.remote_side = self.agent.prep_xfer_dlist(
            self.name, self.agent.get_xfer_descs(self.remote.rows(), "DRAM")
        )


if __name__ == "__main__":
    peer()
