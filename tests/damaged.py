"""Models that are damaged one way each, and what is said of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, external_data_helper, helper

from tests.networks import NETWORKS


def chain() -> ModelProto:
    return NETWORKS["chain"].model()


def not_onnx() -> None:
    Path("m.onnx").write_text("import numpy as np\n" * 50)


def truncated() -> None:
    Path("m.onnx").write_bytes(Path("m.onnx").read_bytes()[:-500])


def empty() -> None:
    Path("m.onnx").write_bytes(b"")


def missing() -> None:
    Path("m.onnx").unlink()


def external_missing() -> None:
    onnx.save(chain(), "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    Path("m.bin").unlink()


def external_outside() -> None:
    model = chain()
    external_data_helper.convert_model_to_external_data(model, location="m.bin", size_threshold=0)
    onnx.save(model, "m.onnx")
    shutil.move("m.bin", "../m.bin")
    model = onnx.load("m.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../m.bin"
    Path("m.onnx").write_bytes(model.SerializeToString())


def opset_too_new() -> None:
    model = chain()
    model.opset_import[0].version = 99
    Path("m.onnx").write_bytes(model.SerializeToString())


def ir_too_new() -> None:
    model = chain()
    model.ir_version = 99
    Path("m.onnx").write_bytes(model.SerializeToString())


def unknown_op() -> None:
    model = chain()
    model.graph.node[2].op_type = "Rellu"
    Path("m.onnx").write_bytes(model.SerializeToString())


def damaged(damage: Callable[[ModelProto], None]) -> Callable[[], None]:
    """Return what damages the message of the good model and writes it."""

    def write() -> None:
        model = chain()
        damage(model)
        Path("m.onnx").write_bytes(model.SerializePartialToString())

    write.__name__ = damage.__name__
    return write


@damaged
def no_text(model: ModelProto) -> None:
    model.ParseFromString(model.SerializeToString().replace(b"n_scale", b"n_\xff\xfe\xfdle"))


@damaged
def opset_below_one(model: ModelProto) -> None:
    model.opset_import[0].version = -3


@damaged
def endless_calls(model: ModelProto) -> None:
    node = helper.make_node("f", ["a"], ["b"], domain="own")
    opsets = [helper.make_opsetid("own", 1)]
    model.functions.append(helper.make_function("own", "f", ["a"], ["b"], [node], opsets))
    model.opset_import.extend(opsets)


@damaged
def doubling_calls(model: ModelProto) -> None:
    """Forty functions, each of which calls the one before twice: 2^40 nodes."""
    opsets = [helper.make_opsetid("own", 1), helper.make_opsetid("", 17)]
    model.opset_import.append(opsets[0])
    for level in range(40):
        inner, domain = (f"f{level - 1}", "own") if level else ("Relu", "")
        nodes = [helper.make_node(inner, [a], [b], domain=domain) for a, b in ("at", "tb")]
        model.functions.append(
            helper.make_function("own", f"f{level}", ["a"], ["b"], nodes, opsets)
        )


@damaged
def giant_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 10**12


@damaged
def giant_constant(model: ModelProto) -> None:
    """A constant of 4 TB, made of two numbers."""
    shape = onnx.numpy_helper.from_array(np.array([10**6, 10**6]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["bomb"]))
    model.graph.node.insert(1, helper.make_node("ReduceMean", ["bomb"], ["calm"], keepdims=0))
    model.graph.node.insert(2, helper.make_node("Add", ["x", "calm"], ["joined"]))
    model.graph.node[3].input[0] = "joined"


@damaged
def hundred_axes(model: ModelProto) -> None:
    model.graph.initializer[0].dims.extend([1] * 96)


@damaged
def segment(model: ModelProto) -> None:
    model.graph.initializer[0].segment.end = 10


@damaged
def unknown_type_of_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 99


@damaged
def control_characters(model: ModelProto) -> None:
    model.graph.node[0].op_type = "\x1b[2JConv"


def linked_data() -> None:
    onnx.save(chain(), "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    Path("m.bin").rename("real.bin")
    Path("m.bin").symlink_to("real.bin")


def endless_name() -> None:
    external_data(chain(), "x" * 5000)


def external_data(model: ModelProto, location: str) -> None:
    """Write the model with data in a file that is not there."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    Path("m.onnx").write_bytes(model.SerializeToString())


def pipe() -> None:
    Path("m.onnx").unlink()
    os.mkfifo("m.onnx")


MODELS: list[tuple[Callable[[], None], str]] = [
    (not_onnx, "not an ONNX file"),
    (truncated, "truncated"),
    (empty, "is empty"),
    (missing, "No such file"),
    (external_missing, "m.bin"),
    (external_outside, "../m.bin"),
    (opset_too_new, "opset 99"),
    (ir_too_new, "IR version 99"),
    (unknown_op, "Rellu"),
    (no_text, "no UTF-8 text"),
    (opset_below_one, "opset -3"),
    (endless_calls, "calls itself"),
    (doubling_calls, "inlined"),
    (giant_input, "ONNXPRUNE_MEMORY"),
    (giant_constant, "ONNXPRUNE_MEMORY"),
    (hundred_axes, "100 axes"),
    (segment, "segment"),
    (unknown_type_of_input, "unknown element type 99"),
    (control_characters, "\\x1b[2JConv"),
    (linked_data, "a link to"),
    (endless_name, "File name too long"),
    (pipe, "no regular file"),
]
