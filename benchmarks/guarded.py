"""Does a file made with `--max-drop` hold its limit on the test split, and what did finding it take?

    python benchmarks/guarded.py                              # all cases, limit 1 %
    python benchmarks/guarded.py --case digits --max-drop 2%
    python benchmarks/guarded.py --model m.onnx --data train.npz --judge valid.npz --test test.npz --labels y

Cases:
    digits            the quick-start model; the judges are training digits without labels: agreement
    resnet56          published ResNet-56; calibration and judges are training images: accuracy
    resnet56-unseen   judges are 5,000 test images that the network was not trained on, the figures
                      are of the other 5,000
    text              the sentence encoder of benchmarks/text.py; judges are the sentences that neither
                      calibration nor the head has seen (valid and dev): accuracy

Trials are remembered in `--work`, so a run that was killed goes on. The last column is what a grid of
budgets in steps of 5 % would take; what it would cost is that many times the time of a trial.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import cifar
from onnxprune import evaluate, inspect, prune
from onnxprune.demo import unpack
from onnxprune.measure.evaluate import Evaluation
from onnxprune.show.report import PruneReport

GRID = 0.05


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and the samples around it: each what `--data` takes.

    Attributes:
        model: the ONNX file.
        data: to calibrate, and to judge by where `judge` is None.
        judge: to judge by.
        test: to measure what came out.
        labels: key of the labels to judge by; None: agreement.
        test_labels: key of the labels of the test samples; None: agreement.
    """

    model: Path
    data: Any
    test: Any
    judge: Any = None
    labels: str | None = None
    test_labels: str | None = None


def digits(home: Path) -> Case:
    """The quick-start model, as a user has it after `onnxprune demo`."""
    unpack(home)
    return Case(home / "digits.onnx", home / "train.npz", home / "test.npz", test_labels="labels")


def resnet56(home: Path) -> Case:
    """ResNet-56 judged by images that it was trained on."""
    model = cifar.network(56, home)
    train, test = cifar.images("train_1", 10_000), cifar.images("test", 10_000)
    return Case(model, fed(train), fed(test), labels="labels", test_labels="labels")


def unseen(home: Path) -> Case:
    """ResNet-56 judged by images that it has never seen."""
    whole, test = resnet56(home), cifar.images("test", 10_000)
    first, last = (cifar.Images(test.x[p], test.y[p]) for p in (slice(5000), slice(5000, None)))
    return dataclasses.replace(whole, judge=fed(first), test=fed(last))


def encoder(home: Path) -> Case:
    """The sentence encoder, judged by sentences that it and its head have never seen."""
    from benchmarks import text  # which needs transformers

    train, test = text.sentences("train"), text.sentences("test")
    unseen = [text.sentences(part).fed for part in ("valid", "dev")]
    judge = {name: np.concatenate([part[name] for part in unseen]) for name in unseen[0]}
    model = text.network(home / "encoder.onnx")
    return Case(model, train[:512].fed, test.fed, judge, "labels", "labels")


def fed(images: cifar.Images) -> dict[str, Any]:
    """Return images as what the network is fed, with labels."""
    return {"images": images.x, "labels": images.y}


CASES: dict[str, Callable[[Path], Case]] = {
    "digits": digits, "resnet56": resnet56, "resnet56-unseen": unseen, "text": encoder,
}  # fmt: skip


def main() -> None:
    """Run the cases asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--model", type=Path, help="an own model in place of the cases")
    for name in ("data", "judge", "test", "labels"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--max-drop", default="1%")
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--trials", type=int, default=7)
    parser.add_argument("--judge-samples", type=int, default=4096)
    parser.add_argument("--criterion")
    parser.add_argument("--work", type=Path, help="remember trials here")
    asked = parser.parse_args()
    table = Table(title=f"--max-drop {asked.max_drop}, {asked.confidence:.0%} confidence")
    for column in (
        "case", "MACs left", "judged by", "lost there", "at most", "lost on test", "in 95 %",
        "holds", "trials", "seconds", "5 % grid",
    ):  # fmt: skip
        table.add_column(column)
    with tempfile.TemporaryDirectory() as folder:
        if asked.model is not None:
            own = Case(asked.model, asked.data, asked.test, asked.judge, asked.labels, asked.labels)
            table.add_row(asked.model.name, *row(own, asked, Path(folder)))
        else:
            for name in asked.case:
                table.add_row(name, *row(CASES[name](Path(folder)), asked, Path(folder)))
    Console(width=140).print(table)


def row(case: Case, asked: argparse.Namespace, home: Path) -> list[str]:
    """Prune under the limit and measure on the test split."""
    output, begin = home / "guarded.onnx", time.perf_counter()
    report = prune(
        case.model, output, data=case.data, judge=case.judge, labels=case.labels,
        max_drop=asked.max_drop, confidence=asked.confidence, trials=asked.trials,
        judge_samples=asked.judge_samples, criterion=asked.criterion, work=asked.work,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    found = evaluate(output, case.test, labels=case.test_labels, reference=case.model)
    return [*trial(report), *tested(report, found), f"{seconds:.0f}", str(grid(case))]


def trial(report: PruneReport) -> list[str]:
    """Return what the search found."""
    search, macs = report.search, report.figures["macs"]
    assert search is not None
    best = search.trials[search.chosen].drop
    judged = f"{search.metric}, {search.samples}"
    return [f"{macs.after / macs.before:.1%}", judged, f"{best.value:.2%}", f"{best.bound:.2%}"]


def tested(report: PruneReport, found: Evaluation) -> list[str]:
    """Return the drop on the test split, how exact that is, whether it holds, and the trials."""
    search = report.search
    assert search is not None
    turned = {"accuracy": found.right, "agreement": found.same}.get(search.metric)
    if turned is None:
        assert found.error is not None
        drop, off = found.error, 0.0
    else:
        drop = (turned.lost - turned.gained) / turned.samples
        spread = (turned.lost + turned.gained) / turned.samples - drop**2
        off = 1.96 * float(np.sqrt(spread / turned.samples))
    exact = f"{drop - off:.2%} .. {drop + off:.2%}"
    over = drop - search.limit
    verdict = "yes" if over <= 0 else f"no, {over:.2%} too much"
    other = accuracy(found)
    return [f"{drop:.2%} {search.metric}{other}", exact, verdict, f"{len(search.trials)}"]


def accuracy(found: Evaluation) -> str:
    """Return accuracy before and after, where there are labels."""
    before, after = found.reference, found.accuracy
    if before is None or after is None:
        return ""
    return f" ({before.top1:.2%} -> {after.top1:.2%})"


def grid(case: Case) -> int:
    """Return how many budgets in steps of 5 % of the MACs there are."""
    view = inspect(case.model)
    least = view.least.macs / view.total.macs
    return int((1 - least) / GRID)


if __name__ == "__main__":
    main()
