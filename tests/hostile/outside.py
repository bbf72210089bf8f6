"""External data that lies elsewhere, and files that are no model at all."""

from __future__ import annotations

import io
import json
import os
import zipfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnx import ModelProto, TensorProto

from onnxprune.api import prune
from tests.hostile.bases import any_content, any_model, content, weight
from tests.hostile.registry import (
    KINDS,
    MODEL,
    OUTPUT,
    PRUNE,
    Commands,
    Rng,
    choose,
    kind,
    write,
)

_NUMBERS = ("-1", "-4096", "1", "9" * 18, "9" * 30, "1e3", "", "x", "0x10", " 4", "\u0664", "4096")


def _externalise(model: ModelProto, folder: Path) -> None:
    """Move all weights to `m.bin`, as exporters do."""
    content = bytearray()
    for tensor in model.graph.initializer:
        content += bytes(-len(content) % 64)
        entries = {"location": "m.bin", "offset": len(content), "length": len(tensor.raw_data)}
        content += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
    (folder / "m.bin").write_bytes(content)


def _say(tensor: TensorProto, key: str, value: str) -> None:
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value


@kind(3)
def location(rng: Rng, folder: Path) -> None:
    """Paths that leave the folder, name no file, or no regular one."""
    model = any_model(rng)
    _externalise(model, folder)
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    places = ["../m.bin", "/etc/passwd", "sub/../../m.bin", "sub", "pipe", "", ".", "nothing.bin",
              "m.bin/", "C:\\m.bin", "..\\m.bin", "//host/m.bin", "a\0b", "x" * 5000, "/dev/zero",
              "~/m.bin", "./m.bin", "file:///etc/passwd", MODEL]  # fmt: skip
    _say(weight(model, rng), "location", choose(rng, places))
    write(model, folder)


@kind(2)
def links(rng: Rng, folder: Path) -> None:
    """The data file is a link: outwards, in a ring, to a device, to the model itself."""
    model = any_model(rng)
    _externalise(model, folder)
    data = folder / "m.bin"
    data.unlink()
    data.symlink_to(
        choose(rng, ["/etc/passwd", "m.bin", "/dev/zero", MODEL, "/proc/self/mem", ".."])
    )
    write(model, folder)


@kind(3)
def offsets(rng: Rng, folder: Path) -> None:
    model = any_model(rng)
    _externalise(model, folder)
    for _ in range(int(choose(rng, [1, 3]))):
        _say(weight(model, rng), choose(rng, ["offset", "length"]), choose(rng, _NUMBERS))
    write(model, folder)


@kind(2)
def data_file(rng: Rng, folder: Path) -> None:
    """Truncated, empty, or missing data; other sizes of the tensor than of the data."""
    model = any_model(rng)
    _externalise(model, folder)
    data, form = folder / "m.bin", int(rng.integers(4))
    if form == 0:
        os.truncate(data, int(rng.integers(data.stat().st_size)))
    elif form == 1:
        data.unlink()
    elif form == 2:
        tensor = weight(model, rng)
        tensor.dims[:] = [int(choose(rng, [2**40, 10**6, 0, -1]))]
    else:
        tensor = weight(model, rng)
        tensor.data_type = TensorProto.STRING
    write(model, folder)


@kind(1)
def hole(rng: Rng, folder: Path) -> None:
    """A weight of terabytes in a sparse file: its size is true, it takes no room on the disk."""
    model = any_model(rng, "dense")
    _externalise(model, folder)
    rows = int(choose(rng, [10**5, 10**8, 10**10]))
    tensor = next(t for t in model.graph.initializer if t.name == "w1")
    tensor.dims[:] = [10, rows]
    _say(tensor, "offset", "0")
    _say(tensor, "length", str(40 * rows))
    os.truncate(folder / "m.bin", 40 * rows)
    write(model, folder)


@kind(2)
def no_model(rng: Rng, folder: Path) -> None:
    """Empty files, text, archives, pickles, directories, devices."""
    path, form = folder / MODEL, int(rng.integers(10))
    if form == 0:
        path.write_bytes(b"")
    elif form == 1:
        path.write_text(choose(rng, ["hello\n", "{}", "\n" * 1000, "<xml/>", "import os\n" * 99]))
    elif form == 2:
        path.write_bytes(rng.bytes(int(rng.integers(1, 5000))))
    elif form == 3:
        np.savez(folder / "m.npz", x=np.ones(3))
        (folder / "m.npz").rename(path)
    elif form == 4:
        path.mkdir()
    elif form == 5:
        os.mkfifo(path)
    elif form == 6:
        path.symlink_to(choose(rng, ["/dev/zero", "/dev/null", MODEL, "nothing", "/proc/self/mem"]))
    elif form == 7:
        path.write_bytes(bytes(int(choose(rng, [1, 7, 100_000]))))
    elif form == 8:
        path.touch()
        os.truncate(path, int(choose(rng, [2**30, 2**31, 2**40])))
    else:
        path.write_bytes(b"\x80\x04" + any_content(rng))
    return


_DATA = (
    "prune",
    MODEL,
    "--ratio",
    "0.5",
    "--round-to",
    "1",
    "-o",
    OUTPUT,
    "--json",
    "--data",
    "d.npz",
)


def _npz(folder: Path, **arrays: np.ndarray) -> None:
    np.savez(folder / "d.npz", **arrays)  # type: ignore[arg-type]  # names of arrays, no options


@kind(3)
def samples(rng: Rng, folder: Path) -> Commands:
    """Samples of wrong names, types, shapes and values, and their smallest repair."""
    write(any_content(rng, "dense"), folder)
    good = rng.standard_normal((8, 10)).astype(np.float32)
    evil = good.copy()
    evil[3, 4] = choose(rng, [np.nan, np.inf, 3e38, 1e-45, 0])
    form = int(rng.integers(8))
    options: list[dict[str, np.ndarray]] = [
        {"x": evil}, {"y": good}, {"x": good[:0]}, {"x": good[:, :3]}, {"x": good.astype(np.complex64)},
        {"x": good.astype("U")}, {"x": np.array(1.0)}, {"x": good, "../z": good},
    ]  # fmt: skip
    _npz(folder, **options[form])
    return [_DATA]


@kind(3)
def sample_archives(rng: Rng, folder: Path) -> Commands:
    """Archives with pickles, bombs, lying headers, paths and damage."""
    write(any_content(rng, "dense"), folder)
    form, path = int(rng.integers(7)), folder / "d.npz"
    header = "{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}"

    def npy(text: str, body: bytes = b"") -> bytes:
        padded = text.ljust(117).encode() + b"\n"
        return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + body

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if form == 0:
            buffer = io.BytesIO()
            np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
            archive.writestr("x.npy", buffer.getvalue())
        elif form == 1:  # 400 MB of zeros in 400 kB
            with archive.open("x.npy", "w") as stream:
                stream.write(npy(header.format("10_000_000, 10".replace("_", ""))))
                for _ in range(100):
                    stream.write(bytes(4_000_000))
        elif form == 2:
            archive.writestr(
                "x.npy", npy(header.format(choose(rng, [10**15, -3, 2**70])), bytes(40))
            )
        elif form == 3:
            archive.writestr("../../x.npy", npy(header.format(10), bytes(40)))
        elif form == 4:
            archive.writestr("x.npy", npy("__import__('os').getcwd()", bytes(40)))
        elif form == 5:
            archive.writestr("x.npy", rng.bytes(300))
        else:
            archive.writestr("x.npy", npy(header.format(10), bytes(40)))
    if form == 6:
        data = bytearray(path.read_bytes())
        for at in rng.integers(len(data), size=6):
            data[at] ^= 255
        path.write_bytes(bytes(data))
    return [_DATA]


@kind(3)
def plans(rng: Rng, folder: Path) -> Commands:
    """Plan files of other forms, with absurd numbers, deep nests and doubled keys."""
    write(any_content(rng, "dense"), folder)
    deep = int(choose(rng, [100, 100_000]))
    good = {
        "format": 1, "onnxprune": "0.1.0", "model": {"name": MODEL, "sha256": "0" * 64},
        "kept": {"w1": {"1": [[0, 16]]}}, "blocks": [], "criterion": {"name": "l2", "settings": {}},
    }  # fmt: skip
    texts = [
        "", "null", "[]", "{", "{}", "[" * deep, '{"a":' * deep, json.dumps(good), "NaN", "1e999", "\ufeff{}",
        json.dumps(good | {"format": choose(rng, [0, -1, 2**70, "1", None])}),
        json.dumps(good | {"kept": {"w1": {"1": [[0, 10**18]]}}}),
        json.dumps(good | {"kept": {"../w": {"-1": [[5, 2], [0, 1]]}}}),
        '{"format":1,"format":1}', json.dumps({"format": 1, "x": "9" * 100_000}), "9" * 10_000,
    ]  # fmt: skip
    (folder / "p.json").write_text(choose(rng, texts), encoding="utf-8")
    return [("prune", MODEL, "--plan", "p.json", "-o", OUTPUT, "--json"),
            ("verify", MODEL, "--plan", "p.json", "--json")]  # fmt: skip


@cache
def _real_plan() -> bytes:
    """Return the plan of a prune of "dense"."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(content("dense"), folder)
        prune(folder / MODEL, folder / OUTPUT, ratio=0.5, round_to=1, dry_run=True)
        return (folder / "out.plan.json").read_bytes()


@kind(3)
def plans_damaged(rng: Rng, folder: Path) -> Commands:
    """A real plan whose numbers, names and brackets are damaged."""
    write(content("dense"), folder)
    data = bytearray(_real_plan())
    for at in rng.integers(len(data), size=int(choose(rng, [1, 3, 10]))):
        data[at] = choose(rng, b'0123456789-",[]{}eaxN \\\x00\xff')
    (folder / "p.json").write_bytes(bytes(data))
    return [("prune", MODEL, "--plan", "p.json", "-o", OUTPUT, "--json")]


@kind(2)
def random_samples(rng: Rng, folder: Path) -> Commands:
    """Damaged attributes and values under calibration with random samples and repair."""
    name = choose(rng, ["values", "attribute_value", "flipped_bits", "giant_faces", "element_type"])
    KINDS[name](rng, folder)
    return [(*PRUNE, "--data", "random:8")]
