"""A temporary store for samples that come one batch at a time and can be had only once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import IO

import numpy as np

from onnxprune.core.errors import DataError
from onnxprune.core.graph import Array

from ._columns import Held


class _Store:
    """One array growing in a nameless file: it goes when file and mapping are closed."""

    def __init__(self, file: IO[bytes], first: Array) -> None:
        self.file = file
        self.shape, self.dtype, self.count = first.shape[1:], first.dtype, 0

    def add(self, rows: Array, name: str, where: str) -> None:
        if rows.shape[1:] != self.shape or rows.dtype != self.dtype:
            raise DataError(
                f"{where}: array '{name}' changes after {self.count} samples from {list(self.shape)} "
                f"{self.dtype} each to {list(rows.shape[1:])} {rows.dtype}: all must be alike"
            )
        self.file.write(np.ascontiguousarray(rows).tobytes())
        self.count += len(rows)

    def column(self) -> Held:
        self.file.flush()
        if not self.count or 0 in self.shape:
            return Held(np.zeros((self.count, *self.shape), self.dtype))
        return Held(np.memmap(self.file, self.dtype, "r", shape=(self.count, *self.shape)))


def spill(batches: Iterable[Mapping[str, Array]], limit: int | None, where: str) -> dict[str, Held]:
    """Write batches to a temporary store and map it.

    Args:
        batches: arrays by name, first axis samples, the same names in each.
        limit: no more is taken once so many samples are there.
        where: what to call the data in messages.

    Raises:
        DataError: if batches differ in names, shapes or types, or fill half of the free disk.
    """
    stores: dict[str, _Store] = {}
    room, used = shutil.disk_usage(tempfile.gettempdir()).free // 2, 0
    count = 0
    with ExitStack() as files:
        for batch in batches:
            if not stores:
                for name, rows in batch.items():
                    file = files.enter_context(tempfile.TemporaryFile(prefix="onnxprune-"))
                    stores[name] = _Store(file, rows)
            if stores.keys() != batch.keys():
                names = f"{sorted(stores)}, then {sorted(batch)}"
                raise DataError(f"{where}: batches differ in names: {names}")
            used += sum(rows.nbytes for rows in batch.values())
            if used > room:
                raise DataError(
                    f"{where}: {count} samples fill half of the free disk: limit --samples"
                )
            for name, rows in batch.items():
                stores[name].add(rows, name, where)
            count = max((store.count for store in stores.values()), default=0)
            if limit is not None and count >= limit:
                break
        if not count:
            raise DataError(f"{where} gives no samples")
        return {name: store.column() for name, store in stores.items()}
