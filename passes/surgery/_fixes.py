"""Mends what a rule declared about operands and attributes, one function per kind of declaration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx.defs
from onnx import NodeProto, helper

from onnxprune.core.analysis import Mask
from onnxprune.core.declared import (
    Fix,
    FrozenAttribute,
    LengthAttribute,
    LengthsOperand,
    OldIndices,
    Padding,
    Record,
    Selection,
    ShapeOperand,
    ShapeSource,
)
from onnxprune.core.errors import InternalError
from onnxprune.core.graph import Array, Graph, constant, unique_name
from onnxprune.core.positions import Axis


class Rewriter:
    """Rewrites nodes of `graph` (weights already sliced) under `mask`."""

    def __init__(self, graph: Graph, mask: Mask) -> None:
        """Prepare to rewrite the nodes of `graph`."""
        self.graph, self.mask = graph, mask
        self._apply: dict[type[Fix], Callable[..., None]] = {
            LengthAttribute: self._length_attribute,
            ShapeOperand: self._shape_operand,
            LengthsOperand: self._lengths_operand,
            Selection: self._selection,
            Padding: self._padding,
            FrozenAttribute: self._frozen_attribute,
            OldIndices: self._old_indices,
            ShapeSource: self._shape_source,
        }
        self.before: list[NodeProto] = []
        self.after: list[NodeProto] = []
        self.taken = graph.names

    def rewrite(self, node: NodeProto, record: Record) -> list[NodeProto]:
        """Return the nodes that stand for `node`, in order."""
        self.before, self.after = [], []
        for fix in record.fixes:
            self._apply[type(fix)](node, fix)
        return [*self.before, node, *self.after]

    def _add(self, base: str, array: Array) -> str:
        name = self._fresh(base)
        self.graph.weights[name] = constant(name, array)
        return name

    def _fresh(self, base: str) -> str:
        """Return a name that no tensor has; a model that was pruned before holds `base` already."""
        name = unique_name(base, self.taken)
        self.taken.add(name)
        return name

    def _shrinks(self, axes: Sequence[Axis]) -> list[bool]:
        return [bool(self.mask.gone(axis).any()) for axis in axes]

    def _length_attribute(self, node: NodeProto, fix: LengthAttribute) -> None:
        if self._shrinks([fix.axis])[0]:
            write_attribute(node, fix.name, len(self.mask.kept(fix.axis)))

    def _frozen_attribute(self, node: NodeProto, fix: FrozenAttribute) -> None:
        write_attribute(node, fix.name, fix.value)

    def _old_indices(self, node: NodeProto, fix: OldIndices) -> None:
        """Look up, before the node, which numbers the positions had."""
        if not self._shrinks([fix.axis])[0]:
            return
        name = node.input[fix.slot]
        dtype = helper.tensor_dtype_to_np_dtype(self.mask.analysis.shapes.dtypes[name])
        table = self._add(f"{name}::old", self.mask.kept(fix.axis).astype(dtype))
        node.input[fix.slot] = self._fresh(f"{node.output[0]}::index")
        self.before.append(helper.make_node("Gather", [table, name], [node.input[fix.slot]]))

    def _lengths_operand(self, node: NodeProto, fix: LengthsOperand) -> None:
        if any(self._shrinks(fix.axes)):
            lengths = [len(self.mask.kept(axis)) for axis in fix.axes]
            if fix.slot is None:
                write_attribute(node, fix.name, lengths)
            else:
                self._write_list(node, fix.name, fix.slot, lengths)

    def _shape_operand(self, node: NodeProto, fix: ShapeOperand) -> None:
        """Patch only entries that shrink; a computed operand is patched behind its computation."""
        shrinks = self._shrinks(fix.axes)
        if not any(shrinks):
            return
        name, output = node.input[fix.slot], f"{node.output[0]}::shape"
        kept = [len(self.mask.kept(axis)) for axis in fix.axes]
        if name in self.graph.weights:
            static = [s and n is not None for s, n in zip(shrinks, fix.lengths, strict=True)]
            node.input[fix.slot] = self._add(
                name, _patched(self.graph.weights[name].array, static, kept)
            )
        elif all(n is not None for s, n in zip(shrinks, fix.lengths, strict=True) if s):
            node.input[fix.slot] = self._overlay(
                name, shrinks, kept, self._fresh(output), self.before
            )
        else:
            sizes = [axis.size for axis in fix.axes]
            node.input[fix.slot] = self._scaled(name, kept, sizes, self._fresh(output))

    def _scaled(self, name: str, kept: list[int], sizes: list[int], output: str) -> str:
        """Multiply lengths by the kept share; an axis of varying length is batch x heads or the like.

        Entries below 2 say that a length follows from the rest or from the input (-1, 0; 1 in an
        Expand): they still do.
        """
        times, over = self._ratio(output, kept, sizes)
        one = self._add(f"{output}::one", np.array(1, np.int64))
        product, scaled, given = (self._fresh(f"{output}::{n}") for n in ("kept", "new", "given"))
        self.before += [
            helper.make_node("Mul", [name, times], [product]),
            helper.make_node("Div", [product, over], [scaled]),
            helper.make_node("Greater", [name, one], [given]),
            helper.make_node("Where", [given, scaled, name], [output]),
        ]
        return output

    def _shape_source(self, node: NodeProto, fix: ShapeSource) -> None:
        """Let readers of a Shape see the original lengths: known, or as much longer as they were."""
        shrinks = self._shrinks(fix.axes)
        if not any(shrinks):
            return
        final = node.output[0]
        node.output[0] = self._fresh(f"{final}::pruned")
        if all(n is not None for s, n in zip(shrinks, fix.lengths, strict=True) if s):
            self._overlay(node.output[0], shrinks, [n or 0 for n in fix.lengths], final, self.after)
            return
        kept = [len(self.mask.kept(axis)) for axis in fix.axes]
        ratio = self._ratio(final, [axis.size for axis in fix.axes], kept)
        product = self._fresh(f"{final}::product")
        self.after.append(helper.make_node("Mul", [node.output[0], ratio[0]], [product]))
        self.after.append(helper.make_node("Div", [product, ratio[1]], [final]))

    def _ratio(self, name: str, above: list[int], below: list[int]) -> tuple[str, str]:
        """Write two lists of lengths as constants, shortened where they can be."""
        ratio = np.array([above, below], np.int64)
        ratio //= np.gcd.reduce(ratio)
        return self._add(f"{name}::times", ratio[0]), self._add(f"{name}::over", ratio[1])

    def _overlay(
        self, name: str, mask: list[bool], entries: list[int], output: str, into: list[NodeProto]
    ) -> str:
        chosen, values = (
            self._add(f"{output}::mask", np.array(mask)),
            self._add(f"{output}::entries", np.array(entries)),
        )
        into.append(helper.make_node("Where", [chosen, values, name], [output]))
        return output

    def _selection(self, node: NodeProto, fix: Selection) -> None:
        """Pick the same positions from what is left: rank of each old position among the kept."""
        gone_source, gone_target = self.mask.gone(fix.source), self.mask.gone(fix.target)
        if not gone_source.any() and not gone_target.any():
            return
        rank = np.cumsum(~gone_source) - 1
        positions = rank[fix.index[~gone_target]]
        size = int((~gone_source).sum())
        if node.op_type == "Gather":
            old = self.graph.weights[node.input[1]].array
            new = positions.astype(old.dtype)
            node.input[1] = self._add(node.input[1], new if old.ndim else new[0])
        elif not self._write_slice(node, fix.number, positions, size):
            self._write_slice(node, fix.number, np.arange(size), size)
            index = self._add(f"{node.output[0]}::index", positions.astype(np.int64))
            final = node.output[0]
            node.output[0] = self._fresh(f"{final}::whole")
            # several axes of one Slice may need it: the first Gather made is the last to run
            self.after.insert(
                0, helper.make_node("Gather", [node.output[0], index], [final], axis=fix.number)
            )

    def _write_slice(self, node: NodeProto, number: int, positions: Array, size: int) -> bool:
        """Write a regular run of positions into a Slice; False if they are not regular."""
        gaps = np.diff(positions)
        step = int(gaps[0]) if len(gaps) else 1
        steps = self._read_list(node, "steps", 4)
        starts, ends = self._read_list(node, "starts", 1), self._read_list(node, "ends", 2)
        if starts is None or ends is None or step == 0 or (gaps != step).any():
            return False
        if step != 1 and steps is None:
            return False
        axes = self._read_list(node, "axes", 3) or list(range(len(starts)))
        spot = next(i for i, a in enumerate(axes) if a % self._rank(node) == number)
        if len(positions):
            end = int(positions[-1]) + (1 if step > 0 else -1)
            starts[spot], ends[spot] = int(positions[0]), end if end >= 0 else -size - 1
        else:  # nothing was picked, as in what lies beyond dimensions that are all rotated
            starts[spot] = ends[spot] = size
        self._write_list(node, "starts", 1, starts)
        self._write_list(node, "ends", 2, ends)
        if steps is not None:
            steps[spot] = step
            self._write_list(node, "steps", 4, steps)
        return True

    def _rank(self, node: NodeProto) -> int:
        return len(self.mask.analysis.shapes.a[node.input[0]])

    def _padding(self, node: NodeProto, fix: Padding) -> None:
        """Count the new positions kept on each side; a crop moves with what was kept."""
        gone_source, gone_target = self.mask.gone(fix.source), self.mask.gone(fix.target)
        if not gone_source.any() and not gone_target.any():
            return
        name = next((a.name for a in node.attribute if a.name in {"pads", "paddings"}), "pads")
        pads = self._read_list(node, name, 1)
        if pads is None:
            raise InternalError(f"Pad '{node.name}' lost its pads")
        axes = self._read_list(node, "axes", 3) or list(range(len(pads) // 2))
        spot = next(i for i, a in enumerate(axes) if a % self._rank(node) == fix.number)
        for side, (amount, gone) in enumerate(
            [
                (fix.before, gone_target[: max(fix.before, 0)]),
                (fix.after, gone_target[fix.target.size - max(fix.after, 0) :]),
            ]
        ):
            cropped = gone_source[:-amount] if side == 0 else gone_source[amount:]
            kept = int((~gone).sum()) if amount >= 0 else -int((~cropped).sum())
            pads[spot + side * len(axes)] = kept
        self._write_list(node, name, 1, pads)

    def _read_list(self, node: NodeProto, name: str, slot: int) -> list[int] | None:
        for attribute in node.attribute:
            if attribute.name == name:
                return list(attribute.ints)
        if slot < len(node.input) and node.input[slot] in self.graph.weights:
            return [int(v) for v in np.atleast_1d(self.graph.weights[node.input[slot]].array)]
        return None

    def _write_list(self, node: NodeProto, name: str, slot: int, values: list[int]) -> None:
        if slot < len(node.input) and node.input[slot] in self.graph.weights:
            old = self.graph.weights[node.input[slot]].array
            node.input[slot] = self._add(node.input[slot], np.array(values, old.dtype))
        elif name in onnx.defs.get_schema(node.op_type, self.graph.opsets[""], "").attributes:
            write_attribute(node, name, values)
        else:  # an operand left out until now: equal pieces that are equal no longer
            node.input.extend([""] * (slot - len(node.input)))
            node.input.append(self._add(f"{node.output[0]}::{name}", np.array(values, np.int64)))
            for attribute in [a for a in node.attribute if a.name == "num_outputs"]:
                node.attribute.remove(attribute)


def _patched(old: Array, shrinks: list[bool], entries: list[int]) -> Array:
    """Overwrite entries that shrink; -1 stays, as it follows from the others."""
    new = np.array(old)
    flat = new.reshape(-1)  # a list, also where a file gives it more axes
    for i, (shrink, entry) in enumerate(zip(shrinks, entries, strict=True)):
        if shrink and flat[i] != -1:
            flat[i] = entry
    return new


def write_attribute(node: NodeProto, name: str, value: float | Sequence[int]) -> None:
    """Set an attribute, replacing one of the same name."""
    for i, attribute in enumerate(node.attribute):
        if attribute.name == name:
            del node.attribute[i]
            break
    node.attribute.append(helper.make_attribute(name, value))
