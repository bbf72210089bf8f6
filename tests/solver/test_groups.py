"""Units and groups of hand-made graphs: which channels go together."""

from __future__ import annotations

import numpy as np

from tests.handmade import group_of, groups_of, handmade, ints, members, proved
from tests.solver.common import rows, singles


def test_a_chain_has_a_group_for_each_layer_between_input_and_output() -> None:
    analysis = proved(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                a = Conv(u, w1, b1)
                b = Relu(a)
                c = Conv<pads=[1,1,1,1]>(b, w2, b2)
                y = Conv(c, w3)
            }""",
            w1=(8, 3, 1, 1), b1=(8,), w2=(6, 8, 3, 3), b2=(6,), w3=(2, 6, 1, 1),
        )
    )  # fmt: skip

    assert members(analysis) == [
        {("w1", 0), ("b1", 0), ("w2", 1)},
        {("w2", 0), ("b2", 0), ("w3", 1)},
    ]
    assert rows(analysis.groups[0], "w1") == singles(8)
    assert all(group.exact and group.multiplicity == 1 for group in analysis.groups)
    assert {f.tensor: f.reason for f in analysis.frozen} == {"w3": "graph output 'y'"}


def test_everything_added_into_one_stream_is_one_group() -> None:
    analysis = proved(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                a = Conv(u, stem, b1)
                b = Conv(a, inner, b2)
                c = Conv(b, outer, b3)
                d = Add(a, c)
                e = Conv(d, last, b4)
                f = Add(d, e)
                y = Conv(f, head)
            }""",
            stem=(8, 3, 1, 1), inner=(6, 8, 1, 1), outer=(8, 6, 1, 1), last=(8, 8, 1, 1), head=(2, 8, 1, 1),
            b1=(8,), b2=(6,), b3=(8,), b4=(8,),
        )
    )  # fmt: skip
    stream, inner = analysis.groups

    assert {m.tensor for m in stream.members} == {
        "stem", "inner", "outer", "last", "head", "b1", "b3", "b4",
    }  # fmt: skip
    assert {m.tensor for m in inner.members} == {"inner", "outer", "b2"}


def test_concatenated_pieces_stay_apart() -> None:
    analysis = proved(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                a = Conv(u, w1, b1)
                b = Conv(a, w2, b2)
                c = Concat<axis=1>(a, b)
                y = Conv(c, w3)
            }""",
            w1=(4, 3, 1, 1), b1=(4,), w2=(6, 4, 1, 1), b2=(6,), w3=(2, 10, 1, 1),
        )
    )  # fmt: skip

    assert rows(group_of(analysis, "w1"), "w3", 1) == singles(4)
    assert rows(group_of(analysis, "w2"), "w3", 1) == {(i,) for i in range(4, 10)}


def test_a_tensor_concatenated_with_itself_is_coupled_with_itself() -> None:
    analysis = proved(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                a = Conv(u, w1, b1)
                b = Concat<axis=1>(a, a)
                y = Conv(b, w2)
            }""",
            w1=(4, 3, 1, 1), b1=(4,), w2=(2, 8, 1, 1),
        )
    )  # fmt: skip

    assert rows(analysis.groups[0], "w2", 1) == {(i, i + 4) for i in range(4)}


def test_two_factorisations_of_one_axis_give_their_common_refinement() -> None:
    """24 = 4 x 6 = 8 x 3, so 4 x 2 x 3: removing a position of any of the three is a unit."""
    analysis = proved(
        handmade(
            """(float[N,5] u) => (float[N,2] y) {
                a = Gemm<transB=1>(u, w1, b1)
                b = Reshape(a, by46)
                c = Mul(b, scale46)
                d = Reshape(c, by83)
                e = Mul(d, scale83)
                f = Reshape(e, flat)
                y = Gemm<transB=1>(f, w2)
            }""",
            w1=(24, 5), b1=(24,), w2=(2, 24), scale46=(4, 6), scale83=(8, 3),
            by46=ints(0, 4, 6), by83=ints(0, 8, 3), flat=ints(0, -1),
        )
    )  # fmt: skip

    cells = np.arange(24).reshape(4, 2, 3)
    by_size = {len(group): rows(group, "w1") for group in groups_of(analysis, "w1")}
    assert by_size == {
        size: {tuple(np.sort(part.ravel()).tolist()) for part in np.moveaxis(cells, axis, 0)}
        for axis, size in enumerate(cells.shape)
    }


def test_a_grouped_convolution_loses_groups_or_the_same_place_in_each() -> None:
    analysis = proved(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                a = Conv(u, w1, b1)
                b = Conv<group=3, pads=[1,1,1,1]>(a, w2, b2)
                c = Relu(b)
                y = Conv(c, w3)
            }""",
            w1=(12, 3, 1, 1), b1=(12,), w2=(6, 4, 3, 3), b2=(6,), w3=(2, 6, 1, 1),
        )
    )  # fmt: skip
    found = {len(group): group for group in analysis.groups}
    assert set(found) == {2, 3, 4}
    assert rows(found[3], "w1") == {tuple(range(4 * g, 4 * g + 4)) for g in range(3)}
    assert rows(found[3], "w2") == {(2 * g, 2 * g + 1) for g in range(3)}
    assert rows(found[4], "w1") == {(i, i + 4, i + 8) for i in range(4)}
    assert rows(found[2], "w2") == {(i, i + 2, i + 4) for i in range(2)}


def test_a_depthwise_convolution_couples_its_neighbours() -> None:
    analysis = proved(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                a = Conv(u, w1, b1)
                b = Conv<group=6, pads=[1,1,1,1]>(a, w2, b2)
                y = Conv(b, w3)
            }""",
            w1=(6, 3, 1, 1), b1=(6,), w2=(6, 1, 3, 3), b2=(6,), w3=(2, 6, 1, 1),
        )
    )  # fmt: skip
    (group,) = analysis.groups

    assert {m.tensor for m in group.members} == {"w1", "b1", "w2", "b2", "w3"}


def test_squeeze_and_excitation_has_an_inner_group_of_its_own() -> None:
    analysis = proved(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                a = Conv(u, w1, b1)
                b = GlobalAveragePool(a)
                c = Conv(b, down, b2)
                d = Relu(c)
                e = Conv(d, up, b3)
                f = HardSigmoid(e)
                g = Mul(a, f)
                y = Conv(g, w2)
            }""",
            w1=(8, 3, 1, 1), b1=(8,), down=(3, 8, 1, 1), b2=(3,), up=(8, 3, 1, 1), b3=(8,), w2=(2, 8, 1, 1),
        )
    )  # fmt: skip

    assert {m.tensor for m in group_of(analysis, "w1").members} == {
        "w1", "b1", "down", "up", "b3", "w2",
    }  # fmt: skip
    assert {m.tensor for m in group_of(analysis, "down").members} == {"down", "b2", "up"}


def test_a_weight_used_twice_ties_its_users() -> None:
    """Two towers with one large weight: it stays one tensor, and both sides lose the same channels."""
    model = handmade(
        """(float[N,40,4,4] u, float[N,40,4,4] v) => (float[N,2,4,4] y) {
            a = Conv(u, w1)
            b = Conv(v, w1)
            c = Relu(b)
            d = Sub(a, c)
            y = Conv(d, w2)
        }""",
        w1=(30, 40, 1, 1), w2=(2, 30, 1, 1),
    )  # fmt: skip
    analysis = proved(model)
    (group,) = analysis.groups

    assert {(m.tensor, m.axis) for m in group.members} == {("w1", 0), ("w2", 1)}
    assert len(analysis.graph.weights) == len(model.graph.initializer)
