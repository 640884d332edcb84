"""`nixlAgent`: NIXL's calls on an agent of ours.

The one backend is called UCX, as engines ask for, and means the best path that this library has.
"""

import datetime
import os
import threading

import nixl_rs as nx
from nixl_rs._native import _Calls, _transfer

from . import _errors as errors
from ._enums import nixl_mem_t, nixl_status_t, nixl_thread_sync_t, nixl_xfer_op_t
from ._exchange import Exchange, setting
from ._lists import nixlRegDList, nixlXferDList
from .logging import get_logger

logger = get_logger(__name__)

_BACKEND = "UCX"
_MEMS = ["DRAM_SEG", "VRAM_SEG"]
_PARAMS = {"num_workers": "1", "ucx_devices": "", "ucx_error_handling_mode": "peer"}
_SUCCESS = nixl_status_t.NIXL_SUCCESS
_IN_PROG = nixl_status_t.NIXL_IN_PROG
_NOT_FOUND = nixl_status_t.NIXL_ERR_NOT_FOUND
_READ = nixl_xfer_op_t.NIXL_READ
_LOCAL, _REMOTE = nx.PreparedLocal, nx.PreparedRemote
# NIXL has no deadlines: engines give up by themselves. This one ends what they forgot.
_DEADLINE_MS = 3_600_000
# Seconds that deregistering waits for who still uses the memory.
_PATIENCE = 5.0


class nixlAgentConfig:
    """NIXL's settings. All but the telemetry are accepted and ignored: threads never spin, and
    everything is thread-safe."""

    __module__ = "nixl._bindings"

    def __init__(
        self,
        useProgThread=False,
        useListenThread=False,
        listenPort=8888,
        syncMode=nixl_thread_sync_t.NIXL_THREAD_SYNC_DEFAULT,
        numWorkers=1,
        pthrDelay=0,
        lthrDelay=100000,
        captureTelemetry=False,
    ):
        self.useProgThread, self.useListenThread = useProgThread, useListenThread
        self.listenPort, self.syncMode = listenPort, syncMode
        self.pthrDelay, self.lthrDelay = pthrDelay, lthrDelay
        self.captureTelemetry = captureTelemetry
        self.etcdWatchTimeout = datetime.timedelta(seconds=5)


class nixlXferTelemetry:
    """What a transfer took, in microseconds. NIXL after 1.5.1 has the backend's name too."""

    __slots__ = (
        "backendName",
        "descCount",
        "postDuration",
        "startTime",
        "totalBytes",
        "xferDuration",
    )
    __module__ = "nixl._bindings"

    def __init__(self):
        self.startTime = self.postDuration = self.xferDuration = 0
        self.totalBytes = self.descCount = 0
        self.backendName = _BACKEND


def _text(name):
    """An agent's name. Nobody has one that is no UTF-8."""
    if isinstance(name, (bytes, bytearray)):
        return name.decode(errors="replace")
    _bytes(name)
    if not isinstance(name, str):
        raise TypeError(f"incompatible function arguments: {name!r} is no agent's name")
    return name


def _bytes(value):
    try:
        return value.encode() if isinstance(value, str) else value
    except UnicodeEncodeError as error:
        raise TypeError(f"incompatible function arguments: {error}") from error


def _list_of(kind, value, call):
    if not isinstance(value, kind):
        raise TypeError(f"{call}(): incompatible function arguments: {kind.__name__} needed")
    return value


def _handles(backends, call):
    if not isinstance(backends, (list, tuple)):
        raise TypeError(f"{call}(): incompatible function arguments: a list of backends needed")
    if any(handle != 1 for handle in backends):
        raise errors.new(errors.nixlInvalidParamError, "no such backend")


def _indices(value):
    """What the library takes of an index list."""
    if not hasattr(value, "dtype"):
        return value
    if value.ndim != 1:
        raise ValueError("indices numpy array must be 1D")
    if value.dtype.kind not in "iu" or not value.dtype.isnative:
        value = value.astype("int64")
    return value if value.flags.c_contiguous else value.copy()


def _wants_telemetry(config):
    named = setting("NIXL_TELEMETRY_ENABLE")
    if named is not None:
        return named.lower() in ("y", "yes", "on", "1", "true", "enable")
    return bool(config.captureTelemetry)


class nixlAgent(_Calls):
    """An agent. Handles of transfers and prepared lists are numbers."""

    __module__ = "nixl._bindings"

    def __init__(self, name, config):
        if not name:
            raise ValueError("Agent needs a non-empty name")
        if isinstance(name, (bytes, bytearray)):
            name = name.decode()
        settings = {"foreign_metadata": "accept", "deadline_ms": _DEADLINE_MS}
        for key in list(settings):
            if "NIXL_RS_AGENT_" + key.upper() in os.environ:
                del settings[key]
        try:
            self._agent = nx.Agent(name, {"agent": settings})
        except nx.NixlError as error:
            raise errors.of(error) from error
        self._name = name
        self._take = self._agent._notifications_into
        if config.useListenThread:
            port = self._port = self._call(self._agent._listen_for_nixl, config.listenPort)
            logger.info(
                "Listening for metadata calls on port %d of this machine only; "
                "NIXL_RS_ALLOW_UNAUTHENTICATED=1 opens it to others",
                port,
            )
        self._telemetry = _wants_telemetry(config)
        self._exchange = Exchange(self._agent)
        self._created = {}
        self._regions = {}
        self._lock = threading.Lock()
        self._know(self._agent, _READ, _SUCCESS)
        # Peers whose end a transfer has met: NIXL refuses notifications to them from then on.
        self._gone = set()

    # --- backends ---

    def getAvailPlugins(self):
        return [_BACKEND]

    def getPluginParams(self, plugin):
        if plugin != _BACKEND:
            raise errors.new(errors.nixlNotFoundError, f"no plugin {plugin}")
        return dict(_PARAMS), list(_MEMS)

    def getBackendParams(self, handle):
        if handle not in self._created:
            raise errors.new(errors.nixlInvalidParamError, f"no backend {handle}")
        return dict(self._created[handle]), list(_MEMS)

    def createBackend(self, plugin, params):
        if plugin != _BACKEND:
            raise errors.new(errors.nixlNotFoundError, f"no plugin {plugin}")
        if self._created:
            raise errors.new(errors.nixlInvalidParamError, f"{plugin} is created already")
        self._created[1] = dict(params)
        return 1

    # --- memory ---

    def registerMem(self, descs, backends=()):
        _list_of(nixlRegDList, descs, "registerMem")
        _handles(backends, "registerMem")
        mem = descs.getType()
        if not self._created or mem not in (nixl_mem_t.DRAM_SEG, nixl_mem_t.VRAM_SEG):
            raise errors.new(errors.nixlNotFoundError, f"no backend for {mem.name}")
        if mem is nixl_mem_t.VRAM_SEG:
            why = "this build moves host memory only"
            raise errors.new(errors.nixlBackendError, why)
        made = []
        try:
            for address, length, device, _ in descs._list():
                region = self._agent.register_address(address, length, owner=descs._keep)
                made.append(((address, length, device), region))
        except nx.NixlError as error:
            for _, region in made:
                region.release(_PATIENCE)
            raise errors.of(error) from error
        with self._lock:
            for key, region in made:
                self._regions.setdefault(key, []).append(region)
        return _SUCCESS

    def deregisterMem(self, descs, backends=()):
        _list_of(nixlRegDList, descs, "deregisterMem")
        _handles(backends, "deregisterMem")
        keys = [row[:3] for row in descs._list()]
        with self._lock:
            if not keys or any(len(self._regions.get(k, ())) < keys.count(k) for k in set(keys)):
                raise errors.new(errors.nixlNotFoundError, "a block is not registered")
            taken = [self._regions[key].pop() for key in keys]
            for key in keys:
                if not self._regions.get(key, True):
                    del self._regions[key]
        for region in taken:
            self._call(region.release, _PATIENCE)
        return _SUCCESS

    def queryMem(self, descs, backend):
        raise errors.new(errors.nixlNotSupportedError, "only storage can be queried")

    # --- transfers ---

    def prepXferDlist(self, *args, agent_name="", descs=None, backend=()):
        """Of a peer's memory by its name, or of this agent's without a name."""
        args = list(args)
        if args and isinstance(args[0], (str, bytes)):
            agent_name = args.pop(0)
        descs, backend = (args + [descs, backend][len(args) :])[:2]
        name = _text(agent_name)
        blocks = descs._native() if isinstance(descs, nixlXferDList) else descs
        if not isinstance(blocks, nx.Descriptors):
            raise TypeError("prepXferDlist(): incompatible function arguments")
        _handles(backend, "prepXferDlist")
        if len(blocks) == 0:
            raise errors.new(errors.nixlNotFoundError, "the list is empty")
        if name == "":
            made = self._call(self._agent.prepare_local, blocks)
        else:
            made = self._call(self._agent.prepare_remote, name, blocks)
        number = self._number()
        self._lists[number] = made
        return number

    def releasedDlistH(self, handle):
        self._lists.pop(handle, None)
        return _SUCCESS

    def _make(self, operation, local_side, local_indices, remote_side, remote_indices, notif, merges):
        """What makeXferReq does where something is out of the ordinary."""
        local, remote = self._lists.get(local_side), self._lists.get(remote_side)
        if type(local) is not _LOCAL or type(remote) is not _REMOTE:
            raise errors.new(errors.nixlInvalidParamError, "no such list on that side")
        read, agent = operation is _READ, self._agent
        here, there = local_indices, remote_indices
        if here is None or there is None:
            raise RuntimeError("Unable to cast None to a list of indices")
        try:
            try:
                made = _transfer(agent, read, local, here, remote, there, notif, merges)
            except nx.ApiMisuseError:
                # Arrays that the library does not take, and NIXL does.
                here, there = _indices(here), _indices(there)
                made = _transfer(agent, read, local, here, remote, there, notif, merges)
        except nx.NixlError as error:
            raise errors.of(error, when_made=True) from error
        except (TypeError, OverflowError) as error:
            # pybind11's kind of error for a list whose items are of the wrong type.
            raise RuntimeError(f"Unable to cast: {error}") from error
        number = self._number()
        self._transfers[number] = made
        return number

    def createXferReq(
        self, operation, local_descs, remote_descs, remote_agent, notif_msg="", backend=()
    ):
        local = _list_of(nixlXferDList, local_descs, "createXferReq")._native()
        remote = _list_of(nixlXferDList, remote_descs, "createXferReq")._native()
        agent, read = self._agent, operation is _READ
        try:
            here = agent.prepare_local(local)
            there = agent.prepare_remote(_text(remote_agent), remote)
            made = _transfer(agent, read, here, None, there, None, notif_msg, False)
        except nx.NixlError as error:
            raise errors.of(error, when_made=True) from error
        number = self._number()
        self._transfers[number] = made
        return number

    def _transfer(self, handle):
        try:
            return self._transfers[handle]
        except KeyError:
            raise errors.new(errors.nixlInvalidParamError, "no such transfer") from None

    def postXferReq(self, reqh, notif_msg=""):
        transfer = self._transfers.get(reqh) or self._transfer(reqh)
        try:
            code = transfer.post(notif_msg)
        except nx.NixlError as error:
            raise self._failure(transfer, error) from error
        if code == 0:
            return _SUCCESS
        return self._status(transfer, code)

    def getXferStatus(self, reqh):
        transfer = self._transfers.get(reqh) or self._transfer(reqh)
        try:
            code = transfer.code()
        except nx.NixlError as error:
            raise errors.of(error) from error
        if code == 0:
            return _SUCCESS
        return self._status(transfer, code)

    def _status(self, transfer, code):
        if code == 1:
            return _IN_PROG
        try:
            transfer.result()
        except nx.NixlError as error:
            raise self._failure(transfer, error) from error
        return _SUCCESS

    def _failure(self, transfer, error):
        """NIXL's exception for what a transfer failed of."""
        peer = transfer.peer
        if not isinstance(error, nx.PeerGoneError):
            return errors.of(error)
        if peer != self._name and peer not in self._agent.peers():
            # Removed here, whatever became of it.
            return errors.of(error, when_made=True)
        self._gone.add(peer)
        return errors.of(error)

    def getXferTelemetry(self, reqh):
        transfer = self._transfer(reqh)
        if not self._telemetry:
            raise errors.new(errors.nixlNoTelemetryError, "telemetry is not captured")
        told = self._call(transfer.telemetry)
        if told is None:
            raise errors.new(errors.nixlNotPostedError, "the transfer is not complete")
        made = nixlXferTelemetry()
        made.startTime, made.postDuration, made.xferDuration = told[:3]
        made.totalBytes, made.descCount = told[3:]
        return made

    def estimateXferCost(self, req_handle):
        transfer = self._transfer(req_handle)
        op, nbytes, blocks = transfer.shape()
        explain = self._agent.explain
        found = self._call(explain, transfer.peer, op, nbytes=nbytes, blocks=blocks)
        if found.path is None:
            return (0, 0, "UNKNOWN")
        return (round(found.rows[0]["estimate_us"]), 0, "ANALYTICAL_BACKEND")

    def queryXferBackend(self, reqh):
        self._transfer(reqh)
        return 1

    # --- notifications ---

    def getNotifs(self, notif_map, backends=()):
        try:
            return self._take(notif_map)
        except nx.NixlError as error:
            raise errors.of(error) from error

    def genNotif(self, remote_agent, msg, backends=()):
        _handles(backends, "genNotif")
        name = _text(remote_agent)
        if name in self._gone:
            raise errors.new(errors.nixlRemoteDisconnectError, f"{name} is gone; load it anew")
        self._call(self._agent.notify, name, _bytes(msg))
        return _SUCCESS

    # --- metadata ---

    def getLocalMD(self):
        if not self._created:
            raise errors.new(errors.nixlInvalidParamError, "no backend is created")
        return self._call(self._agent.metadata)

    def getLocalPartialMD(self, descs, inc_conn_info=False, backends=()):
        regions = self._registered(_list_of(nixlRegDList, descs, "getLocalPartialMD"))
        with_card = bool(inc_conn_info) or not regions
        return self._call(self._agent.partial_metadata, regions, with_card=with_card)

    def loadRemoteMD(self, blob):
        name = self._call(self._agent.load_metadata, _bytes(blob))
        self._gone.discard(name)
        return name.encode()

    def invalidateRemoteMD(self, name):
        name = _text(name)
        if name == self._name:
            return nixl_status_t.NIXL_ERR_INVALID_PARAM
        self._gone.discard(name)
        try:
            self._agent.remove_peer(name)
        except nx.NotFoundError:
            return _NOT_FOUND
        return _SUCCESS

    def checkRemoteMD(self, name, descs):
        name = _text(name)
        if name != self._name and name not in self._agent.peers():
            return _NOT_FOUND
        if descs is not None and not descs.isEmpty():
            try:
                self._agent.prepare_remote(name, descs._native())
            except nx.NixlError:
                return _NOT_FOUND
        return _SUCCESS

    def makeConnection(self, name, backends=()):
        _handles(backends, "makeConnection")
        name = _text(name)
        if name not in self._agent.peers():
            raise errors.new(errors.nixlNotFoundError, f"{name} is not loaded")
        self._call(self._agent.connect, name)
        return _SUCCESS

    def _registered(self, descs):
        with self._lock:
            found = [self._regions.get(row[:3]) for row in descs._list()]
        if not all(found):
            raise errors.new(errors.nixlNotFoundError, "a block is not registered")
        return [regions[-1] for regions in found]

    def sendLocalMD(self, ip_addr="", port=0):
        self._exchange.call("send", ip_addr, port)

    def sendLocalPartialMD(
        self, descs, inc_conn_info=False, backends=(), ip_addr="", port=0, label=""
    ):
        descs = _list_of(nixlRegDList, descs, "sendLocalPartialMD")
        found = lambda: self._registered(descs)  # noqa: E731
        self._exchange.call("send", ip_addr, port, label=label, regions=found)

    def fetchRemoteMD(self, remote_agent, ip_addr="", port=0, label=""):
        self._exchange.call("fetch", ip_addr, port, peer=_text(remote_agent), label=label)

    def invalidateLocalMD(self, ip_addr="", port=0):
        self._exchange.call("invalidate", ip_addr, port)

    # --- what needs a GPU ---

    def prepMemView(self, dlist, backends=()):
        raise errors.new(errors.nixlNotFoundError, "no backend has a device API")

    def releaseMemView(self, mvh):
        raise errors.new(errors.nixlInvalidParamError, "no such view")

    @staticmethod
    def _call(function, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except nx.NixlError as error:
            raise errors.of(error) from error
