"""Units and groups of hand-made graphs: which channels stay apart, and which stay."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.core.positions import CouplingError, Declarations, Space
from tests.handmade import examined, group_of, groups_of, handmade, ints, proved
from tests.solver.common import rows, singles


def test_a_shared_bias_does_not_couple_the_layers_that_share_it() -> None:
    analysis = proved(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                a = Conv(u, w1, zeros)
                b = Conv(a, w2, zeros)
                c = Conv(b, w3, zeros)
                y = Conv(c, w4)
            }""",
            w1=(8, 3, 1, 1), w2=(8, 8, 1, 1), w3=(8, 8, 1, 1), w4=(2, 8, 1, 1),
            zeros=np.full(8, 0.5, np.float32),
        )
    )  # fmt: skip

    assert [len(group) for group in analysis.groups] == [8, 8, 8]


def test_every_second_channel_is_coupled_with_its_neighbour() -> None:
    """x[::2] + x[1::2]: pairs go together."""
    analysis = proved(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                a = Conv(u, w1, b1)
                even = Slice(a, zero, end, one, two)
                odd = Slice(a, one, end, one, two)
                b = Relu(odd)
                c = Add(even, b)
                y = Conv(c, w2)
            }""",
            w1=(8, 3, 1, 1), b1=(8,), w2=(2, 4, 1, 1),
            zero=ints(0), one=ints(1), two=ints(2), end=ints(8),
        )
    )  # fmt: skip

    assert rows(analysis.groups[0], "w1") == {(2 * i, 2 * i + 1) for i in range(4)}


def test_reversed_channels_are_coupled_with_their_mirror() -> None:
    analysis = proved(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                a = Conv(u, w1, b1)
                b = Slice(a, minus, low, one, minus)
                c = Relu(b)
                d = Add(a, c)
                y = Conv(d, w2)
            }""",
            w1=(6, 3, 1, 1), b1=(6,), w2=(2, 6, 1, 1),
            minus=ints(-1), low=ints(-(2**31)), one=ints(1),
        )
    )  # fmt: skip

    assert rows(analysis.groups[0], "w1") == {(0, 5), (1, 4), (2, 3)}


def test_a_channel_read_twice_goes_twice_and_one_that_nobody_reads_is_free() -> None:
    analysis = proved(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                a = Conv(u, w1, b1)
                b = Gather<axis=1>(a, index)
                y = Conv(b, w2)
            }""",
            w1=(4, 3, 1, 1), b1=(4,), w2=(2, 5, 1, 1), index=ints(2, 0, 2, 1, 2),
        )
    )  # fmt: skip
    found = {tuple(r) for g in groups_of(analysis, "w2", 1) for r in rows(g, "w2", 1)}

    assert found == {(1,), (3,), (0, 2, 4)}
    assert {r for g in groups_of(analysis, "w1") for r in rows(g, "w1")} == singles(4)


def test_a_channel_shuffle_couples_nothing() -> None:
    """Reshape-Transpose-Reshape is one Gather; as factors, units would be orbits of the shuffle."""
    analysis = proved(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                a = Conv(u, w1, b1)
                b = Reshape(a, split)
                c = Transpose<perm=[0,2,1,3,4]>(b)
                d = Reshape(c, join)
                y = Conv(d, w2)
            }""",
            w1=(6, 3, 1, 1), b1=(6,), w2=(2, 6, 1, 1),
            split=ints(-1, 2, 3, 8, 8), join=ints(-1, 6, 8, 8),
        )
    )  # fmt: skip

    assert [node.op_type for node in analysis.graph.nodes] == ["Conv", "Gather", "Conv"]
    assert rows(analysis.groups[0], "w1") == singles(6)


def test_a_gram_matrix_loses_rows_with_their_columns() -> None:
    analysis = proved(
        handmade(
            """(float[N,3,4,4] u) => (float[N,2] y) {
                a = Conv(u, w1, b1)
                b = Reshape(a, rows)
                c = Transpose<perm=[0,2,1]>(b)
                d = MatMul(b, c)
                e = Flatten(d)
                y = Gemm<transB=1>(e, w2)
            }""",
            w1=(4, 3, 1, 1), b1=(4,), w2=(2, 16), rows=ints(0, 4, 16),
        )
    )  # fmt: skip

    cells = np.arange(16).reshape(4, 4)
    assert rows(group_of(analysis, "w1"), "w2", 1) == {
        tuple(sorted({*cells[i].tolist(), *cells[:, i].tolist()})) for i in range(4)
    }


def test_heads_and_their_dimensions_are_both_units() -> None:
    """Attention with 3 heads of 4: heads, dimensions of queries and keys, dimensions of values."""
    analysis = proved(
        handmade(
            """(float[N,T,5] u) => (float[N,T,2] y) {
                q = MatMul(u, wq)
                k = MatMul(u, wk)
                v = MatMul(u, wv)
                q1 = Reshape(q, heads)
                k1 = Reshape(k, heads)
                v1 = Reshape(v, heads)
                q2 = Transpose<perm=[0,2,1,3]>(q1)
                k2 = Transpose<perm=[0,2,3,1]>(k1)
                v2 = Transpose<perm=[0,2,1,3]>(v1)
                s = MatMul(q2, k2)
                p = Softmax<axis=-1>(s)
                o = MatMul(p, v2)
                o1 = Transpose<perm=[0,2,1,3]>(o)
                o2 = Reshape(o1, flat)
                y = MatMul(o2, wo)
            }""",
            wq=(5, 12), wk=(5, 12), wv=(5, 12), wo=(12, 2), heads=ints(0, 0, 3, 4), flat=ints(0, 0, 12),
        )
    )  # fmt: skip
    tensors = {
        frozenset(m.tensor for m in group.members): rows(
            group, group.members[0].tensor, group.members[0].axis
        )
        for group in analysis.groups
    }

    heads = {tuple(range(4 * h, 4 * h + 4)) for h in range(3)}
    dims = {(d, d + 4, d + 8) for d in range(4)}
    assert tensors == {
        frozenset({"wq", "wk", "wv", "wo"}): heads,
        frozenset({"wq", "wk"}): dims,
        frozenset({"wv", "wo"}): dims,
    }


def test_groups_with_statistics_are_not_exact() -> None:
    analysis = proved(
        handmade(
            """(float[N,T,5] u) => (float[N,T,2] y) {
                a = MatMul(u, w1)
                b = LayerNormalization(a, s1, b1)
                c = MatMul(b, w2)
                d = Relu(c)
                y = MatMul(d, w3)
            }""",
            w1=(5, 8), s1=(8,), b1=(8,), w2=(8, 6), w3=(6, 2),
        )
    )  # fmt: skip

    assert {g.name: g.exact for g in analysis.groups} == {"w1": False, "w2": True}


def test_axes_of_length_one_stay() -> None:
    analysis = examined(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                a = Conv(u, w1)
                y = Conv(a, w2)
            }""",
            w1=(1, 3, 1, 1), w2=(2, 1, 1, 1),
        )
    )  # fmt: skip

    assert analysis.groups == []
    assert {f.tensor: f.reason for f in analysis.frozen}["w1"] == "an axis of length 1"


def test_pieces_of_a_split_may_not_be_emptied() -> None:
    """The floor is per tensor axis: all of one piece is too much, though much of the whole is left."""
    analysis = examined(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y, float[N,2,8,8] z) {
                a = Conv(u, w1, b1)
                b, c = Split<axis=1>(a, lengths)
                y = Conv(b, w2)
                z = Conv(c, w3)
            }""",
            w1=(8, 3, 1, 1), b1=(8,), w2=(2, 2, 1, 1), w3=(2, 6, 1, 1), lengths=ints(2, 6),
        )
    )  # fmt: skip
    first = group_of(analysis, "w2", 1)

    assert analysis.mask(first.units[:1]).emptied() == []
    assert {name for name, _ in analysis.mask(first.units).emptied()} >= {"b", "w2"}


def test_lengths_that_differ_are_refused_when_declared() -> None:
    space, said = Space(), Declarations()
    a, b = space.axis("a", 0, 6), space.axis("b", 0, 4)

    with pytest.raises(CouplingError, match="6 positions coupled with 4"):
        said.couple(a, b)
    with pytest.raises(CouplingError, match="6 positions factored as"):
        said.factor(a, [b, b])
