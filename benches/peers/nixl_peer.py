"""Measures the nixl-cu12 wheel between two processes; prints one JSON line.

Same regions, layouts and checks as the `limit` program: ordinary 4 KiB pages, each block
filled with bytes that name it, the destination blank before, every block of it checked after.
Times are microseconds: `post_us` is the call that starts a transfer, `total_us` runs until it
is done, `prep_us` is everything from arrays of descriptors to a transfer handle.

The wheel may hang or crash at exit, so both processes have a watchdog and leave by `os._exit`.
"""

import argparse
import json
import mmap
import multiprocessing
import os
import sys
import threading
import time
import traceback

BLANK = 0xA5
INITIATOR, TARGET = "initiator", "target"


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tls", choices=["auto", "tcp"], default="auto")
    parser.add_argument("--op", choices=["read", "write"], default="read")
    parser.add_argument("--block", type=int, default=32 << 10)
    parser.add_argument("--count", type=int, default=1000)
    layouts = ["adjacent", "strided", "random"]
    parser.add_argument("--layout", choices=layouts, default="random")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--iters", type=int, default=5)
    parser.add_argument("--evict", type=int, default=0, help="bytes read before each pass")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=120, help="seconds in all")
    parser.add_argument("--corrupt", action="store_true", help="flip a byte")
    return parser.parse_args()


def watch(seconds, what):
    """Ends this process, whatever it is doing, after so many seconds."""

    def end():
        print(f"nixl_peer: {what} took over {seconds} s", file=sys.stderr, flush=True)
        os._exit(3)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def order(args, salt):
    """Block numbers of one side, in the order in which they are moved."""
    import numpy as np

    if args.layout == "adjacent":
        return np.arange(args.count)
    if args.layout == "strided":
        return 2 * np.arange(args.count)
    random = np.random.default_rng([args.seed, salt])
    numbers = random.permutation(args.count)
    while args.count >= 4:
        close = np.flatnonzero(np.abs(np.diff(numbers)) == 1) + 1
        if not close.size:
            break
        for at in close:
            other = random.integers(args.count)
            numbers[[at, other]] = numbers[[other, at]]
    return numbers


def pattern(args, numbers):
    """What the blocks of these numbers hold, a row each."""
    import numpy as np

    words = np.arange((args.block + 7) // 8, dtype=np.uint64) * np.uint64(0xD6E8FEB86659FD93)
    names = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    rows = names[:, None] + words[None, :]
    return rows.view(np.uint8)[:, : args.block]


class Side:
    """An agent with a registered region; its bytes as rows of one block each."""

    def __init__(self, args, name, is_source):
        import numpy as np
        from nixl_cu12._api import nixl_agent, nixl_agent_config

        self.args = args
        self.slots = args.count * (2 if args.layout == "strided" else 1)
        size = self.slots * args.block
        self.memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.bytes = np.frombuffer(self.memory, dtype=np.uint8)
        self.rows = self.bytes.reshape(self.slots, args.block)
        if is_source:
            for part in self.parts():
                self.rows[part] = pattern(args, part)
        else:
            self.bytes[:] = BLANK
        self.base = self.bytes.ctypes.data
        self.agent = nixl_agent(name, nixl_agent_config(backends=["UCX"]))
        region = np.array([[self.base, size, 0]], dtype=np.uint64)
        descriptors = self.agent.get_reg_descs(region, mem_type="DRAM")
        self.region = self.agent.register_memory(descriptors)

    def parts(self):
        import numpy as np

        step = max(1, (16 << 20) // self.args.block)
        return np.split(np.arange(self.slots), range(step, self.slots, step))

    def holds(self, sources, destinations):
        """Whether each destination block holds its source's bytes and the others are blank."""
        import numpy as np

        if self.args.corrupt:
            self.rows[destinations[len(destinations) // 2], 0] ^= 1
        expected = np.full(self.slots, -1)
        expected[destinations] = sources
        for part in self.parts():
            filled = part[expected[part] >= 0]
            blank = part[expected[part] < 0]
            if not np.array_equal(self.rows[filled], pattern(self.args, expected[filled])):
                return False
            if not (self.rows[blank] == BLANK).all():
                return False
        return True


def descriptors(args, base, numbers):
    import numpy as np

    table = np.zeros((args.count, 3), dtype=np.uint64)
    table[:, 0] = np.uint64(base) + numbers.astype(np.uint64) * np.uint64(args.block)
    table[:, 1] = args.block
    return table


def serve(args, pipe):
    """The process whose memory is read or written."""
    watch(args.timeout, "the target")
    try:
        side = Side(args, TARGET, is_source=args.op == "read")
        side.agent.add_remote_agent(pipe.recv())
        pipe.send((side.agent.get_agent_metadata(), side.base))
        if pipe.recv() == "check":
            pipe.send(side.holds(order(args, 0), order(args, 1)))
            pipe.recv()
    except EOFError:
        pass
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def handle(args, agent, local, remote):
    """Prepares the transfer; returns its handle and the time that took."""
    import numpy as np

    begun = time.perf_counter()
    sides = []
    for name, table in (("NIXL_INIT_AGENT", local), (TARGET, remote)):
        listed = agent.get_xfer_descs(table, mem_type="DRAM")
        sides.append(agent.prep_xfer_dlist(name, listed))
    index = np.arange(args.count, dtype=np.int32)
    began = time.perf_counter()
    made = agent.make_prepped_xfer(args.op.upper(), sides[0], index, sides[1], index)
    ended = time.perf_counter()
    return made, began - begun + ended - began


def transfer(agent, handle):
    begun = time.perf_counter()
    state = agent.transfer(handle)
    posted = time.perf_counter()
    while state == "PROC":
        state = agent.check_xfer_state(handle)
    ended = time.perf_counter()
    if state != "DONE":
        raise RuntimeError(f"transfer ended as {state}")
    return posted - begun, ended - begun


def quantiles(seconds):
    ranked = sorted(seconds)
    pick = lambda p: ranked[max(1, -(-len(ranked) * p // 100)) - 1] * 1e6
    return {"p50": round(pick(50), 3), "p99": round(pick(99), 3)}


def measure(args):
    import numpy as np

    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    child = context.Process(target=serve, args=(args, theirs), daemon=True)
    child.start()
    theirs.close()
    side = Side(args, INITIATOR, is_source=args.op == "write")
    pipe.send(side.agent.get_agent_metadata())
    metadata, base = pipe.recv()
    side.agent.add_remote_agent(metadata)
    local, remote = order(args, 0), order(args, 1)
    made, prepared = handle(
        args,
        side.agent,
        descriptors(args, side.base, local),
        descriptors(args, base, remote),
    )
    other = np.ones(args.evict + 1, dtype=np.uint8)
    passes = []
    for _ in range(args.warmup + args.iters):
        other[::64].sum()
        passes.append(transfer(side.agent, made))
    posts, totals = zip(*passes[args.warmup :])
    if args.op == "read":
        verified = side.holds(remote, local)
    else:
        pipe.send("check")
        verified = pipe.recv()
    pipe.close()
    child.join(5)
    if child.is_alive():
        child.kill()
    total = quantiles(totals)
    return {
        "peer": "nixl-tcp" if args.tls == "tcp" else "nixl-ucx",
        "op": args.op,
        "block": args.block,
        "count": args.count,
        "layout": args.layout,
        "threads": 1,
        "gbps": round(args.block * args.count / total["p50"] / 1e3, 4),
        "total_us": total,
        "post_us": quantiles(posts),
        "prep_us": round(prepared * 1e6, 3),
        "verified": bool(verified),
    }


def main():
    args = parse()
    if args.tls == "tcp":
        os.environ["UCX_TLS"] = "tcp"
    watch(args.timeout, "the measurement")
    try:
        print(json.dumps(measure(args)), flush=True)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
