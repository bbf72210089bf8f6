"""Imports every module of the rooms that register themselves; nothing else knows their names."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

_ROOMS = (
    "onnxprune.ops",
    "onnxprune.calibration",
    "onnxprune.passes.criteria",
    "onnxprune.passes.depth",
    "onnxprune.passes.surgery",
)


@cache
def discover() -> None:
    """Import all modules of the registering rooms, once."""
    for room in _ROOMS:
        package = importlib.import_module(room)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{room}.{module.name}")
