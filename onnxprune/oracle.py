"""The masked graph: the original whose contractions do not see the removed positions.

Original weights, attributes and shapes; before each sum over an axis that lost positions these are
set to zero, and statistics run over the kept positions only. It is independent of the surgery, and
exact: silencing the *producer* would not be, since biases and activations turn zero into something.

A removed block still runs: what it adds to x is set to zero, at each sum on the way to y. Where a
normalisation ends it, y is x plus its result set to zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from .core.analysis import Mask
from .core.blocks import Block
from .core.declared import Contract, Renorm
from .core.graph import Array, Graph, constant
from .core.surgeon import Surgeon

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
            array = self.graph.weights[name].array
            self.graph.weights[result] = constant(
                result, np.where(gone.reshape(view), array.dtype.type(0), array)
            )
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
        rank = self._rank(node.input[renorm.slot])
        for number, axis in zip(renorm.numbers, renorm.axes, strict=True):
            gone = self.mask.gone(axis)
            if gone.any():
                name = self._masked(name, number, rank, gone)
        return name

    def _range(self, node: NodeProto, renorm: Renorm) -> None:
        """Extremes that count 0 in anyway: silenced positions add nothing to them."""
        node.input[renorm.slot] = self._masked_operand(node, renorm, node.input[renorm.slot])

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
        dtype = helper.tensor_dtype_to_np_dtype(
            self.mask.analysis.shapes.dtypes[node.input[renorm.slot]]
        )
        kept = np.prod([len(self.mask.kept(axis)) for axis in renorm.axes])
        return self._constant(f"{node.output[0]}::count", np.asarray(kept, dtype))

    def _layer(self, node: NodeProto, renorm: Renorm) -> None:
        """LayerNormalization from primitive ops, with masked mean and variance."""
        base, count = node.output[0], self._count(node, renorm)
        x = self._total(node, renorm)
        mean = self._average(self._masked_operand(node, renorm, x), renorm, count, f"{base}::mean")
        centred = self._node("Sub", [x, mean], f"{base}::centred")
        self._shape_like(centred, x)
        self._rooted(node, renorm, centred, count)

    def _rms(self, node: NodeProto, renorm: Renorm) -> None:
        self._rooted(node, renorm, self._total(node, renorm), self._count(node, renorm))

    def _total(self, node: NodeProto, renorm: Renorm) -> str:
        """Return the operand, or its sum with what the op adds before the statistics."""
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
        base = node.output[0]
        dtype = helper.tensor_dtype_to_np_dtype(
            self.mask.analysis.shapes.dtypes[node.input[renorm.slot]]
        )
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
        given = [node.input[slot] for slot in renorm.affine if slot < len(node.input)]
        operands = [name for name in given if name]
        for kind, operand in zip(("Mul", "Add"), operands, strict=False):
            result = self._node(kind, [result, operand], f"{base}::{kind.lower()}")
        node.output[0] = f"{base}::unmasked"
        self._node("Identity", [result], base)

    def _shape_like(self, name: str, other: str) -> None:
        self.mask.analysis.shapes.dtypes[name] = self.mask.analysis.shapes.dtypes[other]
