"""Zeros among the weights of a published ResNet: accuracy on CIFAR-10 without training.

    python benchmarks/wanda.py --json FILE                                 # ResNet-56 as it is
    python benchmarks/wanda.py --json FILE --prune depth=cosine blocks=6   # after blocks were left out
    python benchmarks/wanda.py --model m.onnx --data train.npz --test test.npz --labels labels

Shares of 10 to 50 % of every row, and 2:4, by magnitude, Wanda and SparseGPT; 512 training images
whose labels are never read choose the zeros, accuracy is that of the 10,000 test images. The classifier
and the first convolution are made sparse like all others. What is done is kept in `--json` and not done
again. Latency is of the dense tensors with their zeros, in turns with the original, one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks import cifar
from onnxprune import evaluate, prune, sparsify

SPARSITIES = ("0.1", "0.2", "0.3", "0.4", "0.5", "2:4")
METHODS = ("magnitude", "wanda", "sparsegpt")


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is made sparse, and the samples: each what `--data` takes."""

    model: Path
    data: Any
    test: Any
    labels: str


def published(depth: int, home: Path, count: int) -> Subject:
    """The published network of a depth."""
    train, test = cifar.images("train_1", 1024), cifar.images("test", count)
    fed = {"images": test.x, "labels": test.y}
    return Subject(cifar.network(depth, home), {"images": train.x}, fed, "labels")


def main() -> None:
    """Make sparse, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=int, default=56, help="depth of the published ResNet")
    parser.add_argument("--model", type=Path, help="an own model in its place")
    for name in ("data", "test"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--labels", default="labels")
    parser.add_argument("--prune", nargs="*", default=[], metavar="OPTION=VALUE")
    parser.add_argument("--sparsities", nargs="*", default=list(SPARSITIES))
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--quick", action="store_true", help="2,000 test images")
    parser.add_argument("--json", type=Path, help="results are kept here, and not made again")
    asked = parser.parse_args()
    held: dict[str, dict[str, float]] = {}
    if asked.json is not None and asked.json.is_file():
        held = json.loads(asked.json.read_text())
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        subject = (
            published(asked.network, home, 2000 if asked.quick else 10_000)
            if asked.model is None
            else Subject(asked.model, asked.data, asked.test, asked.labels)
        )
        what = " ".join([subject.model.name, *asked.prune, *(["quick"] if asked.quick else [])])
        if asked.prune:
            options: dict[str, Any] = dict(option.split("=", 1) for option in asked.prune)
            prune(subject.model, home / "pruned.onnx", data=subject.data, **options)
            subject = dataclasses.replace(subject, model=home / "pruned.onnx")
        base = held.setdefault(what, {})
        if not base:
            base["accuracy"] = accuracy(subject.model, subject)
            keep(asked.json, held)
        for sparsity in asked.sparsities:
            for method in asked.methods:
                key = f"{what} | {sparsity} | {method}"
                held[key] = held.get(key) or measured(subject, sparsity, method, home)
                keep(asked.json, held)
    show(what, held, asked.methods)


def keep(path: Path | None, held: dict[str, dict[str, float]]) -> None:
    """Write down what is done."""
    if path is not None:
        path.write_text(json.dumps(held, indent=1))


def measured(subject: Subject, sparsity: str, method: str, home: Path) -> dict[str, float]:
    """Make the model sparse once; return what came of it."""
    report = sparsify(
        subject.model, home / "sparse.onnx", data=subject.data, sparsity=sparsity, method=method
    )
    return {
        "density": report.after, "accuracy": accuracy(report.output, subject),
        "speedup": report.latency.speedup, "seconds": sum(report.seconds.values()),
    }  # fmt: skip


def accuracy(model: Path, subject: Subject) -> float:
    """Return the share of test samples that a model answers rightly."""
    found = evaluate(model, subject.test, labels=subject.labels).accuracy
    assert found is not None
    return found.top1


def show(what: str, held: dict[str, dict[str, float]], methods: list[str]) -> None:
    """Print one row per sparsity."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for key, found in held.items():
        name, *rest = key.split(" | ")
        if name == what and rest:
            sparsity, method = rest
            rows.setdefault(sparsity, {})[method] = found
    table = Table(box=MARKDOWN, title=f"{what}: {held[what]['accuracy']:.2%} as it is")
    for column in ("sparsity", "not zero", *methods, "times as fast"):
        table.add_column(column, justify="right")
    for sparsity, by in rows.items():
        accuracies = [f"{by[m]['accuracy']:.2%}" if m in by else "" for m in methods]
        speeds = [found["speedup"] for found in by.values()]
        first = next(iter(by.values()))
        table.add_row(
            sparsity,
            f"{first['density']:.1%}",
            *accuracies,
            f"{min(speeds):.2f} .. {max(speeds):.2f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
