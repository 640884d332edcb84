"""The other process of a test: an agent with the pattern in its memory, which does what it is told."""

import json
import sys

import numpy as np

import nixl_rs as nx
from conftest import LIMIT, pattern


def main():
    config, blocks, block_bytes = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    agent = nx.Agent("peer", config)
    # Memory that peers can map, or any other.
    if "plain" in sys.argv:
        memory = bytearray(blocks * block_bytes)
        region = agent.register(memory)
        view = np.frombuffer(memory, dtype=np.uint8)
    else:
        region = agent.allocate(blocks * block_bytes)
        view = np.asarray(region)
    view = view.reshape(blocks, block_bytes)
    view[:] = pattern(blocks, block_bytes)
    told = {"name": agent.name, "address": region.address, "metadata": agent.metadata().hex()}
    print(json.dumps(told), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        if "load" in request:
            answer["name"] = agent.load_metadata(bytes.fromhex(request["load"]))
        if "await" in request:
            got = agent.wait_notification(LIMIT)
            answer["got"] = got and [got.sender, got.data.hex(), got.verified]
        if "seed" in request:
            wrong = view != pattern(blocks, block_bytes, request["seed"])
            answer["wrong"] = int(wrong.sum())
        if "notify" in request:
            agent.notify(*request["notify"][:1], request["notify"][1].encode())
        print(json.dumps(answer), flush=True)


main()
