"""Damage to what a graph says of itself: inputs, outputs, shapes, constants, its length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.hostile.bases import any_model, weight
from tests.hostile.graphs import NUMBERS
from tests.hostile.registry import Rng, choose, kind, write


@kind(3)
def faces(rng: Rng, folder: Path) -> None:
    """Types and shapes of inputs and outputs: unknown, absurd, not what the graph computes."""
    model = any_model(rng)
    value = choose(rng, [*model.graph.input, *model.graph.output])
    tensor = value.type.tensor_type
    form = int(rng.integers(6))
    if form == 0:
        tensor.elem_type = int(choose(rng, [0, 1, 7, 8, 9, 10, 16, 99, -1]))
    elif form == 1:
        value.ClearField("type")
    elif form == 2:
        tensor.ClearField("shape")
    elif form == 3 and tensor.shape.dim:
        choose(rng, list(tensor.shape.dim)).dim_value = int(choose(rng, NUMBERS))
    elif form == 4:
        for _ in range(int(choose(rng, [1, 5, 70, 1000]))):
            tensor.shape.dim.add().dim_value = int(choose(rng, [1, 2, 1]))
    else:
        choose(rng, list(tensor.shape.dim) or [tensor.shape.dim.add()]).dim_param = "N\n" * 3
    write(model, folder)


@kind(2)
def faces_of_other_types(rng: Rng, folder: Path) -> None:
    model = any_model(rng)
    value = choose(rng, [*model.graph.input, *model.graph.output])
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, [2, None])
    makers = (
        helper.make_sequence_type_proto,
        helper.make_optional_type_proto,
        lambda e: helper.make_map_type_proto(TensorProto.INT64, e),
        lambda _: helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [2, 3]),
    )
    value.type.CopyFrom(choose(rng, makers)(element))
    write(model, folder)


@kind(2)
def shapes_that_lie(rng: Rng, folder: Path) -> None:
    """Inner shapes on record that are not those computed."""
    model = any_model(rng)
    for node in model.graph.node:
        if rng.random() < 0.5:
            shape = [int(choose(rng, [0, 1, 3, 10**9, 2**62, -5])) for _ in range(rng.integers(6))]
            kinds = [TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, 77]
            value = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, shape)
            value.type.tensor_type.elem_type = choose(rng, kinds)
            model.graph.value_info.append(value)
    write(model, folder)


@kind(2)
def constants_of_nodes(rng: Rng, folder: Path) -> None:
    """Constant nodes with several values, none, or a damaged tensor."""
    model = any_model(rng)
    tensor = weight(model, rng)
    node = model.graph.node.add()
    node.op_type = "Constant"
    node.output.append(tensor.name)
    form = int(rng.integers(4))
    if form > 0:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.ones(3))))
    if form > 1:
        node.attribute[0].t.dims[0] = int(choose(rng, [-1, 0, 4, 2**40]))
    if form > 2:
        node.attribute.append(helper.make_attribute("value_ints", [1, 2]))
    model.graph.initializer.remove(tensor)
    nodes = [node, *model.graph.node[:-1]]
    copies = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    write(model, folder)


@kind(1)
def many_nodes(rng: Rng, folder: Path) -> None:
    """A chain of thousands of nodes, or one node with thousands of operands."""
    model = any_model(rng, "dense")
    last = model.graph.node[2]
    assert last.op_type == "Relu"
    count = int(choose(rng, [500, 2000]))
    source = last.input[0]
    if rng.random() < 0.5:
        nodes = [
            helper.make_node("Relu", [f"r{i}" if i else source], [f"r{i + 1}"])
            for i in range(count)
        ]
        last.input[0] = f"r{count}"
    else:
        nodes = [helper.make_node("Sum", [source] * count, ["r"])]
        last.input[0] = "r"
    copies = [NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*copies[:2], *nodes, *copies[2:]])
    write(model, folder)
