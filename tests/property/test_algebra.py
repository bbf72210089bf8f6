"""Masks form an algebra, and surgery respects it: unions, repetition, doing nothing, saving."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import ModelProto, TensorProto

from onnxprune.core.analysis import Analysis, Mask
from onnxprune.core.cost import CostModel
from onnxprune.core.graph import Graph
from onnxprune.core.quantised import parameters_each
from onnxprune.core.rules import OP_RULES
from onnxprune.core.runtime import Session
from onnxprune.core.shapes import instantiate
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.prove import other_sizes, prove, relative_gap
from onnxprune.structure.dependency import analyse
from onnxprune.structure.normal import normalise
from tests.examples import random_mask, random_units
from tests.property.growing import random_model

SEEDS = range(1000, 1040)
ROUNDING = 1e-5  # the same sums over the same numbers; onnxruntime blocks them by length

each_graph = pytest.mark.parametrize("seed", SEEDS)


@cache
def analysed(seed: int) -> tuple[Graph, Analysis]:
    graph = Graph.from_model(random_model(seed))
    return graph, analyse(graph)


def weights(model: ModelProto) -> dict[str, bytes]:
    return {t.name: t.SerializeToString() for t in model.graph.initializer}


def refuse_ties(analysis: Analysis) -> None:
    """Skip a graph with tied matrices: one that becomes small is tied no longer."""
    graph = analysis.graph
    uses = Counter(name for node in graph.nodes for name in node.input if name in graph.weights)
    if any(count > 1 and len(graph.weights[name].shape) > 1 for name, count in uses.items()):
        pytest.skip("a tied matrix that becomes small is tied no longer")


def gap(first: ModelProto, second: ModelProto) -> float:
    """Largest relative difference of the outputs, on random inputs (examples may write to sample 1)."""
    one, two = Session(first, optimise=False, threads=1), Session(second, optimise=False, threads=1)
    return max(
        relative_gap(expected, found)
        for feeds in other_sizes(Graph.from_model(first))
        if all(len(array) > 1 for array in feeds.values())
        for expected, found in zip(one.run(feeds).values(), two.run(feeds).values(), strict=True)
    )


@each_graph
def test_unions_of_units_satisfy_every_declaration(seed: int, rng: np.random.Generator) -> None:
    _, analysis = analysed(seed)
    for ratio in (0.05, 0.3, 0.9):
        mask = random_mask(analysis, rng, ratio)

        mask.check()
        for a, b in analysis.space.couples:
            assert (mask.gone(a) == mask.gone(b)).all()
        for flat, parts in analysis.space.factors:
            either = np.zeros([part.size for part in parts], bool)
            for number, part in enumerate(parts):
                gone = mask.gone(part)
                either |= np.expand_dims(gone, [i for i in range(len(parts)) if i != number])
            assert (mask.gone(flat) == either.ravel()).all()


@each_graph
def test_removing_in_two_steps_is_removing_at_once(seed: int, rng: np.random.Generator) -> None:
    _, analysis = analysed(seed)
    refuse_ties(analysis)
    first = random_units(analysis, rng, 0.3)
    both = np.union1d(first, random_units(analysis, rng, 0.3))
    while analysis.mask(both).emptied():
        both = np.union1d(first, rng.permutation(both)[: len(both) // 2])
    once, half = analysis.mask(both), analysis.mask(first)
    left = analyse(remove_channels(half))
    twice = remove_channels(left.mask(_still_to_remove(left, half, once)))

    assert gap(remove_channels(once).to_model(), twice.to_model()) < ROUNDING


def _still_to_remove(left: Analysis, half: Mask, once: Mask) -> npt.NDArray[np.int64]:
    """The units of the half-pruned graph all of whose weight positions go in `once`."""
    chosen = []
    for group in left.groups:
        goes = np.ones(len(group), bool)
        for member in group.members:
            gone = once.gone_at(member.tensor, member.axis)
            before = half.gone_at(member.tensor, member.axis)
            if gone is not None and before is not None:
                gone = gone[~before]
            goes &= False if gone is None else gone[member.index].all(axis=1)
        chosen.append(group.units[goes])
    return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)


@each_graph
def test_removing_nothing_changes_nothing(seed: int) -> None:
    graph, analysis = analysed(seed)
    source = graph.to_model()
    result = remove_channels(analysis.mask(np.zeros(0, np.int64))).to_model()

    assert gap(source, result) == 0
    kept = weights(result)
    assert {n: w for n, w in weights(source).items() if n in kept}.items() <= kept.items()


@each_graph
def test_the_normal_form_is_normal(seed: int) -> None:
    _, analysis = analysed(seed)
    again, shapes = normalise(analysis.graph)

    assert [n.SerializeToString() for n in again.nodes] == [
        n.SerializeToString() for n in analysis.graph.nodes
    ]
    assert again.weights.keys() == analysis.graph.weights.keys()
    assert shapes.a == analysis.shapes.a


@each_graph
def test_a_saved_pruned_model_is_the_same_model(seed: int, rng: np.random.Generator) -> None:
    _, analysis = analysed(seed)
    model = remove_channels(random_mask(analysis, rng, 0.4)).to_model()
    loaded = Graph.from_model(onnx.load_model_from_string(model.SerializeToString()))

    assert loaded.to_model().SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )
    again = analyse(loaded)
    mask = random_mask(again, rng, 0.4)
    prove(loaded, mask, remove_channels(mask))


def figures(analysis: Analysis, mask: Mask | None = None) -> tuple[float, float]:
    """MACs of one sample and parameters, of what a mask leaves."""
    instance = instantiate(analysis.graph, OP_RULES.shape_functions)
    assert instance is not None
    cost = CostModel(analysis, instance)
    lengths = cost.lengths(None if mask is None else mask.removed)
    return cost.macs(lengths), cost.params(lengths)


@each_graph
def test_predicted_figures_are_those_of_the_pruned_graph(
    seed: int, rng: np.random.Generator
) -> None:
    _, analysis = analysed(seed)
    refuse_ties(analysis)
    mask = random_mask(analysis, rng, 0.4)
    pruned = remove_channels(mask)
    # what examples write as weights
    numbers = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT8}
    counted = sum(
        np.prod(w.shape)
        for w in pruned.weights.values()
        if w.shape and w.proto.data_type in numbers
    )

    assert figures(analysis, mask) == pytest.approx(figures(analyse(pruned)), rel=1e-12)
    # integer weights count as the real ones they stand for, scales and zero points do not count
    if not parameters_each(analysis.graph, analysis.records):
        assert figures(analysis, mask)[1] == pytest.approx(counted, rel=1e-12)
