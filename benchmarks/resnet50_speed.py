"""ResNet-50 at 224 x 224: how long analysis and a whole prune take, beside onnxsim and Torch-Pruning.

    python benchmarks/resnet50_speed.py [--rounds 15] [--json]

The network has random weights (only time, memory, MACs and parameters are told) and is exported by
the dynamo exporter. Every step runs in a fresh process, on one thread, so that its peak memory is
its own:

- analysis: the first call of a process, and the median and best of the rounds after it;
- prune: `onnxprune prune --ratio 0.5 --criterion l2` as a user calls it, from start to exit: load,
  analysis, surgery, proof, latency of both files, writing;
- onnxsim: `simplify` and `apply_structured_pruning` at 0.5, on the same file;
- Torch-Pruning: building the dependency graph (median), and pruner and step at 0.5, on the module.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ONNXPRUNE_THREADS"):
    os.environ.setdefault(_variable, "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Nothing heavy is imported here: the peak memory of a child is never below that of its parent.

Figures = dict[str, Any]
SIZE, RATIO = 224, 0.5
BARS = {"best s": 0.2, "prune s": 10.0, "prune MB": 1500.0}


def build() -> tuple[Any, Any]:
    """Return the network of the test zoo and two images of full size."""
    import torch

    from tests import zoo

    network, _ = zoo.build("resnet50")
    return network, torch.randn(2, 3, SIZE, SIZE)


def step_export(path: str) -> Figures:
    """Write the model."""
    from onnxprune.models.export import export

    network, images = build()
    export(network, [images], Path(path))
    return {}


def step_analyse(path: str, rounds: str) -> Figures:
    """Time `analyse` on the loaded graph."""
    import onnx

    from onnxprune.core.graph import Graph
    from onnxprune.structure.dependency import analyse

    graph = Graph.from_model(onnx.load(path))
    seconds = []
    for _ in range(int(rounds) + 1):
        start = time.perf_counter()
        analysis = analyse(graph)
        seconds.append(time.perf_counter() - start)
    return {
        "groups": len(analysis.groups),
        "streams": sum(len(group.readers) > 1 for group in analysis.groups),
        "units": sum(map(len, analysis.groups)),
        "first s": seconds[0],
        "median s": median(seconds[1:]),
        "best s": min(seconds[1:]),
    }


def step_onnxsim(path: str) -> Figures:
    """Time onnxsim and count what it leaves."""
    from benchmarks import peers
    from benchmarks.zoo import figures

    start = time.perf_counter()
    model = peers.onnxsim_structured(Path(path), RATIO)
    seconds = time.perf_counter() - start
    macs, params = figures(model)
    return {"prune s": seconds, "macs": macs, "params": params}


def step_torch_pruning(rounds: str) -> Figures:
    """Time Torch-Pruning and count what it leaves."""
    from benchmarks import peers
    from benchmarks.zoo import figures

    runs = [peers.torch_pruning(build, RATIO, export=False) for _ in range(int(rounds))]
    last = peers.torch_pruning(build, RATIO)
    macs, params = figures(last.model)
    return {
        "groups": last.groups,
        "median s": median(r.graph_seconds for r in runs),
        "best s": min(r.graph_seconds for r in runs),
        "prune s": median(r.prune_seconds for r in runs),
        "macs": macs,
        "params": params,
    }


STEPS: dict[str, Callable[..., Figures]] = {
    "export": step_export,
    "analyse": step_analyse,
    "onnxsim": step_onnxsim,
    "torch-pruning": step_torch_pruning,
}


def measured(*command: str) -> tuple[str, float, float]:
    """Run a command; return what it prints, its seconds from start to exit, and its peak MB."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *command], stdout=output, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise SystemExit(f"{' '.join(command)} failed with status {status}")
        output.seek(0)
        return output.read(), seconds, usage.ru_maxrss / 1e3


def step(name: str, *arguments: str) -> Figures:
    """Run a step of this file in a process of its own."""
    printed, _, megabytes = measured(__file__, "--step", name, *arguments)
    return {**json.loads(printed.splitlines()[-1]), "process MB": megabytes}


def prune(model: Path) -> Figures:
    """Prune as a user does."""
    output = model.with_name("pruned.onnx")
    command = ["prune", str(model), "-o", str(output), "--ratio", str(RATIO), "--criterion", "l2"]
    printed, seconds, megabytes = measured("-m", "onnxprune.cli", *command, "--json")
    report = json.loads(printed)
    return {
        "prune s": seconds,
        "prune MB": megabytes,
        "macs before": report["figures"]["macs"]["before"],
        "macs": report["figures"]["macs"]["after"],
        "params before": report["figures"]["params"]["before"],
        "params": report["figures"]["params"]["after"],
        "gap": report["proof"]["gap"],
        "steps": report["seconds"],
    }


def print_table(results: dict[str, Figures]) -> None:
    """Print the figures as a Markdown table."""
    ours, onnxsim, peer = results["onnxprune"], results["onnxsim"], results["torch-pruning"]
    print("| | groups | graph s (median, best) | prune s | GMACs | M parameters |")
    print("| :-- | --: | --: | --: | --: | --: |")
    print(
        f"| original | | | | {ours['macs before'] / 1e9:.2f} | {ours['params before'] / 1e6:.2f} |"
    )
    for name, row in (("onnxprune", ours), ("onnxsim", onnxsim), ("Torch-Pruning", peer)):
        graph = f"{row['median s']:.3f}, {row['best s']:.3f}" if "best s" in row else ""
        left = f"{row['macs'] / 1e9:.2f} | {row['params'] / 1e6:.2f}"
        print(f"| {name} | {row.get('groups', '')} | {graph} | {row['prune s']:.2f} | {left} |")
    print(
        f"\nonnxprune: {ours['units']:,} units, {ours['streams']} groups with several readers (stem "
        f"and stages); first analysis of a process {ours['first s']:.2f} s; the whole command "
        f"{ours['prune s']:.1f} s and {ours['prune MB']:,.0f} MB at its peak; proved to "
        f"{ours['gap']:.0e}. Its steps: "
        + ", ".join(f"{name} {seconds:.2f}" for name, seconds in ours["steps"].items())
        + " s."
    )
    for name, bar in BARS.items():
        print(f"{name} {ours[name]:.3g}: {'within' if ours[name] <= bar else 'ABOVE'} {bar:g}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="of analysis and graph building")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        print(json.dumps(STEPS[asked.step[0]](*asked.step[1:])))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "resnet50.onnx")
        step("export", str(model))
        results = {
            "onnxprune": step("analyse", str(model), str(asked.rounds)) | prune(model),
            "onnxsim": step("onnxsim", str(model)),
            "torch-pruning": step("torch-pruning", str(min(asked.rounds, 5))),
        }
    if asked.json:
        print(json.dumps(results, indent=2))
    else:
        print_table(results)


if __name__ == "__main__":
    main()
