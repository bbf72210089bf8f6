"""The demo: prunes the digits network that ships with onnxprune, on the digits that ship with it."""

from __future__ import annotations

import dataclasses
import shutil
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from .api import evaluate, prune
from .core.contracts import Progress, silent
from .core.errors import OnnxPruneError
from .measure.evaluate import Evaluation
from .show.report import PruneReport

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


def demo(folder: Path | str = "onnxprune-demo", *, progress: Progress = silent) -> Demo:
    """Prune the digits network to three tenths of its MACs; no network, no PyTorch, no labels.

    Args:
        folder: made if need be; gets `digits.onnx`, `train.npz`, `test.npz`, which are also good for
            trying other commands, and `digits.pruned.onnx` with its plan.
        progress: called as work goes on.

    Raises:
        OnnxPruneError: if the folder cannot be written.
    """
    home = Path(folder)
    try:
        unpack(home)
    except OSError as error:
        raise OnnxPruneError(
            f"cannot write to '{home}': {error.strerror}; choose another folder"
        ) from error
    model, pruned = home / "digits.onnx", home / "digits.pruned.onnx"
    report = prune(model, pruned, data=home / "train.npz", macs=MACS, progress=progress)
    test = evaluate(pruned, home / "test.npz", labels="labels", reference=model, progress=progress)
    return Demo(report, test)


def unpack(home: Path) -> None:
    """Write the model and its digits; those for training carry no labels, as none are needed."""
    home.mkdir(parents=True, exist_ok=True)
    shipped = files("onnxprune.models")
    with as_file(shipped / "digits.onnx") as model, as_file(shipped / "digits.npz") as data:
        shutil.copyfile(model, home / "digits.onnx")
        arrays = np.load(data)
        np.savez(home / "train.npz", images=arrays["train_images"])
        np.savez(home / "test.npz", images=arrays["test_images"], labels=arrays["test_labels"])
