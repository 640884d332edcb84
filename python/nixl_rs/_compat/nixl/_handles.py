"""Handles, freed when they are released or collected."""


class _Handle:
    __slots__ = ("_agent", "_handle", "_released")

    def __init__(self, agent, value):
        self._agent, self._handle, self._released = agent, value, False

    def __repr__(self):
        return f"{type(self).__name__}({hex(self._handle)}, released={self._released})"

    def release(self):
        if not self._released:
            self._free()
            self._released = True

    def __del__(self):
        # One whose constructor failed has no agent.
        if not getattr(self, "_released", True):
            self.release()


class nixl_prepped_dlist_handle(_Handle):
    """A prepared list."""

    __slots__ = ()
    __module__ = "nixl._api"

    def _free(self):
        self._agent.releasedDlistH(self._handle)


class nixl_xfer_handle(_Handle):
    """A transfer. One that is active when it is freed is cancelled."""

    __slots__ = ()
    __module__ = "nixl._api"

    def _free(self):
        self._agent.releaseXferReq(self._handle)
