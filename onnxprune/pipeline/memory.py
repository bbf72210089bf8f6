"""Remembers parts of a long run in a folder, so that a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ..core.errors import OnnxPruneError
from ..core.graph import Array
from ..files.staged import Staged


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
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "run.json").write_text(text)
        except OSError as error:
            raise OnnxPruneError(f"--work '{folder}' cannot be used: {error.strerror}") from error

    def __call__(self, name: str, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
        """Return the arrays of that name, made now or remembered; half-written files are made anew."""
        path = self.folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as held:
                return {key: held[key] for key in held.files}
        except (OSError, ValueError, zipfile.BadZipFile):
            arrays = make()
        with Staged() as files, files.open(path) as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        return arrays
