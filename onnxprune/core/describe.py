"""What a rule declares about a node, as one line that can be read and compared.

`X.1=W.1` is coupled, `X.1=group*inner` factored; then what stays and why, what is summed over or
averaged, what surgery mends, and the cost. Operands have the names of ONNX's own documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx.defs
from onnx import NodeProto

from .declared import (
    Contract,
    Fix,
    FrozenAttribute,
    LengthAttribute,
    LengthsOperand,
    OldIndices,
    Padding,
    Selection,
    ShapeOperand,
    ShapeSource,
)
from .positions import Axis, Index
from .rules import NodeView

_LONGEST_LIST = 8  # positions written one by one


def describe(view: NodeView) -> str:
    """Return what was declared on `view` after its rule ran."""
    return _Description(view).text()


class _Description:
    def __init__(self, view: NodeView) -> None:
        self.view = view
        version = view.graph.opsets.get(view.proto.domain, 1)
        self.labels = _labels(view.proto, version)
        self.fixes: dict[type[Fix], Callable[..., str]] = {
            LengthAttribute: lambda f: f"{f.name} is the length of {self._axis(f.axis)}",
            ShapeOperand: lambda f: f"{self._slot(f.slot)} lists {self._axes(f.axes)}",
            LengthsOperand: lambda f: f"{f.name} lists {self._axes(f.axes)}",
            Selection: lambda f: f"picks along {self._axis(f.source)}",
            Padding: lambda f: f"pads {self._axis(f.source)} by {f.before} and {f.after}",
            FrozenAttribute: lambda f: f"{f.name} stays {f.value}",
            OldIndices: lambda f: f"{self._slot(f.slot)} holds positions on {self._axis(f.axis)}",
            ShapeSource: lambda f: f"original lengths of {self._axes(f.axes)} are read",
        }

    def text(self) -> str:
        record, said = self.view.record, self.view.said
        parts = [
            " ".join([*self._couples(), *map(self._factor, said.factors)]),
            *(f"{self._axes(axes)} stay: {why}" for why, axes in self._stays().items()),
            _prefixed("sums over", map(self._sum, record.contracts)),
            *(f"{r.kind} over {self._axes(r.axes)}" for r in record.renorms),
            *(self.fixes[type(fix)](fix) for fix in record.fixes),
            *(_prefixed("macs", [self._product(m.axes, m.times)]) for m in record.macs),
        ]
        return " | ".join(part for part in parts if part) or "nothing"

    def _sum(self, contract: Contract) -> str:
        if contract.zero is None:
            return self._axis(contract.axis)
        return f"{self._axis(contract.axis)} (nothing is {self._slot(contract.zero)})"

    def _couples(self) -> list[str]:
        """One equality a pair; two operands coupled axis by axis are one equality of operands."""
        pairs = [(self._axis(a), self._axis(b)) for a, b in self.view.said.couples]
        whole = {f"{left}.0={right}.0": (left, right) for left, right in self._operand_pairs(pairs)}
        result: list[str] = []
        for left, right in dict.fromkeys(pairs):
            operands = left.rpartition(".")[0], right.rpartition(".")[0]
            if operands not in whole.values():
                result.append(f"{left}={right}")
            elif (text := "=".join(operands)) not in result:
                result.append(text)
        return result

    def _operand_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Operands of equal rank whose axes are all coupled, each with its own number."""
        ranks = {
            self.labels[n]: len(self.view.shapes.a[n])
            for n in self.labels
            if n in self.view.shapes.a
        }
        return [
            (left, right)
            for left in ranks
            for right in ranks
            if left != right and ranks[left] == ranks[right] > 1
            and all((f"{left}.{i}", f"{right}.{i}") in pairs for i in range(ranks[left]))
        ]  # fmt: skip

    def _factor(self, factor: tuple[Axis, tuple[Axis, ...]]) -> str:
        flat, parts = factor
        return f"{self._axis(flat)}={'*'.join(map(self._axis, parts))}"

    def _stays(self) -> dict[str, list[Axis]]:
        result: dict[str, list[Axis]] = {}
        for axis, why in self.view.said.protects:
            result.setdefault(why, []).append(axis)
        return result

    def _product(self, axes: Iterable[Axis], times: int) -> str:
        factors = [self._axis(axis) for axis in axes]
        return "*".join([*factors, str(times)] if times != 1 else factors)

    def _axes(self, axes: Iterable[Axis]) -> str:
        return " ".join(dict.fromkeys(map(self._axis, axes))) or "no axis"

    def _axis(self, axis: Axis) -> str:
        tensor, number = self.view.space.owners[axis.id]
        part = "" if axis.index is None else f"[{_positions(axis.index)}]"
        if number < 0:  # a virtual axis: its label follows the node's first output
            return tensor.rpartition(":")[2] + part
        return f"{self.labels.get(tensor, tensor)}.{number}{part}"

    def _slot(self, slot: int) -> str:
        return self.labels[self.view.proto.input[slot]] if self.view.has(slot) else "an attribute"


def _labels(node: NodeProto, version: int) -> dict[str, str]:
    """Map tensors of a node to the names of ONNX's documentation; first use wins."""
    inputs: list[str] = []
    outputs: list[str] = []
    if onnx.defs.has(node.op_type, version, node.domain):
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        inputs, outputs = [i.name for i in schema.inputs], [o.name for o in schema.outputs]
    labels: dict[str, str] = {}
    for names, formal, letter in ((node.input, inputs, "in"), (node.output, outputs, "out")):
        for slot, name in enumerate(names):
            variadic = len(names) > len(formal)
            label = f"{formal[-1] if formal else letter}{slot}" if variadic else formal[slot]
            labels.setdefault(name, label)
    return labels


def _positions(index: Index) -> str:
    """Write positions as start:stop:step where they are regular."""
    steps = np.unique(np.diff(index))
    if len(index) > 1 and len(steps) == 1 and steps[0] != 0:
        step = int(steps[0])
        stop = int(index[-1]) + (1 if step > 0 else -1)
        run = f"{index[0]}:{stop if stop >= 0 else ''}"
        return run if step == 1 else f"{run}:{step}"
    shown = [str(i) for i in index[:_LONGEST_LIST]]
    return ",".join([*shown, "..."] if len(index) > _LONGEST_LIST else shown)


def _prefixed(prefix: str, items: Iterable[str]) -> str:
    text = " ".join(dict.fromkeys(items))
    return f"{prefix} {text}" if text else ""
