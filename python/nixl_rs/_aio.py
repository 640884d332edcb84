"""Waiting in an event loop. No thread of the library ever runs Python for this."""

import asyncio
import weakref

# loop -> key of an agent -> hub. A hub exists while somebody waits.
_hubs = weakref.WeakKeyDictionary()


class _Hub:
    """Watches one agent for those who wait in one event loop."""

    def __init__(self, loop, source):
        self.loop = loop
        self.key = source._key
        self.events = source.events()
        self.users = 0
        self.waiting = {}
        loop.add_reader(self.events.fileno(), self._ready)

    @classmethod
    def of(cls, source):
        loop = asyncio.get_running_loop()
        hubs = _hubs.setdefault(loop, {})
        hub = hubs.get(source._key)
        if hub is None:
            hub = hubs[source._key] = cls(loop, source)
        return hub

    def __enter__(self):
        self.users += 1
        return self

    def __exit__(self, *_):
        self.users -= 1
        if self.users == 0:
            self.loop.remove_reader(self.events.fileno())
            del _hubs[self.loop][self.key]

    def _ready(self):
        self.events.drain()
        for future, check in list(self.waiting.items()):
            if not future.done() and check():
                future.set_result(None)

    async def until(self, check):
        """Returns after the first event at which check() is true."""
        future = self.loop.create_future()
        self.waiting[future] = check
        try:
            await future
        finally:
            del self.waiting[future]


async def ended(request):
    """Waits until the request's present post ends; raises what it failed with."""
    if request.status in ("active", "stalled"):
        with _Hub.of(request) as hub:
            # Looked at again now that no end can go unnoticed.
            while request.status in ("active", "stalled"):
                await hub.until(lambda: request.ended)
    request.result()


async def next_notification(agent):
    """Takes the oldest notification, awaiting one if there is none."""
    with _Hub.of(agent) as hub:
        while True:
            got = agent.wait_notification(0)
            if got is not None:
                return got
            await hub.until(lambda: True)
