"""Where the package `nixl` is that engines written for NIXL's Python API can use.

    PYTHONPATH=$(python -m nixl_rs.compat) python engine.py

With `--aliases` the path also has `nixl_cu12` and `nixl_cu13`, for what imports those by name.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
DIRECTORY = os.path.join(_HERE, "_compat")
ALIASES = os.path.join(_HERE, "_compat_aliases")


def path(aliases=False):
    """What to put on PYTHONPATH."""
    return os.pathsep.join([DIRECTORY, ALIASES] if aliases else [DIRECTORY])


if __name__ == "__main__":
    words = sys.argv[1:]
    if words not in ([], ["--aliases"]):
        sys.exit("usage: python -m nixl_rs.compat [--aliases]")
    print(path(aliases=bool(words)))
