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
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import onnx
import torch
from onnx import ModelProto
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import onnxprune
from benchmarks import cifar, peers
from onnxprune import latency
from onnxprune.budget import Budget, Options
from onnxprune.collect import collect
from onnxprune.core.analysis import Analysis, CostModel, Mask
from onnxprune.core.contracts import (
    CRITERIA,
    REPAIRS,
    SURGERIES,
    Evidence,
    RepairTask,
    Samples,
)
from onnxprune.core.errors import BudgetError
from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session
from onnxprune.dependency import analyse
from onnxprune.discover import discover
from onnxprune.example import instance_of
from onnxprune.select import select

CALIBRATION, TEST = 512, 10_000
BATCH = 250  # test images per run
BARS = {("56", 1.4): 93.0, ("56", 2.0): 91.0, ("56", 2.5): 88.8, ("20", 2.0): 84.5}  # %
OURS = ("reconstruction", "sequential")  # the default; the bars are for it, at --round-to 1

console = Console(stderr=True)


@dataclasses.dataclass(frozen=True)
class Row:
    """One pruned model.

    Attributes:
        network: depth of the ResNet.
        asked: how many times fewer MACs; 1 for the original.
        round_to: of the selection; 0 where a tool has no such option.
        tool, repair: criterion or peer, and how it was repaired.
        macs, params: shares of the original's that are left; None if there is no model.
        accuracy: on the test images, %.
        speedup: of the latency, and the median latency in milliseconds.
        note: an error, or why the budget was not met.
    """

    network: str
    asked: float
    round_to: int
    tool: str
    repair: str
    macs: float | None = None
    params: float | None = None
    accuracy: float | None = None
    speedup: float | None = None
    milliseconds: float | None = None
    note: str = ""

    @property
    def bar(self) -> float | None:
        """The accuracy that this row must reach, if any."""
        if (self.tool, self.repair) != OURS or self.round_to != 1:
            return None
        return BARS.get((self.network, self.asked))


@dataclasses.dataclass(frozen=True)
class Net:
    """One published network and what every row needs of it."""

    depth: str
    path: Path
    analysis: Analysis
    cost: CostModel
    evidence: Evidence
    samples: Samples
    test: cifar.Images

    @classmethod
    def open(cls, depth: str, exporter: Any, folder: Path, test: cifar.Images) -> Net:
        """Export, analyse and calibrate; the calibration images come without labels."""
        path = cifar.network(int(depth), folder, exporter)
        analysis = analyse(Graph.from_model(onnx.load(path)))
        (value,) = analysis.graph.inputs
        samples = cifar.images("train_1", CALIBRATION).samples(value.name)
        feeds = samples.read(0, 1)
        cost = CostModel(analysis, instance_of(analysis.graph, feeds))
        needs = frozenset().union(*(c.needs for c in CRITERIA.values()))
        with console.status(f"ResNet-{depth}: calibrating on {CALIBRATION} images"):
            statistics = collect(analysis, samples, needs)
        return cls(depth, path, analysis, cost, Evidence(analysis, statistics), samples, test)

    def accuracy(self, model: ModelProto | Path) -> float:
        """Return the share of test images classified right, %."""
        session, right = Session(model), 0
        for start in range(0, len(self.test.x), BATCH):
            part = slice(start, start + BATCH)
            (scores,) = session.run({session.inputs[0]: self.test.x[part]}).values()
            right += int((scores.argmax(axis=1) == self.test.y[part]).sum())
        return 100 * right / len(self.test.x)

    def timed(self, row: Row, model: ModelProto) -> Row:
        """Enter the latency of a model and its speed-up over the original."""
        before, after = (Session(m, threads=1) for m in (self.path, model))
        feeds = self.samples.read(0, 1)
        found = latency.compare(before, after, feeds, seconds=1.5)
        return dataclasses.replace(row, speedup=found.speedup, milliseconds=found.after.median)

    def figures(self, model: ModelProto) -> tuple[float, float]:
        """Return the shares of MACs and parameters that a peer's model keeps."""
        analysis = analyse(Graph.from_model(model))
        cost = CostModel(analysis, instance_of(analysis.graph, self.samples.read(0, 1)))
        now, before = cost.lengths(), self.cost.lengths()
        return (
            cost.macs(now) / self.cost.macs(before),
            cost.params(now) / self.cost.params(before),
        )


def ours(net: Net, asked: argparse.Namespace) -> Iterator[Row]:
    """Prune by every criterion, with every repair."""
    groups = net.analysis.groups
    for name in asked.criteria:
        criterion = CRITERIA[name]
        scores = [criterion.score(group, net.evidence) for group in groups]
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


def onnxsim(net: Net, speedups: Sequence[float]) -> Iterator[Row]:
    """Let onnxsim prune to the same MACs, and fine-tune."""
    batches = [dict(batch) for batch in net.samples.batches(64)]
    ways: dict[str, Callable[[float], bytes]] = {
        "onnxsim l2": functools.partial(peers.onnxsim_structured, net.path),
        "onnxsim l2 global": functools.partial(peers.onnxsim_structured, net.path, scope="global"),
        "onnxsim wanda": lambda ratio: peers.onnxsim_wanda(net.path, ratio, batches),
    }
    for tool, prune in ways.items():
        for speedup in speedups:
            row = Row(net.depth, speedup, 0, tool, "none")
            try:
                model, reached = within(net, prune, 1 / speedup)
                row = measured(net, row, model, reached=reached)
                yield row
                tuned = finetuned(net.path, model, batches)
                yield dataclasses.replace(row, repair="finetune", accuracy=net.accuracy(tuned))
            except Exception as error:  # noqa: BLE001 - whatever a peer raises is a result
                yield dataclasses.replace(row, note=one_line(error))


def within(net: Net, prune: Callable[[float], bytes], share: float) -> tuple[ModelProto, bool]:
    """Return a peer's largest model within a share of the MACs; else its smallest, and False."""
    low, high = 0.0, 0.9  # Torch-Pruning leaves layers whole when asked for more
    best = onnx.load_from_string(prune(high))
    if net.figures(best)[0] > share:
        return best, False
    for _ in range(9):  # to a fifth of a percent of the channels; the widest group has 64
        middle = (low + high) / 2
        model = onnx.load_from_string(prune(middle))
        if net.figures(model)[0] <= share:
            high, best = middle, model
        else:
            low = middle
    return best, True


def finetuned(original: Path, pruned: ModelProto, batches: list[dict[str, Any]]) -> ModelProto:
    """Call onnxsim's `apply_pruning_finetune`."""
    import onnxsim

    model, _ = onnxsim.simplify(onnx.load(original))
    tuned: ModelProto = onnxsim.apply_pruning_finetune(model, pruned, batches)
    return tuned


def torch_pruning(net: Net, speedups: Sequence[float]) -> Iterator[Row]:
    """Let Torch-Pruning prune the PyTorch module to the same MACs."""

    def prune(ratio: float) -> bytes:
        return peers.torch_pruning(lambda: module(net.depth), ratio).model

    for speedup in speedups:
        row = Row(net.depth, speedup, 0, "Torch-Pruning l2", "none")
        try:
            model, reached = within(net, prune, 1 / speedup)
            yield measured(net, row, model, reached=reached)
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is a result
            yield dataclasses.replace(row, note=one_line(error))


def measured(net: Net, row: Row, model: ModelProto, *, reached: bool) -> Row:
    """Fill in what a peer's model costs and is worth."""
    macs, params = net.figures(model)
    return dataclasses.replace(
        net.timed(row, model),
        macs=macs,
        params=params,
        accuracy=net.accuracy(model),
        note="" if reached else "cannot reach the budget",
    )


def module(depth: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """Return the PyTorch network and an example of its input."""
    return cifar.module(int(depth)), torch.zeros(2, 3, 32, 32)


def one_line(error: Exception) -> str:
    """Write an error without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".removeprefix("RuntimeError: ").split())


def rows(asked: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Measure everything that was asked for."""
    test = cifar.images("test", asked.test)
    for depth in asked.networks:
        net = Net.open(depth, asked.exporter, folder, test)
        accuracy = net.accuracy(net.path)
        yield Row(depth, 1.0, 0, "original", "", 1.0, 1.0, accuracy, 1.0)
        yield from ours(net, asked)
        if asked.peers:
            yield from onnxsim(net, asked.speedups)
            yield from torch_pruning(net, asked.speedups)


def complete_run(folder: Path, exporter: Any) -> dict[str, float]:
    """Time `onnxprune.prune` on ResNet-56 with default options, from file to written file."""
    path = cifar.network(56, folder, exporter)
    given = cifar.images("train_1", 2 * CALIBRATION)  # one half is held out, for the comparison
    (value,) = Graph.from_model(onnx.load(path)).inputs
    start = time.perf_counter()
    report = onnxprune.prune(
        path, folder / "pruned.onnx", data={value.name: given.x}, samples=CALIBRATION, macs=0.5
    )
    return {**report.seconds, "total": time.perf_counter() - start}


def table(found: Sequence[Row], network: str) -> Table:
    """Return the rows of one network as a table."""
    drawn = Table(title=f"ResNet-{network}, CIFAR-10", title_justify="left")
    for column in ("fewer MACs", "round to", "criterion", "repair"):
        drawn.add_column(column)
    for column in ("MACs left", "params left", "accuracy %", "latency ms", "speed-up", "bar"):
        drawn.add_column(column, justify="right")
    for row in sorted((r for r in found if r.network == network), key=_order):
        cells = [f"{row.asked:g}x", f"{row.round_to or '-'}", row.tool, row.repair]
        if row.macs is None:
            drawn.add_row(*cells, "", "", "", "", "", row.note[:60])
            continue
        cells += [f"{row.macs:.3f}", f"{row.params:.3f}", f"{row.accuracy:.2f}"]
        cells += [f"{row.milliseconds:.2f}" if row.milliseconds else "", f"{row.speedup:.2f}x"]
        drawn.add_row(*cells, verdict(row) or row.note)
    return drawn


def _order(row: Row) -> tuple[object, ...]:
    return row.asked, row.round_to == 0, row.round_to


def verdict(row: Row) -> str:
    """Say whether the row meets its bar; empty if it has none."""
    if row.bar is None or row.accuracy is None:
        return ""
    return f"{'met' if row.accuracy >= row.bar else 'MISSED'} ({row.bar:g})"


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
                for row in rows(asked, folder):
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
    out = Console(width=150)
    for network in asked.networks:
        out.print(table(found, network))
    for step, seconds in timing.items():
        out.print(f"default run on ResNet-56: {step:<10} {seconds:6.2f} s")
    return int(any(verdict(row).startswith("MISSED") for row in found) and asked.test == TEST)


def write(path: Path, found: Sequence[Row], timing: dict[str, float]) -> None:
    """Write everything measured so far as JSON."""
    body = {"rows": [dataclasses.asdict(row) for row in found], "default run": timing}
    path.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
