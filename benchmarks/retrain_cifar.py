"""ResNet-56 at 2.1x fewer MACs, taught by the original on the training images of CIFAR-10.

    python benchmarks/retrain_cifar.py [--work FOLDER] [--recipe epochs=4,rate=0.01,...] [--labels]
           [--network 56] [--quick]

Prunes and repairs with the defaults on 1,024 training images, then distils on all 50,000 with the
recipe that stands below, where `--recipe` does not say otherwise (settings of `onnxprune.torch.Recipe`,
written as in `prune --retrain`); labels are read with `--labels` only. Accuracy on the 10,000 test images,
which no step sees. What is done lies in `--work`: run again after a kill to go on. Minutes are of the
clock and of the processor, over all such runs.
Bar: 92.9 % without labels, within 30 minutes on two cores (issue E).
Needs the data that `benchmarks/cifar.py` describes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from rich.console import Console
from rich.table import Table

import onnxprune
from benchmarks import cifar
from onnxprune.core.configured import replaced, written
from onnxprune.torch import Recipe, retrain

PARTS = tuple(f"train_{i}" for i in range(1, 6))
SPEEDUP, CALIBRATION = 2.1, 2048  # half of the images calibrate, half are held out
RECIPE = Recipe(
    epochs=5, optimizer="foof", rate=0.2, features=1000.0, augment=("crop", "flip"),
    precision="bfloat16", taught_by="pytorch",
)  # fmt: skip


class Clock:
    """Minutes of all runs in a folder: of the clock and of the processor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = json.loads(path.read_text()) if path.exists() else [0.0, 0.0]
        self.start = time.perf_counter(), time.process_time()

    def minutes(self) -> list[float]:
        """Return them, up to now."""
        now = time.perf_counter(), time.process_time()
        return [b + (n - s) / 60 for b, n, s in zip(self.before, now, self.start, strict=True)]

    def tick(self, what: str, done: int, total: int) -> None:
        """Note them, and say how far the training is."""
        if done % 20 == 0 or done == total:
            self.path.write_text(json.dumps(self.minutes()))
            wall, cpu = self.minutes()
            print(f"{what} {done}/{total}, {wall:.1f} min, {cpu:.1f} CPU min", flush=True)


def pruned(original: Path, work: Path, depth: int) -> Path:
    """Prune and repair without labels, if that is not done yet."""
    path = work / f"resnet{depth}.pruned.onnx"
    if not path.exists():
        images = {"images": cifar.images("train_1", CALIBRATION).x}
        onnxprune.prune(
            original, path, data=images, macs=1 / SPEEDUP, round_to=1, samples=CALIBRATION // 2
        )
    return path


def accuracy(path: Path, count: int) -> float:
    """Return the share of test images classified right, %."""
    test = cifar.images("test", count)
    found = onnxprune.evaluate(path, {"images": test.x, "labels": test.y}, labels="labels")
    assert found.accuracy is not None
    return 100 * found.accuracy.top1


def main() -> None:
    """Prune, retrain, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path("retrain-cifar"))
    parser.add_argument("--network", type=int, default=56)
    parser.add_argument("--recipe", default="", help="other settings: epochs=4,rate=0.01,...")
    parser.add_argument("--labels", action="store_true", help="read the labels, too")
    parser.add_argument("--quick", action="store_true", help="2,000 images, one epoch")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    original = cifar.network(asked.network, asked.work)
    student = pruned(original, asked.work, asked.network)
    parts = PARTS[:1] if asked.quick else PARTS
    train = [cifar.images(part, 2000 if asked.quick else 10_000) for part in parts]
    data = {
        "images": np.concatenate([part.x for part in train]),
        "labels": np.concatenate([part.y for part in train]),
    }
    recipe = replaced(RECIPE, written(asked.recipe), "--recipe")
    if asked.quick:
        recipe = dataclasses.replace(recipe, epochs=1)
    clock = Clock(asked.work / "minutes.json")
    final = asked.work / f"resnet{asked.network}.final.onnx"
    done = retrain(
        student, original, data, final, recipe=recipe, labels="labels" if asked.labels else None,
        work=asked.work, progress=clock.tick,
    )  # fmt: skip
    wall, cpu = clock.minutes()
    table = Table("model", "test accuracy %", "steps", "min", "CPU min")
    count = 1000 if asked.quick else 10_000
    for name, path in (("original", original), ("pruned and repaired", student)):
        table.add_row(name, f"{accuracy(path, count):.2f}", "", "", "")
    shown = f"{accuracy(final, count):.2f}"
    table.add_row("retrained", shown, str(done.steps), f"{wall:.1f}", f"{cpu:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
