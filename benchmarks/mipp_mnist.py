"""MIPP on LeNet-5 and MNIST against random, l1 and ThiNet: accuracy after retraining, and collapse.

    python benchmarks/mipp_mnist.py --rows FILE            # resumes what FILE holds already
    python benchmarks/mipp_mnist.py --rows FILE --show     # tables only
    python benchmarks/mipp_mnist.py --rows FILE --estimator mlp
    python benchmarks/mipp_mnist.py --rows OTHER --features # pixels of an MLP (paper, E.1)

After figures 2 a and 3 of Westphal et al. 2024 (arXiv 2411.00147): a trained network and one with
random weights are pruned at the paper's 20 confidence values, and at seven tolerances of the robust
test. The other criteria remove as many nodes as MIPP did, at every third confidence value and every
tolerance. All are then trained alike, for a short while. A network has collapsed if it tells digits
no better than chance afterwards. No layer ever loses its last node here; those of the paper's
baselines may.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mipp_mnist_networks as mnist
import torch
from mipp_mnist_table import feature_table, picture, tables
from rich.console import Console

import onnxprune
from onnxprune.core.errors import BudgetError
from onnxprune.passes.criteria._terc import schedule

PAPER = "mipp:collapse=l1,estimates=5,tolerance=0,nulls=0,reference=full"
ESTIMATOR = {"ridge": "", "mlp": ",estimator=mlp,again=20"}
OTHERS = {"random": "global", "l1": "global", "thinet": "uniform"}  # scopes as in the paper
CALIBRATION, RETRAINING = 1000, 10_000  # images; more where pixels are judged
PIXELS = 4000

# Each level is one run of MIPP: the paper's confidence values, then losses that are allowed.
TOLERANCES = (0.02, 0.06, 0.12, 0.25, 0.4, 0.6, 0.8)
LEVELS = [("mipp", f"{PAPER},confidence={x}") for x in schedule()]
LEVELS += [("mipp, tolerance", f"mipp:collapse=l1,tolerance={tau}") for tau in TOLERANCES]
FOLLOWED = {*range(1, len(schedule()), 3), *range(len(schedule()), len(LEVELS))}  # by the others


Key = tuple[str, int, str, int]


@dataclasses.dataclass(frozen=True)
class Row:
    """One pruned network.

    Attributes:
        state: "trained" or "untrained".
        seed: of weights, batches and random scores.
        criterion: what chose.
        level: the entry of `LEVELS` that was run, or whose share was asked for.
        removed: share of the nodes (and of the pixels, for features).
        widths: nodes left per layer.
        before: accuracy on the first 2,000 test images as pruned.
        after: accuracy on all test images after retraining.
        features: pixels left, where they may go.
    """

    state: str
    seed: int
    criterion: str
    level: int
    removed: float
    widths: tuple[int, ...]
    before: float
    after: float
    features: tuple[int, ...] = ()

    @property
    def key(self) -> Key:
        """What one run is known by."""
        return self.state, self.seed, self.criterion, self.level


class Study:
    """One network, trained or not, and what becomes of it."""

    def __init__(self, asked: argparse.Namespace, state: str, seed: int, folder: Path) -> None:
        torch.manual_seed(seed)
        self.asked, self.state, self.seed, self.folder = asked, state, seed, folder
        self.kind = "mlp" if asked.features else "lenet5"
        self.train, self.test = (
            data.pixels(range(784)) if asked.features else data
            for data in (asked.train, asked.test)
        )
        model = mnist.NETWORKS[self.kind]()
        if state == "trained":
            mnist.trained(model, self.train, asked.epochs, seed)
        self.path = mnist.written(model, self.train, folder / "original.onnx")
        self.images = self.train.array[: PIXELS if asked.features else CALIBRATION]
        self.done: dict[bytes, Row] = {}

    def leader(self, level: int) -> Row:
        """Let MIPP prune as it will, and retrain."""
        name, text = LEVELS[level]
        text += ESTIMATOR[self.asked.estimator]
        return self._row(name + self.asked.suffix, level, criterion=text)

    def follower(self, criterion: str, first: Row) -> Row:
        """Let another criterion remove as many nodes as MIPP did, and retrain."""
        return self._row(
            criterion, first.level, criterion=criterion, ratio=first.removed,
            scope=OTHERS[criterion],
        )  # fmt: skip

    def _row(self, name: str, level: int, **options: Any) -> Row:
        path = self.folder / "pruned.onnx"
        try:
            report = onnxprune.prune(
                self.path, path, round_to=1, floor=0.0, repair="none", seed=self.seed,
                data={"images": self.images}, samples=len(self.images),
                unlock="input:images" if self.asked.features else (), **options,
            )  # fmt: skip
        except BudgetError as error:
            if "removes nothing" not in str(error):
                raise
            return self._trained(self.path, name, level, 0.0)
        units = report.figures["units"]
        return self._trained(path, name, level, 1 - units.after / units.before)

    def _trained(self, path: Path, criterion: str, level: int, removed: float) -> Row:
        """Train a pruned file as all others, unless the same one was."""
        content = path.read_bytes()
        if content in self.done:
            return dataclasses.replace(self.done[content], criterion=criterion, level=level)
        model, features = mnist.read(path, self.kind), mnist.features(path)
        train, test = (data.pixels(features) for data in (self.train, self.test))
        before = mnist.accuracy(model, test.part(0, 2000))
        mnist.trained(model, train.part(0, RETRAINING), self.asked.retrain, self.seed)
        after = mnist.accuracy(model, test)
        widths = mnist.widths(model)
        row = Row(self.state, self.seed, criterion, level, removed, widths, before, after, features)
        self.done[content] = row
        return row


def rows(asked: argparse.Namespace, held: dict[Key, Row]) -> Iterator[Row]:
    """Yield what is missing, one seed after the other."""
    for seed, state in itertools.product(range(asked.seeds), ("trained", "untrained")):
        wanted = [
            (state, seed, name, level)
            for level in asked.levels
            for name in (
                LEVELS[level][0] + asked.suffix,
                *(asked.others if level in FOLLOWED else ()),
            )
        ]
        if held.keys() >= set(wanted):
            continue
        with tempfile.TemporaryDirectory() as folder:
            study = Study(asked, state, seed, Path(folder))
            for key in wanted:
                if key in held:
                    continue
                name, level = key[2:]
                first = held.get((state, seed, LEVELS[level][0], level))
                row = study.leader(level) if name not in OTHERS else None
                if row is None and first is not None and first.removed:
                    row = study.follower(name, first)
                if row is not None:
                    held[row.key] = row
                    yield row


def parsed() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, required=True, metavar="FILE", help="JSON lines")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=1, help="of the first training")
    parser.add_argument("--retrain", type=float, default=1, help="epochs over 10,000 images")
    parser.add_argument("--estimator", choices=list(ESTIMATOR), default="ridge",
                        help="mlp: the paper's networks, at three confidence values, alone")  # fmt: skip
    parser.add_argument("--features", action="store_true", help="select pixels of an MLP, too")
    parser.add_argument("--levels", type=lambda text: [int(level) for level in text.split(",")],
                        help="some: 0 to 19 are confidence values, 20 to 26 tolerances")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="six levels, all followed")
    parser.add_argument("--show", action="store_true", help="run nothing")
    asked = parser.parse_args()
    given, asked.others, asked.suffix = asked.levels, tuple(OTHERS), ""
    asked.levels = range(len(LEVELS))
    if asked.estimator == "mlp":
        asked.levels, asked.others, asked.suffix = range(4, len(schedule()), 6), (), ", mlp"
    if asked.features:
        asked.levels, asked.others = range(len(schedule()), len(LEVELS)), ()
    if asked.quick:
        asked.levels = [level for level in sorted(FOLLOWED)[1:12:2] if level in asked.levels]
    asked.levels = given or asked.levels
    return asked


def main() -> int:
    """Measure what is missing, print all."""
    asked = parsed()
    held = read(asked.rows)
    if not asked.show:
        try:
            asked.train, asked.test = mnist.digits("train"), mnist.digits("test")
        except mnist.NoDataError as error:
            print(f"skipped: {error}")
            return 0
        with asked.rows.open("a") as file:
            for row in rows(asked, held):
                print(json.dumps(dataclasses.asdict(row)), file=file, flush=True)
                print(*row.key, f"{row.removed:.1%}", row.widths, f"{row.after:.2%}", flush=True)
    console = Console(width=None if sys.stdout.isatty() else 170)
    found = list(held.values())
    if asked.features:
        console.print(feature_table(found, [text for _, text in LEVELS]))
        for row in [row for row in found if row.seed == 0 and row.level == len(schedule()) + 4]:
            console.print(
                f"{row.state}, {len(row.features)} pixels:", picture(row.features), sep="\n"
            )
    else:
        for table in tables(found):
            console.print(table)
    return 0


def read(path: Path) -> dict[Key, Row]:
    """Return the rows that a file holds."""
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    lists = ("widths", "features")
    held = [Row(**row | {name: tuple(row[name]) for name in lists}) for row in found]
    return {row.key: row for row in held}


if __name__ == "__main__":
    sys.exit(main())
