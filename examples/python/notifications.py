"""Bytes beside the data: a push that says which request it was for.

    python examples/python/notifications.py
"""

import nixl_rs as nx


def main():
    with nx.Agent("prefill") as prefill, nx.Agent("decode") as decode:
        cache = prefill.register(bytearray(b"*" * 4096))
        memory = decode.allocate(4096)
        # Each loads the other: decode to be able to answer, and to know that it really is prefill.
        prefill.load_metadata(decode.metadata())
        decode.load_metadata(prefill.metadata())

        request = prefill.request("write", cache, memory, peer="decode")
        request.post(b"request 17")
        # The data is there as soon as the notification is.
        arrived = decode.wait_notification(10)
        assert arrived.verified and arrived.sender == "prefill"
        assert memory.read() == b"*" * 4096
        print("decode has", arrived)
        # Kept until here: a request that is dropped while it is active is cancelled.
        request.wait(10)

        decode.notify("prefill", b"17 may be freed")
        print("prefill hears", prefill.wait_notification(10))


if __name__ == "__main__":
    main()
