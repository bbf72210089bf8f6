"""What CKA between the points of a ResNet-50 costs: processor time against a bare run, and memory.

    python benchmarks/cka_speed.py [--size 224] [--samples 64] [--rounds 3] [--points 16,50] [--json]

Weights are random: time and memory do not depend on them. Images are blurred noise: what is drawn of
a map stands for all of it only where neighbours are alike, as they are in photographs. Points are
where its 12 blocks that can go begin and end (16), and outputs of convolutions all over it (50);
blocks of 64 rows. In every round, on one thread: a bare run; the streamed run; and the direct way, as
released code does it: activations of all points stacked on the host, then a Gram matrix of all their
values and the sums. "rest" is what the streamed run does with the rows it was given, as a share of
the bare run. Told are medians of the ratios within a round, the largest difference of a similarity
between both ways, and the peak resident size of a fresh process for each.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from unittest import mock

os.environ.setdefault("ONNXPRUNE_THREADS", "1")
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402  # after the threads are set
import onnx  # noqa: E402
from rich.box import MARKDOWN  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.calibration_cost import bare, kept, seconds  # noqa: E402
from onnxprune.calibration import cka  # noqa: E402
from onnxprune.calibration._hsic import debiased  # noqa: E402
from onnxprune.core.alignment import Point  # noqa: E402
from onnxprune.core.analysis import Analysis  # noqa: E402
from onnxprune.core.contracts import Samples  # noqa: E402
from onnxprune.core.graph import Array, Graph  # noqa: E402
from onnxprune.core.runtime import Session  # noqa: E402
from onnxprune.core.stream import Probes, with_probes  # noqa: E402
from onnxprune.pipeline.collect import collect  # noqa: E402
from onnxprune.structure.blocks import find_blocks  # noqa: E402
from onnxprune.structure.dependency import analyse  # noqa: E402
from onnxprune.structure.streams import streams  # noqa: E402
from tests.networks import bottlenecks  # noqa: E402

ROWS, BATCH = 64, 8
WAYS = ("bare", "streamed", "direct")


def drawn(analysis: Analysis, size: int, count: int) -> Samples:
    """Return blurred noise that takes no memory: drawn when read."""
    (value,) = analysis.graph.inputs

    def read(start: int, stop: int) -> dict[str, Array]:
        rng = np.random.default_rng(start)
        coarse = rng.standard_normal((stop - start, 3, 7, 7), np.float32)
        images = coarse.repeat(size // 7, axis=2).repeat(size // 7, axis=3)
        noise = rng.standard_normal(images.shape, np.float32)
        return {value.name: images + np.float32(0.1) * noise}

    return Samples(count, read)


def points_of(analysis: Analysis, count: int) -> tuple[Point, ...]:
    """Return where blocks begin and end, or `count` outputs of convolutions."""
    ends = streams(analysis, find_blocks(analysis)).points
    if count <= len(ends):
        return ends
    made = [linear.y for linear in analysis.linears()]
    return tuple(Point(made[i]) for i in np.linspace(0, len(made) - 1, count).astype(int))


def streamed(analysis: Analysis, samples: Samples, points: Sequence[Point]) -> np.ndarray:
    """Return the similarity of all points as onnxprune finds it."""
    found = collect(analysis, samples, {"cka"}, points=tuple(points)).alignment
    assert found is not None
    return found.similarity


def direct(analysis: Analysis, samples: Samples, points: Sequence[Point]) -> np.ndarray:
    """Return it from activations stacked on the host."""
    names = [point.tensor for point in points]
    model = partial(with_probes, analysis.graph, [Probes(tuple(names))])
    session, stacked = Session(model), {name: [] for name in names}
    for batch in samples.batches(BATCH):
        for name, value in session.run(batch, names).items():
            stacked[name].append(value.reshape(len(value), -1))
    rows = {name: np.concatenate(parts) for name, parts in stacked.items()}
    starts = range(0, samples.count, ROWS)
    sums = sum(debiased([rows[name][i : i + ROWS] for name in names]) for i in starts)
    norms = np.sqrt(np.diagonal(sums))
    return np.asarray(sums / norms / norms[:, None])


class Stopwatch:
    """Adds up the processor time of what it wraps."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.total = 0.0

    def __call__(self, work):
        """Return it, timed."""

        def timed(*args, **given):
            start = time.process_time()
            result = work(*args, **given)
            self.total += time.process_time() - start
            return result

        return timed


def times(analysis: Analysis, samples: Samples, count: int, rounds: int) -> dict[str, float]:
    """Return what each way takes relative to a bare run, and how far the results are apart."""
    points = points_of(analysis, count)
    ratios: dict[str, list[float]] = {"streamed": [], "rest": [], "direct": []}
    bare(analysis, samples)  # first use of libraries and memory
    for _ in range(rounds):
        base, watch = seconds(lambda: bare(analysis, samples)), Stopwatch()
        with mock.patch.object(cka._Fold, "add", watch(cka._Fold.add)):
            ratios["streamed"].append(seconds(partial(streamed, analysis, samples, points)) / base)
        ratios["rest"].append(watch.total / base)
        ratios["direct"].append(seconds(partial(direct, analysis, samples, points)) / base)
    apart = np.abs(streamed(analysis, samples, points) - direct(analysis, samples, points)).max()
    medians = {name: float(np.median(found)) for name, found in ratios.items()}
    return {"points": len(points), **medians, "apart": float(apart)}


def one(path: str, size: str, samples: str, count: str, way: str) -> None:
    """Go one way and print the peak of this process, in MB."""
    analysis = analyse(Graph.from_model(onnx.load(path)))
    given, points = drawn(analysis, int(size), int(samples)), points_of(analysis, int(count))
    if way == "bare":
        bare(analysis, given)
    else:
        {"streamed": streamed, "direct": direct}[way](analysis, given, points)
    print(int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1e3)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--samples", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--points", type=lambda text: [int(n) for n in text.split(",")], default=[16, 50]
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        one(*asked.one)
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "resnet50.onnx")
        onnx.save(bottlenecks((3, 4, 6, 3), (64, 128, 256, 512), asked.size).model(), path)
        analysis = analyse(Graph.from_model(onnx.load(path)))
        for count in asked.points:
            samples = kept(drawn(analysis, asked.size, asked.samples))
            row = times(analysis, samples, count, asked.rounds)
            for way in WAYS:
                words = [str(path), str(asked.size), str(asked.samples), str(count), way]
                run = subprocess.run(
                    [sys.executable, __file__, "--one", *words],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                row[f"{way} MB"] = float(run.stdout)
            found.append(row)
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    shown = Table(*found[0], box=MARKDOWN)
    for row in found:
        shown.add_row(
            *(f"{v:.0f}" if "MB" in n or n == "points" else f"{v:.3f}" for n, v in row.items())
        )
    Console(width=120).print(shown)


if __name__ == "__main__":
    main()
