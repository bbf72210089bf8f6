"""The masked graph: the original whose contractions do not see the removed positions.

Original weights, attributes and shapes; before each sum over an axis that lost positions these are
set to zero, and statistics run over the kept positions only. It is independent of the surgery, and
exact: silencing the *producer* would not be, since biases and activations turn zero into something.

A removed block still runs: what it adds to x is set to zero, at each sum on the way to y. Where a
normalisation ends it, y is x plus its result set to zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from ..core.analysis import Mask
from ..core.blocks import Block
from ..core.declared import Contract, Renorm
from ..core.graph import Array, Graph, constant
from ..core.surgeon import Surgeon

_WIDER: dict[int, int] = {
    TensorProto.FLOAT16: TensorProto.FLOAT,
    TensorProto.BFLOAT16: TensorProto.FLOAT,
}
_SUM = 3  # the output of a fused normalisation that hands on its input sum


def masked_graph(mask: Mask) -> Graph:
    """Return the oracle of `mask`: same inputs, outputs and shapes as the original."""
    return _Masking(mask).run()


class _Masking:
    def __init__(self, mask: Mask) -> None:
        self.mask, self.graph = mask, mask.analysis.graph.copy()
        self.added: list[NodeProto] = []
        self.cache: dict[tuple[str, int, bytes, str], str] = {}
        self.forms: dict[str, Callable[[NodeProto, Renorm], None]] = {
            "mean": self._mean,
            "layer": self._layer,
            "rms": self._rms,
            "group": self._group,
            "softmax": functools.partial(self._without, -np.inf),
            "max": functools.partial(self._without, -np.inf),
            "min": functools.partial(self._without, np.inf),
            "range": self._range,
        }

    def run(self) -> Graph:
        for block in sorted(self.mask.blocks, key=lambda b: -len(b.nodes)):
            self._leave_out(block)
        for record in self.mask.analysis.records:
            node = self.graph.nodes[record.index]
            for contract in record.contracts:
                original = self.mask.analysis.graph.nodes[record.index].input[contract.slot]
                self._silence(node, contract, self._rank(original))
            for renorm in record.renorms:
                if any(self.mask.gone(axis).any() for axis in renorm.axes):
                    self.forms[renorm.kind](node, renorm)
        surgeon = Surgeon(self.graph)
        surgeon.insert(self.added)
        return surgeon.finish()

    def _leave_out(self, block: Block) -> None:
        """Let the tensor that a block makes be the one that it adds to."""
        for number, slot in block.added:
            name = self.mask.analysis.graph.nodes[number].input[slot]
            self.graph.nodes[number].input[slot] = self._zeroed(name)
        node, whole = self.graph.nodes[block.nodes[-1]], f"{block.y}::whole"
        if block.kind == "post-norm" and block.y in node.output:  # not done for a larger block
            node.output[list(node.output).index(block.y)] = whole
            self._shape_like(whole, block.y)
            self._node("Add", [block.x, self._zeroed(whole)], block.y)

    def _zeroed(self, name: str) -> str:
        """Return the name of zeros in the shape of a tensor."""
        return self._masked(name, 0, 1, np.ones(1, np.bool_))

    def _rank(self, name: str) -> int:
        return len(self.mask.analysis.shapes.a[name])

    def _silence(self, node: NodeProto, contract: Contract, rank: int) -> None:
        gone = self.mask.gone(contract.axis)
        if contract.masked and gone.any():
            name = node.input[contract.slot]
            zero = "" if contract.zero is None else node.input[contract.zero]
            node.input[contract.slot] = self._masked(name, contract.number, rank, gone, zero)

    def _masked(self, name: str, number: int, rank: int, gone: Array, zero: str = "") -> str:
        """Return the name of the tensor with removed positions set to zero (also where not finite).

        `zero` names the tensor of one element that means zero there; the number 0 without it.
        """
        key = (name, number, gone.tobytes(), zero)
        if key in self.cache:
            return self.cache[key]
        view = [1] * rank
        view[number] = len(gone)
        result = f"{name}::masked{len(self.cache)}"
        self.cache[key] = result
        self._shape_like(result, name)
        if name in self.graph.weights and not zero:
            self.graph.weights[result] = self.graph.weights[name].silenced(number, gone)
            return result
        dtype = helper.tensor_dtype_to_np_dtype(self.mask.analysis.shapes.dtypes[name])
        if self.graph.opsets[""] < 9:
            keep = self._constant(f"{result}::keep", (~gone.reshape(view)).astype(dtype))
            return self._node("Mul", [name, keep], result)
        keep = self._constant(f"{result}::keep", ~gone.reshape(view))
        zero = zero or self._constant(f"{result}::zero", np.zeros((), dtype))
        return self._node("Where", [keep, name, zero], result)

    def _constant(self, name: str, array: Array) -> str:
        self.graph.weights[name] = constant(name, array)
        return name

    def _node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.added.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def _masked_operand(self, node: NodeProto, renorm: Renorm, name: str) -> str:
        rank = self._rank(node.input[renorm.slot] if renorm.of is None else node.output[0])
        for number, axis in zip(renorm.numbers, renorm.axes, strict=True):
            gone = self.mask.gone(axis)
            if gone.any():
                name = self._masked(name, number, rank, gone)
        return name

    def _range(self, node: NodeProto, renorm: Renorm) -> None:
        """Extremes that count 0 in anyway: silenced positions add nothing to them."""
        node.input[renorm.slot] = self._masked_operand(node, renorm, node.input[renorm.slot])

    def _without(self, value: float, node: NodeProto, renorm: Renorm) -> None:
        """Add infinity to what is removed: logits of minus infinity have no share, and so on."""
        x = node.input[renorm.slot]
        dtype = helper.tensor_dtype_to_np_dtype(self.mask.analysis.shapes.dtypes[x])
        for number, axis in zip(renorm.numbers, renorm.axes, strict=True):
            view = [1] * self._rank(node.input[renorm.slot])
            view[number] = axis.size
            nothing = np.where(self.mask.gone(axis).reshape(view), value, 0).astype(dtype)
            added = self._constant(f"{node.output[0]}::nothing{number}", nothing)
            x = self._node("Add", [x, added], f"{node.output[0]}::left{number}")
        node.input[renorm.slot] = x

    def _scale(self, node: NodeProto, renorm: Renorm) -> str:
        """N / n': turns a mean over all positions into one over the kept."""
        dtype = helper.tensor_dtype_to_np_dtype(
            self.mask.analysis.shapes.dtypes[node.input[renorm.slot]]
        )
        full = np.prod([axis.size for axis in renorm.axes])
        kept = np.prod([len(self.mask.kept(axis)) for axis in renorm.axes])
        return self._constant(f"{node.output[0]}::scale", np.asarray(full / kept, dtype))

    def _mean(self, node: NodeProto, renorm: Renorm) -> None:
        scale = self._scale(node, renorm)
        node.input[renorm.slot] = self._masked_operand(node, renorm, node.input[renorm.slot])
        final, node.output[0] = node.output[0], f"{node.output[0]}::unscaled"
        self._node("Mul", [node.output[0], scale], final)

    def _average(self, x: str, renorm: Renorm, count: str, output: str) -> str:
        """Sum over the kept positions by their number; exact where a single one is left."""
        axes = list(renorm.numbers)
        if self.graph.opsets[""] >= 13:
            inputs = [x, self._constant(f"{output}::axes", np.array(axes, np.int64))]
            self._node("ReduceSum", inputs, f"{output}::sum", keepdims=1)
        else:
            self._node("ReduceSum", [x], f"{output}::sum", axes=axes, keepdims=1)
        return self._node("Div", [f"{output}::sum", count], output)

    def _count(self, node: NodeProto, renorm: Renorm) -> str:
        """How many positions are kept (the rule gives only axes of known length)."""
        dtype = self._statistics_type(node, renorm)
        kept = np.prod([len(self.mask.kept(axis)) for axis in renorm.axes])
        return self._constant(f"{node.output[0]}::count", np.asarray(kept, dtype))

    def _statistics_type(self, node: NodeProto, renorm: Renorm) -> np.dtype[Any]:
        """Statistics of half floats are single: half of them cannot hold an epsilon of 1e-12."""
        code = self.mask.analysis.shapes.dtypes[node.input[renorm.slot]]
        return helper.tensor_dtype_to_np_dtype(_WIDER.get(code, code))

    def _wide(self, x: str, base: str) -> str:
        """Return the name of a tensor in the type of its statistics."""
        dtypes = self.mask.analysis.shapes.dtypes
        if dtypes[x] not in _WIDER:
            return x
        wide = self._node("Cast", [x], f"{base}::wide", to=_WIDER[dtypes[x]])
        self._shape_like(wide, x)
        dtypes[wide] = _WIDER[dtypes[x]]
        return wide

    def _layer(self, node: NodeProto, renorm: Renorm) -> None:
        """LayerNormalization from primitive ops, with masked mean and variance."""
        base, count = node.output[0], self._count(node, renorm)
        x = self._wide(self._total(node, renorm), base)
        mean = self._average(self._masked_operand(node, renorm, x), renorm, count, f"{base}::mean")
        centred = self._node("Sub", [x, mean], f"{base}::centred")
        self._shape_like(centred, x)
        self._rooted(node, renorm, centred, count)

    def _rms(self, node: NodeProto, renorm: Renorm) -> None:
        x, count = self._total(node, renorm), self._count(node, renorm)
        self._rooted(node, renorm, self._wide(x, node.output[0]), count)

    def _group(self, node: NodeProto, renorm: Renorm) -> None:
        """GroupNormalization, (N, C, *) seen as (N, groups, rest), with means over what is kept."""
        base, x, (axis,) = node.output[0], node.input[renorm.slot], renorm.axes
        (number,), rank = renorm.numbers, self._rank(x)
        gone = self.mask.gone_at(x, number)
        assert gone is not None  # of every group what is gone of `axis`
        groups = len(gone) // axis.size
        dtype = helper.tensor_dtype_to_np_dtype(self.mask.analysis.shapes.dtypes[x])
        wide = self._constant(f"{base}::wide", np.array([0, groups, -1], np.int64))
        last = self._constant(f"{base}::last", np.array([2], np.int64))
        share = np.asarray(axis.size / len(self.mask.kept(axis)), dtype)
        share_name = self._constant(f"{base}::share", share)
        shape = self._node("Shape", [x], f"{base}::shape")

        def mean(tensor: str, what: str) -> str:
            """Over a group's kept channels: of all, silenced, times how many times fewer they are."""
            silent = self._masked(tensor, number, rank, gone)
            seen = self._node("Reshape", [silent, wide], f"{base}::{what}wide")
            every = self._node("ReduceMean", [seen, last], f"{base}::{what}every", keepdims=1)
            return self._node("Mul", [every, share_name], f"{base}::{what}")

        seen = self._node("Reshape", [x, wide], f"{base}::x")
        centred = self._node("Sub", [seen, mean(x, "mean")], f"{base}::centred")
        flat = self._node("Reshape", [centred, shape], f"{base}::flat")
        squares = self._node("Mul", [flat, flat], f"{base}::squares")
        self._shape_like(squares, x)
        epsilon = self._constant(f"{base}::epsilon", np.asarray(renorm.epsilon, dtype))
        shifted = self._node("Add", [mean(squares, "variance"), epsilon], f"{base}::shifted")
        root = self._node("Sqrt", [shifted], f"{base}::root")
        result = self._node("Div", [centred, root], f"{base}::normal")
        for kind, slot in zip(("Mul", "Add"), renorm.affine, strict=True):
            vector = node.input[slot]
            by_group = self._length(vector, 0) != len(gone)
            if not by_group and kind == "Mul":
                result = self._node("Reshape", [result, shape], f"{base}::shaped")
            operand = self._along(vector, 1, 3 if by_group else rank)
            result = self._node(kind, [result, operand], f"{base}::{kind.lower()}")
        node.output[0] = f"{base}::unmasked"
        self._node("Reshape", [result, shape], base)

    def _length(self, name: str, number: int) -> int:
        return int(self.mask.analysis.shapes.a[name][number])

    def _total(self, node: NodeProto, renorm: Renorm) -> str:
        """Return the operand, or its sum with what the op adds before the statistics."""
        if renorm.of is not None:
            node.output.extend([""] * (renorm.of + 1 - len(node.output)))
            node.output[renorm.of] = node.output[renorm.of] or f"{node.output[0]}::made"
            self._shape_like(node.output[renorm.of], node.output[0])
            return str(node.output[renorm.of])
        x: str = node.input[renorm.slot]
        total = x
        for slot in renorm.added:
            if slot < len(node.input) and node.input[slot]:
                total = self._node("Add", [total, node.input[slot]], f"{node.output[0]}::sum{slot}")
                self._shape_like(total, x)
        if total != x and len(node.output) > _SUM and node.output[_SUM]:
            self._node("Identity", [total], node.output[_SUM])
            node.output[_SUM] = f"{node.output[_SUM]}::unmasked"
        return total

    def _rooted(self, node: NodeProto, renorm: Renorm, centred: str, count: str) -> None:
        """Divide by the masked root mean square, scale, shift; replaces the node."""
        base, dtype = node.output[0], self._statistics_type(node, renorm)
        code = self.mask.analysis.shapes.dtypes[node.input[renorm.slot]]
        kept = self._masked_operand(node, renorm, centred)
        squares = self._node("Mul", [kept, kept], f"{base}::squares")
        variance = self._average(squares, renorm, count, f"{base}::variance")
        shifted = self._node(
            "Add",
            [variance, self._constant(f"{base}::epsilon", np.asarray(renorm.epsilon, dtype))],
            f"{base}::shifted",
        )
        root = self._node("Sqrt", [shifted], f"{base}::root")
        result = self._node("Div", [centred, root], f"{base}::normal")
        if code in _WIDER:
            result = self._node("Cast", [result], f"{base}::narrow", to=code)
        given = [node.input[slot] for slot in renorm.affine if slot < len(node.input)]
        operands = [name for name in given if name]
        for kind, operand in zip(("Mul", "Add"), operands, strict=False):
            operand = self._along(operand, renorm.affine_axis, self._rank(node.input[renorm.slot]))
            result = self._node(kind, [result, operand], f"{base}::{kind.lower()}")
        node.output[0] = f"{base}::unmasked"
        self._node("Identity", [result], base)

    def _along(self, vector: str, axis: int | None, rank: int) -> str:
        """Return the name of a vector shaped so that it broadcasts along an axis."""
        if axis is None:
            return vector
        key = (vector, axis, b"along", str(rank))
        if key not in self.cache:
            self.cache[key] = f"{vector}::along{len(self.cache)}"
            view = np.array([-1] + [1] * (rank - 1 - axis), np.int64)
            shape = self._constant(f"{self.cache[key]}::shape", view)
            self._node("Reshape", [vector, shape], self.cache[key])
        return self.cache[key]

    def _shape_like(self, name: str, other: str) -> None:
        self.mask.analysis.shapes.dtypes[name] = self.mask.analysis.shapes.dtypes[other]
