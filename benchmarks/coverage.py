"""How many networks can be pruned: families of timm, torchvision and transformers, and real files.

    python benchmarks/coverage.py [PATTERN ...] [--source vision ...] [--ratio 0.5]
        [--exports FOLDER] [--results FILE.jsonl] [--seconds 300] [--no-peers] [--again] [--table]
        [--part 1/2]

Every network (smallest variant, random weights, small inputs) is written by both exporters at opsets
that rotate over 13, 17, 20 and 23, and pruned twice: `--ratio` of the channels by L1 norm without
repair, as the command line does it, and a random third of every group. Both are proved, the first is
saved, loaded and run. Beside it: onnxsim's structured pruning of the same file, and Torch-Pruning of
the PyTorch module. Exports stay in a folder, rows in a file of JSON lines, so that a run can be
stopped and resumed; `--table` prints what is there without measuring.

    groups, units   found; a unit is what can only go together
    removable       share of the parameters that can go at all
    kept            share of the parameters that stay at that ratio
    gap             of the proof, the larger of the two
    s               analysis, cut and proof at that ratio
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

for _variable in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ONNXPRUNE_THREADS",
):
    os.environ.setdefault(_variable, "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.coverage_rows import Row, Settings, Subject, rows  # noqa: E402  # after threads
from benchmarks.coverage_table import line, print_table  # noqa: E402
from onnxprune.discover import discover  # noqa: E402

# a module with a function `subjects() -> Iterable[Subject]`
SOURCES = {
    "vision": "benchmarks.coverage_vision",
    "text": "benchmarks.coverage_text",
    "files": "benchmarks.coverage_files",
    "zoo": "benchmarks.coverage_zoo",
}

# imported once here rather than in every fork
_BEFORE_FORKING = ("onnxruntime", "torch.onnx", "onnxscript.optimizer", "torch_pruning")


def subjects(sources: Iterable[str], patterns: list[str]) -> Iterable[Subject]:
    """Yield the subjects of some sources whose name contains one of the patterns."""
    for source in sources:
        for subject in importlib.import_module(SOURCES[source]).subjects():
            if not patterns or any(pattern in subject.name for pattern in patterns):
                yield subject


def read(path: Path) -> list[Row]:
    """Return the rows of a results file; the last of each export counts."""
    if not path.exists():
        return []
    found = [json.loads(text) for text in path.read_text().splitlines()]
    return list({(row["name"], row["export"]): row for row in found}.values())


def main() -> None:
    """Measure what is not measured yet, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("patterns", nargs="*", help="only models whose name contains one of these")
    parser.add_argument("--source", action="append", choices=SOURCES, help="may be given again")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--exports", type=Path, default=Path("coverage-exports"))
    parser.add_argument("--results", type=Path, default=Path("coverage.jsonl"))
    parser.add_argument("--seconds", type=float, default=300, help="allowed for each step")
    parser.add_argument("--part", default="1/1", help="1/2 and 2/2 can run side by side")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--again", action="store_true", help="measure also what is in the results")
    parser.add_argument("--table", action="store_true", help="print the results, measure nothing")
    asked = parser.parse_args()
    table = read(asked.results)
    if not asked.table:
        done = set() if asked.again else {(row["name"], row["export"]) for row in table}
        for name in _BEFORE_FORKING:
            importlib.import_module(name)
        discover()
        settings = Settings(asked.ratio, asked.seconds, asked.exports, not asked.no_peers)
        part, parts = map(int, asked.part.split("/"))
        chosen = list(subjects(asked.source or SOURCES, asked.patterns))
        mine = chosen[part - 1 :: parts]
        for turn in range(max(len(subject.exports) for subject in mine)):  # all once, then again
            for subject in mine:
                labels = [
                    k for k in subject.exports[turn : turn + 1] if (subject.name, k) not in done
                ]
                for row in rows(subject, labels, settings, table):
                    print(line(row), file=sys.stderr, flush=True)
                    table.append(row)
                    with asked.results.open("a") as stream:
                        stream.write(json.dumps(row) + "\n")
        table = read(asked.results)
    wanted = [r for r in table if not asked.patterns or any(p in r["name"] for p in asked.patterns)]
    print_table(wanted)


if __name__ == "__main__":
    main()
