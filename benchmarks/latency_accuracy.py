"""Accuracy at equal measured time: published networks and the sentence encoder, without training.

    python benchmarks/latency_accuracy.py [NAME ...] [--shares 0.7,0.5] [--rows FILE]
                                          [--ways macs,uniform,latency,joint,onnxsim]

Ways: `macs`, the default criterion under a budget in MACs, narrowed until the measured time is the share
asked for; `uniform`, the same with one share for every group; `latency`, time as the budget; `joint`, with
blocks, too; `onnxsim`, its structured pruning by L2 norms and its `apply_pruning_finetune`, narrowed
likewise. All see the same samples without labels; ours are repaired by default settings. The encoder is
judged by 1,821 sentences, the others by their likeness to the original (of answers, of objects found, of
outputs) on 50 photos of ImageNet that pruning has not seen. One thread, one sample, in turns with the
original; this wants a quiet machine.
Scores are made once per network: seconds are those of the last prune, most of them without. `--rows`
keeps what was measured: run again to go on. Needs what `retrain_files.py` needs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import onnxprune
from benchmarks.cifar_peers import one_line
from benchmarks.joint_cifar import by_macs, measured, peer
from benchmarks.retrain_files import CASES, FIGURES, Case, compared
from onnxprune.show.report import PruneReport

CALIBRATION = 512
NETWORKS = "mobilenetv2_035_flowers yolox_nano ppocrv3_det_en text"
WAYS = "macs,uniform,latency,joint,onnxsim"


def pruned(case: Case, way: str, share: float, target: Path) -> PruneReport:
    """Prune in one way, to a share of the time."""
    asked: dict[str, Any] = {
        "data": case.train, "samples": CALIBRATION, "overwrite": True, "work": target.parent / "work",
    }  # fmt: skip
    if way in {"latency", "joint"}:
        depth = "cka" if way == "joint" else None
        return onnxprune.prune(case.model, target, latency=share, threads=1, depth=depth, **asked)
    return by_macs(case.model, target, way, share, asked)


def row(name: str, way: str, share: float, folder: Path) -> dict[str, Any]:
    """Prune, compare and time; a refusal is a result, and so is a peer's failure."""
    case, target = CASES[name](folder), folder / "pruned.onnx"
    asked = {"network": name, "way": way, "asked": share}
    try:
        made = by_onnxsim if way == "onnxsim" else by_us
        found = made(case, way, share, target)
    except onnxprune.OnnxPruneError as error:
        return {**asked, "refused": str(error)}
    return {
        **asked, **found, "compared": compared(case, target), "time": measured(case.model, target)
    }  # fmt: skip


def by_us(case: Case, way: str, share: float, target: Path) -> dict[str, Any]:
    """Prune by one of our ways; returns what the row holds of it."""
    report = pruned(case, way, share, target)
    macs = report.figures["macs"]
    return {
        "macs": macs.after / macs.before, "blocks": len(report.blocks),
        "seconds": sum(report.seconds.values()),
    }  # fmt: skip


def by_onnxsim(case: Case, way: str, share: float, target: Path) -> dict[str, Any]:
    """Let the peer prune.

    Raises:
        OnnxPruneError: with its error, of whatever class it is.
    """
    samples = {name: array[:CALIBRATION] for name, array in case.train.items()}
    try:
        macs, seconds = peer(case.model, target, share, samples)
    except Exception as error:  # whatever a peer raises is a result
        raise onnxprune.OnnxPruneError(f"{way}: {one_line(error)}") from error
    return {"macs": macs, "blocks": 0, "seconds": seconds}


def main() -> None:
    """Measure what is missing, print all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=NETWORKS.split())
    parser.add_argument("--shares", type=lambda t: [*map(float, t.split(","))], default=[0.7, 0.5])
    parser.add_argument("--ways", type=lambda text: text.split(","), default=WAYS.split(","))
    parser.add_argument("--rows", type=Path, default=Path("latency_accuracy.jsonl"))
    asked = parser.parse_args()
    lines = asked.rows.read_text().splitlines() if asked.rows.exists() else []
    held = {(r["network"], r["way"], r["asked"]): r for r in map(json.loads, lines)}
    with tempfile.TemporaryDirectory() as folder, asked.rows.open("a") as file:
        for name, share, way in itertools.product(asked.names, asked.shares, asked.ways):
            if (name, way, share) not in held:
                held[name, way, share] = row(name, way, share, Path(folder))
                print(json.dumps(held[name, way, share]), file=file, flush=True)
    table = Table(
        "network", "asked", "way", "time", "MACs left", "blocks out", *FIGURES, "s", box=MARKDOWN
    )
    for r in held.values():
        first = (r["network"], f"{r['asked']:g}", r["way"])
        if "refused" in r:
            table.add_row(*first, r["refused"])
        else:
            table.add_row(
                *first, f"{r['time']:.3f}", f"{r['macs']:.3f}", str(r["blocks"]), *r["compared"],
                f"{r['seconds']:.0f}",
            )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
