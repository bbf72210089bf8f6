"""Pruning a 6 GB model with little memory: peak RSS, and time beside one read and one write.

    python benchmarks/huge.py [--gigabytes 6] [--folder DIR] [--files 1 8] [--rounds 3] [--verify]

The model is 24 feed-forward blocks (RMS norm, gate, up and down projection, residual sum) between an
embedding and a head, random weights, float32, in external files: one, or several with the weights of
the blocks dealt out. Each prune is the command as a user calls it, in a process of its own:

- one: `--keep` all hidden widths but the first block's, which is halved;
- all: every hidden width halved.

Both by L1 norms, which read every weight that they score, with `--no-verify`: the peak is that of
the pruning itself. With `--verify` the same again with the proof, whose model runs map weights from
files (the kernel may drop those pages whenever it needs room): peak RSS beside what is really held,
the anonymous part. The floor is measured in the same run, by plain copying in pieces of 32 MB: a
sequential read of the original and a write of as many bytes as the result has, flushed to the disk.
What we must read beyond that: the SHA-256 of the original for the plan, and the scores.

The peak is the kernel's own figure (ru_maxrss), of the largest process; "held" is the anonymous part
of it, sampled twenty times a second.
Everything is written to a temporary folder of `--folder` and removed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ONNXPRUNE_THREADS"):
    os.environ.setdefault(_variable, "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from onnx import ModelProto, TensorProto, helper  # noqa: E402

Figures = dict[str, Any]
BLOCKS, WORDS, PIECE = 24, 1000, 32 << 20
BARS = {"one": 1000.0, "all": 3000.0}  # MB


def build(gigabytes: float) -> tuple[ModelProto, dict[str, tuple[int, ...]]]:
    """Return the model without its large weights, and their shapes."""
    # 24 blocks of 3 matrices d x 4d, 4 bytes each
    width = int((gigabytes * 1e9 / (BLOCKS * 3 * 4 * 4)) ** 0.5) // 64 * 64
    hidden, nodes, shapes = 4 * width, [], {"embedding": (WORDS, width)}
    constants = [
        helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]),
        helper.make_tensor("epsilon", TensorProto.FLOAT, [], [1e-6]),
        helper.make_tensor("last", TensorProto.INT64, [1], [-1]),
    ]

    def node(op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op_type, inputs, [output], output, **attributes))
        return output

    x = node("Gather", ["embedding", "words"], "x")
    for number in range(BLOCKS):
        name = f"blocks.{number}"
        shapes |= {f"{name}.norm.weight": (width,)}
        shapes |= {f"{name}.{k}.weight": (width, hidden) for k in ("gate", "up")}
        shapes |= {f"{name}.down.weight": (hidden, width)}
        square = node("Pow", [x, "two"], f"{name}.square")
        mean = node("ReduceMean", [square, "last"], f"{name}.mean", keepdims=1)
        root = node("Sqrt", [node("Add", [mean, "epsilon"], f"{name}.shifted")], f"{name}.root")
        normal = node("Div", [x, root], f"{name}.normal")
        scaled = node("Mul", [normal, f"{name}.norm.weight"], f"{name}.scaled")
        gate = node("MatMul", [scaled, f"{name}.gate.weight"], f"{name}.gate")
        swish = node("Mul", [gate, node("Sigmoid", [gate], f"{name}.sigmoid")], f"{name}.swish")
        up = node("MatMul", [scaled, f"{name}.up.weight"], f"{name}.up")
        inner = node("Mul", [swish, up], f"{name}.inner")
        down = node("MatMul", [inner, f"{name}.down.weight"], f"{name}.down")
        x = node("Add", [x, down], f"{name}.sum")
    shapes["head.weight"] = (width, 16)
    node("MatMul", [x, "head.weight"], "logits")
    words = helper.make_tensor_value_info("words", TensorProto.INT64, ["batch", "length"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", 16])
    graph = helper.make_graph(nodes, "huge", [words], [logits], constants)
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), shapes


def write(folder: Path, gigabytes: float, files: int) -> Path:
    """Write the model, its large weights dealt out over so many files, a piece at a time."""
    folder.mkdir()
    model, shapes = build(gigabytes)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(1 << 22, np.float32) * np.float32(0.02)
    streams = [(folder / f"weights{i}.bin").open("wb") for i in range(files)]
    for number, (name, shape) in enumerate(shapes.items()):
        stream, size = streams[number % files], 4 * int(np.prod(shape))
        tensor = model.graph.initializer.add(name=name, dims=shape, data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": Path(stream.name).name, "offset": stream.tell(), "length": size}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        for start in range(0, size, noise.nbytes):
            scale = np.float32(0.5 + rng.random())
            part = np.roll(noise, int(rng.integers(noise.size))) * scale
            stream.write(part.tobytes()[: min(noise.nbytes, size - start)])
    for stream in streams:
        stream.close()
    path = folder / "huge.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def size(*paths: Path) -> int:
    """Return the bytes of files."""
    return sum(path.stat().st_size for path in paths)


def forget(*paths: Path) -> None:
    """Write files back and ask the kernel to drop their pages, so that reading is from the disk."""
    for path in paths:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def floor(sources: list[Path], target: Path, written: int) -> tuple[float, float]:
    """Return the seconds of one sequential read, and of one write with flush of `written` bytes."""
    buffer = bytearray(PIECE)
    start = time.perf_counter()
    for path in sources:
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    read = time.perf_counter() - start
    start = time.perf_counter()
    with target.open("wb", buffering=0) as stream:
        for first in range(0, written, PIECE):
            stream.write(memoryview(buffer)[: min(PIECE, written - first)])
        os.fsync(stream.fileno())
    seconds = time.perf_counter() - start
    target.unlink()
    return read, seconds


def watched(command: list[str]) -> Figures:
    """Run a command; return what it prints as JSON, its seconds, and its peak memory in MB."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *command], stdout=output, cwd=ROOT)
        held, done = 0.0, 0
        while not done:
            for pid in _family(process.pid):  # the command works in a child of its own
                held = max(held, _held(pid))
            time.sleep(0.05)
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - start
        if status:
            raise SystemExit(f"{' '.join(command)} failed with status {status}")
        output.seek(0)
        report = json.loads(output.read())
    return {
        "report": report,
        "s": seconds,
        "cpu s": usage.ru_utime + usage.ru_stime,
        "MB": usage.ru_maxrss / 1e3 * 1.024,
        "held MB": held,
    }


def _family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # gone by now
        return []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _held(pid: int) -> float:
    """Return the anonymous memory of a process in MB; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) * 1.024e-3 for line in lines if line.startswith("RssAnon"))


def prune(path: Path, what: str, *, verify: bool) -> Figures:
    """Prune as a user does, and time the floor for the same bytes right after."""
    output = path.with_name("out") / "pruned.onnx"
    output.parent.mkdir()
    command = ["-m", "onnxprune.cli", "prune", str(path), "-o", str(output), "--criterion", "l1"]
    command += ["--ratio", "0.5", "--scope", "uniform", "--json", "--quiet"]
    first = 0 if what == "all" else 1
    keep = [
        "embedding",
        *(f"blocks.{n}.down.weight" for n in range(first, BLOCKS) if what == "one"),
    ]
    command += [word for pattern in keep for word in ("--keep", pattern)]
    sources = sorted(path.parent.glob("weights*.bin"))
    forget(*sources)
    found = watched(command + ([] if verify else ["--no-verify"]))
    written = size(*output.parent.iterdir())
    forget(*sources)
    read, write_seconds = floor(sources, path.with_name("floor"), written)
    shutil.rmtree(output.parent)
    return found | {
        "what": what,
        "files": len(sources),
        "verified": verify,
        "GB": size(*sources) / 1e9,
        "GB out": written / 1e9,
        "read s": read,
        "write s": write_seconds,
    }


def show(rows: list[Figures]) -> None:
    """Print the best of the rounds as a Markdown table, and the bars."""
    print(
        "| cut | files | proof | GB in, out | peak MB | held MB | s | processor s | read + write s |"
    )
    print("| :-- | --: | :-- | --: | --: | --: | --: | --: | --: |")
    for row in rows:
        least = row["read s"] + row["write s"]
        bare = f"{row['read s']:.1f} + {row['write s']:.1f} = {least:.1f}"
        print(
            f"| {row['what']} | {row['files']} | {'yes' if row['verified'] else 'no'} | "
            f"{row['GB']:.2f}, {row['GB out']:.2f} | {row['MB']:,.0f} | {row['held MB']:,.0f} | "
            f"{row['s']:.1f} | {row['cpu s']:.1f} | {bare} |"
        )
    print()
    for row in rows:
        steps = ", ".join(f"{name} {s:.1f}" for name, s in row["report"]["seconds"].items())
        print(f"{row['what']}, {row['files']} files, proof {row['verified']}: {steps} s")
        if not row["verified"]:
            bar = BARS[row["what"]]
            print(
                f"  peak {row['MB']:,.0f} MB: {'within' if row['MB'] <= bar else 'ABOVE'} {bar:g} MB"
            )
        else:
            print(f"  gap {row['report']['proof']['gap']:.1e}")


def main() -> None:
    """Write, prune, print, clean up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--files", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3, help="the fastest is told")
    parser.add_argument("--verify", action="store_true", help="also with the proof, once")
    parser.add_argument("--json", action="store_true", help="print all figures at the end")
    asked = parser.parse_args()
    # the model, the result, and what the proof writes for one run
    needed = asked.gigabytes * 1e9 * (3.2 if asked.verify else 2.1)
    if (free := shutil.disk_usage(asked.folder).free) < needed:
        raise SystemExit(
            f"'{asked.folder}' has {free / 1e9:.0f} GB left, {needed / 1e9:.0f} are needed"
        )
    rows: list[Figures] = []
    print(f"load average {os.getloadavg()[0]:.1f} at the start\n", flush=True)
    for files in asked.files:
        with tempfile.TemporaryDirectory(dir=asked.folder, prefix="huge-") as folder:
            path = write(Path(folder, "model"), asked.gigabytes, files)
            for what in BARS:
                runs = [prune(path, what, verify=False) for _ in range(asked.rounds)]
                rows.append(min(runs, key=lambda run: run["s"]))
                rows[-1]["MB"] = max(run["MB"] for run in runs)
            if asked.verify and files == asked.files[0]:
                rows += [prune(path, what, verify=True) for what in BARS]
    show(rows)
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end")
    if asked.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
