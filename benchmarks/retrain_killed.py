"""`onnxprune retrain`, killed at random moments (SIGKILL) and started again: the same weights?

    python benchmarks/retrain_killed.py [--kills 10] [--epochs 150] [--seed 0]

The digits network that ships, half of its MACs, without labels; a checkpoint after every epoch. A kill
comes after a random time, wherever the command then is: importing, training, writing a checkpoint. After
each, the checkpoint must be readable, and no output be there; in the end the weights must be those of a
run that was not killed, bit by bit.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

import onnxprune

MODELS = Path(__file__).resolve().parent.parent / "models"


def start(folder: Path, name: str, epochs: int) -> subprocess.Popen[bytes]:
    """Start a training with its checkpoint in `work-NAME`."""
    command = [
        sys.executable, "-m", "onnxprune", "retrain", "small.onnx", "--teacher",
        str(MODELS / "digits.onnx"), "--data", "train.npz", "-o", f"{name}.onnx",
        "--work", f"work-{name}", "--epochs", str(epochs), "--batch", "32", "--average", "0.9",
        "--augment", "crop", "--device", "cpu", "-q",
    ]  # fmt: skip
    root = str(MODELS.parent)
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": root})


def step(path: Path) -> int:
    """Return the step that a checkpoint holds; 0 if there is none yet."""
    if not path.exists():
        return 0
    with safe_open(path, "np") as file:
        for name in file.keys():  # noqa: SIM118
            assert np.isfinite(file.get_tensor(name)).all(), name
        return int(file.metadata()["step"])


def main() -> None:
    """Train once whole and once with kills, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw, table = random.Random(asked.seed), Table("kill", "after s", "step of the checkpoint")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with np.load(MODELS / "digits.npz") as file:
            images = file["train_images"]
        np.savez(folder / "train.npz", images=images)
        onnxprune.prune(MODELS / "digits.onnx", folder / "small.onnx",
                        data={"images": images[:256]}, macs=0.5)  # fmt: skip
        begun = time.perf_counter()
        assert start(folder, "whole", asked.epochs).wait() == 0
        whole = time.perf_counter() - begun
        longest = 1.5 * whole / asked.kills  # all of them together rarely take a whole run
        for kill in range(asked.kills):
            running, delay = start(folder, "killed", asked.epochs), draw.uniform(0, longest)
            time.sleep(delay)
            running.kill()
            assert running.wait() == -9, "it ended before it was killed: give more --epochs"
            assert not (folder / "killed.onnx").exists()
            found = step(folder / "work-killed" / "checkpoint.safetensors")
            table.add_row(str(kill + 1), f"{delay:.2f}", str(found))
        assert start(folder, "killed", asked.epochs).wait() == 0
        same = (folder / "whole.onnx").read_bytes() == (folder / "killed.onnx").read_bytes()
    Console().print(table)
    print(f"whole run {whole:.1f} s; {asked.kills} kills; files equal: {same}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
