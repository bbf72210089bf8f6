"""Numbers for the unknown dimensions of graph inputs."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

Shape = tuple[int, ...]


def input_shapes(
    values: Iterable[onnx.ValueInfoProto], sizes: tuple[int, int, int]
) -> dict[str, Shape | None]:
    """Return a concrete shape per graph input, None without a rank; one name, one number."""
    named: dict[str, int] = {}
    return {value.name: _input_shape(value, sizes, named) for value in values}


def _input_shape(
    value: onnx.ValueInfoProto, sizes: tuple[int, int, int], named: dict[str, int]
) -> Shape | None:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    batch, sequence, image = sizes
    rank = len(tensor.shape.dim)
    shape = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            shape.append(int(dim.dim_value))
            continue
        size = batch if axis == 0 else image if rank >= 4 else sequence
        shape.append(named.setdefault(dim.dim_param, size) if dim.dim_param else size)
    return tuple(shape)
