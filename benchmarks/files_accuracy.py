"""What 0.7 of the MACs costs the published files that have an accuracy or a known detection.

    python benchmarks/files_accuracy.py [NAME ...] [--macs 0.7] [--repair least-squares ...]

Needs ONNXPRUNE_DATA. Every file is pruned by the default criterion to that share of its MACs, or to
the least that is reachable, and refitted in closed form on unlabelled samples of the data folder; no
training. The figures are those of `files_recipes.py`, before and after.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
import tempfile
import time
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ONNXPRUNE_THREADS"):
    os.environ.setdefault(_variable, "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import onnxprune  # noqa: E402  # after the threads are set
from benchmarks.files_recipes import RECIPES  # noqa: E402
from benchmarks.files_samples import Recipe, Samples  # noqa: E402
from onnxprune.core.errors import BudgetError, OnnxPruneError  # noqa: E402
from onnxprune.core.runtime import Session  # noqa: E402
from onnxprune.show.report import PruneReport  # noqa: E402

_LEAST = re.compile(r"least reachable is .*?\(([\d.]+)%")
_SLACK = 1.001  # the least reachable is written with three digits


@dataclasses.dataclass(frozen=True)
class Row:
    """One file, pruned and repaired one way; without a report, why not."""

    name: str
    repair: str
    before: str
    after: str
    report: PruneReport | None
    seconds: float


def pruned(path: Path, output: Path, samples: Samples, macs: float, repair: str) -> PruneReport:
    """Prune to a share of the MACs, or to the least that is reachable."""
    for round_to in (8, 1):  # narrow networks have nothing between a width and eight less
        try:
            return _pruned(path, output, samples, macs, repair, round_to)
        except BudgetError as error:
            found = _LEAST.search(str(error))
            if found is None and round_to == 1:
                raise
            least = float(found[1]) / 100 * _SLACK if found else 1.0
    return _pruned(path, output, samples, least, repair, 1)


def _pruned(
    path: Path, output: Path, samples: Samples, macs: float, repair: str, round_to: int
) -> PruneReport:
    return onnxprune.prune(path, output, data=samples, macs=macs, repair=repair, round_to=round_to)


def measured(name: str, recipe: Recipe, folder: Path, macs: float, repairs: list[str]) -> list[Row]:
    """Measure a file before and after."""
    path = folder / "onnx" / f"{name}.onnx"
    original = Session(path)
    before, samples = recipe.figure(folder, original, original), recipe.samples(folder, original)
    rows = []
    for repair in repairs:
        start, report = time.perf_counter(), None
        with tempfile.TemporaryDirectory() as place:
            output = Path(place, "pruned.onnx")
            try:
                report = pruned(path, output, samples, macs, repair)
                after = recipe.figure(folder, Session(output), original)
            except OnnxPruneError as error:
                after = str(error)
        rows.append(Row(name, repair, before, after, report, time.perf_counter() - start))
    return rows


def line(row: Row, what: str) -> str:
    """Write one row of the table."""
    cells = [row.name, what, row.before]
    if row.report is None:
        return "| " + " | ".join([*cells, "-", "-", "-", f"not pruned: {row.after[:160]}"]) + " |"
    figures, proof = row.report.figures, row.report.proof
    assert proof is not None
    shares = [f"{figures[k].after / figures[k].before:.2f}" for k in ("macs", "params")]
    return "| " + " | ".join([*cells, row.repair, *shares, row.after]) + " |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="files without ending; all")
    parser.add_argument("--macs", type=float, default=0.7)
    parser.add_argument("--repair", action="append", help="may be given again")
    asked = parser.parse_args()
    folder = Path(os.environ.get("ONNXPRUNE_DATA", ROOT.parent / "shared" / "data")).resolve()
    repairs = asked.repair or ["least-squares", "sequential"]
    print("| file | figure | before | repair | MACs | parameters | after |")
    print("| :-- | :-- | --: | :-- | --: | --: | --: |")
    for name in asked.names or RECIPES:
        recipe = RECIPES[name]
        for row in measured(name, recipe, folder, asked.macs, repairs):
            print(line(row, recipe.what), flush=True)
            print(f"{name} {row.repair}: {row.seconds:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
