from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.prove import prove
from onnxprune.structure.dependency import analyse
from onnxprune.structure.normal import normalise

HEADER = '<ir_version: 10, opset_import: ["" : 20]>'
WEIGHTS = """float[12,3,1,1] first = {%s}, float[12,12,1,1] second = {%s}"""


def model(body: str, constants: str) -> Graph:
    """Graph of x (N,3,4,4) -> Conv to 12 channels `wide` -> `body` makes `mixed` -> Conv -> y."""
    rng = np.random.default_rng(0)
    first, second = (", ".join(f"{v:.4f}" for v in rng.standard_normal(n)) for n in (36, 144))
    text = f"""{HEADER}
        agraph (float[N,3,4,4] x) => (float[N,12,4,4] y)
        <{WEIGHTS % (first, second)}, {constants}>
        {{
            wide = Conv(x, first)
            {body}
            y = Conv(mixed, second)
        }}"""
    return Graph.from_model(onnx.parser.parse_model(text))


SHUFFLE = """
    split = Reshape(wide, apart)
    copy1 = Identity(split)
    turned = Transpose<perm=[0,2,1,3,4]>(copy1)
    copy2 = Identity(turned)
    mixed = Reshape(copy2, together)"""
SHUFFLE_SHAPES = "int64[5] apart = {0, 3, 4, 4, 4}, int64[4] together = {0, 12, 4, 4}"
CHUNKS = """
    pieces = SplitToSequence<axis=1>(wide, length)
    one = SequenceAt(pieces, i0)
    two = SequenceAt(pieces, i1)
    mixed = Concat<axis=1>(two, one)"""
ORDER = """
    flat = Reshape(wide, minus)
    shape = Shape<start=0, end=1>(x)
    count = Mul(shape, each)
    none = Squeeze(count)
    range = Range(zero, none, one)
    index = Reshape(range, target)
    mixed = Gather<axis=0>(flat, index)"""
ORDER_CONSTANTS = """int64[1] minus = {-1}, int64[1] each = {192}, int64 zero = {0}, int64 one = {1},
    int64[4] target = {-1, 12, 4, 4}"""
DETOURS = {
    "shuffle": (SHUFFLE, SHUFFLE_SHAPES, ["Conv", "Gather", "Conv"]),
    "chunks": (
        CHUNKS,
        "int64 length = {6}, int64 i0 = {0}, int64 i1 = {1}",
        ["Conv", "Slice", "Slice", "Concat", "Conv"],
    ),
    "lengths": (
        CHUNKS,
        "int64[2] length = {5, 7}, int64 i0 = {0}, int64 i1 = {-1}",
        ["Conv", "Slice", "Slice", "Concat", "Conv"],
    ),
    "order": (ORDER, ORDER_CONSTANTS, ["Conv", "Reshape", "Reshape", "Conv"]),
}


@pytest.mark.parametrize("name", DETOURS)
def test_detours_become_the_simple_op(name: str) -> None:
    body, constants, expected = DETOURS[name]
    graph = model(body, constants)

    normal, _ = normalise(graph)

    assert [node.op_type for node in normal.nodes] == expected
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 3, 4, 4)).astype(np.float32)}
    before, after = Session(graph.to_model), Session(normal.to_model)
    np.testing.assert_array_equal(before.run(feeds)["y"], after.run(feeds)["y"])


@pytest.mark.parametrize("name", DETOURS)
def test_channels_pass_through_detours(name: str, rng: np.random.Generator) -> None:
    body, constants, _ = DETOURS[name]
    graph = model(body, constants)

    analysis = analyse(graph)

    assert sum(map(len, analysis.groups)) == 12  # one unit a channel: nothing is coupled or frozen
    units = np.concatenate([group.units for group in analysis.groups])
    mask = analysis.mask(rng.choice(units, 5, replace=False))
    assert prove(graph, mask, remove_channels(mask)).moved > 0.01


def ops(graph: Graph) -> list[str]:
    return [node.op_type for node in normalise(graph)[0].nodes]


def test_a_permutation_that_is_read_halfway_stays() -> None:
    body = SHUFFLE + "\n            seen = ReduceSum<keepdims=0>(turned)"
    graph = model(body, SHUFFLE_SHAPES)
    graph.shell.graph.output.append(onnx.helper.make_tensor_value_info("seen", 1, ()))

    assert "Gather" not in ops(graph)


def test_a_piece_at_an_unknown_place_stays() -> None:
    constants = "int64 length = {6}, int64 i0 = {0}, int64 i1 = {-1}"

    assert ops(model(CHUNKS, constants)).count("SequenceAt") == 1  # the last: of unknown start


def test_a_lookup_in_another_order_stays() -> None:
    backwards = ORDER.replace("Range(zero, none, one)", "Range(last, minus1, minus1)").replace(
        "none = Squeeze(count)", "none = Squeeze(count)\n    last = Sub(none, one)"
    )
    graph = model(backwards, f"{ORDER_CONSTANTS}, int64 minus1 = {{-1}}")

    assert "Gather" in ops(graph)


def test_the_given_model_is_left_as_it_is() -> None:
    graph = model(*DETOURS["chunks"][:2])
    before: ModelProto = graph.to_model()

    normalise(graph)

    assert graph.to_model() == before
