"""Which networks become PyTorch, how exactly, how fast; trained a step and written back.

    python benchmarks/converter.py [PATTERN ...] [--source files zoo text vision] [--exports FOLDER]
        [--results FILE.jsonl] [--again] [--table]

Networks and samples are those of `benchmarks/coverage.py`, whose exports are used again where they
are. Exports stay in a folder, rows in a file of JSON lines: a run can be stopped and resumed.

    parameters   learned, in millions
    s            from the model in memory to the module
    gap          largest difference to onnxruntime over the largest value of an output
    trained      the same after one step of Adam (BatchNormalization in training), the trained
                 values written back into the file
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ONNXPRUNE_THREADS"):
    os.environ.setdefault(_variable, "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402  # after the threads are set
import onnx  # noqa: E402
from onnx import ModelProto  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.coverage import SOURCES, subjects  # noqa: E402
from benchmarks.coverage_rows import Row, Subject  # noqa: E402
from onnxprune.core.errors import ModelError, first_line  # noqa: E402
from onnxprune.core.graph import Graph  # noqa: E402
from onnxprune.discover import discover  # noqa: E402
from onnxprune.torch import from_onnx, to_onnx  # noqa: E402
from tests.torch.compare import Feeds, called, drawn, gap, outputs_of, step  # noqa: E402

ALLOWED = 1e-4
ROUNDING = 5e-2  # of networks that round to 256 steps: sums in another order fall on another step
_ROUNDS = ("QuantizeLinear", "DynamicQuantizeLinear")


def measured(model: ModelProto, feeds: Feeds) -> Row:
    """Convert, compare, train a step, write back, compare."""
    start = time.perf_counter()
    module = from_onnx(model)
    row: Row = {
        "seconds": time.perf_counter() - start,
        "parameters": sum(p.numel() for p in module.parameters()),
        "rounds": any(node.op_type in _ROUNDS for node in model.graph.node),
        "gap": gap(called(module, feeds), outputs_of(model, feeds)),
    }
    if row["parameters"]:
        step(module, feeds)
        trained = to_onnx(module, model)
        row["trained"] = gap(called(module, feeds), outputs_of(trained, feeds))
    return row


def measure(subject: Subject, label: str, path: Path) -> Row:
    """Return the row of one export; what fails says why."""
    row: Row = {"name": subject.name, "family": subject.family, "export": label}
    try:
        if not path.exists():
            subject.write(label, path)
    except Exception as error:  # noqa: BLE001 - exporters raise anything
        path.unlink(missing_ok=True)
        return row | {"status": "not exported", "error": first_line(error)}
    model = onnx.load(path)
    names = [value.name for value in Graph.from_model(model).inputs]
    try:
        given = (subject.feeds(Graph.from_model(model)) or [drawn(model)])[0]
        row |= measured(model, {name: np.asarray(given[name]) for name in names})
    except ModelError as error:
        return row | {"status": "refused", "error": first_line(error)}
    except Exception as error:  # noqa: BLE001 - a benchmark goes on, and says so
        return row | {"status": "broken", "error": f"{type(error).__name__}: {first_line(error)}"}
    worst = max(row["gap"], row.get("trained", 0.0))
    equal = worst < (ROUNDING if row["rounds"] else ALLOWED)
    return row | {"status": "equal" if equal else "differs"}


def run(wanted: argparse.Namespace) -> list[Row]:
    """Measure what is not in the file of rows yet; return all rows asked for."""
    kept = [json.loads(line) for line in _lines(wanted.results)]
    done = {(row["name"], row["export"]): row for row in kept}
    rows = []
    for subject in subjects(wanted.source, wanted.patterns):
        for label in subject.exports:
            key = (subject.name, label)
            if (key not in done or wanted.again) and not wanted.table:
                name = f"{subject.name} {label}.onnx".replace("/", "-").replace(" ", ".")
                done[key] = measure(subject, label, wanted.exports / name)
                with wanted.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done[key]) + "\n")
                print(*(f"{k}={v}" for k, v in done[key].items() if k != "family"), flush=True)
            if key in done:
                rows.append(done[key])
    return rows


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def show(rows: list[Row]) -> None:
    """Print the table, and what is to be said of all rows."""
    table = Table("network", "export", "parameters", "s", "gap", "trained", "what", box=None)
    for row in rows:
        table.add_row(
            row["name"],
            row["export"],
            f"{row['parameters'] / 1e6:.2f} M" if "parameters" in row else "",
            *(_figure(row, key, form) for key, form in
              (("seconds", ".2f"), ("gap", ".0e"), ("trained", ".0e"))),
            row["status"] + (f": {row['error']}" if "error" in row else ""),
        )  # fmt: skip
    Console(width=200).print(table)
    there = [row for row in rows if row["status"] != "not exported"]
    equal = [row for row in there if row["status"] == "equal"]
    exact = [max(r["gap"], r.get("trained", 0.0)) for r in equal if not r["rounds"]]
    print(f"\n{len(equal)} of {len(there)} networks ({len(equal) / max(len(there), 1):.1%}) equal")
    print(f"worst gap {max(exact, default=0.0):.1e}; slowest conversion "
          f"{max((r['seconds'] for r in equal), default=0.0):.2f} s")  # fmt: skip


def _figure(row: dict[str, Any], key: str, form: str) -> str:
    return format(row[key], form) if key in row else ""


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--source", nargs="+", choices=SOURCES, default=["files", "zoo"])
    parser.add_argument("--exports", type=Path, default=Path("exports"))
    parser.add_argument("--results", type=Path, default=Path("converter.jsonl"))
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--table", action="store_true")
    wanted = parser.parse_args()
    warnings.simplefilter("ignore")
    discover()
    wanted.exports.mkdir(parents=True, exist_ok=True)
    show(run(wanted))


if __name__ == "__main__":
    main()
