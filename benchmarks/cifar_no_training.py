"""Published ResNet-20 and ResNet-56 on CIFAR-10, pruned without labels and without training.

    python benchmarks/cifar_no_training.py [--networks 20,56] [--speedups 1.4,2,2.5] [--round-to 1,8]
           [--criteria NAMES] [--repairs NAMES] [--exporter dynamo] [--no-peers] [--quick] [--json FILE]

Every criterion with every repair, on 512 images of the training split whose labels are never read;
accuracy on the 10,000 test images. Statistics are collected once a network, for all criteria. In the
same run, at equal MACs and counted by the same code: onnxsim's structured pruning (L2; L2 with one
global ranking; Wanda on the same 512 images), each with and without its `apply_pruning_finetune`, its
`sparsity` bisected to the largest model within the budget; and Torch-Pruning on the PyTorch module.

`--round-to 1` is what the peers do; at 8, the default, convolutions fill the lanes of the CPU.
Latency is onnxruntime's, one thread, one image, in turns with the original: the speed-up is the
median of the ratios within a turn. It is measured on the models as cut (repairs change no width).
At the end, one complete `onnxprune.prune` of ResNet-56 with default options, step by step.
Needs the data that `benchmarks/cifar.py` describes, and `benchmarks/requirements.txt` for the peers.
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

import onnx
from rich.box import HEAVY_HEAD, MARKDOWN, Box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import onnxprune
from benchmarks import cifar, cifar_peers
from benchmarks.cifar_rows import CALIBRATION, OURS, TEST, Net, Row
from onnxprune.core.analysis import Mask
from onnxprune.core.contracts import CRITERIA, REPAIRS, SURGERIES, RepairTask
from onnxprune.core.errors import BudgetError
from onnxprune.core.graph import Graph
from onnxprune.discover import discover
from onnxprune.models.export import Exporter
from onnxprune.selection.budget import Budget, Options
from onnxprune.selection.select import select

console = Console(stderr=True)


def ours(net: Net, asked: argparse.Namespace) -> Iterator[Row]:
    """Prune by every criterion, with every repair."""
    for name in asked.criteria:
        criterion = CRITERIA[name]
        scores = [ranking.scores for ranking in criterion.rank(net.evidence)]
        for speedup in asked.speedups:
            for round_to in asked.round_to:
                row = Row(net.depth, speedup, round_to, name, "none")
                try:
                    chosen = select(
                        net.cost, scores, Budget.parse("macs", 1 / speedup),
                        Options(round_to=round_to), comparable=criterion.comparable,
                    )  # fmt: skip
                except BudgetError as error:
                    yield dataclasses.replace(row, note=str(error))
                    continue
                after, before = chosen.after, chosen.before
                row = dataclasses.replace(
                    row, macs=after.macs / before.macs, params=after.params / before.params
                )
                yield from repaired(net, row, net.analysis.mask(chosen.units), asked.repairs)


def repaired(net: Net, row: Row, mask: Mask, repairs: Sequence[str]) -> Iterator[Row]:
    """Cut once, time, and repair in every way."""
    pruned = SURGERIES["channels"](mask)
    row = net.timed(row, pruned.to_model())
    for repair in repairs:
        task = RepairTask(mask, pruned, net.evidence, net.samples)
        model = REPAIRS[repair].apply(task).to_model()
        yield dataclasses.replace(row, repair=repair, accuracy=net.accuracy(model))


def rows(asked: argparse.Namespace, folder: Path, progress: Progress) -> Iterator[Row]:
    """Measure everything that was asked for."""
    test = cifar.images("test", asked.test)
    task = progress.add_task("calibrating")

    def calibrating(what: str, done: int, total: int) -> None:
        progress.update(task, description=what, completed=done, total=total)

    for depth in asked.networks:
        net = Net.open(depth, asked.exporter, folder, test, calibrating)
        yield Row(depth, 1.0, 0, "original", "", 1.0, 1.0, net.accuracy(net.path), 1.0)
        yield from ours(net, asked)
        if asked.peers:
            yield from cifar_peers.onnxsim(net, asked.speedups)
            yield from cifar_peers.torch_pruning(net, asked.speedups)


def complete_run(folder: Path, exporter: Exporter) -> dict[str, float]:
    """Time `onnxprune.prune` on ResNet-56 with default options, from file to written file."""
    path = cifar.network(56, folder, exporter)
    given = cifar.images("train_1", 2 * CALIBRATION)  # some are held out, for the comparison
    (value,) = Graph.from_model(onnx.load(path)).inputs
    start = time.perf_counter()
    report = onnxprune.prune(
        path, folder / "pruned.onnx", data={value.name: given.x}, samples=CALIBRATION, macs=0.5
    )
    return {**report.seconds, "total": time.perf_counter() - start}


def tables(found: Sequence[Row], network: str, box: Box) -> Iterator[Table]:
    """Yield the rows of one network as two tables: what the models are worth, what they cost."""
    rows = [row for row in found if row.network == network and row.asked > 1]
    columns = sorted({(row.round_to or 1, row.asked) for row in rows})
    heads = [f"{asked:g}x, round {step}" for step, asked in columns]
    worth = Table("criterion", "repair", *heads, box=box, title=f"ResNet-{network}, accuracy %")
    cost = Table("criterion", *heads, box=box, title=f"ResNet-{network}, MACs left, speed-up")
    for tool in dict.fromkeys(row.tool for row in rows):
        mine = {(r.repair, r.round_to or 1, r.asked): r for r in rows if r.tool == tool}
        repairs = list(dict.fromkeys(repair for repair, *_ in mine))
        for repair in repairs:
            cells = [_worth(mine.get((repair, *column))) for column in columns]
            worth.add_row(tool, repair, *cells)
        cost.add_row(tool, *(_cost(mine.get((repairs[0], *column))) for column in columns))
    yield from (worth, cost)


def _worth(row: Row | None) -> str:
    if row is None or row.accuracy is None:
        return "" if row is None else "fails"
    if row.bar is None:
        return f"{row.accuracy:.2f}"
    verdict = "met" if row.met else "MISSED"
    return f"{row.accuracy:.2f} ({verdict}, {row.bar:g})"


def _cost(row: Row | None) -> str:
    if row is None or row.speedup is None:
        return ""
    return f"{row.macs:.2f}, {row.speedup:.2f}x"


def notes(found: Sequence[Row]) -> Iterator[str]:
    """Yield what must be said of single rows."""
    for row in found:
        if row.note:
            yield f"ResNet-{row.network} {row.asked:g}x {row.tool} + {row.repair}: {row.note}"


def parsed() -> argparse.Namespace:
    """Read the options."""
    discover()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def several(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
        return lambda text: [kind(part) for part in text.split(",")]

    parser.add_argument("--networks", type=several(str), default=["20", "56"])
    parser.add_argument("--speedups", type=several(float), default=[1.4, 2.0, 2.5])
    parser.add_argument("--round-to", type=several(int), default=[1, 8])
    parser.add_argument("--criteria", type=several(str), default=list(CRITERIA))
    parser.add_argument("--repairs", type=several(str), default=list(REPAIRS))
    parser.add_argument("--exporter", choices=["torchscript", "dynamo"], default="torchscript")
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--quick", action="store_true", help="1,000 test images, 2x, one criterion")
    parser.add_argument("--json", type=Path, metavar="FILE", help="written as rows come in")
    asked = parser.parse_args()
    asked.test = TEST
    if asked.quick:
        asked.test, asked.speedups, asked.criteria = 1000, [2.0], [OURS[0]]
    return asked


def main() -> int:
    """Measure, print, and say whether the bars are met.

    Returns:
        0; 1 if a bar was missed.
    """
    asked, found = parsed(), []
    timing: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            with Progress(console=console, transient=True) as progress:
                task = progress.add_task("starting", total=None)
                for row in rows(asked, folder, progress):
                    found.append(row)
                    said = f"ResNet-{row.network} {row.asked:g}x {row.tool} + {row.repair}"
                    progress.update(task, description=f"{len(found)} models, last: {said}")
                    if asked.json:
                        write(asked.json, found, timing)
        except cifar.NoDataError as error:
            print(f"skipped: {error}")
            return 0
        if "56" in asked.networks:
            timing |= complete_run(folder, asked.exporter)
    if asked.json:
        write(asked.json, found, timing)
    out = Console(width=None if sys.stdout.isatty() else 170)
    for network in asked.networks:
        for table in tables(found, network, HEAVY_HEAD if out.is_terminal else MARKDOWN):
            out.print(table)
    for line in notes(found):
        out.print(line)
    if timing:
        steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in timing.items())
        out.print(f"ResNet-56, default options, 2x, seconds: {steps}")
    return int(asked.test == TEST and not all(row.met for row in found))


def write(path: Path, found: Sequence[Row], timing: dict[str, float]) -> None:
    """Write everything measured so far as JSON."""
    body = {"rows": [dataclasses.asdict(row) for row in found], "default run": timing}
    path.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
