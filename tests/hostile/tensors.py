"""Damage to weights: sizes that lie, overflow or explode, types, values, sparse tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, numpy_helper

from tests.hostile.bases import any_model, weight
from tests.hostile.graphs import NUMBERS
from tests.hostile.registry import Rng, choose, kind, write


@kind(4)
def dims(rng: Rng, folder: Path) -> None:
    """Negative, zero, huge, more, fewer; raw data is then too long or too short."""
    model = any_model(rng)
    tensor = weight(model, rng)
    form = int(rng.integers(4))
    if form == 0 and tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = int(choose(rng, NUMBERS))
    elif form == 1:
        tensor.dims.extend([int(choose(rng, [1, 0, 2]))] * int(choose(rng, [1, 2, 100])))
    elif form == 2 and tensor.dims:
        del tensor.dims[int(rng.integers(len(tensor.dims)))]
    else:
        tensor.dims[:] = [int(n) for n in rng.permutation(list(tensor.dims))]
    write(model, folder)


@kind(2)
def dims_that_overflow(rng: Rng, folder: Path) -> None:
    """The product is a small number, or that of the data, in 64-bit arithmetic only."""
    model = any_model(rng)
    tensor = weight(model, rng, floats=True)
    tensor.dims[:] = choose(
        rng, [[2**32, 2**32], [2**62, 4], [2**63 - 1, 2], [2**33, 2**31, *tensor.dims], [2**21] * 3]
    )
    if rng.random() < 0.5:
        tensor.raw_data = b""
    write(model, folder)


@kind(3)
def raw_data(rng: Rng, folder: Path) -> None:
    model = any_model(rng)
    tensor = weight(model, rng)
    size = len(tensor.raw_data)
    form = int(rng.integers(4))
    if form == 0:
        tensor.raw_data = tensor.raw_data[: int(rng.integers(size))]
    elif form == 1:
        tensor.raw_data += bytes(int(rng.integers(1, 100)))
    elif form == 2:
        tensor.float_data.extend([1.0] * 5)
    else:
        tensor.ClearField("raw_data")
        tensor.int64_data.extend([1] * 5)
    write(model, folder)


@kind(3)
def element_type(rng: Rng, folder: Path) -> None:
    """Another element type: of as many bytes, of other sizes, or none at all."""
    model = any_model(rng)
    tensor = weight(model, rng)
    tensor.data_type = int(choose(rng, [*range(30), -1, 1000]))
    if rng.random() < 0.5:
        tensor.raw_data = bytes(8 * int(np.prod(tensor.dims)))
    write(model, folder)


@kind(2)
def element_type_with_values(rng: Rng, folder: Path) -> None:
    """A valid tensor of another type: text, complex, small floats, booleans."""
    model = any_model(rng)
    tensor = weight(model, rng)
    name, array = tensor.name, numpy_helper.to_array(tensor)
    kinds = [np.float64, np.float16, np.complex64, np.int32, np.int8, np.bool_, np.uint64]
    with np.errstate(all="ignore"):
        other = numpy_helper.from_array(array.astype(choose(rng, kinds)), name)
    if rng.random() < 0.2:
        other = TensorProto(name=name, data_type=TensorProto.STRING, dims=array.shape)
        other.string_data.extend([choose(rng, [b"\xff", b"a"])] * array.size)
    tensor.CopyFrom(other)
    write(model, folder)


@kind(3)
def values(rng: Rng, folder: Path) -> None:
    """Not finite, denormal, or all zero."""
    model = any_model(rng)
    for _ in range(int(choose(rng, [1, 5]))):
        tensor = weight(model, rng, floats=True)
        array = numpy_helper.to_array(tensor).copy()
        evil = choose(rng, [np.nan, np.inf, -np.inf, 3e38, 1e-45, 0.0])
        if rng.random() < 0.5:
            array.reshape(-1)[int(rng.integers(array.size))] = evil
        else:
            array[...] = evil
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    write(model, folder)


@kind(4)
def integer_values(rng: Rng, folder: Path) -> None:
    """Shapes, axes, bounds and indices that are weights: absurd numbers."""
    model = any_model(rng, "attention", "pyramid", "listed", "loop")
    tensors = [t for t in model.graph.initializer if t.data_type == TensorProto.INT64]
    for _ in range(int(choose(rng, [1, 1, 3]))):
        tensor = choose(rng, tensors)
        array = numpy_helper.to_array(tensor).copy()
        array.reshape(-1)[int(rng.integers(array.size))] = choose(rng, NUMBERS)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    write(model, folder)


@kind(2)
def quantisation_values(rng: Rng, folder: Path) -> None:
    """Scales and zero points that make no sense."""
    model = any_model(rng, "quantised")
    tensor = choose(rng, [t for t in model.graph.initializer if len(t.dims) < 4])
    array = numpy_helper.to_array(tensor).copy()
    form = int(rng.integers(3))
    if form == 0:
        array = array.astype(choose(rng, [np.uint8, np.float64, np.int32]))
    elif form == 1:
        array = np.resize(array, int(rng.integers(0, 12)))
    elif array.dtype.kind == "f":
        array = array * np.float32(choose(rng, [0, np.nan, -1, np.inf, 1e-45]))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    write(model, folder)


@kind(2)
def wrong_rank(rng: Rng, folder: Path) -> None:
    """Weights of the right number of values in another shape."""
    model = any_model(rng)
    tensor = weight(model, rng)
    size = int(np.prod(tensor.dims))
    tensor.dims[:] = choose(rng, [[size], [1, size], [size, 1, 1, 1, 1], [1] * 20 + [size]])
    write(model, folder)


@kind(3)
def sparse(rng: Rng, folder: Path) -> None:
    """Sparse weights: indices out of range, unsorted, of a wrong shape; dense size absurd."""
    model = any_model(rng, "dense", "chain")
    tensor = weight(model, rng, floats=True)
    dense = list(tensor.dims)
    size, count = int(np.prod(dense)), 5
    indices = np.sort(rng.choice(size, count, replace=False)).astype(np.int64)
    form = int(rng.integers(6))
    if form == 1:
        indices[-1] = choose(rng, [size, -1, 2**62])
    elif form == 2:
        indices = indices[::-1].copy()
    elif form == 3:
        indices = indices[:3]
    elif form == 4:
        dense = [int(choose(rng, [-1, 0, 10**6, 2**40])) for _ in dense]
    elif form == 5:
        indices = np.stack([indices] * 7, axis=1)
    found = rng.standard_normal(count).astype(np.float32)
    item = model.graph.sparse_initializer.add()
    item.values.CopyFrom(numpy_helper.from_array(found, tensor.name))
    item.indices.CopyFrom(numpy_helper.from_array(indices, "indices"))
    item.dims.extend(dense)
    model.graph.initializer.remove(tensor)
    write(model, folder)


@kind(2)
def segments_and_strings(rng: Rng, folder: Path) -> None:
    """Corners of tensor messages that hardly any exporter writes."""
    model = any_model(rng)
    tensor = weight(model, rng)
    form = int(rng.integers(4))
    if form == 0:
        tensor.segment.begin, tensor.segment.end = 0, int(choose(rng, [1, 10, 2**40]))
    elif form == 1:
        tensor.data_location = TensorProto.EXTERNAL
    elif form == 2:
        tensor.external_data.add(key="location", value="/etc/passwd")
    else:
        tensor.string_data.extend([b"\xff"] * 10)
    write(model, folder)
