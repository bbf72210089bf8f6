"""Small files that ask for enormous tensors or endless work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.hostile.bases import any_model
from tests.hostile.registry import Rng, choose, kind, write

_SIZES = (10**5, 10**7, 10**9, 10**12, 2**62)


def _prepend(model: ModelProto, nodes: list[NodeProto], **weights: object) -> None:
    """Put nodes in front of all others."""
    copies = [NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *copies])
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def _read_by_all(model: ModelProto, bomb: str) -> None:
    """Let the graph's first node depend on the bomb: on its mean, added to its operand."""
    node = model.graph.node[0]
    keep = helper.make_node("ReduceMean", [bomb], ["calm"], keepdims=0)
    join = helper.make_node("Add", [node.input[0], "calm"], ["joined"])
    node.input[0] = "joined"
    _prepend(model, [keep, join])


def _shape(rng: Rng) -> np.ndarray:
    rank = int(rng.integers(1, 4))
    return np.array([int(choose(rng, (1, 3, *_SIZES))) for _ in range(rank)], np.int64)


@kind(4)
def computed_constant(rng: Rng, folder: Path) -> None:
    """ConstantOfShape, Expand, Tile, Range, Pad, Resize, ... of constants: folding would make it."""
    model = any_model(rng, "dense", "chain")
    size = int(choose(rng, _SIZES))
    form = int(rng.integers(8))
    weights: dict[str, object] = {"bs": _shape(rng)}
    one = {"b1_": np.ones((1, 1), np.float32)}
    if form == 0:
        nodes = [helper.make_node("ConstantOfShape", ["bs"], ["bomb"])]
    elif form == 1:
        nodes, weights = [helper.make_node("Expand", ["b1_", "bs"], ["bomb"])], weights | one
    elif form == 2:
        nodes = [helper.make_node("Tile", ["b1_", "bs"], ["bomb"])]
        weights = one | {"bs": np.array([3, size])}
    elif form == 3:
        nodes = [helper.make_node("Range", ["lo", "hi", "by"], ["bomb"])]
        weights = {
            "lo": np.float32(0),
            "hi": np.float32(size),
            "by": np.float32(choose(rng, [1, 1e-9, 0])),
        }
    elif form == 4:
        nodes = [helper.make_node("Pad", ["b1_", "bs"], ["bomb"])]
        weights = one | {"bs": np.array([0, 0, 1, size])}
    elif form == 5:
        nodes = [helper.make_node("Resize", ["b4", "", "", "bs"], ["bomb"], mode="nearest")]
        weights = {"b4": np.ones((1, 1, 2, 2), np.float32), "bs": np.array([1, 1, 2, size])}
    elif form == 6:
        nodes = [helper.make_node("OneHot", ["ix", "depth", "vals"], ["bomb"])]
        weights = {
            "ix": np.arange(3),
            "depth": np.array(size),
            "vals": np.array([0, 1], np.float32),
        }
    else:
        nodes = [helper.make_node("EyeLike", ["wide"], ["bomb"], dtype=1)]
        nodes.insert(0, helper.make_node("ConstantOfShape", ["bs"], ["wide"]))
        weights = {"bs": np.array([size, choose(rng, [1, size])])}
    _read_by_all(model, "bomb")
    _prepend(model, nodes, **weights)
    write(model, folder)


@kind(3)
def doubling(rng: Rng, folder: Path) -> None:
    """Each node doubles what the one before made; of a constant or of the input."""
    model = any_model(rng, "dense", "chain")
    start = choose(rng, ["seed_", model.graph.input[0].name])
    nodes, now = [], start
    for level in range(int(choose(rng, [8, 22, 30, 60]))):
        nodes.append(helper.make_node("Concat", [now, now], [f"d{level}"], axis=0))
        now = f"d{level}"
    _read_by_all(model, now)
    _prepend(model, nodes, seed_=np.ones(4, np.float32))
    write(model, folder)


@kind(3)
def outer_product(rng: Rng, folder: Path) -> None:
    """Broadcasting, or a matrix product of thin matrices, makes a giant of two vectors."""
    model = any_model(rng, "dense", "chain")
    size = int(choose(rng, [1000, 30_000, 300_000]))
    op = choose(rng, ["Add", "MatMul", "Equal"])
    nodes = [helper.make_node(op, ["tall", "flat"], ["raw"])]
    nodes.append(helper.make_node("Cast", ["raw"], ["bomb"], to=TensorProto.FLOAT))
    _read_by_all(model, "bomb")
    tall, flat = np.ones((size, 1), np.float32), np.ones((1, size), np.float32)
    _prepend(model, nodes, tall=tall, flat=flat)
    write(model, folder)


@kind(3)
def input_that_sets_sizes(rng: Rng, folder: Path) -> None:
    """A shape computed from the values of the input: nobody knows it before the run."""
    model = any_model(rng, "dense", "chain")
    name = model.graph.input[0].name
    nodes = [
        helper.make_node("ReduceMax", [name], ["most"], keepdims=0),
        helper.make_node("Abs", ["most"], ["positive"]),
        helper.make_node("Mul", ["positive", "times"], ["far"]),
        helper.make_node("Cast", ["far"], ["count"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["count", "minus"], ["bs"]),
    ]
    form = int(rng.integers(3))
    if form == 0:
        nodes.append(helper.make_node("ConstantOfShape", ["bs"], ["bomb"]))
    elif form == 1:
        nodes.append(helper.make_node("Expand", ["times", "bs"], ["bomb"]))
    else:
        nodes.append(helper.make_node("Range", ["none", "far", "step"], ["bomb"]))
    _read_by_all(model, "bomb")
    weights = {"times": np.float32(choose(rng, _SIZES)), "minus": np.array([-1])}
    _prepend(model, nodes, **weights, none=np.float32(0), step=np.float32(1))
    write(model, folder)


@kind(3)
def endless_loop(rng: Rng, folder: Path) -> None:
    """A Loop of quintillions of rounds, or one whose state doubles each round, or nested ones."""
    model = any_model(rng, "loop")
    loop = model.graph.node[0]
    body = loop.attribute[0].g
    rounds = int(choose(rng, [10**3, 10**7, 2**62, -5]))
    number = next(t for t in model.graph.initializer if t.name == "n")
    form = int(rng.integers(4))
    number.CopyFrom(numpy_helper.from_array(np.array(rounds), "n"))
    if form == 1:
        body.node[1].CopyFrom(helper.make_node("Concat", ["s", "s"], ["so"], axis=0))
    elif form == 2:
        loop.input[0] = ""
    elif form == 3:
        inner = NodeProto.FromString(loop.SerializeToString())
        inner.input[2], inner.output[0] = "s", "so"
        body.node[1].CopyFrom(inner)
    write(model, folder)


@kind(3)
def giant_faces(rng: Rng, folder: Path) -> None:
    """Inputs of fixed sizes that no machine holds, or that take for ever."""
    model = any_model(rng)
    value = model.graph.input[0]
    for dim in value.type.tensor_type.shape.dim:
        if rng.random() < 0.6:
            dim.Clear()
            dim.dim_value = int(choose(rng, (512, 4096, *_SIZES)))
    write(model, folder)


@kind(2)
def giant_attributes(rng: Rng, folder: Path) -> None:
    """Kernels, strides, pads and dilations of a convolution or pool that are enormous."""
    model = any_model(rng, "chain", "flatten", "depthwise", "pyramid", "listed")
    nodes = [
        n for n in model.graph.node if n.op_type in {"Conv", "MaxPool", "ConvTranspose", "Pad"}
    ]
    node = choose(rng, nodes)
    name = choose(rng, ["pads", "strides", "dilations", "kernel_shape", "output_padding"])
    length = 4 if name == "pads" else 2
    for attribute in list(node.attribute):
        if attribute.name == name:
            node.attribute.remove(attribute)
    sizes = [int(choose(rng, (1, 100, 10**4, 10**6, 2**31, 2**62))) for _ in range(length)]
    node.attribute.append(helper.make_attribute(name, sizes))
    write(model, folder)


@kind(2)
def long_recurrence(rng: Rng, folder: Path) -> None:
    model = any_model(rng, "recurrent")
    shape = model.graph.input[0].type.tensor_type.shape
    shape.dim[0].dim_value = int(choose(rng, [1000, 10**5, 10**7, 10**9]))
    if rng.random() < 0.3:
        model.graph.node[1].attribute[0].i = int(choose(rng, [0, -4, 5, 2**40]))
    write(model, folder)


@kind(1)
def sequences(rng: Rng, folder: Path) -> None:
    """An axis split into as many pieces as it is long."""
    model = any_model(rng, "dense")
    size = int(choose(rng, [100, 10**5, 10**8]))
    nodes = [
        helper.make_node("ConstantOfShape", ["bs"], ["long"]),
        helper.make_node("SplitToSequence", ["long"], ["many"], axis=0),
        helper.make_node("SequenceAt", ["many", "at"], ["bomb"]),
    ]
    _read_by_all(model, "bomb")
    _prepend(model, nodes, bs=np.array([size]), at=np.array(int(choose(rng, [0, -1, 10**9]))))
    write(model, folder)


@kind(2)
def equation(rng: Rng, folder: Path) -> None:
    """Einsum whose result is a giant, or whose equation is nonsense."""
    model = any_model(rng, "dense")
    text = choose(
        rng,
        ["ab,cd->abcd", "ab,cd,ef->abcdef", "ab,ab->", "", "->", "ab,bc->ad", "...,...", "a" * 60 + ",b->",
         "ab,cd->aa", "a,b,c", "...ab,...->..." ],
    )  # fmt: skip
    first = model.graph.node[0]
    count = text.count(",") + 1
    nodes = [helper.make_node("Einsum", ["wide"] * count, ["bomb"], equation=text)]
    _read_by_all(model, "bomb")
    assert first.op_type == "MatMul"
    _prepend(model, nodes, wide=np.ones((60, 60), np.float32))
    write(model, folder)
