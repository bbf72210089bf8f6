"""Weights: their messages in the file, and their values, read when they are asked for and not kept.

Weights in external files may be larger than memory. They can be cut without being read: the kept
positions are noted, and what is read, piece by piece, is what is left.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

Array = NDArray[Any]
PIECE = 32 << 20  # bytes read at a time
_MAPPED_FROM = 64 << 10  # bytes: smaller external tensors are read and kept, mappings are few


@dataclasses.dataclass(frozen=True)
class Weight:
    """One initializer.

    Attributes:
        proto: its message in the file.
        folder: where external data is (its location was checked to lie inside).
        edited: other values, held in memory.
        kept: positions kept along axes that were cut, of external data only.
        zeroed: positions that count as zero, along axes of external data that was not cut.
    """

    proto: TensorProto
    folder: Path | None = None
    edited: Array | None = None
    kept: Mapping[int, NDArray[np.int64]] = dataclasses.field(default_factory=dict)
    zeroed: Mapping[int, NDArray[np.bool_]] = dataclasses.field(default_factory=dict)

    @property
    def array(self) -> Array:
        """Values with the file's dtype; large external data is mapped, or read when it was cut."""
        if self.edited is not None:
            return self.edited
        if not self._is_large:
            return self._held
        if self.kept or self.zeroed:
            return np.concatenate(list(self.pieces()))
        return self._mapped()

    def pieces(self, most: int = PIECE) -> Iterator[Array]:
        """Yield the values as slices along the first axis, about `most` bytes each, not kept here."""
        if self.edited is not None or not self._is_large:
            yield self.array
            return
        length = self.proto.dims[0]
        step = max(1, most * length // self._stored_bytes)
        for start in range(0, length, step):
            stop = min(start + step, length)
            part = self._read(start, stop)
            for axis, gone in self.zeroed.items():
                part = _silenced(part, axis, gone if axis else gone[start:stop])
            for axis, kept in self.kept.items():
                here = kept if axis else kept[(kept >= start) & (kept < stop)] - start
                part = part.take(here, axis=axis)
            if len(part):
                yield part

    @cached_property
    def _is_large(self) -> bool:
        """Tell whether the values are best left in their file (packed ones cannot be mapped)."""
        external = self.proto.data_location == TensorProto.EXTERNAL and self.folder is not None
        whole = bits_of(self.proto.data_type) >= 8 and len(self.proto.dims) > 0
        return external and whole and self._stored_bytes >= _MAPPED_FROM

    @cached_property
    def _held(self) -> Array:
        """The values in memory."""
        if self.proto.data_location != TensorProto.EXTERNAL:
            return numpy_helper.to_array(self.proto)
        full = TensorProto()
        full.CopyFrom(self.proto)
        load_external_data_for_tensor(full, str(self.folder))
        return numpy_helper.to_array(full)

    def _read(self, start: int, stop: int) -> Array:
        """Read rows of external data: in one go, which is faster than page by page."""
        path, dtype, offset, row = self._place
        count = (stop - start) * math.prod(row)
        at = offset + start * math.prod(row) * dtype.itemsize
        return np.fromfile(path, dtype, count, offset=at).reshape(stop - start, *row)

    def _mapped(self) -> Array:
        """Map external data; the pages go with the array."""
        path, dtype, offset, row = self._place
        return np.memmap(path, dtype, "r", offset, (self.proto.dims[0], *row))

    @property
    def _place(self) -> tuple[Path, np.dtype[Any], int, tuple[int, ...]]:
        """Where external data is: file, element type, offset, shape of a row."""
        assert self.folder is not None
        entry = {item.key: item.value for item in self.proto.external_data}
        dtype = helper.tensor_dtype_to_np_dtype(self.proto.data_type)
        path, offset = self.folder / entry["location"], int(entry.get("offset", 0))
        return path, dtype, offset, tuple(self.proto.dims[1:])

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape, without reading the values."""
        if self.edited is not None:
            return self.edited.shape
        return tuple(len(self.kept.get(i, range(n))) for i, n in enumerate(self.proto.dims))

    @property
    def _stored_bytes(self) -> int:
        return int(math.prod(self.proto.dims) * bits_of(self.proto.data_type) // 8)

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes as stored."""
        return (math.prod(self.shape) * bits_of(self.proto.data_type) + 7) // 8

    def replace(self, array: Array) -> Weight:
        """Return this weight with other values (same element type)."""
        return dataclasses.replace(self, edited=array, kept={}, zeroed={})

    def without(self, axis: int, gone: NDArray[np.bool_]) -> Weight:
        """Return this weight without some positions of an axis; large external data is not read."""
        if self.edited is not None or not self._is_large:
            return self.replace(self.array.compress(~gone, axis=axis))
        kept = self.kept.get(axis, np.arange(self.proto.dims[axis]))
        return dataclasses.replace(self, kept={**self.kept, axis: kept[~gone]})

    def silenced(self, axis: int, gone: NDArray[np.bool_]) -> Weight:
        """Return this weight with zeros at some positions of an axis, whatever was there."""
        if self.edited is not None or not self._is_large or self.kept:
            return self.replace(_silenced(self.array, axis, gone))
        return dataclasses.replace(
            self, zeroed={**self.zeroed, axis: gone | self.zeroed.get(axis, False)}
        )

    def to_proto(self, name: str) -> TensorProto:
        """Return the message to write under `name`; untouched weights are copied verbatim."""
        if self.edited is None and self.proto.data_location != TensorProto.EXTERNAL:
            if self.proto.name == name:
                return self.proto
            copy = TensorProto()
            copy.CopyFrom(self.proto)
            copy.name = name
            return copy
        proto = numpy_helper.from_array(np.asarray(self.array), name)
        proto.doc_string = self.proto.doc_string
        proto.metadata_props.extend(self.proto.metadata_props)
        if proto.data_type != self.proto.data_type:  # float8 variants share a storage type
            proto.data_type = self.proto.data_type
        return proto


def _silenced(array: Array, axis: int, gone: NDArray[np.bool_]) -> Array:
    view = [-1 if i == axis else 1 for i in range(array.ndim)]
    return np.where(gone.reshape(view), array.dtype.type(0), array)


def data_type_name(data_type: int) -> str:
    """Return the name of an ONNX element type: FLOAT, INT64, ..."""
    return str(TensorProto.DataType.Name(data_type))


def bits_of(data_type: int) -> int:
    """Return bits per element of an ONNX element type (sub-byte types are packed)."""
    name = data_type_name(data_type)
    if name.endswith(("INT4", "FLOAT4E2M1")):
        return 4
    if name.endswith("INT2"):
        return 2
    if name.startswith("FLOAT6"):
        return 6
    return int(helper.tensor_dtype_to_np_dtype(data_type).itemsize * 8)


def constant(name: str, array: Array) -> Weight:
    """Return a new weight that stands in no file."""
    return Weight(numpy_helper.from_array(np.asarray(array), name), edited=np.asarray(array))
