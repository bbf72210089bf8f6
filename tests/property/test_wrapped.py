"""Random graphs inside of branches and functions: the same as where their nodes stand open.

Graphs come from `tests.property.growing`. A branch holds one graph or its twin with other weights,
some of its own and some of the graph around it; a function takes a run of nodes, with weights as
operands or of its own, and calls stand within functions.
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.core.graph import Graph
from onnxprune.core.scopes import captured_names, rename
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.prove import TOLERANCE, prove
from onnxprune.structure.dependency import analyse
from tests.examples import text_of
from tests.property.growing import random_model, some_units

SEEDS, PER_TEST = 8, 8
MOVED = 0.5  # share of graphs whose outputs the removal changes; else the comparison proves little

Rng = np.random.Generator


def in_branches(model: ModelProto, rng: Rng) -> ModelProto:
    """If(flag): the graph, else the graph with other weights under the same names."""
    graph = model.graph
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:], result.graph.output[:]
    outer = {t.name for t in graph.initializer if rng.random() < 0.4}
    result.graph.initializer.extend(t for t in graph.initializer if t.name in outer)
    made = {name: f"{name}_made" for name in (v.name for v in graph.output)}
    attributes = {}
    for attribute in ("then_branch", "else_branch"):
        own = [t for t in graph.initializer if t.name not in outer]
        body = helper.make_graph([], attribute, [], list(graph.output))
        body.initializer.extend(
            own if attribute == "then_branch" else [_other(t, rng) for t in own]
        )
        for source in graph.node:
            node = body.node.add()
            node.CopyFrom(source)
            rename(node, made)
        for value in body.output:
            value.name = made[value.name]
        attributes[attribute] = body
    choice = helper.make_node(
        "If", ["flag"], [v.name for v in graph.output], "choice", **attributes
    )
    result.graph.node.append(choice)
    result.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    result.graph.output.extend(graph.output)
    return result


def _other(tensor: TensorProto, rng: Rng) -> TensorProto:
    """The same weight with its entries in another order; settings (integers) stay."""
    array = numpy_helper.to_array(tensor)
    if array.dtype != np.float32 or array.ndim < 1:
        return tensor
    return numpy_helper.from_array(rng.permutation(array), tensor.name)


def in_functions(model: ModelProto, rng: Rng) -> ModelProto:
    """Two or three runs of nodes become functions, the last around the others perhaps."""
    result = ModelProto()
    result.CopyFrom(model)
    result.ir_version = max(result.ir_version, 10)
    result.opset_import.append(helper.make_opsetid("local", 1))
    for number in range(int(rng.integers(2, 4))):
        count = len(result.graph.node)
        first = int(rng.integers(0, count))
        _outline(result, first, int(rng.integers(first + 1, count + 1)), f"F{number}", rng)
    return result


def _outline(model: ModelProto, first: int, end: int, name: str, rng: Rng) -> None:
    """Put nodes first..end into a function."""
    nodes = list(model.graph.node)
    run = nodes[first:end]
    if any(node.domain == "com.microsoft" for node in run):
        return  # onnxruntime knows the types of some of them outside of functions only
    made = {o for node in run for o in node.output if o}
    later = {i for node in nodes[end:] for i in (*node.input, *captured_names(node))}
    later |= {v.name for v in model.graph.output}
    read = dict.fromkeys(
        i for node in run for i in (*node.input, *captured_names(node)) if i and i not in made
    )
    weights = {t.name: t for t in model.graph.initializer}
    held = [n for n in read if n in weights and rng.random() < 0.5]
    operands = [n for n in read if n not in held]
    results = [o for node in run for o in node.output if o in later]
    constants = [helper.make_node("Constant", [], [n], value=weights[n]) for n in held]
    table = {n: f"x{i}" for i, n in enumerate(operands)} | {
        n: f"y{i}" for i, n in enumerate(results)
    }
    body: list[NodeProto] = []
    for source in (*constants, *run):
        node = NodeProto()
        node.CopyFrom(source)
        rename(node, table)
        body.append(node)
    function: FunctionProto = helper.make_function(
        "local", name, [table[n] for n in operands], [table[n] for n in results], body,
        list(model.opset_import),
    )  # fmt: skip
    model.functions.append(function)
    call = helper.make_node(name, operands, results, f"call {name}", domain="local")
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:first], call, *nodes[end:]])


WRAPS = {
    "branches": [in_branches],
    "functions": [in_functions],
    "both": [in_functions, in_branches],
}


def moved(seed: int, how: str) -> float:
    """Wrap the graph of `seed`, remove random units, prove it; how far its outputs moved."""
    rng = np.random.default_rng([seed, 7])
    model = random_model(seed)
    bare = analyse(Graph.from_model(model))
    for wrap in WRAPS[how]:
        model = wrap(model, rng)
    graph = Graph.from_model(model)
    try:
        analysis = analyse(graph)
        mask = analysis.mask(some_units(analysis, rng))
        proof = prove(graph, mask, remove_channels(mask))
    except Exception as error:
        error.add_note(f"seed {seed}\n{text_of(model)}")
        raise
    if how == "functions":  # nothing is lost by it
        assert sorted(map(len, analysis.groups)) == sorted(map(len, bare.groups)), f"seed {seed}"
    assert not [r.opaque for r in analysis.records if r.opaque], f"seed {seed}"
    return proof.moved


@pytest.mark.parametrize("how", WRAPS)
@pytest.mark.parametrize("first", range(0, SEEDS, PER_TEST))
def test_removal_equals_silencing(first: int, how: str) -> None:
    changes = [moved(seed, how) for seed in range(first, first + PER_TEST)]

    assert np.mean(np.array(changes) > TOLERANCE) >= MOVED
