"""NIXL's metadata calls: to an agent's address, or to the etcd cluster of NIXL_ETCD_ENDPOINTS.

They return at once, as NIXL's do. What they begin runs in the order of the calls, in a thread that
lives as long as there is work; the interpreter waits for it when it exits.
"""

import collections
import re
import threading

import nixl_rs as nx
from nixl_rs import _native

from . import _errors as errors
from .logging import get_logger

logger = get_logger(__name__)


def setting(name):
    """What one of NIXL's settings is, from the environment or its file; None if it is not set."""
    try:
        return _native._nixl_setting(name)
    except nx.NixlError as error:
        raise errors.of(error) from error


class Exchange:
    """The metadata calls of one agent."""

    def __init__(self, agent):
        self._agent = agent
        named = setting("NIXL_ETCD_ENDPOINTS") or ""
        self._endpoints = [part.strip() for part in re.split("[,;]", named) if part.strip()]
        self._namespace = setting("NIXL_ETCD_NAMESPACE")
        self._store = None
        self._lock = threading.Lock()
        self._waiting = collections.deque()
        self._works = False

    def call(self, call, address, port, *, peer=None, label="", regions=None):
        """Begins "send", "fetch" or "invalidate"; `regions()` are those to tell of, if not all."""
        if address:
            host = f"[{address}]" if ":" in address else address
            where = f"{host}:{port}"
            some = regions and regions()
            work = lambda: self._agent._call_nixl(call, where, some)  # noqa: E731
        else:
            self._check_store(needs_label=regions is not None, label=label)
            where = "etcd"
            some = regions and regions()
            work = lambda: self._in_store(call, peer, label or None, some)  # noqa: E731
        self._begin(call, where, work)

    def _check_store(self, needs_label, label):
        why = None
        if not self._endpoints:
            why = "no address given, and NIXL_ETCD_ENDPOINTS names no store"
        elif not hasattr(_native, "_Store"):
            why = "no address given, and this build has no etcd"
        elif needs_label and not label:
            why = "in etcd, what tells of some memory needs a label"
        if why:
            raise errors.new(errors.nixlInvalidParamError, why)

    def _in_store(self, call, peer, label, regions):
        if self._store is None:
            self._store = _native._Store(self._agent, self._endpoints, self._namespace)
        if call == "send":
            self._store.send(label, regions)
        elif call == "fetch":
            self._store.fetch(peer, label)
        else:
            self._store.invalidate()

    def _begin(self, *work):
        with self._lock:
            self._waiting.append(work)
            if self._works:
                return
            self._works = True
        try:
            threading.Thread(target=self._work, name="nixl-metadata").start()
        except RuntimeError:
            # The interpreter is going, and begins no thread any more.
            self._work()

    def _work(self):
        while True:
            with self._lock:
                if not self._waiting:
                    self._works = False
                    return
                call, where, work = self._waiting.popleft()
            try:
                work()
            except nx.NixlError as error:
                logger.error("Cannot %s metadata at %s: %s", call, where, error)
