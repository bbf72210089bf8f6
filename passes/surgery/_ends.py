"""Where all that reads a tensor is flat, channel by channel: values that nobody can tell apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import NodeProto, helper

from onnxprune.core.graph import Array, Graph

from ._refit import Floats

_TAIL = 0.1  # share of a sigmoid's range at either end that counts as flat
_LOGIT = math.log((1 - _TAIL) / _TAIL)

Ends = tuple[Floats, Floats]
Attributes = Mapping[str, float]
Scale = tuple[Floats | float, Floats | float]


def flat_ends(graph: Graph, tensor: str, channels: int, axis: int = -1) -> Ends:
    """Return lo and hi, each of shape (channels,): readers see all up to lo alike, and all from hi on.

    Infinite where that is not so: a reader of another kind, or somebody outside the graph. Nodes that
    scale and shift each channel, such as a bias or BatchNormalization, are looked through.

    Args:
        graph: of the tensor.
        tensor: its name.
        channels: length of its axis of channels.
        axis: which that is, counted from the last: -1, -2, ...
    """
    readers = [graph.nodes[i] for i in graph.consumers().get(tensor, [])]
    if not readers or tensor in graph.bound:
        return _nowhere(channels)
    ends = [_ends(graph, node, tensor, channels, axis) for node in readers]
    return np.min([lo for lo, _ in ends], axis=0), np.max([hi for _, hi in ends], axis=0)


def _nowhere(channels: int) -> Ends:
    return np.full(channels, -math.inf), np.full(channels, math.inf)


def _ends(graph: Graph, node: NodeProto, tensor: str, channels: int, axis: int) -> Ends:
    """Return the ends of one reader."""
    others = {name for name in node.input if name not in ("", tensor)}
    has_rule = node.op_type in _ARITHMETIC or (node.op_type in _UNARY and node.input[0] == tensor)
    once = list(node.input).count(tensor) == 1
    if not (has_rule and once and others <= graph.weights.keys() and len(node.output) == 1):
        return _nowhere(channels)
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    operands = [graph.weights[n].array if n in others else None for n in node.input]
    if node.op_type in _FLAT:
        lo, hi = _FLAT[node.op_type](given, operands)
        return np.full(channels, lo), np.full(channels, hi)
    if node.op_type in _ARITHMETIC:
        first, second = (_by_channel(x, channels, axis) for x in operands)
        known = second if first is None else first
        scale = None if known is None else _ARITHMETIC[node.op_type](known, first is not None)
    else:
        scale = _normalised(given, operands)
    if scale is None:
        return _nowhere(channels)
    return _before(flat_ends(graph, node.output[0], channels, axis), *scale)


def _before(ends: Ends, scale: Floats | float, shift: Floats | float) -> Ends:
    """Return the ends of x, given those of scale x + shift."""
    scale = np.broadcast_to(np.asarray(scale, np.float64), ends[0].shape)
    with np.errstate(all="ignore"):
        lo, hi = ((end - shift) / scale for end in ends)
    lo, hi = np.where(scale < 0, hi, lo), np.where(scale < 0, lo, hi)
    return np.where(scale == 0, -math.inf, lo), np.where(scale == 0, math.inf, hi)


def _by_channel(constant: Array | None, channels: int, axis: int) -> Floats | None:
    """Return a constant as one number per channel; None where it is none, or differs elsewhere."""
    if constant is None:
        return None
    values = np.asarray(constant, np.float64)
    place = values.ndim + axis
    alone = values.size == 1
    if not alone and (place < 0 or not values.shape[place] == values.size == channels):
        return None
    return np.broadcast_to(values.ravel(), channels)


def _normalised(given: Attributes, operands: Sequence[Array | None]) -> Scale | None:
    gamma, beta, mean, variance = (np.asarray(x, np.float64) for x in operands[1:5])
    if given.get("training_mode", 0):
        return None
    scale = gamma / np.sqrt(variance + given.get("epsilon", 1e-5))
    return scale, beta - mean * scale


def _clip(given: Attributes, operands: Sequence[Array | None]) -> tuple[float, float]:
    least, most = (*operands[1:], None, None)[:2]
    return (
        given.get("min", -math.inf) if least is None else float(np.ravel(least)[0]),
        given.get("max", math.inf) if most is None else float(np.ravel(most)[0]),
    )


def _hard_sigmoid(given: Attributes, _: Sequence[Array | None]) -> tuple[float, float]:
    slope, middle = given.get("alpha", 0.2), given.get("beta", 0.5)
    return (-middle / slope, (1 - middle) / slope) if slope > 0 else (-math.inf, math.inf)


_FLAT: dict[str, Callable[[Attributes, Sequence[Array | None]], tuple[float, float]]] = {
    "Relu": lambda *_: (0.0, math.inf),
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda *_: (-3.0, math.inf),
    "Sigmoid": lambda *_: (-_LOGIT, _LOGIT),
    "Tanh": lambda *_: (-_LOGIT / 2, _LOGIT / 2),  # tanh(x) = 2 sigmoid(2 x) - 1
}
# of a constant, and whether it is the first operand
_ARITHMETIC: dict[str, Callable[[Floats, bool], Scale | None]] = {
    "Add": lambda constant, _: (1.0, constant),
    "Sub": lambda constant, first: (-1.0, constant) if first else (1.0, -constant),
    "Mul": lambda constant, _: (constant, 0.0),
    "Div": lambda constant, first: None if first or not constant.all() else (1 / constant, 0.0),
}
_UNARY = _FLAT.keys() | {"BatchNormalization"}
