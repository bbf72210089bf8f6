"""What calibration costs: processor time against a bare run over the same samples, and peak memory.

    python benchmarks/calibration_cost.py [--samples 128] [--rounds 3] [--memory] [--json]
           [--models ResNet-56] [--statistics moments]

Both models have random weights: time and memory do not depend on them. A bare run, one with moments
and one with second moments follow each other in every round, on one thread; what is told is the
median over rounds of the ratio within a round. `--memory` runs each statistic in a process of its
own over 512 and over 5,000 samples (drawn as they are read) and tells its peak resident size.
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
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("ONNXPRUNE_THREADS", "1")
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402  # after the threads are set
import onnx  # noqa: E402
import rich.console  # noqa: E402
import rich.table  # noqa: E402

from onnxprune.core.analysis import Analysis  # noqa: E402
from onnxprune.core.contracts import Samples  # noqa: E402
from onnxprune.core.graph import Array, Graph  # noqa: E402
from onnxprune.core.runtime import Session  # noqa: E402
from onnxprune.pipeline.collect import collect  # noqa: E402
from onnxprune.structure.dependency import analyse  # noqa: E402
from tests.networks import bottlenecks  # noqa: E402

BATCH = 8  # samples of a bare run; the calibration run chooses for itself
STATISTICS = ("moments", "second")


def resnet50(folder: Path) -> Path:
    """Write a ResNet-50 of random weights, BatchNormalization folded."""
    path = folder / "resnet50.onnx"
    onnx.save(bottlenecks((3, 4, 6, 3), (64, 128, 256, 512), 224).model(), path)
    return path


def resnet56(folder: Path) -> Path:
    """Write the CIFAR ResNet-56 of random weights, BatchNormalization folded."""
    import torch  # the other model needs none

    from onnxprune.models.export import export
    from onnxprune.models.resnet import CifarResNet

    return export(CifarResNet(56), [torch.zeros(2, 3, 32, 32)], folder / "resnet56.onnx")


# what writes the model, height and width of its input, samples that take some seconds
MODELS: dict[str, tuple[Callable[[Path], Path], int, int]] = {
    "ResNet-50": (resnet50, 224, 128),
    "ResNet-56": (resnet56, 32, 2048),
}


def drawn(analysis: Analysis, size: int, count: int) -> Samples:
    """Return samples that take no memory: drawn when read."""
    (value,) = analysis.graph.inputs

    def read(start: int, stop: int) -> dict[str, Array]:
        rng = np.random.default_rng(start)
        return {value.name: rng.standard_normal((stop - start, 3, size, size), np.float32)}

    return Samples(count, read)


def kept(samples: Samples) -> Samples:
    """Return the same samples from memory, so that drawing them is not timed."""
    batches = list(samples.batches(BATCH))
    arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return Samples(samples.count, lambda a, b: {name: array[a:b] for name, array in arrays.items()})


def seconds(work: Callable[[], object]) -> float:
    """Processor time of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def bare(analysis: Analysis, samples: Samples) -> None:
    """Run the model over all samples, loading included."""
    session = Session(analysis.graph.to_model)
    for batch in samples.batches(BATCH):
        session.run(batch)


def times(
    path: Path, size: int, count: int, rounds: int, statistics: list[str]
) -> dict[str, float]:
    """Return milliseconds per sample of a bare run, and what each statistic takes relative to it."""
    analysis = analyse(Graph.from_model(onnx.load(path)))
    samples = kept(drawn(analysis, size, count))
    bare(analysis, samples)  # first use of libraries and memory
    base: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in statistics}
    for _ in range(rounds):
        base.append(seconds(lambda: bare(analysis, samples)))
        for name, found in ratios.items():
            found.append(seconds(partial(collect, analysis, samples, {name})) / base[-1])
    medians = {name: float(np.median(found)) for name, found in ratios.items()}
    return {"bare ms": 1e3 * float(np.median(base)) / count} | medians


def peak(path: Path, size: int, count: int, statistic: str) -> float:
    """Return the peak resident size of a fresh process that collects one statistic, in MB."""
    command = [sys.executable, __file__, "--one", str(path), str(size), str(count), statistic]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def one(path: str, size: str, count: str, statistic: str) -> None:
    """Collect one statistic and print the peak of this process."""
    analysis = analyse(Graph.from_model(onnx.load(path)))
    collect(analysis, drawn(analysis, int(size), int(count)), {statistic}, rows=16)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent's too
    print(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1e3)


def table(results: dict[str, dict[str, float]]) -> rich.table.Table:
    """Lay the figures out."""
    columns = list(dict.fromkeys(name for row in results.values() for name in row))
    shown = rich.table.Table("model", *columns)
    for model, row in results.items():
        shown.add_row(model, *(f"{row[name]:.2f}" if name in row else "" for name in columns))
    return shown


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--samples", type=int, help="default: 128 and 2,048")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="also 512 against 5,000 samples")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--statistics", nargs="*", default=list(STATISTICS), choices=STATISTICS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        one(*asked.one)
        return
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.models:
            write, size, usual = MODELS[name]
            path = write(Path(folder))
            results[name] = times(
                path, size, asked.samples or usual, asked.rounds, asked.statistics
            )
            for statistic in asked.statistics if asked.memory else ():
                for count in (512, 5000):
                    results[name][f"{statistic} MB at {count}"] = peak(path, size, count, statistic)
    if asked.json:
        print(json.dumps(results, indent=2))
    else:
        rich.console.Console().print(table(results))


if __name__ == "__main__":
    main()
