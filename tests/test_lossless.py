"""Row by row: what other tools drop survives our load, our pruning and our save."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.core.graph import Graph, Weight
from onnxprune.core.runtime import Session
from onnxprune.files.store import load, save
from onnxprune.structure.dependency import analyse
from tests.handmade import proved
from tests.test_roundtrip import chain, note, shrunk

Change = Callable[[ModelProto], None]
ROWS: dict[str, tuple[Change, Callable[[ModelProto], Any]]] = {}


def row(read: Callable[[ModelProto], Any]) -> Callable[[Change], Change]:
    """Enter a way to add something to a model, and how to read it again."""

    def enter(change: Change) -> Change:
        ROWS[change.__name__] = (change, read)
        return change

    return enter


def node(model: ModelProto, name: str) -> NodeProto:
    """The node of that name."""
    found: NodeProto = next(n for n in model.graph.node if n.name == name)
    return found


@row(lambda m: (m.metadata_props, m.doc_string, m.domain, m.model_version, m.producer_name))
def notes_of_the_model(model: ModelProto) -> None:
    model.doc_string, model.domain, model.model_version = "a model", "org.example", 42
    model.producer_name = "somebody"
    note(model.metadata_props, "model")


@row(lambda m: (m.graph.metadata_props, m.graph.doc_string, m.graph.name))
def notes_of_the_graph(model: ModelProto) -> None:
    model.graph.doc_string, model.graph.name = "a graph", "its name"
    note(model.graph.metadata_props, "graph")


@row(lambda m: [(n.name, n.doc_string, n.metadata_props) for n in m.graph.node])
def notes_of_nodes(model: ModelProto) -> None:
    for number, each in enumerate(model.graph.node):
        each.doc_string = f"node {number}"
        note(each.metadata_props, f"node {number}")


@row(lambda m: [(t.name, t.doc_string, t.metadata_props) for t in m.graph.initializer])
def notes_of_weights(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        tensor.doc_string = f"about {tensor.name}"
        note(tensor.metadata_props, tensor.name)


@row(lambda m: [*m.graph.input, *m.graph.output])
def notes_and_meanings_of_inputs_and_outputs(model: ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = f"about {value.name}"
        value.type.denotation = "IMAGE"
        value.type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
        note(value.metadata_props, value.name)


@row(lambda m: [(v.name, v.doc_string, v.metadata_props) for v in m.graph.value_info])
def shape_notes(model: ModelProto) -> None:
    """Of activations, and of weights as the exporter of PyTorch writes them."""
    shapes: dict[str, list[str | int]] = {
        "a": ["N", 6, 8, 8],
        "c": ["N", 6, 8, 8],
        "w1": [6, 3, 1, 1],
        "nobody": [3],
    }
    for name, shape in shapes.items():
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape, f"about {name}")
        note(value.metadata_props, name)
        model.graph.value_info.append(value)


@row(lambda m: m.graph.value_info)
def shape_notes_of_other_types(model: ModelProto) -> None:
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 6])
    several = helper.make_sequence_type_proto(tensor)
    table = helper.make_map_type_proto(TensorProto.STRING, tensor)
    for name, kind in {
        "s": several,
        "o": helper.make_optional_type_proto(several),
        "m": table,
    }.items():
        model.graph.value_info.append(helper.make_value_info(name, kind))


@row(lambda m: m.graph.quantization_annotation)
def quantisation_notes(model: ModelProto) -> None:
    for tensor in ("a", "w1"):
        entry = model.graph.quantization_annotation.add(tensor_name=tensor)
        entry.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="step")
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "step"))


@row(lambda m: [(o.domain, o.version) for o in m.opset_import] + [("ir", m.ir_version)])
def versions(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("org.example", 3))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    model.ir_version = 9


@row(lambda m: m.functions)
def functions_that_nobody_calls(model: ModelProto) -> None:
    for overload in ("", "other"):
        function = helper.make_function(
            "org.example", "Unused", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])],
            [helper.make_opsetid("", 18)], ["alpha"], [helper.make_attribute("beta", 2.0)],
            overload=overload, doc_string="a function",
            value_info=[helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        )  # fmt: skip
        note(function.metadata_props, overload or "first")
        model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("org.example", 1))
    model.ir_version = 10


@row(lambda m: [(c.name, c.num_devices, c.device) for c in m.configuration] + [
    n.device_configurations for n in m.graph.node])  # fmt: skip
def devices(model: ModelProto) -> None:
    model.ir_version = 11
    model.configuration.add(name="two", num_devices=2, device=["a", "b"])
    model.graph.node[0].device_configurations.add(configuration_id="two", pipeline_stage=1)


@row(lambda m: [t for t in m.graph.initializer if t.name.startswith("odd")])
def unused_weights_of_every_type(model: ModelProto) -> None:
    model.ir_version = 13
    for data_type in TensorProto.DataType.values():
        name = TensorProto.DataType.Name(data_type)
        if data_type == TensorProto.UNDEFINED or name == "FLOAT8E8M0":
            continue
        values: Any = [b"a", b"b", b""] if data_type == TensorProto.STRING else [1, 0, 1]
        model.graph.initializer.append(helper.make_tensor(f"odd {name}", data_type, [3], values))


@row(lambda m: [t for t in m.graph.initializer if t.name.startswith("as ")])
def weights_in_typed_fields(model: ModelProto) -> None:
    """Not in `raw_data`: older writers fill float_data, int32_data, ..."""
    model.graph.initializer.extend([
        helper.make_tensor("as floats", TensorProto.FLOAT, [2], [1.5, 2.5], raw=False),
        helper.make_tensor("as ints", TensorProto.INT64, [2], [1, 2], raw=False),
        TensorProto(name="as nothing", data_type=TensorProto.FLOAT, dims=[0, 4]),
    ])  # fmt: skip


@row(lambda m: list(m.graph.sparse_initializer))
def sparse_weights(model: ModelProto) -> None:
    values = numpy_helper.from_array(np.array([1.5, -2.0], np.float32), "few")
    places = numpy_helper.from_array(np.array([1, 4], np.int64), "few places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [6]))


def _typed_attributes() -> list[AttributeProto]:
    tensor = helper.make_tensor("", TensorProto.FLOAT, [2], [1.0, 2.0])
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "v"),
        numpy_helper.from_array(np.zeros(1, np.int64), "i"), [3],
    )  # fmt: skip
    value = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Relu", ["b"], ["inner"])], "body", [value], [
        helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)])  # fmt: skip
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [3])
    empty = AttributeProto(name="empty", type=AttributeProto.INTS)
    return [
        helper.make_attribute("bytes", b"\xff\xfe"), helper.make_attribute("strings", [b"\xff", b""]),
        helper.make_attribute("tensors", [tensor, tensor]), helper.make_attribute("sparse", sparse),
        helper.make_attribute("graphs", [body, body]), helper.make_attribute("kind", kind),
        helper.make_attribute("kinds", [kind]), empty,
    ]  # fmt: skip


@row(lambda m: node(m, "odd"))
def attributes_of_every_type(model: ModelProto) -> None:
    """On an operator that nobody knows: it stays, word for word, with what it touches."""
    odd = helper.make_node(
        "Odd", ["u", "", "u"], ["ignored", "", "also"], "odd", "a doc", "org.example"
    )
    odd.attribute.extend(_typed_attributes())
    model.opset_import.append(helper.make_opsetid("org.example", 1))
    model.graph.node.append(odd)


@row(lambda m: [n.name for n in m.graph.node] + [list(n.output) for n in m.graph.node])
def order_and_names_of_nodes(model: ModelProto) -> None:
    """Not the order that another sort would give: the last layer's branch comes first."""
    extra = helper.make_node("Neg", ["u"], ["minus"], "same")
    model.graph.node.insert(2, extra)
    model.graph.node.append(helper.make_node("Abs", ["minus"], ["plus"], ""))
    model.graph.output.append(helper.make_tensor_value_info("plus", TensorProto.FLOAT, None))


@row(lambda m: [t for t in m.graph.initializer if t.name == "given"] + list(m.graph.output))
def a_weight_that_is_an_output(model: ModelProto) -> None:
    tensor = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(6, 1, 1), "given")
    model.graph.initializer.append(tensor)
    model.graph.output.append(helper.make_tensor_value_info("given", TensorProto.FLOAT, [6, 1, 1]))
    model.graph.node.insert(1, helper.make_node("Mul", ["a", "given"], ["a2"]))
    model.graph.node[2].input[0] = "a2"


@row(lambda m: (list(m.graph.input), [t for t in m.graph.initializer if t.name == "gain"]))
def an_input_with_a_default(model: ModelProto) -> None:
    """A caller may feed it, so it is no constant: neither folded nor pruned."""
    model.graph.input.append(helper.make_tensor_value_info("gain", TensorProto.FLOAT, [6, 1, 1]))
    model.graph.initializer.append(
        numpy_helper.from_array(np.full((6, 1, 1), 2, np.float32), "gain")
    )
    model.graph.node.insert(1, helper.make_node("Reciprocal", ["gain"], ["less"]))
    model.graph.node.insert(2, helper.make_node("Mul", ["a", "less"], ["a2"]))
    model.graph.node[3].input[0] = "a2"


@row(lambda m: (m.training_info, [t for t in m.graph.initializer if t.name == "w1"]))
def training(model: ModelProto) -> None:
    """Its algorithm reads and updates a weight, which stays for it."""
    info = model.training_info.add()
    output = helper.make_tensor_value_info("next", TensorProto.FLOAT, [6, 3, 1, 1])
    less = helper.make_node("Neg", ["w1"], ["next"])
    info.algorithm.CopyFrom(helper.make_graph([less], "step", [], [output]))
    info.update_binding.add(key="w1", value="next")


@row(lambda m: node(m, "choice").attribute)
def bodies(model: ModelProto) -> None:
    """Loops, with weights and notes of their own, that read weights of the graph around them."""
    text = """(float[N,3,8,8] u, int64 times, bool go) => (float[2] held) {
        held = Loop(times, go, start) <
            body = once (int64 n, bool on, float[2] s) => (bool still, float[2] more)
            <float[2] own = {1.5, 2.5}>
            { still = Identity(on) t = Add(s, own) more = Mul(t, start) }
        >
    }"""
    graph = onnx.parser.parse_graph(f"loop {text}")
    graph.node[0].name = "choice"
    graph.node[0].attribute[0].g.doc_string = "a body"
    note(graph.node[0].attribute[0].g.metadata_props, "body")
    model.graph.node.extend(graph.node)
    model.graph.input.extend(graph.input[1:])
    model.graph.output.extend(graph.output)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "start"))


def same(a: ModelProto, b: ModelProto) -> bool:
    """Tell whether two models are the same, apart from the order of weights, which means nothing."""
    for model in (a, b):
        weights = sorted(model.graph.initializer, key=lambda t: t.name)
        del model.graph.initializer[:]
        model.graph.initializer.extend(weights)
    return bool(a == b)


def changed(name: str) -> tuple[ModelProto, Callable[[ModelProto], Any]]:
    """The chain of convolutions with one row's addition."""
    model = chain()
    for number, each in enumerate(model.graph.node):
        each.name = f"n{number}"
    change, read = ROWS[name]
    change(model)
    return model, read


@pytest.mark.parametrize("name", ROWS)
def test_unpruned_it_is_the_same_model(name: str) -> None:
    model, _ = changed(name)

    assert same(Graph.from_model(model).to_model(), model)


@pytest.mark.parametrize("name", ROWS)
def test_pruned_it_is_still_there(name: str) -> None:
    model, read = changed(name)
    result = shrunk(model)

    assert any(
        t.dims != s.dims
        for t, s in zip(model.graph.initializer, result.graph.initializer, strict=True)
    )
    assert read(result) == read(model)


@pytest.mark.parametrize("name", [n for n in ROWS if n != "attributes_of_every_type"])
def test_files_hold_the_same_model(name: str, tmp_path: Path) -> None:
    model, _ = changed(name)
    onnx.save(model, tmp_path / "a.onnx")
    save(load(tmp_path / "a.onnx"), tmp_path / "b.onnx")

    assert same(onnx.load(tmp_path / "b.onnx"), model)


ODD_TYPES = [
    number
    for name, number in TensorProto.DataType.items()
    if name not in {"UNDEFINED", "STRING", "BOOL", "FLOAT8E8M0"} and not name.startswith("COMPLEX")
]


@pytest.mark.parametrize("data_type", ODD_TYPES, ids=map(TensorProto.DataType.Name, ODD_TYPES))
def test_a_weight_of_any_type_can_be_cut(data_type: int) -> None:
    """Packed nibbles, and floats of 8 bits that share a storage type, keep type and values."""
    old = Weight(helper.make_tensor("w", data_type, [2, 3], [1, 0, 1, 1, 1, 0]))
    cut = old.replace(old.array[:, 1:]).to_proto("w")

    assert cut.data_type == data_type
    assert list(cut.dims) == [2, 2]
    found = numpy_helper.to_array(cut).astype(np.float32)
    np.testing.assert_array_equal(found, [[0, 1], [1, 0]])
    assert found.tobytes() == np.asarray(old.array[:, 1:]).astype(np.float32).tobytes()


def test_a_caller_may_still_feed_an_input_with_a_default() -> None:
    """The normal form computes with what is fed, not with the default."""
    model, _ = changed("an_input_with_a_default")
    graph = analyse(Graph.from_model(model)).graph
    feeds = {
        "u": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32),
        "gain": np.full((6, 1, 1), 0.1, np.float32),
    }
    expected, found = Session(model).run(feeds)["y"], Session(graph.to_model()).run(feeds)["y"]
    unfed = Session(model).run({"u": feeds["u"]})["y"]

    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(unfed - expected).max() > 0.01
    proved(model)
