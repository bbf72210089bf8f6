"""Published ResNet-56 on CIFAR-10 (25 of 27 blocks can go) without some blocks, without training.

    python benchmarks/depth_cifar.py [--blocks 3,6,9,12] [--scores NAMES] [--taus 95,98,99] [--seeds 5]
           [--test 10000] [--rows FILE [--most N]] [--quick]

Blocks are chosen on 512 images of the training split: by every depth score that ranks, so many at a
time; by MPruner, one round with k = 1 and 2, and all rounds within 4 % and 1 % of accuracy (judged on a
quarter of those images, with labels). Accuracy is on test images, as cut and after the sequential
repair to the original with its blocks. MACs are exact; latency is onnxruntime's, one thread, one image,
in turns with the original. `--rows` keeps what was measured, one JSON object a line: run again to go
on, with `--most` in parts of so many rows.
Needs the data that `benchmarks/cifar.py` describes.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import onnx
from rich.box import MARKDOWN
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import cifar
from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import REPAIRS, SURGERIES, Evidence, RepairTask, Samples, silent
from onnxprune.core.cost import CostModel
from onnxprune.core.depth import DEPTH
from onnxprune.core.errors import BudgetError
from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session
from onnxprune.discover import discover
from onnxprune.measure import latency
from onnxprune.measure.clock import Clock
from onnxprune.pipeline.deepen import choose
from onnxprune.pipeline.request import PruneRequest
from onnxprune.proof.example import instance_of
from onnxprune.structure.blocks import find_blocks
from onnxprune.structure.dependency import analyse

CALIBRATION, BATCH = 512, 250
NO_UNITS = np.empty(0, np.int64)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What one choice is made by: a depth score with settings, a seed, how many blocks (0: its own)."""

    score: str
    seed: int = 0
    blocks: int = 0


@dataclasses.dataclass(frozen=True)
class Row:
    """One set of blocks left out.

    Attributes:
        asked: by what.
        left_out: names of the blocks.
        macs: share that is left.
        cut, repaired: accuracy on test images, %, before and after the repair.
        speedup, milliseconds: of the latency of one image.
    """

    asked: Asked
    left_out: tuple[str, ...]
    macs: float
    cut: float
    repaired: float
    speedup: float
    milliseconds: float


@dataclasses.dataclass(frozen=True)
class Bench:
    """The network and what every row needs of it."""

    path: Path
    analysis: Analysis
    samples: Samples
    test: cifar.Images

    @classmethod
    def open(cls, folder: Path, test: int) -> Bench:
        """Export the network and read images; calibration images come with their labels."""
        path = cifar.network(56, folder)
        analysis = analyse(Graph.from_model(onnx.load(path)))
        (value,), images = analysis.graph.inputs, cifar.images("train_1", CALIBRATION)
        samples = Samples(
            CALIBRATION,
            lambda start, stop: {value.name: images.x[start:stop], "labels": images.y[start:stop]},
            extra=("labels",),
        )
        return cls(path, analysis, samples, cifar.images("test", test))

    def chosen(self, asked: Asked) -> tuple[str, ...]:
        """Return the names of the blocks that go, those of the lowest score first."""
        request = PruneRequest(
            self.path, data=self.samples, labels="labels", depth=asked.score, seed=asked.seed,
            blocks=asked.blocks or None,
        )  # fmt: skip
        mask, planned = choose(request, self.analysis, self.samples, None, Clock(silent))
        if asked.blocks:
            return planned.rounds[0].blocks
        return tuple(block.name for block in mask.blocks) if mask else ()

    def row(self, asked: Asked, names: Sequence[str]) -> Row:
        """Leave blocks out and measure."""
        blocks = tuple(b for b in find_blocks(self.analysis) if b.name in names)
        shallow = analyse(SURGERIES["blocks"](self.analysis.mask(NO_UNITS, blocks)))
        task = RepairTask(
            shallow.mask(NO_UNITS), shallow.graph, Evidence(shallow, None), self.samples,
            original=self.analysis.graph,
        )  # fmt: skip
        repaired = REPAIRS["sequential"].apply(task)
        before, after = (Session(g, threads=1) for g in (self.analysis.graph, repaired))
        (name,) = before.inputs
        time = latency.compare(before, after, {name: self.test.x[:1]}, seconds=2.0)
        return Row(
            asked, tuple(names), self.macs(shallow) / self.macs(self.analysis),
            self.accuracy(shallow.graph), self.accuracy(repaired),
            time.speedup, time.after.median,
        )  # fmt: skip

    def macs(self, analysis: Analysis) -> float:
        """Return the multiply-accumulates of one image."""
        cost = CostModel(analysis, instance_of(analysis.graph, self.samples.read(0, 1)))
        return cost.macs(cost.lengths())

    def accuracy(self, graph: Graph) -> float:
        """Return the share of test images classified right, %."""
        session, right = Session(graph), 0
        for start in range(0, len(self.test.x), BATCH):
            part = slice(start, start + BATCH)
            (scores,) = session.run({session.inputs[0]: self.test.x[part]}).values()
            right += int((scores.argmax(axis=1) == self.test.y[part]).sum())
        return 100 * right / len(self.test.x)


def wanted(asked: argparse.Namespace) -> Iterator[tuple[Asked, tuple[int, ...]]]:
    """Yield every choice, and how many of its first blocks make a row of their own."""
    counts = tuple(sorted(asked.blocks))
    yield Asked("original"), ()
    for tau in asked.taus:
        for k in (1, 2):
            yield Asked(f"mpruner:tau={tau},k={k},rounds=1,threshold=1"), ()
    for threshold in (0.04, 0.01):
        yield Asked(f"mpruner:tau={asked.taus[len(asked.taus) // 2]},threshold={threshold}"), ()
    for name in asked.scores:
        for seed in range(asked.seeds if name == "random" else 1):
            yield Asked(name, seed, counts[-1]), counts


def measured(bench: Bench, asked: argparse.Namespace, known: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows that are not known yet."""
    done = {row.asked for row in known}
    for choice, counts in track([*wanted(asked)], "choices", console=Console(stderr=True)):
        rows = [dataclasses.replace(choice, blocks=n) for n in counts] or [choice]
        if done.issuperset(rows):
            continue
        try:
            names = () if choice.score == "original" else bench.chosen(choice)
        except BudgetError as error:
            Console(stderr=True).print(f"{choice.score}: {error}")
            continue
        for row in rows:
            if row not in done:
                yield bench.row(row, names[: row.blocks] if row.blocks else names)


def table(rows: Sequence[Row]) -> Table:
    """Return all rows; random ones as mean and range over seeds."""
    shown = Table(
        "by", "blocks out", "MACs left", "as cut %", "repaired %", "speed-up", "ms", box=MARKDOWN
    )
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.asked.score, row.asked.blocks), []).append(row)
    for (score, _), same in groups.items():
        cut, repaired = [r.cut for r in same], [r.repaired for r in same]
        shown.add_row(
            score, str(len(same[0].left_out)), f"{np.mean([r.macs for r in same]):.3f}",
            spread(cut), spread(repaired), f"{np.median([r.speedup for r in same]):.2f}x",
            f"{np.median([r.milliseconds for r in same]):.2f}",
        )  # fmt: skip
    return shown


def spread(values: Sequence[float]) -> str:
    """Return a value, or the mean of several with their range."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def read(path: Path | None) -> list[Row]:
    """Read the rows measured so far."""
    if path is None or not path.is_file():
        return []
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        Row(**{**r, "asked": Asked(**r["asked"]), "left_out": tuple(r["left_out"])}) for r in found
    ]


def main() -> None:
    """Run the benchmark."""
    discover()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731 - an argparse type
    parser.add_argument("--blocks", type=numbers, default=[3, 6, 9, 12])
    ranking = [name for name, score in DEPTH.items() if score.guard is None]
    parser.add_argument("--scores", type=lambda text: text.split(","), default=ranking)
    parser.add_argument("--taus", type=numbers, default=[95, 98, 99])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--most", type=int, help="rows to measure in this run")
    parser.add_argument("--quick", action="store_true", help="few blocks, seeds and images")
    asked = parser.parse_args()
    if asked.quick:
        asked.blocks, asked.taus, asked.seeds, asked.test = [6], [98], 2, 500
    rows = read(asked.rows)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.open(Path(folder), asked.test)
        for row in itertools.islice(measured(bench, asked, rows), asked.most):
            rows.append(row)
            if asked.rows is not None:
                with asked.rows.open("a") as stream:
                    stream.write(json.dumps(dataclasses.asdict(row)) + "\n")
    Console(width=140).print(table(rows), f"{asked.test} test images")


if __name__ == "__main__":
    main()
