"""The calls of Dynamo: its `nixl_connect`, and embeddings that one worker asks of another."""

import base64
import gc
import sys
import uuid
import zlib

import numpy as np

# First, as it finds NIXL under whichever name.
from engine_world import name_of, until
from engine_side import BLOCK, Other, image, run, serve
from nixl._api import nixl_agent, nixl_agent_config
from nixl._bindings import nixlNotFoundError

ROWS = 16


class Connection:
    """nixl_connect's agent: no configuration, and a name of hexadecimal digits."""

    def __init__(self, seed=0):
        self.agent = nixl_agent(uuid.uuid4().hex)
        self.rows = image(seed, ROWS) if seed else np.zeros((ROWS, BLOCK), np.uint8)
        # Its fourth item is the kind of memory.
        block = [(self.rows.ctypes.data, self.rows.nbytes, 0, "cpu")]
        self.descs = self.agent.register_memory(self.agent.get_reg_descs(block, "DRAM"), "DRAM")
        # The worker that asks for embeddings counts.
        self.asked = 0

    def rdma_metadata(self):
        packed = base64.b64encode(zlib.compress(self.agent.get_agent_metadata(), level=6))
        return [packed.decode(), self.rows.ctypes.data]

    def load(self, packed):
        return self.agent.add_remote_agent(zlib.decompress(base64.b64decode(packed)))

    def finish(self, handle, message):
        """Posts with the notification said again, as the embeddings do."""
        state = self.agent.transfer(handle, message)
        assert state in ("DONE", "PROC")
        until(lambda: self.agent.check_xfer_state(handle) == "DONE")

    # --- what the other process is asked for ---

    def seen(self, sender, message):
        """Looks for a message among all, and takes it out of the agent's own dictionary."""

        def look():
            return message in self.agent.update_notifs().get(sender, [])

        until(look)
        self.agent.notifs[sender].remove(message)
        return sorted(len(left) for left in self.agent.notifs.values())

    def answer_request(self):
        """The sender of embeddings: it meets the receiver through the receiver's notification."""
        found = {}

        def look():
            found.update(self.agent.get_new_notifs())
            return found

        until(look)
        (sender, (message,)), = found.items()
        number, address, metadata = message.split(b"|", 2)
        name = self.agent.add_remote_agent(base64.b64decode(metadata))
        assert name.decode() == sender
        self.asked += 1
        local = self.agent.get_xfer_descs([(self.rows.ctypes.data, 2 * BLOCK, 0)], "cpu")
        remote = self.agent.get_xfer_descs([(int(address), 2 * BLOCK, 0)], "cpu")
        handle = self.agent.initialize_xfer("WRITE", local, remote, sender, number)
        self.finish(handle, number)
        self.agent.release_xfer_handle(handle)
        return self.asked


class World:
    def __init__(self):
        self.here, self.other = Connection(), Other("worker", 21)
        packed, self.address = self.other.told
        self.name = self.here.load(packed)


def reads_by_keywords(w):
    message = str(uuid.uuid4())
    local = w.here.agent.get_xfer_descs([(w.here.rows.ctypes.data, 4 * BLOCK, 0)], "DRAM")
    remote = w.here.agent.get_xfer_descs([(w.address + 8 * BLOCK, 4 * BLOCK, 0)], "DRAM")
    handle = w.here.agent.initialize_xfer(
        operation="READ",
        local_descs=local,
        remote_descs=remote,
        remote_agent=w.name,
        notif_msg=message.encode(),
    )
    w.here.finish(handle, b"")
    left = w.other.seen(w.here.agent.name, message.encode())
    w.here.agent.release_xfer_handle(handle)
    return [left, int((w.here.rows[:4] != image(21, ROWS)[8:12]).sum())]


def embeddings_from_a_worker_that_does_not_know_us(w):
    w.here.rows[:] = 0
    metadata = base64.b64encode(w.here.agent.get_agent_metadata())
    for number in (7, 12):
        address = w.here.rows.ctypes.data + 2 * BLOCK
        w.here.agent.send_notif(w.name.decode(), f"{number}|{address}|".encode() + metadata)
        w.other.answer_request()
        w.here.seen(w.name.decode(), str(number).encode())
        assert np.array_equal(w.here.rows[2:4], image(21, ROWS)[:2])
    return int(w.here.rows[:2].sum() + w.here.rows[4:].sum())


def a_message_of_a_megabyte(w):
    """Metadata of many registrations is long."""
    long = bytes(range(256)) * 4096
    w.here.agent.send_notif(w.name, long)
    w.here.agent.send_notif(w.name, b"")
    w.other.seen(w.here.agent.name, long)
    return w.other.seen(w.here.agent.name, b"")


class Remote:
    """As nixl_connect's: it removes its agent when it is collected, and by name before that."""

    def __init__(self, agent, name):
        self.agent, self.name = agent, name

    def release(self):
        self.agent.remove_remote_agent(self.name)

    __del__ = release


def removed_twice_and_with_work_pending(w):
    remote = Remote(w.here.agent, w.name)
    local = w.here.agent.get_xfer_descs([(w.here.rows.ctypes.data, BLOCK, 0)], "DRAM")
    theirs = w.here.agent.get_xfer_descs([(w.address, BLOCK, 0)], "DRAM")
    handle = w.here.agent.initialize_xfer("READ", local, theirs, w.name)
    w.here.finish(handle, b"")
    remote.release()
    del remote
    gc.collect()
    found = [name_of(w.here.agent.transfer, handle), w.here.agent.check_remote_metadata(w.name)]
    try:
        w.here.agent.initialize_xfer("READ", local, theirs, w.name)
    except nixlNotFoundError as error:
        found.append(str(error))
    w.here.agent.release_xfer_handle(handle)
    assert w.here.load(w.other.told[0]) == w.name
    w.here.finish(w.here.agent.initialize_xfer("READ", local, theirs, w.name), b"")
    assert np.array_equal(w.here.rows[0], image(21, ROWS)[0])
    w.other.kill()
    return found


CHECKS = [
    reads_by_keywords,
    embeddings_from_a_worker_that_does_not_know_us,
    a_message_of_a_megabyte,
    removed_twice_and_with_work_pending,
]

if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        connection = Connection(int(sys.argv[2]))
        serve(connection, connection.rdma_metadata())
    run(CHECKS, World())
