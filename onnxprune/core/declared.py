"""What a rule says about its node beyond couplings: sums, costs, and operands that surgery mends."""

from __future__ import annotations

import dataclasses
from typing import Literal

from .positions import Axis, Index


@dataclasses.dataclass(frozen=True, slots=True)
class Contract:
    """Operand `slot` is summed over `axis` here (number `number` of that operand).

    `zero` is the input that holds what counts as nothing there (a zero point); None: 0. `masked` is
    False where silencing the other operand says it all (integer weights, which may be packed).
    `inside`: the op sums over what it made with these positions (queries and keys of its own weight).
    """

    slot: int
    number: int
    axis: Axis
    zero: int | None = None
    masked: bool = True
    inside: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Renorm:
    """The op divides by the length of these axes of operand `slot`, or uses statistics over them.

    `kind` names the oracle's masked form: "mean" (ReduceMean), "layer" (LayerNormalization),
    "rms" (RMSNormalization), "group" (GroupNormalization: `axes` is the factor of the numbered axis
    within a group), "softmax" (also its logarithm), "max" and "min" (extremes along axes),
    "range" (extremes of the values and 0, as DynamicQuantizeLinear).
    """

    slot: int
    numbers: tuple[int, ...]
    axes: tuple[Axis, ...]
    kind: Literal["mean", "layer", "rms", "group", "softmax", "max", "min", "range"]
    added: tuple[int, ...] = ()  # inputs added to the operand first; output 3 is that sum
    affine: tuple[int, ...] = (1, 2)  # inputs that scale and shift the result
    affine_axis: int | None = None  # the axis they run along; None: they broadcast
    epsilon: float = 0.0  # added to the variance
    of: int | None = (
        None  # the output that holds what the op makes and normalises; None: the operand
    )


@dataclasses.dataclass(frozen=True, slots=True)
class LengthAttribute:
    """Attribute `name` is the length of `axis` (group, num_groups, hidden_size)."""

    name: str
    axis: Axis


@dataclasses.dataclass(frozen=True, slots=True)
class ShapeOperand:
    """Input `slot` lists the shape of `axes`; `offset` is its first entry that does."""

    slot: int
    axes: tuple[Axis, ...]
    lengths: tuple[int | None, ...]  # of the instance; None where the axis is not static


@dataclasses.dataclass(frozen=True, slots=True)
class LengthsOperand:
    """Input `slot` (None: no input) or attribute `name` lists the lengths of `axes` (Split)."""

    slot: int | None
    name: str
    axes: tuple[Axis, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """The node picks positions `index` of `source` as `target` along operand axis `number`.

    Surgery rewrites the picked positions: Gather keeps its form, Slice becomes one if it must.
    """

    number: int
    source: Axis
    target: Axis
    index: Index


@dataclasses.dataclass(frozen=True, slots=True)
class Padding:
    """Along operand axis `number`, `target` is `before` new positions, then `source`, then `after`."""

    number: int
    source: Axis
    target: Axis
    before: int
    after: int


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenAttribute:
    """Attribute `name` must be written as `value`: its default depends on a length that shrinks."""

    name: str
    value: float | int


@dataclasses.dataclass(frozen=True, slots=True)
class ShapeSource:
    """The node reads the shape of these axes; entries that shrink keep their original value.

    Shape arithmetic is semantics (`C // heads`): it must not see that channels went.
    """

    axes: tuple[Axis, ...]
    lengths: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class OldIndices:
    """The node reads, at `slot`, positions on `axis` that the caller counts anew when some go.

    What it does with them is semantics: it must see the numbers that they had.
    """

    slot: int
    axis: Axis


Fix = (
    ShapeSource
    | LengthAttribute
    | ShapeOperand
    | LengthsOperand
    | Selection
    | Padding
    | FrozenAttribute
    | OldIndices
)


@dataclasses.dataclass(frozen=True, slots=True)
class Lookup:
    """Integer input `index` holds positions along axis `number` of input `table`."""

    table: int
    number: int
    index: int


@dataclasses.dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates of a node: the product of these axes' lengths, times a constant."""

    axes: tuple[Axis, ...]
    times: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Linear:
    """y = patches(x) @ W + b with a weight tensor: Conv, Gemm, MatMul in one form.

    `weight_in` and `weight_out` are the axes of the weight that are summed over and written;
    `kernel` is empty for dense operators; `pads` are begins then ends, as in ONNX.
    """

    node: int
    x: str
    weight: str
    bias: str | None
    y: str
    x_axis: int
    y_axis: int
    weight_in: int
    weight_out: int
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    groups: int = 1
    bias_slot: int | None = 2  # where the node takes a bias; None: it cannot (MatMul)


@dataclasses.dataclass(frozen=True, slots=True)
class Quantised:
    """Input `weight` holds integers q that mean (q - zero point) * scale.

    `scale` and `zero` are inputs too (None or not given: 1 and 0): scalars, vectors along `axis`, or
    of as many axes as the weight, each entry for `block` positions along `axis`. With `packed` bits
    an element, the weight is (rows, blocks, bytes), low bits first; `zero` holds a row's likewise.
    """

    weight: int
    scale: int | None
    zero: int | None
    axis: int = 0
    block: int = 0
    packed: int = 0


@dataclasses.dataclass
class Record:
    """Everything known of one node after its rule ran."""

    index: int
    contracts: list[Contract] = dataclasses.field(default_factory=list)
    renorms: list[Renorm] = dataclasses.field(default_factory=list)
    fixes: list[Fix] = dataclasses.field(default_factory=list)
    macs: list[Macs] = dataclasses.field(default_factory=list)
    linear: Linear | None = None
    adds: bool = False  # the output is the sum of the operands
    lookups: list[Lookup] = dataclasses.field(default_factory=list)
    hands_on: bool = False  # output 0 holds values of input 0, only elsewhere
    quantised: Quantised | None = None
    stands_for: tuple[int, ...] | None = None  # axes of input 0 that output 0 has, values rescaled
    conditional: bool = False  # in a body that may not run: nothing is measured or refitted there
    opaque: str | None = None
