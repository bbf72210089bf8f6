"""Every criterion at the same budget and the same short retraining: CIFAR-10, without labels.

    python benchmarks/retrain_criteria.py --rows FILE [--network 56] [--speedup 2.1] [--seeds 3]
           [--steps 100] [--criteria NAMES] [--test 10000] [--show]

Each criterion chooses on 512 training images, another 512 for each seed; the cut is repaired with the
defaults and taught by the original for so many steps of 128 images, by the recipe of `retrain_cifar.py`
but for its length. Accuracy is on test images, which no step sees. `--rows` keeps what was measured, one
JSON object a line: run again to go on, one seed after the other; `--show` prints it only.
Needs the data that `benchmarks/cifar.py` describes.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import onnxprune
from benchmarks import cifar
from benchmarks.criteria_cifar import VARIANTS
from benchmarks.retrain_cifar import RECIPE
from onnxprune.torch import retrain

CALIBRATION, BATCH = 512, 128


@dataclasses.dataclass(frozen=True)
class Row:
    """One network, pruned, repaired and retrained.

    Attributes:
        network: depth of the ResNet.
        speedup: how many times fewer MACs were asked for.
        criterion: with its settings.
        seed: of criterion, samples and training.
        steps: of it.
        test: images that accuracy is of.
        repaired, retrained: accuracy before and after training, %.
        seconds: of processor time, of the prune and of the training.
    """

    network: int
    speedup: float
    criterion: str
    seed: int
    steps: int
    test: int
    repaired: float
    retrained: float
    seconds: tuple[float, float]

    @property
    def key(self) -> tuple[int, float, str, int, int, int]:
        """What tells one from another."""
        return self.network, self.speedup, self.criterion, self.seed, self.steps, self.test


class Study:
    """A network, and what is done with it."""

    def __init__(self, asked: argparse.Namespace, home: Path) -> None:
        self.asked, self.home = asked, home
        self.model = cifar.network(asked.network, home)
        count = asked.steps * BATCH
        parts = [f"train_{i}" for i in range(1, 2 + (count - 1) // 10_000)]
        self.train = np.concatenate([cifar.images(part, 10_000).x for part in parts])[:count]
        self.calibration = cifar.images("train_5", asked.seeds * CALIBRATION).x
        self.test = cifar.images("test", asked.test)

    def row(self, criterion: str, seed: int) -> Row:
        """Prune, repair, retrain, and measure before and after the last."""
        asked, small, final = self.asked, self.home / "small.onnx", self.home / "final.onnx"
        start = time.process_time()
        onnxprune.prune(
            self.model, small, macs=1 / asked.speedup, criterion=criterion, round_to=1, seed=seed,
            data={"images": self.calibration[seed * CALIBRATION : (seed + 1) * CALIBRATION]},
            samples=CALIBRATION, overwrite=True,
        )  # fmt: skip
        pruned = time.process_time()
        retrain(
            small, self.model, {"images": self.train}, final,
            recipe=dataclasses.replace(RECIPE, epochs=1, batch=BATCH, seed=seed, holdout=0.0),
        )  # fmt: skip
        seconds = round(pruned - start, 1), round(time.process_time() - pruned, 1)
        return Row(
            asked.network, asked.speedup, criterion, seed, asked.steps, asked.test,
            self._accuracy(small), self._accuracy(final), seconds,
        )  # fmt: skip

    def _accuracy(self, path: Path) -> float:
        fed = {"images": self.test.x, "labels": self.test.y}
        found = onnxprune.evaluate(path, fed, labels="labels").accuracy
        assert found is not None
        return 100 * found.top1


def rows(asked: argparse.Namespace, held: dict[object, Row]) -> Iterator[Row]:
    """Run what is wanted and not held yet."""
    with tempfile.TemporaryDirectory() as folder:
        study = Study(asked, Path(folder))
        for seed, criterion in itertools.product(range(asked.seeds), asked.criteria):
            key = (asked.network, asked.speedup, criterion, seed, asked.steps, asked.test)
            if key not in held:
                yield study.row(criterion, seed)


def table(found: Sequence[Row]) -> Table:
    """Return the means over seeds, the best first."""
    names = ("network", "speed-up", "steps", "test images", "criterion", "seeds", "repaired %",
             "retrained %", "from", "to", "prune CPU s", "retrain CPU s")  # fmt: skip
    shown = Table(*names, box=MARKDOWN)
    alike: dict[tuple[int, float, int, int, str], list[Row]] = {}
    for row in found:
        key = (row.network, row.speedup, row.steps, row.test, row.criterion)
        alike.setdefault(key, []).append(row)
    for key, some in sorted(alike.items(), key=lambda i: (i[0][:4], -_mean(i[1], "retrained"))):
        after = [row.retrained for row in some]
        times = [f"{np.mean([row.seconds[i] for row in some]):.0f}" for i in (0, 1)]
        shown.add_row(
            *map(str, key), str(len(some)), f"{_mean(some, 'repaired'):.2f}",
            f"{_mean(some, 'retrained'):.2f}", f"{min(after):.2f}", f"{max(after):.2f}", *times,
        )  # fmt: skip
    return shown


def _mean(some: Sequence[Row], name: str) -> float:
    return float(np.mean([getattr(row, name) for row in some]))


def read(path: Path) -> dict[object, Row]:
    """Return the rows of earlier runs."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    made = [Row(**row | {"seconds": tuple(row["seconds"])}) for row in found]
    return {row.key: row for row in made}


def main() -> None:
    """Measure what is missing, print all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--network", type=int, default=56)
    parser.add_argument("--speedup", type=float, default=2.1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--criteria", type=lambda t: t.split(";"), default=list(VARIANTS),
                        help="apart by semicolons")  # fmt: skip
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--show", action="store_true")
    asked = parser.parse_args()
    held = read(asked.rows)
    if not asked.show:
        with asked.rows.open("a") as file:
            for row in rows(asked, held):
                held[row.key] = row
                print(json.dumps(dataclasses.asdict(row)), file=file, flush=True)
                print(row, flush=True)
    Console(width=None if sys.stdout.isatty() else 170).print(table(list(held.values())))


if __name__ == "__main__":
    main()
