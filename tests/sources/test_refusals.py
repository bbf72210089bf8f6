"""Data that does not fit is refused: what, where, expected, found, what to do."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.core.contracts import SOURCES
from onnxprune.core.errors import DataError
from onnxprune.core.graph import Array, Graph
from onnxprune.pipeline.samples import open_samples
from tests.sources.common import FIXED, ONE, TWO, graph, npz


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
