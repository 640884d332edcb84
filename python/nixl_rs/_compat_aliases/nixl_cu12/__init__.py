"""The package `nixl` under the name of NIXL's wheel."""

import sys

import nixl
from nixl import *  # noqa: F403
from nixl import _api, _bindings, _utils, logging

for _module in (_api, _bindings, _utils, logging):
    sys.modules[_module.__name__.replace("nixl", __name__, 1)] = _module
__all__ = nixl.__all__
