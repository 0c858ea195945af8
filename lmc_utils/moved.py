"""The old names of modules that moved: they keep working for one release."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from types import ModuleType
from typing import Any

MOVED = {
    "checkpoints": ("zoo.folders",),
    "endpoints": ("zoo.endpoints", "zoo.presets"),
    "paths": ("landscape.average", "landscape.curve", "landscape.evaluate", "landscape.plane"),
    "prompt": ("landscape.prompt",),
    "repair": ("landscape.repair",),
    "simplex": ("landscape.simplex",),
}


class Moved(ModuleType):
    """A module under its old name, which finds what it is asked for in its new homes and says where.

    It takes its place in ``sys.modules`` at once: the import of a file would put the module ``lmc_utils.repair`` where
    the function of that name is.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{__package__}.{name}")
        self.homes = [f"{__package__}.{home}" for home in MOVED[name]]
        sys.modules[self.__name__] = self

    def __getattr__(self, name: str) -> Any:
        for home in () if name.startswith("_") else self.homes:
            if hasattr(module := import_module(home), name):
                old = f"{self.__name__}.{name}"
                warnings.warn(f"{old} is deprecated: it is {home}.{name} now", DeprecationWarning, stacklevel=2)
                return getattr(module, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
