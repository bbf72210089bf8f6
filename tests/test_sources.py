"""Samples come from many places; what does not fit the model is refused in one line."""

from __future__ import annotations

import contextlib
import io
import json
import re
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from PIL import Image

from onnxprune.core.contracts import SOURCES, Samples
from onnxprune.core.errors import DataError
from onnxprune.core.graph import Array, Graph, constant
from onnxprune.discover import discover
from onnxprune.pipeline.samples import open_samples

discover()


def graph(signature: str, body: str = "y = Identity(x)") -> Graph:
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> net ({signature}) => (float[N] y) {{ {body} }}'
    )
    return Graph.from_model(onnx.parser.parse_model(text))


ONE = graph("float[N,3,4,5] x")
TWO = graph("float[N,3] x, int64[N] index")
FIXED = graph("float[4,3] x")


@pytest.fixture
def images(rng: np.random.Generator) -> Array:
    return rng.standard_normal((10, 3, 4, 5)).astype(np.float32)


def everything(samples: Samples, size: int = 4) -> dict[str, Array]:
    batches = list(samples.batches(size))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def npz(path: Path, *, compressed: bool = False, **arrays: Array) -> str:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)  # type: ignore[arg-type]
    return str(path)


# --- the same samples from every form ---


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


# --- files are mapped, not loaded ---


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


# --- batches and whole runs ---


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


# --- random data, only when asked ---


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


# --- images ---


@pytest.fixture
def pictures(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "pictures"
    for name in ("cat/1.png", "cat/2.jpg", "dog/3.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    return folder


def test_images_are_preprocessed_as_the_model_takes_them(pictures: Path) -> None:
    samples = open_samples(str(pictures), graph("float[N,3,40,40] x"))
    batch = samples.read(0, 3)
    pixels = np.asarray(Image.open(pictures / "cat/1.png"))[:, 10:50]  # the centre
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]

    np.testing.assert_allclose(batch["x"][0], expected.transpose(2, 0, 1), atol=1e-5)
    assert batch["labels"].tolist() == [0, 0, 1]
    assert "guessed" in samples.notes[0]


@pytest.mark.parametrize(
    ("given", "signature", "shape"),
    [
        ({"layout": "NHWC"}, "float[N,20,30,3] x", (20, 30, 3)),
        ({"channels": "BGR", "resize": "stretch"}, "float[N,3,20,30] x", (3, 20, 30)),
        ({"resize": "pad", "interpolation": "bicubic"}, "float[N,3,32,32] x", (3, 32, 32)),
        ({"size": 24, "crop": 0.875}, "float[N,3,H,W] x", (3, 24, 24)),
        ({"size": [24, 16], "mean": 0.5, "std": [0.1, 0.2, 0.3]}, "float[N,3,H,W] x", (3, 24, 16)),
        ({}, "float[N,1,28,28] x", (1, 28, 28)),
        ({}, "uint8[N,20,20,3] x", (20, 20, 3)),
    ],
)
def test_preprocessing_choices(
    given: dict[str, Any], signature: str, shape: tuple[int, ...], pictures: Path
) -> None:
    samples = open_samples(pictures, graph(signature), preprocess=given)

    assert samples.read(0, 2)["x"].shape == (2, *shape)


def test_values_of_preprocessing(tmp_path: Path) -> None:
    """One pixel of each kind: order of channels, scale, mean, std, black bars."""
    Image.fromarray(np.full((8, 16, 3), (10, 20, 30), np.uint8)).save(tmp_path / "a.png")
    given = {"resize": "pad", "scale": 0.1, "mean": [1, 2, 3], "std": 2, "channels": "BGR"}
    (x,) = open_samples(tmp_path, graph("float[N,3,16,16] x"), preprocess=given).read(0, 1)["x"]

    np.testing.assert_allclose(x[:, 8, 8], [(3 - 1) / 2, (2 - 2) / 2, (1 - 3) / 2], atol=1e-6)
    np.testing.assert_allclose(x[:, 0, 0], [-0.5, -1, -1.5], atol=1e-6)


@pytest.mark.parametrize("way", ["beside json", "beside toml", "file", "text"])
def test_specification_in_a_file_or_as_text(way: str, pictures: Path, tmp_path: Path) -> None:
    spec = {"mean": 0.0, "std": 1.0, "scale": 1.0, "resize": "stretch"}
    given: str | None = None
    if way == "beside json":
        (pictures / "preprocess.json").write_text(json.dumps(spec))
    elif way == "beside toml":
        lines = [f"{name} = {json.dumps(value)}" for name, value in spec.items()]
        (pictures / "preprocess.toml").write_text("\n".join(lines))
    elif way == "file":
        given = str(tmp_path / "spec.json")
        Path(given).write_text(json.dumps(spec))
    else:
        given = json.dumps(spec)
    samples = open_samples(str(pictures), graph("float[N,3,40,60] x"), preprocess=given)
    pixels = np.asarray(Image.open(pictures / "cat/1.png"), np.float32)

    np.testing.assert_allclose(samples.read(0, 1)["x"][0], pixels.transpose(2, 0, 1))
    assert "guessed" not in samples.notes[0]


# --- bad input: each one line that says what, where, expected, found, what to do ---


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


NAN = np.where(np.arange(180).reshape(3, 3, 4, 5) == 70, np.nan, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (ONE, {}, "data: no array for input 'x': found nothing"),
        (TWO, {"x": ones(2, 3), "indx": np.zeros(2, int)}, "no array for input 'index'.*rename 'indx'?"),
        (ONE, {"a": ones(2, 3, 4, 5), "b": ones(2, 3, 4, 5)}, "'a' and 'b' both fit input 'x': give one"),
        (ONE, {"x": ones(2, 3, 4, 6)}, r"axis 3 should be 5 for input 'x' \[\?, 3, 4, 5\], found 6"),
        (ONE, {"x": ones(2, 4, 5, 3)}, "axis 1 should be 3.*move the last axis to place 1"),
        (graph("float[N,4,5,3] x"), {"x": ones(2, 3, 4, 5)}, "move axis 1 to the end"),
        (ONE, {"x": ones(3, 4, 5)}, "has 3 axes.*takes 4.*a single sample needs a first axis"),
        (graph("float[N,1,4,5] x"), {"x": ones(2, 4, 5)}, "has 3 axes.*insert axis 1"),
        (ONE, {"x": np.float32(1)}, "is a single number"),
        (ONE, {"x": ones(0, 3, 4, 5)}, "no samples: array 'x' is empty"),
        (ONE, {"x": NAN}, "array 'x' holds NaN, infinity or too large a value in sample 1"),
        (ONE, {"x": np.full((2, 3, 4, 5), 1e300)}, "too large a value in sample 0"),
        (ONE, {"x": ones(2, 3, 4, 5).astype(complex)}, "is complex128, input 'x' takes float32"),
        (ONE, {"x": np.full((2, 3, 4, 5), "a")}, "input 'x' takes float32: convert it first"),
        (TWO, {"x": ones(2, 3), "index": ones(2)}, "array 'index' is float32, input 'index' takes int64"),
        (TWO, {"x": ones(2, 3), "index": np.zeros(3, int)}, "number of samples: 'x' 2, 'index' 3"),
        (FIXED, {"x": ones(3, 3)}, "the model takes 4 samples a run, the data has 3: give more"),
        (graph("int8[N] x"), {"x": np.array([1, 300])}, "to 300, too large for int8"),
        (graph("float[4,3] x, float[2,3] y"), {"x": ones(4, 3), "y": ones(4, 3)}, "x' takes 4 .*'y' 2"),
        (ONE, [{"x": ones(2, 3, 4, 5)}, {"z": ones(2, 3, 4, 5)}], "batches differ in names"),
        (ONE, [{"x": ones(2, 3, 4, 5)}, {"x": ones(2, 3, 4, 6)}], "changes after 2 samples"),
        (ONE, [], "data gives no samples"),
        (ONE, [3], "yields int, expected a mapping"),
        (ONE, 3, "cannot read samples from int: expected one of: .*a folder of images"),
        (ONE, "samples.csv", "cannot read samples from 'samples.csv': expected one of"),
        (ONE, "absent.npz", "cannot read 'absent.npz': No such file"),
        (ONE, "absent*.npz", r"no file matches 'absent\*.npz'"),
        (ONE, "no_such_module:f", "No module named 'no_such_module'"),
        (ONE, "os.path:exits", "'os.path' has no function 'exits': did you mean 'exists'?"),
        (ONE, "os:getpid", "os:getpid gives int, expected an iterable"),
        (ONE, "os.path:join", r"function 'os.path:join' failed: TypeError"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(model: Graph, data: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        open_samples(data, model)

    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object))
    return buffer.getvalue()


def truncated() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, ones(10, 3, 4, 5))
    return buffer.getvalue()[:-100]


def claiming(shape: str) -> bytes:
    """A header that claims more than there is."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(64)


@pytest.mark.parametrize("form", ["npy", "stored", "compressed"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickled, r"holds Python objects \(pickle\), which are never loaded"),
        (truncated, "is damaged: its header says shape .* the file holds"),
        (lambda: claiming("(10**9, 3, 4, 5)"), "is not in .npy format"),
        (lambda: claiming("(1000000000000, 3, 4, 5)"), "is damaged: its header says"),
        (lambda: b"hello", "is not in .npy format"),
        (lambda: b"", "is not in .npy format"),
    ],
)
def test_damaged_and_hostile_files(
    form: str, content: Callable[[], bytes], message: str, tmp_path: Path
) -> None:
    """Refused by what the header says, before memory is taken."""
    path = tmp_path / ("x.npy" if form == "npy" else "x.npz")
    if form == "npy":
        path.write_bytes(content())
    else:
        kind = zipfile.ZIP_STORED if form == "stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", kind) as archive:
            archive.writestr("x.npy", content())
    with pytest.raises(DataError) as caught:
        open_samples(str(path), ONE)

    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


def test_broken_archives(tmp_path: Path, rng: np.random.Generator) -> None:
    many = rng.standard_normal((500, 3, 4, 5))
    whole = Path(npz(tmp_path / "a.npz", compressed=True, x=many)).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    middle = len(whole) // 2
    (tmp_path / "flipped.npz").write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])

    with pytest.raises(DataError, match=r"cut.npz is not a whole .npz file"):
        open_samples(str(tmp_path / "cut.npz"), ONE)
    with pytest.raises(DataError, match="array 'x' is damaged"):
        open_samples(str(tmp_path / "flipped.npz"), ONE)


def test_a_compressed_giant_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.calibration._npy._memory", lambda: 1000)
    data = npz(tmp_path / "a.npz", compressed=True, x=ones(9, 3, 4, 5))

    with pytest.raises(DataError, match=r"more than half of the memory: store it uncompressed"):
        open_samples(data, ONE)


@pytest.mark.parametrize(
    ("signature", "given", "message"),
    [
        ("float[N,3,8,8] x", {"mena": 0}, "field 'mena': unknown .fields: size, resize"),
        (
            "float[N,3,8,8] x",
            {"resize": "zoom"},
            "field 'resize': Input should be 'crop', 'stretch' or 'pad'",
        ),
        ("float[N,3,8,8] x", {"std": 0}, "field 'std"),
        ("float[N,3,8,8] x", {"mean": [1, 2]}, "field 'mean' has 2 numbers, expected 1 or 3"),
        ("float[N,3,8,8] x", {"layout": "NHWC"}, "has 8 channels in layout NHWC"),
        ("float[N,3,8,8] x", {"size": 9}, "axis 2 should be 8"),
        ("float[N,4,8,8] x", {}, "has 4 channels in layout NCHW"),
        ("float[N,8] x", {}, "takes no images"),
        ("float[N,3,8,8] x, float[N,3,8,8] z", {}, "the model has 'x', 'z': give .npz files"),
        ("float[N,3,8,8] x", "{mean", "--preprocess is not valid JSON"),
        ("float[N,3,8,8] x", "absent.toml", "cannot read 'absent.toml': No such file"),
    ],
)
def test_bad_preprocessing(signature: str, given: Any, message: str, pictures: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_samples(str(pictures), graph(signature), preprocess=given)

    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


def test_folders_without_or_with_broken_images(tmp_path: Path, images: Array) -> None:
    npz(tmp_path / "a.npz", x=images)
    with pytest.raises(DataError, match=r"no images in folder .*for its arrays give '.*/\*.npz'"):
        open_samples(str(tmp_path), ONE)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cannot read image '.*a.png'"):
        open_samples(str(tmp_path), ONE)


def test_preprocessing_of_anything_but_images_is_refused(images: Array) -> None:
    with pytest.raises(DataError, match="applies to folders of images only"):
        open_samples({"x": images}, ONE, preprocess={"mean": 0})


def test_an_endless_function_stops_at_the_limit_or_the_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def endless() -> Iterator[dict[str, Array]]:
        while True:
            yield {"x": ones(100, 3, 4, 5)}

    assert open_samples(endless(), ONE, limit=250).count == 250
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: usage)
    with pytest.raises(DataError, match="samples fill half of the free disk"):
        open_samples(endless(), ONE)


def test_every_source_says_what_it_reads() -> None:
    assert all(source.form for source in SOURCES.values())
    assert not any(source.accepts(object()) for source in SOURCES.values())
