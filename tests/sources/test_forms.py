"""The same samples from every form of data."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.core.contracts import Samples
from onnxprune.core.graph import Array, constant
from onnxprune.discover import discover
from onnxprune.pipeline.samples import open_samples
from tests.sources.common import FIXED, ONE, TWO, graph, npz

discover()


def everything(samples: Samples, size: int = 4) -> dict[str, Array]:
    batches = list(samples.batches(size))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@contextlib.contextmanager
def as_form(form: str, x: Array, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give the samples `x` in one of the forms that sources read."""
    labels = np.arange(len(x))
    if form == "npz":
        yield npz(folder / "a.npz", x=x, labels=labels)
    elif form == "compressed":
        yield npz(folder / "a.npz", compressed=True, x=x, labels=labels)
    elif form == "several":
        npz(folder / "a1.npz", x=x[:3], labels=labels[:3])
        npz(folder / "a2.npz", x=x[3:], labels=labels[3:], compressed=True)
        yield f"{folder}/a1.npz, {folder}/a2.npz"
    elif form == "glob":
        npz(folder / "b1.npz", x=x[:3], labels=labels[:3])
        npz(folder / "b2.npz", x=x[3:], labels=labels[3:])
        yield f"{folder}/b*.npz"
    elif form == "npy":
        np.save(folder / "x.npy", np.asfortranarray(x))
        np.save(folder / "labels.npy", labels)
        yield f"{folder}/x.npy,{folder}/labels.npy"
    elif form == "npy parts":
        np.save(folder / "part1.npy", x[:7])
        np.save(folder / "part2.npy", x[7:])
        np.save(folder / "labels.npy", labels)
        yield f"{folder}/*1.npy,{folder}/part2.npy,{folder}/labels.npy"
    elif form == "mapping":
        yield {"x": x, "labels": labels}
    elif form == "iterable":
        yield ({"x": x[i : i + 3], "labels": labels[i : i + 3]} for i in range(0, len(x), 3))
    elif form == "tuples":
        yield [(x[:5], labels[:5]), (x[5:], labels[5:])]
    elif form == "single samples":
        yield ({"x": row, "labels": label} for row, label in zip(x, labels, strict=True))
    elif form == "function":
        np.save(folder / "kept.npy", x)
        (folder / "made_by_test.py").write_text(
            "import numpy as np\ndef batches():\n    x = np.load('kept.npy')\n"
            "    yield {'x': x[:6], 'labels': np.arange(6)}\n"
            "    yield {'x': x[6:], 'labels': np.arange(6, len(x))}\n"
        )
        monkeypatch.chdir(folder)
        yield "made_by_test:batches"


@pytest.mark.parametrize(
    "form",
    [
        "npz", "compressed", "several", "glob", "npy", "npy parts", "mapping", "iterable", "tuples",
        "single samples", "function",
    ],
)  # fmt: skip
def test_every_form_gives_the_same(
    form: str, images: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with as_form(form, images, tmp_path, monkeypatch) as data:
        samples = open_samples(data, ONE)

    assert (samples.count, samples.extra, samples.batch) == (10, ("labels",), None)
    for _ in range(2):  # as often as asked
        found = everything(samples)
        np.testing.assert_array_equal(found["x"], images)
        np.testing.assert_array_equal(found["labels"], np.arange(10))
    assert samples.digest == open_samples({"x": images}, ONE).digest, (
        "a digest is of the data, not the form"
    )


def test_samples_are_taken_as_they_are(images: Array) -> None:
    samples = open_samples({"x": images}, ONE)

    assert open_samples(samples, ONE) is samples
    assert open_samples(samples, ONE, limit=3).count == 3


def test_a_limit_draws_from_all_over(images: Array) -> None:
    data = {"x": images, "labels": np.arange(10)}
    drawn = everything(open_samples(data, ONE, limit=6, seed=1))

    assert len(set(drawn["labels"].tolist())) == 6
    assert drawn["labels"].tolist() != list(range(6))
    np.testing.assert_array_equal(drawn["x"], images[drawn["labels"]])
    again = everything(open_samples(data, ONE, limit=6, seed=1))
    np.testing.assert_array_equal(drawn["labels"], again["labels"])
    assert (
        everything(open_samples(data, ONE, limit=6, seed=2))["labels"].tolist()
        != drawn["labels"].tolist()
    )


def test_parts_are_disjoint(images: Array) -> None:
    samples = open_samples({"x": images, "labels": np.arange(10)}, ONE, limit=10)
    first, second = samples.part(0, 7), samples.part(7, 99)

    assert (first.count, second.count) == (7, 3)
    assert not np.intersect1d(everything(first)["labels"], everything(second)["labels"]).size


def test_digest_follows_the_data(images: Array) -> None:
    other = images.copy()
    other[3, 1, 2, 2] += 1
    digests = {
        open_samples({"x": values}, ONE).digest
        for values in (images, other, images[:9], images[::-1])
    }
    assert len(digests) == 4


def test_large_files_are_not_loaded(tmp_path: Path) -> None:
    big = np.zeros((4000, 3, 40, 50), np.float32)  # 96 MB
    stored = npz(tmp_path / "a.npz", x=big)
    np.save(tmp_path / "x.npy", big)
    del big
    for data in (stored, str(tmp_path / "x.npy")):
        tracemalloc.start()
        samples = open_samples(data, graph("float[N,3,40,50] x"), limit=64)
        for _ in samples.batches(16):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8e6


def test_compressed_arrays_are_read_once(
    images: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    real = np.lib.format.read_array

    def counted(file: Any, **options: Any) -> Any:
        reads.append("read")
        return real(file, **options)

    monkeypatch.setattr(np.lib.format, "read_array", counted)
    data = npz(tmp_path / "a.npz", compressed=True, x=images, unused=np.zeros(3))
    samples = open_samples(data, ONE)
    everything(samples)
    everything(samples)

    assert reads == ["read"]


def test_a_fixed_batch_drops_the_tail_and_says_so() -> None:
    samples = open_samples({"x": np.ones((10, 3), np.float32)}, FIXED)

    assert (samples.count, samples.batch) == (8, 4)
    assert [batch["x"].shape for batch in samples.batches(64)] == [(4, 3), (4, 3)]
    assert samples.notes == ("2 of 10 samples left out: the model takes 4 a run",)
    assert [samples.part(a, b).count for a, b in ((0, 6), (6, 8))] == [4, 4]


def test_inputs_without_batch_axis_take_a_whole_run_each() -> None:
    state = graph("float[2,1,6] state, float rate, float[1,3] x")
    data: dict[str, Any] = {
        "state": np.arange(60, dtype=np.float32).reshape(5, 2, 1, 6),
        "rate": np.float32(16),  # the same for all
        "x": np.ones((5, 3), np.float32),
    }
    samples = open_samples(data, state)
    batches = list(samples.batches(64))

    assert (samples.count, samples.batch) == (5, 1)
    assert {name: array.shape for name, array in batches[0].items()} == {
        "state": (2, 1, 6),
        "rate": (),
        "x": (1, 3),
    }
    np.testing.assert_array_equal(batches[3]["state"], data["state"][3])


def test_numbers_are_cast_only_where_they_stay_the_same(rng: np.random.Generator) -> None:
    data = {"x": rng.integers(0, 9, (5, 3)), "index": np.arange(5, dtype=np.uint8)}
    samples = open_samples(data, TWO)
    batch = samples.read(0, 5)

    assert [batch[name].dtype.name for name in ("x", "index")] == ["float32", "int64"]
    np.testing.assert_array_equal(batch["x"], data["x"])
    assert samples.notes == ("array 'x' is int64: its values are fed as they are, not scaled",)


def test_the_one_array_that_fits_feeds_the_one_input(images: Array) -> None:
    samples = open_samples({"pixels": images, "labels": np.arange(10)}, ONE)

    np.testing.assert_array_equal(samples.read(0, 10)["x"], images)
    assert samples.notes == ("array 'pixels' feeds input 'x'",)
    assert samples.extra == ("labels",)


def test_random_samples_are_marked_and_can_be_read_again() -> None:
    table = graph("int64[N,7] x", "y = Gather(w, x)")
    table.weights["w"] = constant("w", np.zeros((11, 2), np.float32))
    samples = open_samples("random:50", table, seed=3)

    assert samples.random
    assert "worse" in samples.notes[0]
    assert samples.count == 50
    values = everything(samples)["x"]
    assert (values.min(), values.max()) == (0, 10)
    np.testing.assert_array_equal(samples.read(20, 30)["x"], values[20:30])
    assert open_samples("random", ONE).count == 64
    assert abs(everything(open_samples("random", ONE))["x"].std() - 1) < 0.05
