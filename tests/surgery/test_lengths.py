"""Surgery rewrites positions and lengths wherever they are written."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxprune.passes.surgery.channels import remove_channels
from tests.handmade import examined, handmade, ints, proved
from tests.surgery.common import only, option_a, sliced, value, without


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


@pytest.mark.parametrize("opset", [9, 11, 18, 21])
def test_option_a_shortcut(opset: int) -> None:
    """The old channels run through; the four new ones are the block's own and go one by one."""
    analysis = proved(option_a(opset))

    sizes = {tuple(sorted(m.tensor for m in g.members)): len(g) for g in analysis.groups}
    assert sizes == {
        ("b1", "b3", "stem", "w1", "w2", "w3"): 4,
        ("b2", "w1", "w2"): 8,
        ("b3", "w2", "w3"): 4,
    }


def test_the_padding_of_option_a_follows_what_is_kept() -> None:
    analysis = examined(option_a(18))
    new = next(g for g in analysis.groups if {m.tensor for m in g.members} == {"b3", "w2", "w3"})
    first_and_last = analysis.mask(new.units[[0, 3]])
    pruned = remove_channels(first_and_last).to_model()

    assert value(pruned, only(pruned, "Pad").input[1]) == [0, 1, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("start", "end", "step", "count"),
    [(1, 7, 1, 6), (0, 8, 2, 4), (-3, 2**62, 1, 3), (7, -99, -1, 8), (-2, 0, -3, 2), (1, -1, 1, 6)],
)
def test_slices_of_channels(start: int, end: int, step: int, count: int) -> None:
    proved(sliced(start, end, step, count=count), draws=6)


def test_a_slice_stays_a_slice_where_it_can() -> None:
    analysis = examined(sliced(1, 7, 1, count=6))
    pruned = without(analysis, "w1", 2, 5)
    node = only(pruned, "Slice")

    assert [value(pruned, name) for name in node.input[1:]] == [[1], [5], [1], [1]]


def test_a_slice_becomes_a_gather_where_it_must() -> None:
    """0 2 4 6 of eight, without 1 and 4, is 0 1 4 of six: no regular run."""
    analysis = examined(sliced(0, 8, 2, count=4))
    pruned = without(analysis, "w1", 1, 4)

    assert [n.op_type for n in pruned.graph.node] == ["Conv", "Slice", "Gather", "Conv"]
    assert value(pruned, only(pruned, "Gather").input[1]) == [0, 1, 4]


def test_a_gather_keeps_the_type_and_order_of_its_index() -> None:
    analysis = examined(
        handmade(
            """(float[N,3,4,4] u) => (float[N,2,4,4] y) {
                a = Conv(u, w1, b1)
                b = Gather<axis=1>(a, index)
                y = Conv(b, w2)
            }""",
            w1=(4, 3, 1, 1), b1=(4,), w2=(2, 4, 1, 1), index=np.array([3, -4, 2, 1], np.int32),
        )
    )  # fmt: skip
    pruned = without(analysis, "w1", 1)
    (index,) = (t for t in pruned.graph.initializer if t.name == only(pruned, "Gather").input[1])

    assert index.data_type == onnx.TensorProto.INT32
    assert value(pruned, index.name) == [2, 0, 1]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (-1, -2), (2, -1), (-3, 0)])
def test_channels_padded_and_cropped(before: int, after: int) -> None:
    proved(
        handmade(
            """(float[N,3,4,4] u) => (float[N,2,4,4] y) {
                a = Conv(u, w1, b1)
                b = Pad(a, pads, half)
                y = Conv(b, w2)
            }""",
            w1=(6, 3, 1, 1), b1=(6,), w2=(2, 6 + before + after, 1, 1),
            pads=ints(0, before, 0, 0, 0, after, 0, 0), half=np.array(0.5, np.float32),
        ),
        draws=6,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "opset"),
    [
        ("Split<axis=1>(a)", 9),
        ("Split<axis=1, split=[3,3]>(a)", 11),
        ("Split<axis=1>(a)", 13),
        ("Split<axis=1>(a, lengths)", 13),
        ("Split<axis=1, num_outputs=2>(a)", 18),
        ("Split<axis=1>(a, lengths)", 21),
    ],
)
def test_pieces_of_a_split_in_every_form(text: str, opset: int) -> None:
    given: dict[str, Any] = {"lengths": ints(3, 3)} if "lengths" in text else {}
    proved(
        handmade(
            f"""(float[N,3,4,4] u) => (float[N,2,4,4] y, float[N,2,4,4] z) {{
                a = Conv(u, w1, b1)
                b, c = {text}
                y = Conv(b, w2)
                z = Conv(c, w3)
            }}""",
            opset=opset, w1=(6, 3, 1, 1), b1=(6,), w2=(2, 3, 1, 1), w3=(2, 3, 1, 1), **given,
        )
    )  # fmt: skip


def test_equal_pieces_that_are_equal_no_longer_list_their_lengths() -> None:
    analysis = examined(
        handmade(
            """(float[N,3,4,4] u) => (float[N,2,4,4] y, float[N,2,4,4] z) {
                a = Conv(u, w1, b1)
                b, c = Split<axis=1, num_outputs=2>(a)
                y = Conv(b, w2)
                z = Conv(c, w3)
            }""",
            w1=(6, 3, 1, 1), b1=(6,), w2=(2, 3, 1, 1), w3=(2, 3, 1, 1),
        )
    )  # fmt: skip
    units = next(
        g for g in analysis.groups if ("w2", 1) in {(m.tensor, m.axis) for m in g.members}
    ).units
    pruned = remove_channels(analysis.mask(units[:1])).to_model()
    node = only(pruned, "Split")

    assert value(pruned, node.input[1]) == [2, 3]
    assert attributes(node) == {"axis": 1}


def test_group_counts_are_written() -> None:
    analysis = examined(
        handmade(
            """(float[N,3,4,4] u) => (float[N,2,4,4] y) {
                a = Conv(u, w1, b1)
                b = Conv<group=6>(a, w2, b2)
                y = Conv(b, w3)
            }""",
            w1=(6, 3, 1, 1), b1=(6,), w2=(6, 1, 1, 1), b2=(6,), w3=(2, 6, 1, 1),
        )
    )  # fmt: skip
    pruned = without(analysis, "w1", 0, 4)

    assert [attributes(n).get("group") for n in pruned.graph.node] == [None, 4, None]
