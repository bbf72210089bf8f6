"""Every architecture of the test zoo, by both exporters: what onnxprune and two peers remove.

    python benchmarks/zoo.py [PATTERN ...] [--ratio 0.5] [--round-to 1] [--json]

Per export (random weights; BatchNormalization folded, or kept as nodes): groups and units found and
the median time of three analyses; the share of the parameters kept when that ratio of the units goes
by L2 norm, uniformly and by one global ranking; the largest gap of the proof over both of these and
over a random third of every group. Beside it, in the same run: onnxsim's structured pruning at the
same ratio on the same file (the smaller result with or without its `simplify`) and Torch-Pruning on
the PyTorch module (once an architecture). All files are counted by the same code. A share without a
mark belongs to a file that onnxruntime runs.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ONNXPRUNE_THREADS"):
    os.environ.setdefault(_variable, "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402  # after the threads are set
import onnx  # noqa: E402

from benchmarks import peers  # noqa: E402
from onnxprune.core.analysis import Analysis  # noqa: E402
from onnxprune.core.contracts import CRITERIA, SURGERIES, Evidence  # noqa: E402
from onnxprune.core.cost import CostModel  # noqa: E402
from onnxprune.core.errors import OnnxPruneError  # noqa: E402
from onnxprune.core.graph import Graph  # noqa: E402
from onnxprune.core.rules import OP_RULES  # noqa: E402
from onnxprune.core.shapes import instantiate  # noqa: E402
from onnxprune.proof.prove import prove  # noqa: E402
from onnxprune.selection.budget import Budget, Options  # noqa: E402
from onnxprune.selection.select import select  # noqa: E402
from onnxprune.structure.dependency import analyse  # noqa: E402
from tests import zoo  # noqa: E402

Row = dict[str, Any]
SCOPES = ("uniform", "global")


def cost_of(analysis: Analysis) -> CostModel:
    """Return the cost at the file's own sizes, batch 1."""
    instance = instantiate(analysis.graph, OP_RULES.shape_functions)
    assert instance is not None
    return CostModel(analysis, instance)


def figures(model: bytes) -> tuple[float, float]:
    """Return MACs and parameters of an ONNX file."""
    cost = cost_of(analyse(Graph.from_model(onnx.load_from_string(model))))
    return cost.macs(cost.lengths()), cost.params(cost.lengths())


def ours(name: str, path: Path, ratio: float, round_to: int) -> Row:
    """Analyse and prune one export three times; prove each."""
    graph = Graph.from_model(onnx.load(path))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        analysis = analyse(graph)
        seconds.append(time.perf_counter() - start)
    cost, rng = cost_of(analysis), np.random.default_rng(0)
    feeds = [{graph.inputs[0].name: zoo.samples(name)}]
    evidence = Evidence(analysis, None, seed=0)
    scores = [ranking.scores for ranking in CRITERIA["l2"].rank(evidence)]
    thirds = [rng.choice(g.units, len(g) // 3, replace=False) for g in analysis.groups]
    chosen = {"third": np.concatenate(thirds)}
    row: Row = {
        "groups": len(analysis.groups),
        "units": sum(map(len, analysis.groups)),
        "analysis": median(seconds),
    }
    for scope in SCOPES:
        options = Options(scope=scope, round_to=round_to)  # type: ignore[arg-type]
        selection = select(cost, scores, Budget.parse("ratio", ratio), options)
        chosen[scope] = selection.units
        row[scope] = selection.after.params / selection.before.params
        row[f"{scope} macs"] = selection.after.macs / selection.before.macs
    masks = [analysis.mask(units) for units in chosen.values()]
    proofs = [prove(graph, mask, SURGERIES["channels"](mask), feeds) for mask in masks]
    return row | {"gap": max(p.gap for p in proofs), "moved": min(p.moved for p in proofs)}


def judged(model: bytes, original: bytes, name: str) -> Row:
    """Say what share of a file a peer's result keeps, and whether it runs."""
    graph = Graph.from_model(onnx.load_from_string(original))
    feeds = {value.name: zoo.samples(name) for value in graph.inputs}
    (macs, params), (all_macs, all_params) = figures(model), figures(original)
    broken = peers.runs(model, feeds)
    return {"kept": params / all_params, "macs": macs / all_macs, "error": broken}


def onnxsim(name: str, path: Path, ratio: float) -> Row:
    """Let onnxsim prune one export; the smaller of its results that run."""
    found = []
    for simplify in (True, False):
        attempt = peers.guarded(_onnxsim, path, ratio, simplify)
        if attempt.result is None:
            found.append({"kept": None, "error": attempt.error})
        else:
            row = judged(attempt.result, path.read_bytes(), name)
            found.append(row | {"seconds": attempt.seconds})
    return min(found, key=lambda row: (bool(row["error"]), row["kept"] or 1.0))


def _onnxsim(path: Path, ratio: float, simplify: bool) -> bytes:
    return peers.onnxsim_structured(path, ratio, simplify=simplify)


@functools.cache
def torch_pruning(name: str, ratio: float) -> Row:
    """Let Torch-Pruning prune the module of an architecture."""
    attempt = peers.guarded(peers.torch_pruning, functools.partial(zoo.build, name), ratio)
    if attempt.result is None:
        return {"kept": None, "error": attempt.error}
    original = zoo.exported(name, "torchscript", False).read_bytes()
    row = judged(attempt.result.model, original, name)
    return row | {"groups": attempt.result.groups, "graph": attempt.result.graph_seconds}


def rows(patterns: list[str], ratio: float, round_to: int) -> Iterator[Row]:
    """Measure the exports whose name contains one of the patterns."""
    for name, exporter, keep_batchnorm in zoo.CASES:
        case = f"{name} {exporter} {'bn' if keep_batchnorm else 'folded'}"
        if patterns and not any(pattern in case for pattern in patterns):
            continue
        print(case, file=sys.stderr, flush=True)
        path = zoo.exported(name, exporter, keep_batchnorm)
        row: Row = {"case": case}
        try:
            row |= ours(name, path, ratio, round_to)
        except OnnxPruneError as error:
            row["error"] = str(error)
        row["onnxsim"] = onnxsim(name, path, ratio)
        row["torch-pruning"] = torch_pruning(name, ratio)
        yield row


def share(row: Row) -> str:
    """Write what a peer kept, or why there is nothing to keep."""
    if not row["error"]:
        return f"{row['kept']:.2f}"
    reason = row["error"].split("Status Message: ")[-1].split(" : ")[-1][:80]
    return f"{'does not run' if row['kept'] else 'fails'}: {reason}"


def print_table(table: list[Row], ratio: float) -> None:
    """Print everything as a Markdown table, and medians."""
    print(
        f"| export | groups | units | analysis s | uniform {ratio} | global {ratio} | gap", end=""
    )
    print(" | onnxsim | Torch-Pruning |\n| :-- | --: | --: | --: | --: | --: | --: | --: | --: |")
    for row in table:
        if "error" in row:
            cells = [row["case"], f"fails: {row['error']}", *[""] * 5]
        else:
            cells = [row["case"], str(row["groups"]), f"{row['units']:,}", f"{row['analysis']:.2f}"]
            cells += [f"{row['uniform']:.2f}", f"{row['global']:.2f}", f"{row['gap']:.0e}"]
        print(
            "| " + " | ".join([*cells, share(row["onnxsim"]), share(row["torch-pruning"])]) + " |"
        )
    proved = [row for row in table if "error" not in row]
    both = [r for r in proved if not r["onnxsim"]["error"] and not r["torch-pruning"]["error"]]
    print(f"\n{len(proved)} of {len(table)} exports pruned and proved.")
    for title, chosen in (("all proved", proved), ("handled by all three", both)):
        if not chosen:
            continue
        kept = [f"{scope} {median(r[scope] for r in chosen):.2f}" for scope in SCOPES]
        for peer in ("onnxsim", "torch-pruning"):
            runs = [r[peer]["kept"] for r in chosen if not r[peer]["error"]]
            kept += [f"{peer} {median(runs):.2f} ({len(runs)} run)"] if runs else []
        print(f"Median share kept, {title} ({len(chosen)}): {', '.join(kept)}.")
    if proved:
        print(f"Median analysis {median(r['analysis'] for r in proved):.2f} s.")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("patterns", nargs="*", help="only exports whose name contains one of these")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--round-to", type=int, default=1, help="1 is what the peers do")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("ONNXPRUNE_ZOO", folder)
        table = list(rows(asked.patterns, asked.ratio, asked.round_to))
    if asked.json:
        print(json.dumps(table, indent=2))
    else:
        print_table(table, asked.ratio)


if __name__ == "__main__":
    main()
