"""The upper of NIXL's two layers: what engines use."""

import io
import pickle
import struct
import sys

from nixl_rs._native import _ListHandle as nixl_prepped_dlist_handle
from nixl_rs._native import _XferHandle as nixl_xfer_handle

from . import _bindings as nixlBind
from ._lists import checked
from .logging import get_logger

logger = get_logger(__name__)

nixl_thread_sync_t = nixlBind.nixl_thread_sync_t
nixl_backend_handle = int
DEFAULT_COMM_PORT = nixlBind.DEFAULT_COMM_PORT

# The name under which NIXL's own wheel can unpickle a list.
_PICKLED_AS = b"nixl_cu12._bindings"
_LISTS = ("nixlXferDList", "nixlRegDList")
_NEED_MEM_TYPE = "Please specify a mem type if not using Tensors"


class nixl_agent_config:
    """How to make an agent."""

    def __init__(
        self,
        enable_prog_thread=True,
        enable_listen_thread=False,
        listen_port=DEFAULT_COMM_PORT,
        capture_telemetry=False,
        num_threads=0,
        backends=("UCX",),
        sync_mode=None,
    ):
        if sync_mode is not None and not isinstance(sync_mode, nixl_thread_sync_t):
            named = type(sync_mode).__name__
            raise TypeError(f"sync_mode must be a nixl_thread_sync_t (got {named!r})")
        self.backends = list(backends) if isinstance(backends, tuple) else backends
        self.enable_pthread = enable_prog_thread
        self.enable_listen = enable_listen_thread
        self.port = listen_port
        self.capture_telemetry = capture_telemetry
        self.num_threads = num_threads
        self.sync_mode = sync_mode


def _is_tensor(value):
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_array(value):
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


class _Unpickler(pickle.Unpickler):
    """Makes descriptor lists and nothing else."""

    def find_class(self, module, name):
        if module in ("nixl._bindings", "nixl_cu12._bindings", "nixl_cu13._bindings"):
            if name in _LISTS:
                return getattr(nixlBind, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no descriptor list")


class nixl_agent:
    """An agent, with NIXL's calls."""

    def __init__(self, agent_name, nixl_conf=None, instantiate_all=False):
        if nixl_conf is not None and instantiate_all:
            instantiate_all = False
            logger.warning("Ignoring instantiate_all: the configuration names the backends")
        conf = nixl_conf or nixl_agent_config()
        self.name = agent_name
        config = nixlBind.nixlAgentConfig()
        config.useProgThread, config.useListenThread = conf.enable_pthread, conf.enable_listen
        config.listenPort, config.captureTelemetry = conf.port, conf.capture_telemetry
        unset = "STRICT" if conf.enable_listen else "NONE"
        unset = nixl_thread_sync_t["NIXL_THREAD_SYNC_" + unset]
        config.syncMode = unset if conf.sync_mode is None else conf.sync_mode
        self.agent = nixlBind.nixlAgent(agent_name, config)
        self.notifs = {}
        self.backends, self.backend_mems, self.backend_options = {}, {}, {}
        self.plugin_list = self.agent.getAvailPlugins()
        self.plugin_b_options, self.plugin_mem_types = {}, {}
        self.nixl_mems = {
            "DRAM": nixlBind.DRAM_SEG,
            "VRAM": nixlBind.VRAM_SEG,
            "FILE": nixlBind.FILE_SEG,
            "BLOCK": nixlBind.BLK_SEG,
            "OBJ": nixlBind.OBJ_SEG,
            "cpu": nixlBind.DRAM_SEG,
            "cuda": nixlBind.VRAM_SEG,
        }
        self.nixl_ops = {"WRITE": nixlBind.NIXL_WRITE, "READ": nixlBind.NIXL_READ}
        for backend in self.plugin_list if instantiate_all else conf.backends:
            if backend in self.plugin_list:
                threads = {"num_threads": str(conf.num_threads)} if conf.num_threads > 0 else {}
                self.create_backend(backend, threads)
            else:
                logger.warning("Skipping backend %s: there is no such plugin", backend)
        logger.info("Initialized NIXL agent: %s", agent_name)

    # --- backends ---

    def get_plugin_list(self):
        return self.plugin_list

    def get_plugin_mem_types(self, backend):
        self._load_plugin(backend, "its memory types")
        return self.plugin_mem_types.get(backend, [])

    def get_plugin_params(self, backend):
        self._load_plugin(backend, "its parameters")
        return self.plugin_b_options.get(backend, {})

    def _load_plugin(self, backend, what):
        if backend not in self.plugin_list:
            logger.warning("Plugin %s is not available: no %s", backend, what)
        elif backend not in self.plugin_b_options:
            params, mems = self.agent.getPluginParams(backend)
            self.plugin_b_options[backend], self.plugin_mem_types[backend] = params, mems

    def get_backend_mem_types(self, backend):
        return self._backend(self.backend_mems, backend, [])

    def get_backend_params(self, backend):
        return self._backend(self.backend_options, backend, {})

    @staticmethod
    def _backend(table, backend, nothing):
        if backend in table:
            return table[backend]
        logger.warning("Backend %s is not instantiated", backend)
        return nothing

    def create_backend(self, backend, initParams=None):
        handle = self.agent.createBackend(backend, initParams or {})
        self.backends[backend] = handle
        params, mems = self.agent.getBackendParams(handle)
        self.backend_mems[backend], self.backend_options[backend] = mems, params
        logger.info("Backend %s was instantiated", backend)

    def _handles(self, backends):
        return [self.backends[name] for name in backends]

    # --- memory ---

    def register_memory(self, reg_list, mem_type=None, backends=()):
        descs = self.get_reg_descs(reg_list, mem_type)
        self.agent.registerMem(descs, self._handles(backends))
        return descs

    def deregister_memory(self, dereg_list, backends=()):
        self.agent.deregisterMem(dereg_list, self._handles(backends))

    def query_memory(self, reg_list, backend, mem_type=None):
        if backend not in self.backends:
            known = list(self.backends)
            raise ValueError(f"Backend {backend!r} not found. Available backends: {known}")
        descs = self.get_reg_descs(reg_list, mem_type)
        return self.agent.queryMem(descs, self.backends[backend])

    # --- descriptors ---

    def get_xfer_descs(self, descs, mem_type=None):
        if isinstance(descs, nixlBind.nixlRegDList):
            logger.error("A list for registration was given where one to transfer is needed")
            return None
        return self._descs(descs, mem_type, nixlBind.nixlXferDList, 3)

    def get_reg_descs(self, descs, mem_type=None):
        if isinstance(descs, nixlBind.nixlXferDList):
            logger.error("A list to transfer was given where one for registration is needed")
            return None
        return self._descs(descs, mem_type, nixlBind.nixlRegDList, 4)

    def get_remote_descs(self, descs, mem_type=None):
        return self._descs(descs, mem_type, nixlBind.nixlRemoteDList, 4)

    def _descs(self, descs, mem_type, kind, width):
        if isinstance(descs, kind):
            return descs
        if _is_array(descs):
            if descs.ndim != 2 or descs.shape[1] != 3:
                logger.error("An array of descriptors has the shape Nx3")
                return None
            return kind(self._mem(mem_type), descs) if self._has(mem_type) else None
        if _is_tensor(descs):
            return self._of_tensors([descs], kind)
        first = descs[0]
        if isinstance(first, tuple):
            if len(first) != width:
                logger.error("Tuples of %d are needed, not of %d", width, len(first))
                return None
            return kind(self._mem(mem_type), list(descs)) if self._has(mem_type) else None
        if _is_tensor(first):
            return self._of_tensors(descs, kind)
        return None

    def _mem(self, mem_type):
        return self.nixl_mems[mem_type]

    @staticmethod
    def _has(mem_type):
        if mem_type is None:
            logger.error(_NEED_MEM_TYPE)
        return mem_type is not None

    @staticmethod
    def _tensor_mem_type(tensor):
        return "cuda" if str(tensor.device).startswith("cuda") else "cpu"

    def _of_tensors(self, tensors, kind):
        rows, mem_type = [], self._tensor_mem_type(tensors[0])
        for tensor in tensors:
            if self._tensor_mem_type(tensor) != mem_type or not tensor.is_contiguous():
                logger.error("Tensors of a list are contiguous and on one kind of device")
                return None
            device = max(tensor.get_device(), 0)
            row = (tensor.data_ptr(), tensor.numel() * tensor.element_size(), device)
            rows.append(row if kind is nixlBind.nixlXferDList else (*row, ""))
        made = kind(self._mem(mem_type), rows)
        # Kept as long as it is registered.
        made._keep = list(tensors)
        return made

    def get_serialized_descs(self, descs):
        state, name = descs.__getstate__(), type(descs).__name__.encode()
        names = b"".join(b"\x8c" + bytes([len(n)]) + n for n in (_PICKLED_AS, name))
        size = struct.pack("<I", len(state))
        return b"\x80\x04" + names + b"\x93)\x81B" + size + state + b"b."

    def deserialize_descs(self, serialized_descs):
        return _Unpickler(io.BytesIO(serialized_descs)).load()

    # --- transfers ---

    def prep_xfer_dlist(self, agent_name, xfer_list, mem_type=None, backends=()):
        if agent_name in ("NIXL_INIT_AGENT", b"NIXL_INIT_AGENT"):
            agent_name = nixlBind.NIXL_INIT_AGENT
        if _is_array(xfer_list) and xfer_list.ndim == 2 and xfer_list.shape[1] == 5:
            descs = self._strided(xfer_list, mem_type)
        else:
            descs = self.get_xfer_descs(xfer_list, mem_type)
        handle = self.agent.prepXferDlist(agent_name, descs, self._handles(backends))
        return nixl_prepped_dlist_handle(self.agent, handle)

    def _strided(self, array, mem_type):
        from nixl_rs import Descriptors

        if mem_type is None:
            raise ValueError("Please specify a mem type for strided descriptors")
        kind = "vram" if self._mem(mem_type) is nixlBind.VRAM_SEG else "dram"
        return Descriptors(checked(array, 5), kind)

    def make_prepped_xfer(
        self,
        operation,
        local_xfer_side,
        local_indices,
        remote_xfer_side,
        remote_indices,
        notif_msg=b"",
        backends=(),
        skip_desc_merge=False,
    ):
        op = self.nixl_ops[operation]
        handle = self.agent.makeXferReq(
            op,
            local_xfer_side._handle,
            local_indices,
            remote_xfer_side._handle,
            remote_indices,
            notif_msg,
            self._handles(backends) if backends else (),
            skip_desc_merge,
        )
        return nixl_xfer_handle(self.agent, handle)

    def initialize_xfer(
        self, operation, local_descs, remote_descs, remote_agent, notif_msg=b"", backends=()
    ):
        op = self.nixl_ops[operation]
        handle = self.agent.createXferReq(
            op, local_descs, remote_descs, remote_agent, notif_msg, self._handles(backends)
        )
        return nixl_xfer_handle(self.agent, handle)

    def transfer(self, handle, notif_msg=b""):
        status = self.agent.postXferReq(handle._handle, notif_msg)
        return "DONE" if status is nixlBind.NIXL_SUCCESS else "PROC"

    def check_xfer_state(self, handle):
        status = self.agent.getXferStatus(handle._handle)
        return "DONE" if status is nixlBind.NIXL_SUCCESS else "PROC"

    def get_xfer_telemetry(self, handle):
        return self.agent.getXferTelemetry(handle._handle)

    def query_xfer_backend(self, handle):
        number = self.agent.queryXferBackend(handle._handle)
        return next(name for name, backend in self.backends.items() if backend == number)

    def estimate_xfer_cost(self, req_handle):
        return self.agent.estimateXferCost(req_handle._handle)

    def release_xfer_handle(self, handle):
        handle.release()

    def release_dlist_handle(self, handle):
        handle.release()

    def make_connection(self, remote_agent, backends=()):
        self.agent.makeConnection(remote_agent, self._handles(backends))

    def prep_mem_view(self, dlist, *, backends=None):
        return self.agent.prepMemView(dlist, self._handles(backends or []))

    def release_mem_view(self, mvh):
        self.agent.releaseMemView(mvh)

    # --- notifications ---

    def get_new_notifs(self, backends=()):
        return self.agent.getNotifs({}, self._handles(backends) if backends else ())

    def update_notifs(self, backends=()):
        self.notifs = self.agent.getNotifs(self.notifs, self._handles(backends))
        return self.notifs

    def check_remote_xfer_done(
        self, remote_agent_name, lookup_tag, backends=(), tag_is_prefix=True
    ):
        self.update_notifs(backends)
        waiting = self.notifs.get(remote_agent_name, [])
        for place, message in enumerate(waiting):
            found = message.startswith(lookup_tag) if tag_is_prefix else lookup_tag in message
            if found:
                del waiting[place]
                return True
        return False

    def send_notif(self, remote_agent_name, notif_msg, backend=None):
        backends = [] if backend is None else self.backends[backend]
        self.agent.genNotif(remote_agent_name, notif_msg, backends)

    # --- metadata ---

    def get_agent_metadata(self):
        return self.agent.getLocalMD()

    def get_partial_agent_metadata(self, descs, inc_conn_info=False, backends=()):
        return self.agent.getLocalPartialMD(descs, inc_conn_info, self._handles(backends))

    def add_remote_agent(self, metadata):
        return self.agent.loadRemoteMD(metadata)

    def remove_remote_agent(self, agent):
        self.agent.invalidateRemoteMD(agent)

    def check_remote_metadata(self, agent, descs=None):
        if descs is None:
            descs = nixlBind.nixlXferDList(nixlBind.DRAM_SEG)
        return self.agent.checkRemoteMD(agent, descs) is nixlBind.NIXL_SUCCESS

    def send_local_metadata(self, ip_addr="", port=DEFAULT_COMM_PORT):
        self.agent.sendLocalMD(ip_addr, port)

    def send_partial_agent_metadata(
        self,
        descs,
        inc_conn_info=False,
        backends=(),
        ip_addr="",
        port=DEFAULT_COMM_PORT,
        label="",
    ):
        handles = self._handles(backends)
        self.agent.sendLocalPartialMD(descs, inc_conn_info, handles, ip_addr, port, label)

    def fetch_remote_metadata(self, remote_agent, ip_addr="", port=DEFAULT_COMM_PORT, label=""):
        self.agent.fetchRemoteMD(remote_agent, ip_addr, port, label)

    def invalidate_local_metadata(self, ip_addr="", port=DEFAULT_COMM_PORT):
        self.agent.invalidateLocalMD(ip_addr, port)
