"""A model whose answers are remembered: many others are compared with it on the same samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..core.graph import Array
from ..core.runtime import Session

_MOST = 256 << 20  # bytes of outputs


class Recorded(Session):
    """A model that runs once on samples that many others are compared with it on."""

    @cached_property
    def _held(self) -> dict[bytes, dict[str, Any]]:
        return {}

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Run, or remember what came out for the same inputs."""
        state = hashlib.sha256(repr(outputs).encode())
        for name in sorted(feeds):
            array = np.ascontiguousarray(feeds[name])
            state.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        key = state.digest()
        if key in self._held:
            return self._held[key]
        found = super().run(feeds, outputs)
        size = sum(np.asarray(value).nbytes for value in found.values())
        if size * (len(self._held) + 1) <= _MOST:
            self._held[key] = found
        return found
