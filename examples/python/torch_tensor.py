"""A torch tensor as the target of a transfer. nixl_rs itself never imports torch.

    python examples/python/torch_tensor.py
"""

import torch

import nixl_rs as nx


def main():
    with nx.Agent("prefill") as prefill, nx.Agent("decode") as decode:
        cache = torch.arange(4096, dtype=torch.bfloat16)
        target = torch.zeros_like(cache)
        # Both tensors are kept alive until they are released.
        source, region = prefill.register(cache, read_only=True), decode.register(target)
        decode.load_metadata(prefill.metadata())
        request = decode.request("read", region, source, peer="prefill")
        request.post().wait(10)
        assert torch.equal(target, cache)
        print(request.receipt)
        region.release()


if __name__ == "__main__":
    main()
