"""The view of a node through which its rule declares what the operands mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NoReturn

import numpy as np
from onnx import NodeProto, TensorProto, helper

from .declared import (
    Contract,
    FrozenAttribute,
    LengthAttribute,
    LengthsOperand,
    Linear,
    Lookup,
    Macs,
    Padding,
    Quantised,
    Record,
    Renorm,
    Selection,
    ShapeOperand,
    ShapeSource,
)
from .graph import Array, Graph
from .positions import Axis, CouplingError, Declarations, Space
from .shapes import Shapes

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


LOOKED_UP = "looked up by index"  # why the rows of a table stay


class RuleError(Exception):
    """A rule cannot speak for this node (unusual attribute, unknown operand): the node is opaque."""


class TensorAxes(tuple[Axis, ...]):
    """The axes of one operand, with its name; slices are plain tuples."""

    name: str

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self)


class NodeView:
    """One node as its rule sees it."""

    def __init__(self, graph: Graph, shapes: Shapes, space: Space, index: int) -> None:
        """View node `index` of `graph`, whose shapes are `shapes`."""
        self.graph, self.shapes, self.space = graph, shapes, space
        self.proto: NodeProto = graph.nodes[index]
        self.said = Declarations()
        self.record = Record(index)
        self._attributes = {a.name: helper.get_attribute_value(a) for a in self.proto.attribute}

    # -- operands -----------------------------------------------------------------------------
    def has(self, slot: int) -> bool:
        """Tell whether optional input `slot` is given."""
        return slot < len(self.proto.input) and bool(self.proto.input[slot])

    def x(self, slot: int) -> TensorAxes:
        """Return the axes of input `slot` (no axes when it is absent)."""
        return self.axes(self.proto.input[slot]) if self.has(slot) else TensorAxes()

    def xs(self, start: int = 0) -> list[TensorAxes]:
        """Return the axes of all given inputs from `start`."""
        return [self.x(i) for i in range(start, len(self.proto.input)) if self.has(i)]

    def y(self, slot: int = 0) -> TensorAxes:
        """Return the axes of output `slot`."""
        given = slot < len(self.proto.output) and self.proto.output[slot]
        return self.axes(self.proto.output[slot]) if given else TensorAxes()

    def ys(self) -> list[TensorAxes]:
        """Return the axes of all given outputs."""
        return [self.y(i) for i, name in enumerate(self.proto.output) if name]

    def axes(self, name: str) -> TensorAxes:
        """Return the axes of a tensor.

        Raises:
            RuleError: if its shape is unknown.
        """
        if not self.shapes.known(name):
            raise RuleError(f"the shape of '{name}' is unknown")
        result = TensorAxes(self.space.axis(name, i, n) for i, n in enumerate(self.shapes.a[name]))
        result.name = name
        return result

    def axis(self, size: int, label: str = "virtual") -> Axis:
        """Return a new axis that no tensor has."""
        return self.space.virtual(f"{self.proto.output[0]}:{label}", size)

    def pair(self, axis: Axis) -> tuple[int, int]:
        """Return the lengths of a tensor's axis in both instances."""
        tensor, number = self.space.owners[axis.id]
        if number < 0:
            return axis.size, axis.size  # virtual
        return self.shapes.a[tensor][number], self.shapes.b[tensor][number]

    def is_float(self, slot: int) -> bool:
        """Tell whether input `slot` has a type with infinities."""
        return self.shapes.dtypes.get(self.proto.input[slot]) in _FLOATS

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute's value."""
        return self._attributes.get(name, default)

    def const(self, slot: int) -> Array | None:
        """Return the value of input `slot` if it is a constant."""
        weight = self.graph.weights.get(self.proto.input[slot]) if self.has(slot) else None
        return None if weight is None else weight.array

    def computed(self, *slots: int) -> bool:
        """Tell whether any of these inputs is given and computed at run time."""
        return any(self.has(slot) and self.const(slot) is None for slot in slots)

    def attr_or_input(self, name: str, slot: int) -> list[int] | None:
        """Return an integer list that older opsets keep in an attribute, newer ones in an input.

        Raises:
            RuleError: if the input is computed at run time.
        """
        if name in self._attributes:
            return [int(v) for v in np.atleast_1d(self._attributes[name])]
        if not self.has(slot):
            return None
        value = self.const(slot)
        if value is None:
            raise RuleError(f"{name} is computed at run time")
        return [int(v) for v in np.atleast_1d(value)]

    def refuse(self, reason: str) -> NoReturn:
        """Leave the node opaque.

        Raises:
            RuleError: always, with the reason.
        """
        raise RuleError(reason)

    # -- declarations -------------------------------------------------------------------------
    def couple(self, a: Axis, b: Axis) -> None:
        """Declare a[i] removed iff b[i]."""
        self.said.couple(a, b)

    def same(self, a: Sequence[Axis], b: Sequence[Axis]) -> None:
        """Couple two lists of axes one by one."""
        if len(a) != len(b):
            raise CouplingError(f"{len(a)} axes coupled with {len(b)}")
        for left, right in zip(a, b, strict=True):
            self.couple(left, right)

    def protect(self, axes: Axis | Iterable[Axis], reason: str | None = None) -> None:
        """Declare that positions stay, with the reason a user reads."""
        text = reason or f"{self.proto.op_type} works along it"
        for axis in [axes] if isinstance(axes, Axis) else axes:
            self.said.protects.append((axis, text))

    def reserve(self, axes: Axis | Iterable[Axis], reason: str | None = None) -> None:
        """Declare that positions stay unless the user unlocks what they are the same as."""
        whole = [axes] if isinstance(axes, Axis) else list(axes)
        self.protect(whole, reason)
        self.said.reserved.update(axis.id for axis in whole)

    def looks_up(self, table: int, number: int, index: int) -> None:
        """Declare that integer input `index` holds positions along axis `number` of input `table`."""
        self.reserve(self.x(table)[number], LOOKED_UP)
        self.record.lookups.append(Lookup(table, number, index))

    def hands_on(self) -> None:
        """Declare that output 0 holds values of input 0 and nothing else."""
        self.record.hands_on = True

    def factor(self, flat: Axis, *factors: Axis) -> None:
        """Declare flat p = (i, j, ...) row-major, removed iff any of i, j, ... is."""
        self.said.factor(flat, factors)

    def contract(self, slot: int, number: int, zero: int | None = None, **form: bool) -> None:
        """Declare that input `slot` is summed over its axis `number` (see `Contract`)."""
        given = zero if zero is not None and self.has(zero) else None
        self.record.contracts.append(Contract(slot, number, self.x(slot)[number], given, **form))

    def renorm(
        self,
        slot: int,
        numbers: Sequence[int],
        kind: Literal["mean", "layer", "rms", "group", "softmax", "max", "min", "range"],
        inner: Axis | None = None,
        **form: Any,  # the further fields of Renorm
    ) -> None:
        """Declare statistics over axes of input `slot` (removal renormalises, is not zeroing).

        With `of`, of what the op makes from its inputs; that has the axes of output 0. With `inner`,
        over that factor of the axis only.
        """
        operand = self.x(slot) if form.get("of") is None else self.y()
        axes = tuple(operand[i] for i in numbers) if inner is None else (inner,)
        self.said.renorms.extend(axes)
        self.record.renorms.append(Renorm(slot, tuple(numbers), axes, kind, **form))

    def broadcast(self, inputs: Sequence[TensorAxes], output: TensorAxes) -> None:
        """Couple operands with the result under numpy broadcasting."""
        for operand in inputs:
            for axis, out in zip(reversed(operand), reversed(output), strict=False):
                if self.pair(axis) == self.pair(out):
                    self.couple(axis, out)
                elif axis.size != 1:
                    self.protect([axis, out], "broadcast along an axis of varying length")

    def attr_is_length(self, name: str, axis: Axis) -> None:
        """Declare that attribute `name` is the length of `axis`."""
        self.record.fixes.append(LengthAttribute(name, axis))

    def input_is_shape(self, slot: int, axes: Sequence[Axis]) -> None:
        """Declare that input `slot` lists the lengths of `axes`, entry by entry."""
        if self.has(slot):  # the operand's own positions are axes, not channels
            self.protect(self.x(slot), "a position of a shape")
        lengths = tuple(n if n == m else None for n, m in map(self.pair, axes))
        self.record.fixes.append(ShapeOperand(slot, tuple(axes), lengths))

    def reads_shape(self, axes: Sequence[Axis]) -> None:
        """Declare that output 0 lists the lengths of `axes`, entry by entry."""
        self.protect(self.y(), "a position of a shape")
        lengths = tuple(n if n == m else None for n, m in map(self.pair, axes))
        self.record.fixes.append(ShapeSource(tuple(axes), lengths))

    def lists_lengths(self, name: str, slot: int | None, axes: Sequence[Axis]) -> None:
        """Declare that attribute `name` or input `slot` lists the lengths of `axes`."""
        self.record.fixes.append(LengthsOperand(slot, name, tuple(axes)))

    def selects(
        self, number: int, source: Axis, target: Axis, index: Sequence[int] | Array
    ) -> None:
        """Declare target[i] = source[index[i]] along axis `number` of input 0."""
        picked = np.asarray(index, np.int32)
        self.couple(source.at(picked), target)
        self.record.fixes.append(Selection(number, source, target, picked))

    def pads(self, number: int, source: Axis, target: Axis, before: int, after: int) -> None:
        """Declare `before` new positions, then `source`, then `after` new ones (negative: cropped)."""
        first, last = max(0, -before), source.size - max(0, -after)
        offset = max(0, before)
        self.couple(source.at(slice(first, last)), target.at(slice(offset, offset + last - first)))
        self.record.fixes.append(Padding(number, source, target, before, after))

    def freeze_attr(self, name: str, value: float) -> None:
        """Declare that attribute `name` is written out, as its default depends on a length."""
        if name not in self._attributes:
            self.record.fixes.append(FrozenAttribute(name, value))

    def adds(self) -> None:
        """Declare that the output is the sum of the operands."""
        self.record.adds = True

    def macs(self, *axes: Axis, times: int = 1) -> None:
        """Declare the node's multiply-accumulates as a product of lengths."""
        self.record.macs.append(Macs(tuple(axes), times))

    def stands_for(self, axes: Sequence[int]) -> None:
        """Declare that output 0 is input 0 rescaled, with these axes of it in this order."""
        self.record.stands_for = tuple(axes)

    def quantised(self, weight: int, scale: int | None, zero: int | None, **form: int) -> None:
        """Declare what the integers of input `weight` mean (see `Quantised`)."""
        self.record.quantised = Quantised(weight, scale, zero, **form)

    def linear(self, **fields: Any) -> None:
        """Declare that the node is a linear operator with a constant weight (it can be refitted)."""
        self.record.linear = Linear(node=self.record.index, **fields)
