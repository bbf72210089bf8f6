"""What integer weights mean: q becomes (q - zero point) * scale, as DequantizeLinear has it.

Criteria score these values, whichever operator reads the integers; costs count them as parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from .declared import Quantised, Record
from .graph import Array, Graph

Floats = NDArray[np.float64]
_BYTE = 8  # bits


def quantised_weights(
    graph: Graph, records: Iterable[Record]
) -> Mapping[str, tuple[Quantised, list[str]]]:
    """Map a weight of integers to what they mean, and the inputs of the node that says so."""
    found: dict[str, tuple[Quantised, list[str]]] = {}
    for record in records:
        if record.quantised is not None:
            inputs = list(graph.nodes[record.index].input)
            found.setdefault(inputs[record.quantised.weight], (record.quantised, inputs))
    return found


def parameters_each(graph: Graph, records: Iterable[Record]) -> Mapping[str, float]:
    """Return how many parameters an element stands for, of integer weights and what goes with them.

    One each, biases in int32 too; several where they are packed into bytes; none for scales and zero
    points. So a quantised model has as many parameters as the real one that it was made from.
    """
    each: dict[str, float] = {}
    for record in records:
        inputs, form = list(graph.nodes[record.index].input), record.quantised
        given = {name: graph.weights[name].proto for name in inputs if name in graph.weights}
        if record.macs:
            biases = (name for name, w in given.items() if w.data_type == TensorProto.INT32)
            each.update(dict.fromkeys(biases, 1.0))
        if form is not None:
            each.update((inputs[s], 0.0) for s in (form.scale, form.zero) if s and s < len(inputs))
            each[inputs[form.weight]] = _BYTE / (form.packed or _BYTE)
    return each


def dequantised(graph: Graph, meaning: Quantised, inputs: list[str]) -> Floats:
    """Return the values of a weight of integers, float64, with its axes.

    Packed weights come out as (rows, blocks, block). A scale that is computed at run time counts as 1,
    such a zero point as 0.
    """

    def operand(slot: int | None) -> Array | None:
        name = inputs[slot] if slot is not None and slot < len(inputs) else ""
        return graph.weights[name].array if name in graph.weights else None

    stored, scale, zero = map(operand, (meaning.weight, meaning.scale, meaning.zero))
    assert stored is not None, "only weights are asked for"
    if not meaning.packed:
        values = np.asarray(stored).astype(np.float64)
        for array, ufunc in ((zero, np.subtract), (scale, np.multiply)):
            if array is not None:
                values = ufunc(values, _spread(array, values.shape, meaning))
        return values
    rows, blocks = stored.shape[:2]
    values = _unpacked(stored, meaning.packed)[..., : meaning.block]
    if zero is None:
        values = values - 2.0 ** (meaning.packed - 1)
    elif zero.dtype == np.uint8:
        points = _unpacked(zero.reshape(rows, -1), meaning.packed)
        values = values - points[:, :blocks, None]
    else:
        values = values - zero.reshape(rows, blocks, 1)
    return values if scale is None else values * scale.reshape(rows, blocks, 1).astype(np.float64)


def _spread(array: Array, shape: tuple[int, ...], meaning: Quantised) -> Floats:
    """Bring a scale or zero point to a shape that broadcasts with the weight's."""
    wide = np.asarray(array).astype(np.float64)
    if wide.size == 1:
        return wide.reshape(())
    axis = meaning.axis % len(shape)
    if meaning.block:
        return np.repeat(wide, meaning.block, axis)[
            tuple(slice(0, shape[axis]) if i == axis else slice(None) for i in range(len(shape)))
        ]
    if wide.ndim > 1:
        return wide
    return wide.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _unpacked(array: Array, bits: int) -> Floats:
    """Split bytes into elements of `bits`, low bits first, along the last axis."""
    shifts = np.arange(0, _BYTE, bits, dtype=np.uint8)
    parts = (array[..., None] >> shifts) & np.uint8(2**bits - 1)
    return parts.reshape(*array.shape[:-1], -1).astype(np.float64)
