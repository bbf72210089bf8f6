"""Damage to the structure of a graph: what reads what, names, attributes, versions."""

from __future__ import annotations

from pathlib import Path

from onnx import AttributeProto, ModelProto, NodeProto, helper

from tests.hostile.bases import any_model, weight
from tests.hostile.registry import Rng, choose, kind, write

NUMBERS = (-(2**63), -(2**31), -17, -1, 0, 1, 2, 3, 7, 1000, 2**31 - 1, 2**31, 2**40, 2**63 - 1)
REALS = (float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e-45, 1e38)


def _node(model: ModelProto, rng: Rng) -> NodeProto:
    return choose(rng, list(model.graph.node))  # type: ignore[no-any-return]


@kind(3)
def node_dropped(rng: Rng, folder: Path) -> None:
    model = any_model(rng)
    del model.graph.node[int(rng.integers(len(model.graph.node)))]
    write(model, folder)


@kind(3)
def node_twice(rng: Rng, folder: Path) -> None:
    model = any_model(rng)
    model.graph.node.add().CopyFrom(_node(model, rng))
    write(model, folder)


@kind(3)
def nodes_shuffled(rng: Rng, folder: Path) -> None:
    model = any_model(rng)
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes[i] for i in rng.permutation(len(nodes)))
    write(model, folder)


@kind(3)
def cycle(rng: Rng, folder: Path) -> None:
    """Some node reads what a later one, or itself, makes."""
    model = any_model(rng)
    reader = _node(model, rng)
    if reader.input:
        maker = _node(model, rng)
        reader.input[int(rng.integers(len(reader.input)))] = maker.output[0]
    write(model, folder)


@kind(4)
def another_operand(rng: Rng, folder: Path) -> None:
    """An operand is some other tensor of the model: another rank, type or length."""
    model = any_model(rng)
    node = _node(model, rng)
    names = [t.name for t in model.graph.initializer] + [v.name for v in model.graph.input]
    names += [o for n in model.graph.node for o in n.output] + ["", "nothing"]
    if node.input:
        node.input[int(rng.integers(len(node.input)))] = choose(rng, names)
    write(model, folder)


@kind(3)
def operands_missing_or_more(rng: Rng, folder: Path) -> None:
    model = any_model(rng)
    node = _node(model, rng)
    slots = choose(rng, [node.input, node.output])
    if rng.random() < 0.6:
        del slots[int(rng.integers(len(slots) + 1)) :]
    else:
        slots.extend([choose(rng, ["", "extra", *slots])] * int(choose(rng, [1, 2, 300])))
    write(model, folder)


@kind(3)
def another_operator(rng: Rng, folder: Path) -> None:
    """An operator's type is another's: attributes and operands do not fit."""
    model, other = any_model(rng), any_model(rng)
    more = ["", "Nothing", "Conv ", "conv", "NonZero", "SequenceEmpty", "Scan", "Einsum", "Unique"]
    _node(model, rng).op_type = choose(rng, [n.op_type for n in other.graph.node] + more)
    write(model, folder)


@kind(2)
def another_domain(rng: Rng, folder: Path) -> None:
    model = any_model(rng)
    domains = ["com.microsoft", "ai.onnx", "ai.onnx.ml", "evil", "ai.onnx.training", " "]
    _node(model, rng).domain = choose(rng, domains)
    if rng.random() < 0.5:
        version = choose(rng, [1, 0, -1, 2**62])
        model.opset_import.append(helper.make_opsetid(choose(rng, domains), version))
    write(model, folder)


@kind(2)
def names_taken_twice(rng: Rng, folder: Path) -> None:
    """Two tensors, weights, inputs or outputs of one name."""
    model = any_model(rng)
    graph = model.graph
    held = [graph.initializer, graph.input, graph.output]
    a, b = choose(rng, held), choose(rng, held)
    if rng.random() < 0.3:
        _node(model, rng).output[0] = choose(rng, list(a)).name
    elif rng.random() < 0.5:
        a.add().CopyFrom(choose(rng, list(a)))
    else:
        choose(rng, list(a)).name = choose(rng, list(b)).name
    write(model, folder)


@kind(2)
def names_lost(rng: Rng, folder: Path) -> None:
    model = any_model(rng)
    graph = model.graph
    held = choose(rng, [graph.initializer, graph.input, graph.output])
    choose(rng, list(held)).name = choose(rng, ["", "elsewhere", "x" * 100_000])
    write(model, folder)


@kind(3)
def part_missing(rng: Rng, folder: Path) -> None:
    """No inputs, no outputs, no weights, no opset, no IR version, ..."""
    model = any_model(rng)
    graph = model.graph
    held = choose(
        rng, [graph.initializer, graph.input, graph.output, graph.node, model.opset_import]
    )
    if rng.random() < 0.2:
        model.ClearField(choose(rng, ["ir_version", "graph"]))
    elif rng.random() < 0.5:
        del held[:]
    elif held:
        del held[int(rng.integers(len(held)))]
    write(model, folder)


@kind(2)
def versions(rng: Rng, folder: Path) -> None:
    model = any_model(rng)
    model.ir_version = int(choose(rng, [model.ir_version, *NUMBERS]))
    version = int(choose(rng, [*NUMBERS, *range(1, 30)]))
    if rng.random() < 0.3:
        model.opset_import.append(helper.make_opsetid("", version))
    else:
        model.opset_import[0].version = version
    write(model, folder)


@kind(8)
def attribute_value(rng: Rng, folder: Path) -> None:
    """Numbers of attributes: negative, zero, huge, not finite, too few, too many."""
    model = any_model(rng)
    with_some = [n for n in model.graph.node if n.attribute]
    if not with_some:
        with_some = [model.graph.node[0]]
        with_some[0].attribute.append(helper.make_attribute("axis", [0, 1]))
    attribute = choose(rng, list(choose(rng, with_some).attribute))
    attribute.i = int(choose(rng, NUMBERS))
    attribute.f = float(choose(rng, REALS))
    attribute.s = choose(rng, [b"", b"NOTSET", b"SAME_UPPER", b"\xff\xfe", b"linear" * 1000])
    for i in range(len(attribute.ints)):
        if rng.random() < 0.5:
            attribute.ints[i] = int(choose(rng, NUMBERS))
    if rng.random() < 0.3 and attribute.ints:
        attribute.ints.extend(attribute.ints[:1] * int(choose(rng, [1, 3, 10_000])))
    write(model, folder)


@kind(3)
def attribute_type(rng: Rng, folder: Path) -> None:
    model = any_model(rng)
    node = _node(model, rng)
    node.attribute.append(helper.make_attribute("axis", 1))
    attribute = choose(rng, list(node.attribute))
    attribute.type = int(rng.integers(0, 15))
    if rng.random() < 0.3:
        attribute.ref_attr_name = "elsewhere"
    write(model, folder)


@kind(3)
def attribute_missing_or_twice(rng: Rng, folder: Path) -> None:
    model = any_model(rng)
    node = choose(rng, [n for n in model.graph.node if n.attribute] or list(model.graph.node))
    if node.attribute and rng.random() < 0.6:
        del node.attribute[int(rng.integers(len(node.attribute)))]
    elif node.attribute:
        node.attribute.add().CopyFrom(choose(rng, list(node.attribute)))
    else:
        node.attribute.append(helper.make_attribute("unheard_of", [1, 2]))
    write(model, folder)


@kind(2)
def function_calls_itself(rng: Rng, folder: Path) -> None:
    """Directly, in a ring of two, or doubling at every level: 2^40 nodes when inlined."""
    model = any_model(rng, "function")
    form = int(rng.integers(3))
    first = model.functions[0]
    if form == 0:
        first.node.append(helper.make_node("twice", ["q"], ["r"], domain="own"))
    elif form == 1:
        second = model.functions.add()
        second.CopyFrom(first)
        second.name = "again"
        first.node[0].CopyFrom(helper.make_node("again", ["p"], ["q"], domain="own"))
        second.node[0].CopyFrom(helper.make_node("twice", ["p"], ["q"], domain="own"))
    else:
        name = "twice"
        for level in range(int(choose(rng, [5, 12, 40]))):
            deeper = model.functions.add()
            deeper.CopyFrom(first)
            deeper.name = f"level{level}"
            del deeper.node[:]
            deeper.node.append(helper.make_node(name, ["p"], ["t"], domain="own"))
            deeper.node.append(helper.make_node(name, ["t"], ["q"], domain="own"))
            name = deeper.name
        model.graph.node[1].op_type = name
    if form < 2:
        for function in model.functions:
            function.opset_import.append(helper.make_opsetid("own", 1))
    else:
        for function in model.functions:
            function.opset_import.append(helper.make_opsetid("own", 1))
    write(model, folder)


@kind(2)
def functions_damaged(rng: Rng, folder: Path) -> None:
    model = any_model(rng, "function")
    function = model.functions[0]
    form = int(rng.integers(6))
    if form == 0:
        model.functions.add().CopyFrom(function)
    elif form == 1:
        function.input.extend(["p", "extra"])
    elif form == 2:
        del function.output[:]
    elif form == 3:
        function.opset_import[0].version = int(choose(rng, NUMBERS))
    elif form == 4:
        function.node[0].input[0] = "nothing"
    else:
        function.attribute.append("needed")
    write(model, folder)


@kind(3)
def bodies_damaged(rng: Rng, folder: Path) -> None:
    """Bodies of If and Loop: faces that do not match, captures of nothing, names of the outside."""
    model = any_model(rng, "branches", "loop")
    graphs = [a.g for n in model.graph.node for a in n.attribute if a.type == AttributeProto.GRAPH]
    body = choose(rng, graphs)
    form = int(rng.integers(6))
    if form == 0:
        body.node[0].input[0] = choose(rng, ["nothing", "y", body.node[0].output[0]])
    elif form == 1:
        body.ClearField("output")
    elif form == 2:
        body.output.extend(list(body.output) * 3)
    elif form == 3:
        body.ClearField("input" if body.input else "node")
    elif form == 4:
        body.node[0].output[0] = choose(rng, ["x", "y", ""])
    else:
        body.initializer.add().CopyFrom(weight(model, rng))
    write(model, folder)
