"""Asks for all layers at once, and uses each as soon as it is there.

    python examples/python/asyncio_layers.py
"""

import asyncio

import nixl_rs as nx

LAYERS, LAYER = 8, 1 << 20


async def pull(agent, memory, cache, layer):
    place = layer * LAYER
    request = agent.request(
        "read",
        [(memory.address + place, LAYER)],
        [(cache.address + place, LAYER)],
        peer="prefill",
    )
    await request.post()
    assert memory.read(place, LAYER) == bytes([layer]) * LAYER
    print("layer", layer, "is there")


async def main():
    with nx.Agent("prefill") as prefill, nx.Agent("decode") as decode:
        cache, memory = prefill.allocate(LAYERS * LAYER), decode.allocate(LAYERS * LAYER)
        for layer in range(LAYERS):
            cache.write(bytes([layer]) * LAYER, layer * LAYER)
        decode.load_metadata(prefill.metadata())
        prefill.load_metadata(decode.metadata())
        await asyncio.gather(*(pull(decode, memory, cache, layer) for layer in range(LAYERS)))
        decode.notify("prefill", b"all layers taken")
        print(await asyncio.wait_for(prefill.next_notification(), 10))


if __name__ == "__main__":
    asyncio.run(main())
