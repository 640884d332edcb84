"""Handles, freed when they are released or collected."""


class _Handle:
    __slots__ = ("_agent", "_handle", "_released")

    def __init__(self, agent, value):
        self._agent, self._handle, self._released = agent, value, False

    def __repr__(self):
        return f"{type(self).__name__}({hex(self._handle)}, released={self._released})"

    def __del__(self):
        try:
            released = self._released
        except AttributeError:
            # Its constructor failed.
            return
        if not released:
            self.release()


class nixl_prepped_dlist_handle(_Handle):
    """A prepared list."""

    __slots__ = ()
    __module__ = "nixl._api"

    def release(self):
        if not self._released:
            self._agent.releasedDlistH(self._handle)
            self._released = True


class nixl_xfer_handle(_Handle):
    """A transfer. One that is active when it is freed is cancelled."""

    __slots__ = ()
    __module__ = "nixl._api"

    def release(self):
        if not self._released:
            self._agent.releaseXferReq(self._handle)
            self._released = True
