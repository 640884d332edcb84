"""Loggers below `nixl`, on standard output, at the level of NIXL_LOG_LEVEL."""

import logging as _logging
import os as _os
import sys as _sys

_FORMAT = "%(asctime)s NIXL %(levelname)-7s %(filename)s:%(lineno)d %(message)s"
_LEVELS = {"TRACE": _logging.DEBUG, "WARN": _logging.WARNING, "FATAL": _logging.CRITICAL}


def setup_logging():
    """Gives the logger `nixl` its handler, once."""
    root = _logging.getLogger("nixl")
    if not root.handlers:
        handler = _logging.StreamHandler(_sys.stdout)
        handler.setFormatter(_logging.Formatter(_FORMAT, "%Y-%m-%d %H:%M:%S"))
        root.addHandler(handler)
        root.propagate = False
        set_log_level_by_env()


def set_log_level_by_env():
    """Sets the level that NIXL_LOG_LEVEL names; INFO without it."""
    name = _os.environ.get("NIXL_LOG_LEVEL", "INFO").upper()
    level = _LEVELS.get(name) or getattr(_logging, name, None)
    _logging.getLogger("nixl").setLevel(level if isinstance(level, int) else _logging.INFO)


def get_logger(name):
    """The logger `nixl.<name>`."""
    setup_logging()
    return _logging.getLogger("nixl." + name)
