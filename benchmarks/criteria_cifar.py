"""Every criterion on CIFAR-10 networks: what is left of the accuracy when it alone chooses.

    python benchmarks/criteria_cifar.py [--networks 20,conv8,56] [--speedups 1.4,2,3]
           [--criteria NAMES] [--repairs NAMES] [--scopes default,global,uniform] [--count 10000]
           [--quick] [--rows FILE]

Networks: the published ResNet-20 and ResNet-56, and the file `cifar10_conv8.onnx`. Statistics are
collected once a network, from 512 images of the training split whose labels are never read, and serve
all criteria. Each criterion ranks channels; one selection, the same for all, cuts to a budget of MACs
(`--round-to 1`): "global" compares groups, scores as they are where the criterion says they can be
compared, else relative to their group's mean; "uniform" takes the same share of every group;
"default", as in `onnxprune prune`, is global where scores can be compared, else uniform. Accuracy is
on test images, in %; of `random` the mean over five seeds.

Rows are appended to `--rows` as they come; a run that finds rows there does only the rest, so a long
table can be made in parts: `--criteria reconstruction,mipp,cmi --repairs sequential` adds to it.
`--images train_5 --count 2000` measures on other images than those of the table, to choose by.
Needs the data that `benchmarks/cifar.py` describes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from numpy.typing import NDArray
from rich.box import HEAVY_HEAD, MARKDOWN, Box
from rich.console import Console
from rich.table import Table

from benchmarks import cifar
from benchmarks.cifar_rows import Net
from onnxprune.core.configured import configured
from onnxprune.core.contracts import CRITERIA, REPAIRS, SURGERIES, RepairTask
from onnxprune.discover import discover
from onnxprune.selection.budget import Budget, Options, Scope
from onnxprune.selection.select import select

SEEDS = 5  # of `random`
VARIANTS = (
    "cmi", "cmi:conditioning=full", "mipp", "reconstruction", "thinet", "hrank", "chip", "apoz",
    "l1", "l2", "fpgm", "wanda", "flap", "random", "taylor", "taylor:of=weight", "snip", "grasp",
    "sosp", "fisher", "obd", "synflow", "imp",
)  # fmt: skip
OURS, BASELINES = ("cmi", "mipp"), ("l1", "fpgm", "random")  # without repair, the first beat these
BEST = ("56", 2.0, 91.5)  # the best of ours with repair: network, speed-up, accuracy in %

_SCOPES: dict[str, Scope] = {"global": "global", "uniform": "uniform"}

console = Console(stderr=True)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One pruned model.

    Attributes:
        network: depth of the ResNet, or "conv8".
        criterion: with its settings.
        seed: of the criterion.
        scope: of the selection; empty for the original.
        repair: with its settings; empty for the original.
        speedup: how many times fewer MACs were asked for.
        images: the part and number of images.
        accuracy: on them, %; None when not measured yet.
        macs: share of the original's that is left.
        seconds: of ranking, and of cutting and repairing.
    """

    network: str
    criterion: str
    seed: int
    scope: str
    repair: str
    speedup: float
    images: str
    accuracy: float | None = None
    macs: float | None = None
    seconds: tuple[float, float] = (0.0, 0.0)

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells one from another."""
        return dataclasses.astuple(self)[:7]


def wanted(asked: argparse.Namespace, network: str) -> Iterator[Cell]:
    """Yield the cells of one network in the order of their worth, the original first."""
    images = f"{asked.images}:{asked.count}"
    yield Cell(network, "original", 0, "", "", 1.0, images)
    for repair in asked.repairs:
        for speedup in asked.speedups:
            for criterion in asked.criteria:
                comparable = configured(CRITERIA, criterion)[1].comparable
                own = "global" if comparable else "uniform"
                for scope in dict.fromkeys(own if s == "default" else s for s in asked.scopes):
                    for seed in range(SEEDS if criterion == "random" else 1):
                        yield Cell(network, criterion, seed, scope, repair, speedup, images)


class Measured:
    """Measures cells of one network, ranking once for all cells of a criterion."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.ranked: dict[tuple[str, int], tuple[list[NDArray[np.float64]], float]] = {}

    def measure(self, cell: Cell) -> Cell:
        """Return the cell with its figures."""
        net = self.net
        if not cell.scope:
            return dataclasses.replace(cell, accuracy=net.accuracy(net.path), macs=1.0)
        criterion = configured(CRITERIA, cell.criterion)[1]
        scores, ranking = self._scores(cell)
        start = time.perf_counter()
        chosen = select(
            net.cost, scores, Budget.parse("macs", 1 / cell.speedup),
            Options(scope=_SCOPES[cell.scope], round_to=1),
            comparable=criterion.comparable,
        )  # fmt: skip
        mask = net.analysis.mask(chosen.units)
        task = RepairTask(mask, SURGERIES["channels"](mask), net.evidence, net.samples)
        model = configured(REPAIRS, cell.repair)[1].apply(task).to_model()
        seconds = (round(ranking, 2), round(time.perf_counter() - start, 2))
        return dataclasses.replace(
            cell,
            accuracy=net.accuracy(model),
            macs=chosen.after.macs / chosen.before.macs,
            seconds=seconds,
        )

    def _scores(self, cell: Cell) -> tuple[list[NDArray[np.float64]], float]:
        key = cell.criterion, cell.seed
        if key not in self.ranked:
            start = time.perf_counter()
            criterion = configured(CRITERIA, cell.criterion)[1]
            found = criterion.rank(dataclasses.replace(self.net.evidence, seed=cell.seed))
            self.ranked[key] = [r.scores for r in found], time.perf_counter() - start
        return self.ranked[key]


def opened(network: str, folder: Path, test: cifar.Images, needs: frozenset[str]) -> Net:
    """Return one of the networks, with the statistics that are needed."""
    path = cifar.conv8() if network == "conv8" else cifar.network(int(network), folder)
    mean, std = cifar.CONV8 if network == "conv8" else (cifar.MEAN, cifar.STD)
    calibration = cifar.images("train_1", 512).normalised(mean, std)
    return Net.read(network, path, calibration, test.normalised(mean, std), needs=needs)


def measured(asked: argparse.Namespace, found: dict[Any, Cell], folder: Path) -> Iterator[Cell]:
    """Yield every cell that is asked for and was not found."""
    test = cifar.images(asked.images, asked.first + asked.count)
    test = cifar.Images(test.x[asked.first :], test.y[asked.first :])
    criteria = [configured(CRITERIA, text)[1].needs for text in asked.criteria]
    repairs = [configured(REPAIRS, text)[1].needs for text in asked.repairs]
    needs = frozenset[str]().union(*criteria, *repairs)
    for network in asked.networks:
        missing = [cell for cell in wanted(asked, network) if cell.key not in found]
        if missing:
            console.print(f"{network}: {len(missing)} models; collecting statistics")
            worker = Measured(opened(network, folder, test, needs))
            for number, cell in enumerate(missing):
                done = worker.measure(cell)
                console.print(
                    f"{network} {number + 1}/{len(missing)}: {done.criterion}#{done.seed} "
                    f"{done.scope} {done.speedup:g}x {done.repair}: {done.accuracy:.2f} {done.seconds}"
                )
                yield done


Worth = dict[tuple[str, str, str, str, float], float]  # of the cells, %


def means(cells: Sequence[Cell]) -> Worth:
    """Return the accuracy by network, criterion, scope, repair and speed-up: over seeds, the mean."""
    values: dict[tuple[str, str, str, str, float], list[float]] = {}
    for cell in cells:
        key = cell.network, cell.criterion, cell.scope, cell.repair, cell.speedup
        if cell.accuracy is not None:
            values.setdefault(key, []).append(cell.accuracy)
    return {key: float(np.mean(each)) for key, each in values.items()}


def table(worth: Worth, network: str, box: Box) -> Table:
    """Return the figures of one network: criteria down, repair, scope and speed-up across."""
    mine = {key[1:]: value for key, value in worth.items() if key[0] == network}
    original = mine.pop(("original", "", "", 1.0), float("nan"))
    columns = sorted({(r, s, x) for _, s, r, x in mine}, key=lambda c: (c[0] != "none", *c))
    title = f"{_named(network)}, accuracy %, original {original:.2f}"
    result = Table("criterion", box=box, title=title)
    for repair, scope, speedup in columns:
        result.add_column(f"{repair}, {scope} {speedup:g}x", justify="right")
    for criterion in dict.fromkeys(key[0] for key in mine):
        values = [mine.get((criterion, s, r, x)) for r, s, x in columns]
        result.add_row(criterion, *("" if v is None else f"{v:.2f}" for v in values))
    return result


def _named(network: str) -> str:
    return f"ResNet-{network}" if network.isdigit() else network


def bars(worth: Worth) -> Iterator[tuple[str, bool]]:
    """Yield what is to be shown, and whether it is, for all that was measured.

    Each criterion stands with the scope that suits it better at that network and budget.
    """
    best: dict[tuple[str, str, str, float], float] = {}
    for (network, criterion, _, repair, speedup), value in worth.items():
        key = network, criterion, repair, speedup
        best[key] = max(value, best.get(key, 0.0))
    for (network, criterion, repair, speedup), value in best.items():
        others = [best.get((network, b, repair, speedup)) for b in BASELINES]
        known = [other for other in others if other is not None]
        if criterion in OURS and repair == "none" and known:
            text = f"{_named(network)} {speedup:g}x, no repair: {criterion} {value:.2f}"
            yield f"{text} > {', '.join(BASELINES)} at most {max(known):.2f}", value > max(known)
    network, speedup, least = BEST
    repaired = [
        v for (n, _, r, x), v in best.items() if (n, x) == (network, speedup) and r != "none"
    ]
    if repaired:
        text = f"{_named(network)} {speedup:g}x, best with repair: {max(repaired):.2f}"
        yield f"{text} >= {least:g}", max(repaired) >= least


def parsed() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def several(kind: Callable[[str], Any], by: str = ",") -> Callable[[str], list[Any]]:
        return lambda text: [kind(part) for part in text.split(by)]

    parser.add_argument("--networks", type=several(str), default=["20", "conv8", "56"])
    parser.add_argument("--speedups", type=several(float), default=[1.4, 2.0, 3.0])
    parser.add_argument("--scopes", type=several(str), default=["default"])
    parser.add_argument(
        "--criteria", type=several(str, ";"), default=list(VARIANTS), help="apart by semicolons"
    )
    parser.add_argument(
        "--repairs", type=several(str, ";"), default=["none", "least-squares"], help="likewise"
    )
    parser.add_argument("--images", default="test", help="test, or train_1 .. train_5")
    parser.add_argument("--first", type=int, default=0, help="images left out")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="2,000 images, ResNet-20, no repair")
    parser.add_argument("--rows", type=Path, default=Path("criteria_cifar.jsonl"))
    asked = parser.parse_args()
    if asked.quick:
        asked.count, asked.networks, asked.repairs = 2000, ["20"], ["none"]
    return asked


def read(path: Path) -> dict[Any, Cell]:
    """Return the cells of earlier runs."""
    lines = path.read_text().splitlines() if path.exists() else []
    cells = [Cell(**json.loads(line)) for line in lines]
    return {cell.key: cell for cell in cells}


def main() -> int:
    """Measure what is missing, print the tables, and say whether the bars are met.

    Returns:
        0; 1 if a bar was missed on the test images.
    """
    discover()
    asked = parsed()
    found = read(asked.rows)
    try:
        with tempfile.TemporaryDirectory() as name, asked.rows.open("a") as file:
            for cell in measured(asked, found, Path(name)):
                found[cell.key] = cell
                file.write(json.dumps(dataclasses.asdict(cell)) + "\n")
                file.flush()
    except cifar.NoDataError as error:
        print(f"skipped: {error}")
        return 0
    out = Console(width=None if sys.stdout.isatty() else 200)
    images = f"{asked.images}:{asked.count}"
    worth = means([cell for cell in found.values() if cell.images == images])
    for network in asked.networks:
        out.print(table(worth, network, HEAVY_HEAD if out.is_terminal else MARKDOWN))
    verdicts = list(bars(worth))
    for text, met in verdicts:
        out.print(f"{'met' if met else 'MISSED'}: {text}")
    return int(asked.images == "test" and not all(met for _, met in verdicts))


if __name__ == "__main__":
    sys.exit(main())
