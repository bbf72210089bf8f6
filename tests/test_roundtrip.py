"""What pruning does not touch is written as it was read: notes, odd types, unused and shared weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session
from onnxprune.core.surgeon import Surgeon
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.structure.dependency import analyse
from tests.examples import random_mask
from tests.handmade import handmade, ints, proved

CHAIN = """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
    a = Conv(u, w1, b1)
    b = Relu(a)
    c = Conv(b, w2, b2)
    y = Conv(c, w3)
}"""


def chain() -> ModelProto:
    return handmade(CHAIN, w1=(6, 3, 1, 1), b1=(6,), w2=(6, 6, 1, 1), b2=(6,), w3=(2, 6, 1, 1))


def shrunk(model: ModelProto, ratio: float = 0.4) -> ModelProto:
    """The model without random units, as it would be written and read again."""
    mask = random_mask(analyse(Graph.from_model(model)), np.random.default_rng(0), ratio)
    return onnx.load_model_from_string(remove_channels(mask).to_model().SerializeToString())


def note(props: object, key: str) -> None:
    props.add(key=key, value=f"{key} of old")  # type: ignore[attr-defined]


def test_notes_survive() -> None:
    model = chain()
    model.doc_string, model.producer_name, model.producer_version = "a model", "somebody", "7"
    model.domain, model.model_version = "org.example", 42
    note(model.metadata_props, "model")
    model.graph.doc_string = "a graph"
    note(model.graph.metadata_props, "graph")
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.input):
        part.doc_string = f"about {part.name}"
        note(part.metadata_props, "part")
    result = shrunk(model)

    for field in ("doc_string", "producer_name", "producer_version", "domain", "model_version"):
        assert getattr(result, field) == getattr(model, field)
    assert result.metadata_props == model.metadata_props
    assert result.graph.doc_string == "a graph"
    assert result.graph.metadata_props == model.graph.metadata_props
    assert result.graph.input == model.graph.input
    assert [n.doc_string for n in result.graph.node] == [n.doc_string for n in model.graph.node]
    assert all(n.metadata_props[0].value == "part of old" for n in result.graph.node)
    before = {t.name: t for t in model.graph.initializer}
    for tensor in result.graph.initializer:
        assert tensor.doc_string == before[tensor.name].doc_string
        assert tensor.metadata_props == before[tensor.name].metadata_props
    assert any(t.dims != before[t.name].dims for t in result.graph.initializer)


def test_notes_survive_where_nodes_were_rewired() -> None:
    model = handmade(
        """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
            a = Conv(u, w1, b1)
            b = Reshape(a, split)
            c = Transpose<perm=[0,2,1,3,4]>(b)
            d = Reshape(c, join)
            y = Conv(d, w2)
        }""",
        w1=(6, 3, 1, 1), b1=(6,), w2=(2, 6, 1, 1), split=ints(-1, 2, 3, 8, 8), join=ints(-1, 6, 8, 8),
    )  # fmt: skip
    for node in model.graph.node:
        node.name, node.doc_string = f"node {node.output[0]}", f"about {node.output[0]}"
        note(node.metadata_props, "part")
    result = shrunk(model)
    kept = {n.output[0]: n for n in result.graph.node if n.op_type == "Conv"}

    assert {o: n.name for o, n in kept.items()} == {"a": "node a", "y": "node y"}
    assert {o: n.doc_string for o, n in kept.items()} == {"a": "about a", "y": "about y"}
    assert all(n.metadata_props[0].value == "part of old" for n in kept.values())


def test_unused_weights_of_every_type_survive() -> None:
    model = chain()
    odd = [
        numpy_helper.from_array(np.array(["one", "two"], object), "text"),
        helper.make_tensor("brain", TensorProto.BFLOAT16, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("eight", TensorProto.FLOAT8E4M3FN, [2], [1.0, 2.0]),
        helper.make_tensor("four", TensorProto.INT4, [3], [1, -2, 3]),
        numpy_helper.from_array(np.array([1.5], np.float16), "half"),
        numpy_helper.from_array(np.zeros((0, 3), np.float32), "nothing"),
    ]
    model.ir_version = 10
    model.graph.initializer.extend(odd)
    result = {t.name: t for t in shrunk(model).graph.initializer}

    assert all(result[t.name] == t for t in odd)


@pytest.mark.parametrize("data_type", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_float_types_are_pruned_in_their_type(data_type: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    rng = np.random.default_rng(0)
    text = CHAIN.replace("float[", "double[" if dtype == np.float64 else "float16[")
    shapes = {"w1": (6, 3, 1, 1), "b1": (6,), "w2": (6, 6, 1, 1), "b2": (6,), "w3": (2, 6, 1, 1)}
    weights = {n: (rng.standard_normal(s) / 2).astype(dtype) for n, s in shapes.items()}
    model = handmade(text, **weights)  # type: ignore[arg-type]
    result = shrunk(model)

    assert {t.data_type for t in result.graph.initializer} == {data_type}
    onnx.checker.check_model(result, full_check=True)


def test_weights_listed_as_inputs_shrink_there_too() -> None:
    """IR version 3: every initializer is an input as well."""
    model = chain()
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    graph = Graph.from_model(model)
    result = shrunk(model)
    listed = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in result.graph.input
    }

    assert [v.name for v in graph.inputs] == ["u"]
    assert result.ir_version == 3
    assert {t.name: list(t.dims) for t in result.graph.initializer}.items() <= listed.items()
    assert listed["w2"] != [6, 6, 1, 1]
    assert Session(result).inputs[0] == "u"
    proved(model)


def test_a_weight_that_needs_two_versions_lifts_the_ir_version() -> None:
    """Two layers share a bias, and lose different channels: the second copy is no input."""
    model = handmade(
        CHAIN.replace("b2", "b1"),
        w1=(6, 3, 1, 1), b1=(6,), w2=(6, 6, 1, 1), w3=(2, 6, 1, 1),
    )  # fmt: skip
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    graph = Graph.from_model(model)
    analysis = analyse(graph)
    first, second = analysis.groups
    same = remove_channels(analysis.mask(np.array([first.units[1], second.units[1]]))).to_model()
    apart = remove_channels(analysis.mask(np.array([first.units[1], second.units[2]]))).to_model()

    assert [t.name for t in same.graph.initializer] == ["w1", "b1", "w2", "w3"]
    assert same.ir_version == 3
    assert {t.name for t in apart.graph.initializer} == {"w1", "b1", "b1_1", "w2", "w3"}
    assert apart.ir_version == 4
    proved(model)


def test_equal_copies_are_one_weight_again() -> None:
    text = CHAIN.replace("b2", "b1").replace("w2", "shared")
    model = handmade(text, w1=(6, 3, 1, 1), b1=(6,), shared=(6, 6, 1, 1), w3=(2, 6, 1, 1))
    graph = Graph.from_model(model)
    analysis = analyse(graph)

    assert len(analysis.graph.weights) == len(graph.weights) + 1
    assert analysis.graph.to_model().graph.initializer == model.graph.initializer
    kept = remove_channels(analysis.mask(analysis.groups[0].units[:1])).to_model()
    assert {t.name for t in kept.graph.initializer} == {"w1", "b1", "b1_1", "shared", "w3"}


def test_tables_tied_with_their_transpose_stay_one_weight() -> None:
    """Embedding and output layer of a language model share a matrix; one copy is written."""
    model = handmade(
        """(int64[N,T] u) => (float[N,T,200] y) {
            a = Gather(table, u)
            b = MatMul(a, w1)
            c = Relu(b)
            d = MatMul(c, w2)
            turned = Transpose<perm=[1,0]>(table)
            y = MatMul(d, turned)
        }""",
        table=(200, 8), w1=(8, 6), w2=(6, 8),
    )  # fmt: skip
    analysis = proved(model)
    result = shrunk(model)

    assert {len(g) for g in analysis.groups} == {8, 6}
    assert [t.name for t in result.graph.initializer] == ["table", "w1", "w2"]


def test_local_functions_and_foreign_domains_survive() -> None:
    model = chain()
    model.opset_import.append(helper.make_opsetid("org.example", 3))
    model.functions.append(
        helper.make_function(
            "org.example", "Unused", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])],
            [helper.make_opsetid("", 18)],
        )
    )  # fmt: skip
    annotation = model.graph.quantization_annotation.add(tensor_name="a")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    result = shrunk(model)

    assert result.functions == model.functions
    assert list(result.opset_import) == list(model.opset_import)
    assert result.graph.quantization_annotation == model.graph.quantization_annotation


def test_weights_in_other_files_are_pruned(tmp_path: Path) -> None:
    model = chain()
    inline = shrunk(model)
    onnx.save_model(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0,
        convert_attribute=False,
    )  # fmt: skip
    loaded = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    graph = Graph.from_model(loaded, tmp_path)
    mask = random_mask(analyse(graph), np.random.default_rng(0), 0.4)

    assert graph.external
    assert remove_channels(mask).to_model().graph.initializer == inline.graph.initializer


def test_odd_names_are_left_alone() -> None:
    model = chain()
    names = {"a": "layer/1::out", "w1": "w 1 (first)", "b1": "b1::use", "c": "ü"}
    for node in model.graph.node:
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    result = shrunk(model)
    proved(model)

    assert [list(n.output) for n in result.graph.node] == [list(n.output) for n in model.graph.node]
    assert {t.name for t in result.graph.initializer} == {t.name for t in model.graph.initializer}


def test_topology_edits_keep_messages_and_captures() -> None:
    model = handmade(
        """(float[N,3] u, bool flag) => (float[N,3] y) {
            a = Relu(u)
            b = If(flag) <
                then_branch = then () => (float[N,3] t) { t = Neg(a) },
                else_branch = other () => (float[N,3] e) { e = Mul(a, gain) }
            >
            c = Relu(b)
            y = Sigmoid(c)
        }""",
        gain=(3,), idle=(2,),
    )  # fmt: skip
    model.graph.node[1].doc_string = "kept"
    surgeon = Surgeon(Graph.from_model(model))
    surgeon.insert([helper.make_node("Tanh", ["b"], ["d"])])
    surgeon.reroute("c", "d")
    result = surgeon.finish()

    assert [n.op_type for n in result.nodes] == ["Relu", "If", "Tanh", "Sigmoid"]
    assert result.nodes[1] == model.graph.node[1]
    assert set(result.weights) == {"gain", "idle"}
    onnx.checker.check_model(result.to_model(), full_check=True)
