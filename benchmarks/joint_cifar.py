"""Published ResNet-56 on CIFAR-10: channels, blocks, or both under one budget, without training.

    python benchmarks/joint_cifar.py [--shares 0.5,0.35] [--ways NAMES] [--figure macs] [--test 10000]
           [--rows FILE [--most N]] [--quick]

Ways: `width`, channels alone; `depth:SCORE`, as few blocks as meet the share; `joint:SCORE`, both, where
the number of blocks is searched (`prune --macs SHARE --depth SCORE`). All see 512 images of the training
split without labels, and are repaired by default settings; accuracy is on test images, latency
onnxruntime's, one thread, one image, in turns with the original. With `--figure latency` shares are of
the measured time, which needs a quiet machine; there three more are narrowed until their measured time is
that share, and so are there for accuracy at equal measured time: `macs`, channels under a budget in MACs;
`uniform`, the same share of every group; `onnxsim`, its structured pruning by L2 norms and its
`apply_pruning_finetune` on the same images.
`--rows` keeps what was measured, one JSON object a line: run again to go on, in parts of `--most` rows.
Needs the data that `benchmarks/cifar.py` describes.
"""

from __future__ import annotations

import argparse
import bisect
import dataclasses
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import onnx
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import onnxprune
from benchmarks import cifar, peers
from benchmarks.cifar_peers import finetuned
from onnxprune.show.report import PruneReport
from onnxprune.timing.run import BenchReport

CALIBRATION, BLOCKS = 512, 25
ROUNDS = 6  # of narrowing until the time is as asked
CLOSE = 0.03
BY_MACS = {"macs": None, "uniform": "uniform"}  # scope of each way; None: the criterion's own
WAYS = "width,depth:cka,joint:cka,joint:branch"


@dataclasses.dataclass(frozen=True)
class Row:
    """One pruned network.

    Attributes:
        way, figure, share: what was asked.
        macs: share that is left.
        blocks: how many went.
        accuracy: on test images, %.
        time: of one image, as a share of the original's.
        seconds: what the prune took.
    """

    way: str
    figure: str
    share: float
    macs: float
    blocks: int
    accuracy: float
    time: float
    seconds: float


def pruned(path: Path, way: str, figure: str, share: float, folder: Path) -> PruneReport:
    """Prune in one way."""
    given = cifar.images("train_1", CALIBRATION * 5 // 4)
    (name,) = onnxprune.inspect(path).inputs
    asked: dict[str, Any] = {
        "data": {name: given.x}, "samples": CALIBRATION, "overwrite": True, "threads": 0,
    }  # fmt: skip
    kind, _, score = way.partition(":")
    target = folder / "pruned.onnx"
    if kind == "depth":
        return shallow(path, target, score, share, asked)
    if kind in BY_MACS:
        return by_macs(path, target, kind, share, asked)
    if figure == "latency":
        asked["threads"] = 1
    return onnxprune.prune(path, target, depth=score or None, **{figure: share}, **asked)


def shallow(
    path: Path, target: Path, score: str, share: float, asked: dict[str, Any]
) -> PruneReport:
    """Leave out as few blocks as meet a share of the MACs."""
    planned = {**asked, "dry_run": True, "repair": "none"}

    def meets(count: int) -> bool:
        macs = onnxprune.prune(path, target, depth=score, blocks=count, **planned).figures["macs"]
        return macs.after <= share * macs.before

    count = 1 + bisect.bisect_left(range(1, BLOCKS), True, key=meets)
    return onnxprune.prune(path, target, depth=score, blocks=count, **asked)


def by_macs(path: Path, target: Path, way: str, share: float, asked: dict[str, Any]) -> PruneReport:
    """Prune under a budget in MACs until the measured time is as asked, then once more with repair."""
    asked = {**asked, "scope": BY_MACS[way]}
    macs = narrowed(
        lambda macs: onnxprune.prune(path, target, macs=macs, **{**asked, "repair": "none"}),
        lambda: measured(path, target),
        share,
    )
    return onnxprune.prune(path, target, macs=macs, **asked)


def narrowed(prune: Callable[[float], object], clock: Callable[[], float], share: float) -> float:
    """Prune to fewer or more of the MACs until the time is as asked; returns what was asked last."""
    low, high, macs = 0.0, 1.0, share
    for left in reversed(range(ROUNDS)):
        prune(macs)
        found = clock()
        if abs(found / share - 1) <= CLOSE or not left:
            break
        low, high = (low, macs) if found > share else (macs, high)
        guess = macs * share / found
        macs = guess if low < guess < high else (low + high) / 2
    return macs


def peer(path: Path, target: Path, share: float, samples: Mapping[str, Any]) -> tuple[float, float]:
    """Let onnxsim prune until the time is as asked, then tune; returns the MACs left and the seconds."""
    count = len(next(iter(samples.values())))
    batches = [{n: x[i : i + 64] for n, x in samples.items()} for i in range(0, count, 64)]

    def prune(kept: float) -> onnx.ModelProto:
        model = onnx.load_from_string(peers.onnxsim_structured(path, 1 - kept))
        onnx.save(model, target)
        return model

    kept = narrowed(prune, lambda: measured(path, target), share)
    start = time.process_time()
    onnx.save(finetuned(path, prune(kept), batches), target)
    seconds = time.process_time() - start
    macs = onnxprune.inspect(target).total.macs / onnxprune.inspect(path).total.macs
    return macs, seconds


def measured(path: Path, target: Path) -> float:
    """Return the time of a pruned model as a share of the original's."""
    found = onnxprune.bench(path, target, threads=[1], seconds=4.0, profile=False)
    assert isinstance(found, BenchReport)
    return 1 / found.cells[0].models[1].ratio


def row(path: Path, way: str, figure: str, share: float, test: int, folder: Path) -> Row:
    """Prune, evaluate and time."""
    (name,) = onnxprune.inspect(path).inputs
    target = folder / "pruned.onnx"
    if way == "onnxsim":
        calibration = {name: cifar.images("train_1", CALIBRATION).x}
        macs, seconds = peer(path, target, share, calibration)
        blocks = 0
    else:
        report = pruned(path, way, figure, share, folder)
        macs = report.figures["macs"].after / report.figures["macs"].before
        blocks, seconds = len(report.blocks), sum(report.seconds.values())
    images = cifar.images("test", test)
    found = onnxprune.evaluate(target, {name: images.x, "labels": images.y}, labels="labels")
    assert found.accuracy is not None
    top1 = 100 * found.accuracy.top1
    return Row(way, figure, share, macs, blocks, top1, measured(path, target), seconds)


def rows(asked: argparse.Namespace, known: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows that are not known yet."""
    done = {(r.way, r.figure, r.share) for r in known}
    with tempfile.TemporaryDirectory() as name:
        path = cifar.network(56, Path(name))
        for share, way in itertools.product(asked.shares, asked.ways):
            if (way, asked.figure, share) not in done:
                yield row(path, way, asked.figure, share, asked.test, Path(name))


def table(found: Sequence[Row]) -> Table:
    """Return all rows."""
    shown = Table(
        "asked", "way", "MACs left", "blocks out", "accuracy %", "time", "s", box=MARKDOWN
    )
    for r in sorted(found, key=lambda r: (r.figure, -r.share)):
        shown.add_row(
            f"{r.share:g} of {r.figure}", r.way, f"{r.macs:.3f}", str(r.blocks), f"{r.accuracy:.2f}",
            f"{r.time:.2f}", f"{r.seconds:.0f}",
        )  # fmt: skip
    return shown


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shares", type=lambda t: [*map(float, t.split(","))], default=[0.5, 0.35])
    parser.add_argument("--ways", type=lambda text: text.split(","), default=WAYS.split(","))
    parser.add_argument("--figure", choices=("macs", "params", "latency"), default="macs")
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--most", type=int, help="rows to measure in this run")
    parser.add_argument("--quick", action="store_true", help="one share, 500 test images")
    asked = parser.parse_args()
    if asked.quick:
        asked.shares, asked.test = [0.5], 500
    found: list[Row] = []
    if asked.rows is not None and asked.rows.is_file():
        found = [Row(**json.loads(line)) for line in asked.rows.read_text().splitlines()]
    for new in itertools.islice(rows(asked, found), asked.most):
        found.append(new)
        if asked.rows is not None:
            with asked.rows.open("a") as stream:
                stream.write(json.dumps(dataclasses.asdict(new)) + "\n")
    Console(width=140).print(table(found), f"{asked.test} test images")


if __name__ == "__main__":
    main()
