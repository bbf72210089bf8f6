"""Files that are whole or absent: written under another name, flushed to the disk, then renamed.

Neither a full disk nor an interrupt leaves half a file, or harms the one that was there.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from ..core.errors import OnnxPruneError


class Staged:
    """Files that appear together under their names when the block ends well, or not at all."""

    def __init__(self) -> None:
        """Start with no file."""
        self.files: dict[Path, Path] = {}  # final path -> temporary path

    def __enter__(self) -> Self:
        """Start."""
        return self

    @contextmanager
    def open(self, target: Path) -> Iterator[BinaryIO]:
        """Open a temporary file for `target` in its folder; it is on the disk when closed."""
        if target in self.files:
            raise OnnxPruneError(
                f"cannot write '{target}' twice: choose another name for one of both"
            )
        if target.exists() and not target.is_file():
            raise OnnxPruneError(
                f"cannot write '{target}': not a regular file; choose another path"
            )
        if not target.parent.is_dir():
            raise OnnxPruneError(
                f"cannot write '{target}': there is no folder '{target.parent}'; create it first"
            )
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        self.files[target] = temporary
        with temporary.open("xb") as stream:
            if target.exists():
                shutil.copymode(target, temporary)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Rename on success; drop everything otherwise."""
        try:
            if error is None:
                self._commit()
        except OSError as late:
            error = late
        finally:
            for temporary in self.files.values():
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            name = next(reversed(self.files), error.filename)
            raise OnnxPruneError(
                f"cannot write '{name}': {error.strerror or error}; nothing was written, "
                "choose another folder or make room"
            ) from error

    def _commit(self) -> None:
        """Rename one by one; when one fails, those before it are taken back."""
        last, backups = next(reversed(self.files), None), []
        with ExitStack() as undo:
            for target, temporary in self.files.items():
                if target != last:  # nothing can fail after the last one
                    backups += self._keep(target, temporary, undo)
                temporary.replace(target)
            undo.pop_all()
        for backup in backups:
            backup.unlink()

    def _keep(self, target: Path, temporary: Path, undo: ExitStack) -> list[Path]:
        """Plan the way back from replacing `target`; return the second name of its old content."""
        if not target.exists():
            undo.callback(target.unlink, missing_ok=True)
            return []
        backup = temporary.with_suffix(".old")
        os.link(target, backup)
        undo.callback(
            backup.unlink, missing_ok=True
        )  # a rename between two links of a file does nothing
        undo.callback(backup.replace, target)
        return [backup]
