"""Centred kernel alignment: the formulas, what they say of known features, and how they are streamed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.calibration._hsic import biased, debiased
from onnxprune.calibration._rows import Reader
from onnxprune.core.alignment import Alignment, Point
from onnxprune.core.contracts import Calibration, Samples
from onnxprune.core.errors import DataError
from onnxprune.core.graph import Array
from onnxprune.core.patches import Keys
from onnxprune.core.runtime import Session
from onnxprune.core.stream import with_probes
from onnxprune.pipeline.collect import collect
from tests.handmade import examined, handmade

Floats = NDArray[np.float64]
FORMS = ("cka", "cka-biased", "cka-features")


def hsic(x: Floats, y: Floats) -> float:
    """HSIC_1, term by term as Song et al. write it."""
    n, one = len(x), np.ones(len(x))
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    trace = np.trace(k @ m)
    sums = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (one @ k @ m @ one)
    return float((trace + sums - cross) / (n * (n - 3)))


def ratio(products: Floats) -> float:
    return float(products[0, 1] / np.sqrt(products[0, 0] * products[1, 1]))


# -- the formulas -----------------------------------------------------------------------------------


def test_debiased_is_the_unbiased_estimate(rng: np.random.Generator) -> None:
    rows = [rng.standard_normal((12, width)) + 3 for width in (4, 7, 50)]
    rows[1][:, :4] += rows[0]
    found = debiased(rows) / (12 * (12 - 3))

    expected = [[hsic(x, y) for y in rows] for x in rows]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_independent_features_are_not_alike(rng: np.random.Generator) -> None:
    """However wide they are: the biased form says 0.98 of these."""
    blocks = [[rng.standard_normal((64, 4096)) for _ in range(2)] for _ in range(16)]

    assert abs(ratio(sum((debiased(block) for block in blocks), np.zeros((2, 2))))) < 0.02
    assert ratio(biased(blocks[0])) > 0.98


@pytest.mark.parametrize("products", [debiased, biased])
def test_orthogonal_maps_scales_and_shifts_change_nothing(
    products: Any, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((16, 6))
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    assert ratio(products([x, 2.5 * x @ turn + rng.standard_normal(6)])) == pytest.approx(
        1, abs=1e-12
    )
    assert ratio(products([x, x * [1, 1, 1, 0, 0, 0]])) < 0.9


def test_the_biased_form_cannot_tell_three_rows() -> None:
    """Why there is a least number of rows, and why it is not the default."""
    found = [
        ratio(biased(list(np.random.default_rng(i).standard_normal((2, 3, 768))))) for i in range(9)
    ]
    assert min(found) > 0.99


# -- streamed ---------------------------------------------------------------------------------------


def network() -> Any:
    return handmade(
        """(float[N,6] x) => (float[N,3] y) {
            a = MatMul(x, w1)
            b = Relu(a)
            c = MatMul(b, w2)
            y = MatMul(c, w3)
        }""",
        w1=(6, 40), w2=(40, 9), w3=(9, 3),
    )  # fmt: skip


def samples_of(**arrays: Array) -> Samples:
    count = len(next(iter(arrays.values())))
    return Samples(count, lambda a, b: {name: array[a:b] for name, array in arrays.items()})


def aligned(
    model: Any, samples: Samples, points: Sequence[Point], form: str = "cka", **given: Any
) -> Alignment:
    found = collect(examined(model), samples, {form}, points=tuple(points), **given).alignment
    assert found is not None
    return found


def values(model: Any, samples: Samples, *names: str) -> list[Floats]:
    """Tensors over all samples, stacked: what the streamed sums must not need."""
    fold = Reader(
        Calibration(dict.fromkeys(names, (1, 1)), 1, 1, 1, points=tuple(map(Point, names))), 1
    )
    session = Session(with_probes(examined(model).graph, [fold.probes]))
    found = session.run(samples.read(0, samples.count), list(names))
    return [np.asarray(found[name], np.float64) for name in names]


def direct(form: str, rows: Sequence[Floats]) -> Floats:
    """The same from stacked rows: blocks of 64, or all at once in the space of features."""
    if form == "cka-features":
        centred = [x - x.mean(axis=0) for x in rows]
        sums = np.array([[np.sum((x.T @ y) ** 2) for y in centred] for x in centred])
    else:
        blocks = [[x[i : i + 64] for x in rows] for i in range(0, len(rows[0]), 64)]
        if form == "cka":
            sums = np.array([[sum(hsic(b[i], b[j]) * len(b[0]) * (len(b[0]) - 3) for b in blocks)
                              for j in range(len(rows))] for i in range(len(rows))])  # fmt: skip
        else:
            sums = np.mean([biased(b) for b in blocks], axis=0)
    norms = np.sqrt(np.diagonal(sums))
    return np.asarray(sums / norms / norms[:, None])


@pytest.mark.parametrize("form", FORMS)
def test_streamed_is_direct(form: str, rng: np.random.Generator) -> None:
    """Whatever the batch, to what float32 products leave; a last block that is not full counts less."""
    model, names = network(), ("a", "b", "c")
    samples = samples_of(x=rng.standard_normal((150, 6)).astype(np.float32))
    expected = direct(form, values(model, samples, *names))
    for batch in (7, 64, 150):
        found = aligned(model, samples, [Point(n) for n in names], form, batch=batch)
        np.testing.assert_allclose(found.similarity, expected, atol=1e-5)
        assert found.rows == 150
        assert found.points == names


def test_features_are_the_biased_form_of_one_block(rng: np.random.Generator) -> None:
    samples = samples_of(x=rng.standard_normal((60, 6)).astype(np.float32))
    points = [Point("a"), Point("c")]
    one, other = (aligned(network(), samples, points, form).similarity for form in FORMS[1:])

    np.testing.assert_allclose(one, other, atol=1e-5)


def test_spread_is_that_of_draws(rng: np.random.Generator) -> None:
    """The jackknife's standard error against the scatter over fresh samples."""
    model, points = network(), [Point("a"), Point("c")]
    draws = [
        aligned(model, samples_of(x=rng.standard_normal((512, 6)).astype(np.float32)), points)
        for _ in range(24)
    ]
    scatter = np.std([draw.similarity[0, 1] for draw in draws])
    told = np.mean([draw.spread[0, 1] for draw in draws])

    assert told == pytest.approx(scatter, rel=0.5)
    assert draws[0].spread[0, 0] < 1e-12


def test_one_part_tells_no_spread(rng: np.random.Generator) -> None:
    samples = samples_of(x=rng.standard_normal((40, 6)).astype(np.float32))
    assert np.isnan(aligned(network(), samples, [Point("a"), Point("c")]).spread).all()


def test_a_point_that_never_moves_is_like_nothing(rng: np.random.Generator) -> None:
    model = handmade(
        """(float[N,6] x) => (float[N,4] y) {
            a = MatMul(x, w1)
            b = MatMul(x, none)
            y = Add(a, b)
        }""",
        w1=(6, 4), none=np.zeros((6, 4), np.float32),
    )  # fmt: skip
    samples = samples_of(x=rng.standard_normal((64, 6)).astype(np.float32))
    for form in FORMS:
        found = aligned(model, samples, [Point("a"), Point("b")], form).similarity
        assert found[0, 0] == pytest.approx(1)
        assert np.isnan(found[0, 1]) or found[0, 1] == 0


def test_few_rows_are_refused(rng: np.random.Generator) -> None:
    samples = samples_of(x=rng.standard_normal((9, 6)).astype(np.float32))
    for form in FORMS:
        with pytest.raises(DataError, match=r"at least 16 rows .*found 9: give more samples"):
            aligned(network(), samples, [Point("a"), Point("c")], form)


def test_features_that_fit_no_memory_are_refused(rng: np.random.Generator) -> None:
    samples = samples_of(x=rng.standard_normal((64, 6)).astype(np.float32))
    with pytest.raises(DataError, match=r"hold 8240 values per row .* choose 'debiased'"):
        aligned(network(), samples, [Point("a")] * 206, "cka-features")


def test_samples_are_on_the_first_axis() -> None:
    settings = Calibration({"a": (7, 1, 8)}, 4, 1, 1, points=(Point("a"),))
    with pytest.raises(DataError, match=r"'a' have shape \[7, 1, 8\]"):
        Reader(settings, 1)


# -- tokens and maps --------------------------------------------------------------------------------


def sentences() -> Any:
    return handmade(
        """(float[N,T,8] x, float[N,T] attention_mask) => (float[N,T,3] y) {
            a = MatMul(x, w1)
            b = Relu(a)
            c = MatMul(b, w2)
            y = MatMul(c, w3)
        }""",
        w1=(8, 8), w2=(8, 8), w3=(8, 3),
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_padding_never_enters(form: str, rng: np.random.Generator) -> None:
    """Not even where it holds NaN: as if sentences had no padding at all."""
    lengths = rng.integers(5, 11, 40)
    mask = (np.arange(10) < lengths[:, None]).astype(np.float32)
    x = rng.standard_normal((40, 10, 8)).astype(np.float32)
    points = [Point(n, tokens=True, mask="attention_mask") for n in "abc"]
    found = []
    for padding in (0.0, 1e6, np.nan):
        given = np.where(mask[..., None] > 0, x, np.float32(padding)).astype(np.float32)
        keyed = Samples(  # tokens are drawn by what samples hold
            40,
            lambda a, b, given=given: {"x": given[a:b], "attention_mask": mask[a:b]},  # type: ignore[misc]
        )
        found.append(aligned(sentences(), keyed, points, form).similarity)

    if form == "cka-biased":  # the others draw four tokens of a sentence by what it holds
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0], found[2])
    assert np.isfinite(found[2]).all()
    np.testing.assert_allclose(found[0], found[2], atol=0.1)


def read(points: Sequence[Point], tokens: int, keys: Keys, **arrays: Array) -> list[Array]:
    shapes = {name: array.shape for name, array in arrays.items()}
    reader = Reader(Calibration(shapes, len(keys), 1, 1, points=tuple(points)), tokens)
    (rows,) = reader.read(arrays, keys).values()
    assert len(rows.samples) == len(rows.values[0])
    return rows.values


def test_the_same_tokens_of_all_points(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 9, 4)).astype(np.float32)
    mask = np.zeros((6, 9), np.int64)
    mask[:, 2:7] = 1
    points = [Point(name, tokens=True, mask="m") for name in "xy"]
    keys = np.arange(6, dtype=np.uint64)
    first, second = read(points, 3, keys, x=x, y=2 * x, m=mask)

    assert first.shape == (18, 4)
    np.testing.assert_array_equal(second, 2 * first)
    real = {row.tobytes() for row in x[:, 2:7].reshape(-1, 4)}
    assert {row.tobytes() for row in first} <= real
    assert len({row.tobytes() for row in first}) == 18


def test_other_tokens_are_refused(rng: np.random.Generator) -> None:
    x, y, m = rng.random((6, 9, 4)), rng.random((6, 5, 4)), np.ones((6, 7))
    keys = np.arange(6, dtype=np.uint64)
    with pytest.raises(DataError, match=r"'y' have 5 tokens, 'x' has 9"):
        read([Point(name, tokens=True) for name in "xy"], 3, keys, x=x, y=y)
    with pytest.raises(DataError, match=r"'x' have 9 tokens, 'm' has 7"):
        read([Point("x", tokens=True, mask="m")], 3, keys, x=x, m=m)


def test_large_maps_are_thinned_alike(rng: np.random.Generator) -> None:
    """One value of each stretch, inside the graph; two points of a width at the same places."""
    model = handmade(
        """(float[N,2,150,150] x) => (float[N,2,150,150] z) {
            y = Neg(x)
            z = Mul(y, y)
        }"""
    )
    x = rng.standard_normal((3, 2, 150, 150)).astype(np.float32)
    shapes = dict.fromkeys("xyz", (3, 2, 150, 150))
    reader = Reader(Calibration(shapes, 3, 1, 1, points=(Point("x"), Point("y"))), 1)
    session = Session(with_probes(examined(model).graph, [reader.probes]))
    found = session.run({"x": x}, list(reader.probes.outputs))
    (rows,) = reader.read(found, np.arange(3, dtype=np.uint64)).values()
    first, second = rows.values

    assert first.shape == (3, 16_384)
    np.testing.assert_array_equal(first, -second)
    flat = x.reshape(3, -1)
    places = [int(np.flatnonzero(flat[0] == v)[0]) for v in first[0, ::1000]]
    np.testing.assert_array_equal(flat[:, places], first[:, ::1000])
    assert (np.diff(places) > 0).all()


def test_streams_are_not_compared(rng: np.random.Generator) -> None:
    samples = samples_of(x=rng.standard_normal((64, 6)).astype(np.float32))
    points = [Point("a"), Point("b", stream=1), Point("c")]
    found = aligned(network(), samples, points).similarity

    assert np.isnan(found[[0, 1, 1, 2], [1, 0, 2, 1]]).all()
    assert np.isfinite(found[[0, 1, 2, 0], [0, 1, 2, 2]]).all()


def test_shifts_are_cosine_and_relative_length(rng: np.random.Generator) -> None:
    model = network()
    samples = samples_of(x=rng.standard_normal((90, 6)).astype(np.float32))
    points = (Point("a"), Point("b"))
    found = collect(examined(model), samples, {"shifts"}, points=points, pairs=((0, 1),)).shifts
    a, b = values(model, samples, "a", "b")

    assert found is not None
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found.cosine[0] == pytest.approx(cosines.mean(), abs=1e-6)
    assert found.magnitude[0] == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a), abs=1e-6)
