"""The demo: prunes the digits network that ships with onnxprune, on the digits that ship with it."""

from __future__ import annotations

import dataclasses
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from .api import evaluate, prune
from .core.contracts import Progress, silent
from .evaluate import Evaluation
from .report import PruneReport

MACS = 0.3  # of the original remain


@dataclasses.dataclass(frozen=True)
class Demo:
    """What the demo shows.

    Attributes:
        report: of the prune, calibrated on training digits without labels.
        test: accuracy of the pruned model (and of the original as reference) on test digits.
    """

    report: PruneReport
    test: Evaluation


def demo(output: Path | str = "digits.pruned.onnx", *, progress: Progress = silent) -> Demo:
    """Prune the digits network to three tenths of its MACs; no network, no PyTorch, no labels.

    Args:
        output: where the pruned model goes; its plan goes beside it.
        progress: called as work goes on.
    """
    home = files("onnxprune.models")
    with as_file(home / "digits.onnx") as model, as_file(home / "digits.npz") as data:
        arrays = np.load(data)
        # the training digits, without their labels; part of them is held out
        report = prune(
            model, output, data={"images": arrays["train_images"]}, macs=MACS, progress=progress
        )
        digits = {"images": arrays["test_images"], "labels": arrays["test_labels"]}
        test = evaluate(output, digits, labels="labels", reference=model, progress=progress)
    return Demo(report, test)
