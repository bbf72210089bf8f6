"""Names of a file as paths in a module: dots make levels, as in the model it was exported from."""

from __future__ import annotations

import re

from torch import fx

_TAKEN = frozenset(dir(fx.GraphModule({}, fx.Graph()))) | {"None"}  # what a module has already


class Names:
    """Hands out paths, each once, none inside another."""

    def __init__(self) -> None:
        """Begin with none."""
        self._leaves: set[str] = set()
        self._levels: set[str] = set()

    def path(self, name: str) -> str:
        """Return a path for `name`: the name itself if a module can have it."""
        parts = [_part(part) for part in name.split(".")]
        base, count = ".".join(parts), 0
        path = base
        while not self._free(path):
            count += 1
            path = f"{base}_{count}"
        self._leaves.add(path)
        self._levels.update(_levels(path))
        return path

    def _free(self, path: str) -> bool:
        unused = path not in self._leaves and path not in self._levels
        return unused and self._leaves.isdisjoint(_levels(path))


def _part(part: str) -> str:
    clean = re.sub(r"\W", "_", part) or "_"
    return f"{clean}_" if clean in _TAKEN else clean


def _levels(path: str) -> list[str]:
    """Return the paths of the modules around a leaf."""
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]
