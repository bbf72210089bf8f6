"""Remembers parts of a long run in a folder, so that a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ..core.contracts import Samples
from ..core.errors import OnnxPruneError
from ..core.graph import Array
from ..files.staged import Staged

log = logging.getLogger(__name__)

_READ_AT_ONCE = 64  # samples
_SEAL = hashlib.sha256().digest_size  # bytes


class Memory:
    """Arrays by name in a folder of their own for everything that decides them."""

    def __init__(self, folder: Path, decided_by: Mapping[str, object]) -> None:
        """Choose the folder.

        Args:
            folder: created if it is not there.
            decided_by: JSON values; another value of any of them is another memory.

        Raises:
            OnnxPruneError: if the folder cannot be made.
        """
        text = json.dumps(decided_by, sort_keys=True, default=str)
        self.key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder = folder / self.key
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "run.json").write_text(text)
        except OSError as error:
            raise OnnxPruneError(f"--work '{folder}' cannot be used: {error.strerror}") from error

    def __call__(self, name: str, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
        """Return the arrays of that name, made now or remembered.

        A file starts with a seal over its name, its folder and what it holds: one that is damaged,
        cut short or from elsewhere is made anew.
        """
        path = self.folder / f"{name}.npz"
        if (held := self._remembered(path)) is not None:
            return held
        arrays = make()
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **arrays)
        with Staged() as files, files.open(path) as target:
            target.write(self._seal(path, stream.getvalue()) + stream.getvalue())
        return arrays

    def _remembered(self, path: Path) -> dict[str, Array] | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OnnxPruneError(
                f"cannot read '{path}': {error.strerror}; remove it, or choose another --work"
            ) from error
        if content[:_SEAL] != self._seal(path, content[_SEAL:]):
            log.warning("'%s' is damaged or of another run: what it held is made anew", path)
            return None
        with np.load(io.BytesIO(content[_SEAL:]), allow_pickle=False) as held:
            return {key: held[key] for key in held.files}

    def _seal(self, path: Path, content: bytes) -> bytes:
        return hashlib.sha256(f"{self.key}/{path.name}\n".encode() + content).digest()


def content(samples: Samples) -> str:
    """Return a hash of all that samples hold, labels included: `samples.digest` looks at a few."""
    state = hashlib.sha256()
    for batch in samples.batches(_READ_AT_ONCE):
        for name in sorted(batch):
            array = batch[name]
            state.update(f"{name} {array.dtype} {array.shape}\n".encode())
            texts = array.dtype.hasobject  # their bytes are addresses
            state.update(repr(array.tolist()).encode() if texts else array.tobytes())
    return state.hexdigest()
