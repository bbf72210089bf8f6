"""Break one rule or step at a time: the proof has to notice every time, and never without cause.

This tests the tests: an oracle that shares a mistake with surgery, or graphs that no mistake can
move, would let some of these through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

import onnxprune.core.shapes
import onnxprune.structure.dependency
import onnxprune.structure.rewrites
from onnxprune.core.declared import Contract, Selection
from onnxprune.core.errors import InternalError, ModelError, ProofError
from onnxprune.core.graph import Graph
from onnxprune.core.positions import Axis
from onnxprune.core.rules import OP_RULES, Example, NodeView
from onnxprune.passes.surgery._fixes import Rewriter
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.prove import prove
from onnxprune.structure.dependency import analyse
from onnxprune.structure.interface import _Opening
from tests.examples import example_model, random_mask

Patch = pytest.MonkeyPatch
Change = Callable[[NodeView], None]

# Small graphs, one for each kind of structure. What follows an op reads its channels one by one, so
# that a wrong order shows.
GRAPHS = {
    "conv": Example("{y} = Conv<pads=[1,1,1,1]>({x}, {w:6,C,3,3}, {b:6})"),
    "grouped": Example("{y} = Conv<group=2>({x}, {w:6,C/2,1,1}, {b:6})"),
    "depthwise": Example("{y} = Conv<group=C>({x}, {w:C,1,1,1}, {b:C})"),
    "norm": Example("{y} = BatchNormalization({x}, {s:C}, {b:C}, {m:C}, {v:C})"),
    "add": Example("{y} = Add({x}, {x2})"),
    "concat": Example("{t1} = Concat<axis=1>({x}, {x2})\n{y} = Mul({t1}, {w:2C,1,1})"),
    "split": Example("{t1}, {t2} = Split<axis=1>({x}, {i:[3,C-3]})\n{y} = Concat<axis=1>({t2}, {t1})"),
    "slice": Example("{y} = Slice({x}, {i:[1]}, {i:[6]}, {i:[1]})"),
    "stride": Example("{t1} = Slice({x}, {i:[0]}, {i:[C]}, {i:[1]}, {i:[2]})\n{y} = Mul({t1}, {w:C/2,1,1})"),
    "gather": Example("{t1} = Gather<axis=1>({x}, {i:[5,0,3]})\n{y} = Mul({t1}, {w:3,1,1})"),
    "shuffle": Example(
        "{t1} = Reshape({x}, {i:[0,2,C/2,H,W]})\n{t2} = Transpose<perm=[0,2,1,3,4]>({t1})\n"
        "{t3} = Reshape({t2}, {i:[0,C,H,W]})\n{y} = Mul({t3}, {w:C,1,1})"
    ),
    "pad": Example("{t1} = Pad({x}, {i:[0,2,0,0,0,1,0,0]})\n{y} = Mul({t1}, {w:11,1,1})"),
    "flatten": Example("{y} = Flatten({x})"),
    "heads": Example(
        "{t1} = Reshape({x}, {i:[0,0,2,C/2]})\n{t2} = Mul({t1}, {w:2,C/2})\n{y} = Reshape({t2}, {i:[0,0,C]})",
        rank=3,
    ),
    "pixels": Example('{y} = DepthToSpace<blocksize=2, mode="CRD">({x})'),
    "mean": Example("{t1} = ReduceMean<keepdims=1>({x}, {i:[1]})\n{y} = Mul({x}, {t1})"),
    "sum": Example("{t1} = ReduceSum<keepdims=1>({x}, {i:[1]})\n{y} = Mul({x}, {t1})"),
    "layer": Example("{y} = LayerNormalization({x}, {s:C}, {b:C})", rank=3),
    "softmax": Example("{t1} = Softmax<axis=1>({x})\n{y} = Mul({t1}, {x2})"),
    "lstm": Example(
        "{t1} = Transpose<perm=[1,0,2]>({x})\n"
        "{t2} = LSTM<hidden_size=6>({t1}, {w:1,24,C}, {w:1,24,6}, {w:1,48})\n"
        "{t3} = Squeeze({t2}, {i:[1]})\n{y} = Transpose<perm=[1,0,2]>({t3})",
        rank=3,
    ),
    "transpose": Example(
        "{t1} = Transpose<perm=[2,0,1]>({x})\n{t2} = Mul({t1}, {w:1,1})\n{y} = Transpose<perm=[1,2,0]>({t2})",
        rank=3,
    ),
    "computed": Example(
        "{t1} = Shape({x})\n{t2} = Slice({t1}, {i:[0]}, {i:[1]})\n"
        "{t3} = Concat<axis=0>({t2}, {i:[C/2,2,H,W]})\n{t4} = Reshape({x}, {t3})\n"
        "{t5} = Mul({t4}, {w:C/2,1,1,1})\n{y} = Reshape({t5}, {t1})"
    ),
    "counted": Example(
        "{t1} = Shape({x})\n{t2} = Cast<to=1>({t1})\n{t3} = ReduceSum<keepdims=0>({t2}, {i:[0]})\n"
        "{y} = Div({x}, {t3})"
    ),
    "tile": Example("{t1} = Tile({x}, {i:[1,2,1,1]})\n{y} = Mul({t1}, {w:2C,1,1})"),
}  # fmt: skip


def noticed(name: str) -> bool:
    """Whether removing random units from a graph fails: in the proof, in surgery, or when run."""
    graph = Graph.from_model(example_model(GRAPHS[name], 18))
    for seed in range(3):
        analysis = analyse(graph)
        if any(record.opaque for record in analysis.records):
            return True
        mask = random_mask(analysis, np.random.default_rng(seed), 0.4)
        try:
            prove(graph, mask, remove_channels(mask))
        except (ProofError, ModelError, InternalError):
            return True
    return False


def rule(op_type: str, change: Change) -> Callable[[Patch], None]:
    """The rule of an op, with its declarations changed afterwards."""

    def apply(patch: Patch) -> None:
        (entry,) = (r for r in OP_RULES.all() if r.op_type == op_type)

        def broken(view: NodeView) -> None:
            entry.function(view)
            change(view)

        mutant = dataclasses.replace(entry, function=broken)
        patch.setitem(OP_RULES._rules, ("", op_type), [mutant])

    return apply


def step(owner: object, name: str, replacement: object) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(owner, name, replacement)


def without_rule(patch: Patch) -> None:
    """No rule for an op, and nothing protected for want of one."""
    patch.setitem(OP_RULES._rules, ("", "BatchNormalization"), [])
    patch.setattr(onnxprune.structure.dependency, "_opaque", lambda view, _: view.record)


def forget_couples(*slots: int) -> Change:
    """Drop what was coupled with some inputs."""

    def change(view: NodeView) -> None:
        axes = {axis.id for slot in slots for axis in view.x(slot)}
        view.said.couples = [p for p in view.said.couples if not {a.id for a in p} & axes]

    return change


def move_parts(view: NodeView) -> None:
    """Shift the part of an axis that something is coupled with by one, round the end."""

    def moved(axis: Axis) -> Axis:
        index, size = axis.index, view.space.sizes[axis.id]
        return axis if index is None else dataclasses.replace(axis, index=(index + 1) % size)

    view.said.couples = [
        (a, moved(b)) if b.index is not None else (moved(a), b) for a, b in view.said.couples
    ]


def swap_parts(view: NodeView) -> None:
    """Give the first part of an axis what belongs to the second, and the other way round."""
    parts = [b.index for _, b in view.said.couples if b.index is not None]
    other = iter(parts[::-1])
    view.said.couples = [
        (a, b if b.index is None else dataclasses.replace(b, index=next(other)))
        for a, b in view.said.couples
    ]


def swap_factors(view: NodeView) -> None:
    view.said.factors = [(flat, parts[::-1]) for flat, parts in view.said.factors]


def forget_index(view: NodeView) -> None:
    """Take the first positions, whatever the index says."""
    view.said.couples = [
        (
            a
            if a.index is None
            else dataclasses.replace(a, index=np.arange(a.size, dtype=np.int32)),
            b,
        )
        for a, b in view.said.couples
    ]


def move_selection(view: NodeView) -> None:
    view.record.fixes = [
        dataclasses.replace(fix, index=fix.index - 1) if isinstance(fix, Selection) else fix
        for fix in view.record.fixes
    ]


def roll_last_couple(view: NodeView) -> None:
    a, b = view.said.couples[0]
    view.said.couples[0] = (a, b.at(np.roll(np.arange(b.size), 1)))


def forget_last_contract(view: NodeView) -> None:
    del view.record.contracts[-1]


def mean_as_sum(view: NodeView) -> None:
    for renorm in view.record.renorms:
        pairs = zip(renorm.numbers, renorm.axes, strict=True)
        view.record.contracts += [Contract(renorm.slot, n, axis) for n, axis in pairs]
    view.record.renorms.clear()


def softmax_as_map(view: NodeView) -> None:
    view.said.protects.clear()
    view.record.renorms.clear()


def inverse_transpose(view: NodeView) -> None:
    x, y, perm = view.x(0), view.y(), view.attr("perm")
    view.said.couples = [
        (x[i], y[perm[i]]) for i in range(len(perm)) if x[i].size == y[perm[i]].size
    ]


_permuted = onnxprune.structure.rewrites._permuted_axis


def inverse_permutation(*arguments: object) -> object:
    match = _permuted(*arguments)  # type: ignore[arg-type]
    return None if match is None else (match[0], np.argsort(match[1]))


MUTATIONS: dict[str, Callable[[Patch], None]] = {
    "Conv forgets its bias": rule("Conv", forget_couples(2)),
    "Conv forgets what it sums over": rule("Conv", lambda n: n.record.contracts.clear()),
    "Conv forgets that groups become fewer": rule("Conv", lambda n: n.record.fixes.clear()),
    "grouped Conv is inner x groups": rule("Conv", swap_factors),
    "BatchNormalization forgets all but the scale": rule(
        "BatchNormalization", forget_couples(2, 3, 4)
    ),
    "Add couples its first operand only": rule("Add", forget_couples(1)),
    "Concat is off by one": rule("Concat", move_parts),
    "Concat swaps its operands": rule("Concat", swap_parts),
    "Split is off by one": rule("Split", move_parts),
    "Slice is off by one": rule("Slice", move_parts),
    "Slice picks its neighbour": rule("Slice", move_selection),
    "Gather ignores its index": rule("Gather", forget_index),
    "Pad puts the old positions elsewhere": rule("Pad", move_parts),
    "Reshape swaps its factors": rule("Reshape", swap_factors),
    "Flatten tiles instead of repeats": rule("Flatten", swap_factors),
    "Tile repeats instead of tiles": rule("Tile", swap_factors),
    "DepthToSpace takes CRD for DCR": rule("DepthToSpace", swap_factors),
    "LSTM interleaves its gates": rule("LSTM", swap_factors),
    "LSTM forgets what it remembers": rule("LSTM", forget_last_contract),
    "Transpose is the inverse": rule("Transpose", inverse_transpose),
    "Gemm rolls its weight": rule("Gemm", roll_last_couple),
    "Mul forgets its second operand": rule("Mul", forget_couples(1)),
    "ReduceMean is a sum": rule("ReduceMean", mean_as_sum),
    "ReduceMean is a map": rule("ReduceMean", lambda n: n.record.renorms.clear()),
    "ReduceSum is a map": rule("ReduceSum", lambda n: n.record.contracts.clear()),
    "LayerNormalization forgets its statistics": rule(
        "LayerNormalization", lambda n: n.record.renorms.clear()
    ),
    "Softmax is a map": rule("Softmax", softmax_as_map),
    "what no rule knows is free": without_rule,
    "graph outputs may shrink": step(_Opening, "_protect_ends", lambda *_: None),
    "one instance is taken for all": step(onnxprune.core.shapes, "_agreed", lambda a, _: a.values),
    "a shuffle is taken for its inverse": step(
        onnxprune.structure.rewrites, "_permuted_axis", inverse_permutation
    ),
    "attributes that are lengths stay": step(Rewriter, "_length_attribute", lambda *_: None),
    "lengths of pieces stay": step(Rewriter, "_lengths_operand", lambda *_: None),
    "shape operands stay": step(Rewriter, "_shape_operand", lambda *_: None),
    "shapes that are read shrink": step(Rewriter, "_shape_source", lambda *_: None),
    "picked positions stay": step(Rewriter, "_selection", lambda *_: None),
    "paddings stay": step(Rewriter, "_padding", lambda *_: None),
}


@pytest.mark.parametrize("name", list(GRAPHS))
def test_nothing_is_noticed_when_nothing_is_broken(name: str) -> None:
    assert not noticed(name)


@pytest.mark.parametrize("name", list(MUTATIONS))
def test_every_mistake_is_noticed(name: str, monkeypatch: Patch) -> None:
    MUTATIONS[name](monkeypatch)

    assert any(noticed(graph) for graph in GRAPHS)
