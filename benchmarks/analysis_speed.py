"""How analysis time and memory grow with depth and width, up to Llamas of 8 and 70 billion weights.

    python benchmarks/analysis_speed.py [--rounds 3] [--only depth width models peers] [--json]

Analysis is what `inspect` needs before it can print: reading the file (onnx's check included), normal
form and shapes, rules, units, groups, costs. The networks are those of `stacks.py`: files as
torch.onnx.export (dynamo, opset 20) writes them, whose weights take no memory. Every network is
analysed in a process of its own, on one thread, `--rounds` times. Told are the fastest round, in seconds
of processor time (on a machine that does nothing else the clock says the same; it stands beside), and
the peak memory of the process, imports (about 95 MB) included. Positions are counted per tensor axis.

- depth: residual convolutional networks (64 channels) and Llamas (256 wide) from about 200 to 20,000
  nodes, and the exponent that fits seconds ~ nodes ^ e;
- width: two Llama layers and four residual blocks, ever wider, and the exponent over positions;
- models: BERT-base, Llama 8 B and 70 B;
- peers: Torch-Pruning's graph of the same networks (`DependencyGraph.build_dependency`), the modules
  on PyTorch's meta device where that is faster, or not finished after a limit.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ONNXPRUNE_THREADS"):
    os.environ.setdefault(_variable, "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Nothing heavy is imported here: the peak memory of a child is never below that of its parent.

Figures = dict[str, Any]
EXPONENT = 1.1
LIMIT = 300.0  # seconds for a peer
SIZES = {  # hidden, feed-forward, heads, heads of keys and values, words
    "llama 8 B": (4096, 14336, 32, 8, 128256),
    "llama 70 B": (8192, 28672, 64, 8, 128256),
}
BARS = {"BERT-base": (1.0, None), "llama 8 B": (5.0, 1000.0), "llama 70 B": (15.0, None)}
DEPTHS = {
    "residual": (40, 80, 160, 320, 640, 1280, 2560, 4000),
    "llama": (2, 4, 8, 16, 32, 64, 128, 280),
}
WIDTHS = {"residual": (64, 128, 256, 512, 1024, 2048), "llama": (512, 1024, 2048, 4096, 8192)}


def stack(name: str, width: int) -> Any:
    """Return a kind of network (see `stacks`)."""
    from benchmarks import stacks

    if name in SIZES:
        return stacks.llama(*SIZES[name])
    if name == "BERT-base":
        return stacks.bert()
    if name == "residual":
        return stacks.residual(width)
    return stacks.llama(width, width * 11 // 4, width // 64, max(1, width // 256), 1000)


def step_write(name: str, width: str, folder: str, *depths: str) -> Figures:
    """Write a network for every number of layers."""
    from benchmarks import stacks

    paths = {int(depth): Path(folder, f"{depth}.onnx") for depth in depths}
    stacks.write(stack(name, int(width)), paths)
    return {}


def step_analyse(path: str, rounds: str) -> Figures:
    """Time the parts of an analysis; the fastest of some rounds."""
    from onnxprune.core.cost import CostModel
    from onnxprune.files.store import load
    from onnxprune.proof.example import example, instance_of
    from onnxprune.structure import dependency

    parts: dict[str, float] = {}
    for name, part in (("normalise", "normal form"), ("solve", "units"), ("group_units", "groups")):
        setattr(dependency, name, _timed(getattr(dependency, name), parts, part))
    best: Figures = {"seconds": float("inf")}
    walls: list[float] = []
    for _ in range(int(rounds)):
        parts.clear()
        start, wall = time.process_time(), time.perf_counter()
        with _clock(parts, "load"):
            graph = load(path)
        with _clock(parts, "rules"):
            analysis = dependency.analyse(graph)
        parts["rules"] -= sum(parts[p] for p in ("normal form", "units", "groups"))
        with _clock(parts, "costs"):
            cost = CostModel(analysis, instance_of(analysis.graph, example(graph)))
        seconds, wall = time.process_time() - start, time.perf_counter() - wall
        if seconds < best["seconds"]:
            best = {"seconds": seconds, "parts": dict(parts)}
        walls.append(wall)
    lengths = cost.lengths()
    return best | {
        "wall": min(walls),
        "nodes": len(graph.nodes),
        "positions": sum(analysis.space.sizes),
        "units": sum(map(len, analysis.groups)),
        "groups": len(analysis.groups),
        "GMACs": cost.macs(lengths) / 1e9,
        "G parameters": cost.params(lengths) / 1e9,
        "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


@contextmanager
def _clock(parts: dict[str, float], name: str) -> Iterator[None]:
    start = time.process_time()
    yield
    parts[name] = time.process_time() - start


def _timed(function: Callable[..., Any], parts: dict[str, float], name: str) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        with _clock(parts, name):
            return function(*arguments)

    return timed


def step_torch_pruning(name: str, width: str, depth: str, device: str) -> Figures:
    """Time Torch-Pruning's graph of a network."""
    import torch
    import torch_pruning as tp

    kind = stack(name, int(width))
    with torch.device(device):
        network = kind.build(int(depth)).eval()
        inputs = kind.inputs()
    start = time.process_time()
    graph = tp.DependencyGraph().build_dependency(network, inputs)
    built = time.process_time() - start
    start = time.process_time()
    groups = sum(1 for _ in graph.get_all_groups())
    return {
        "seconds": built,
        "groups": groups,
        "groups s": time.process_time() - start,
        "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


STEPS: dict[str, Callable[..., Figures]] = {
    "write": step_write,
    "analyse": step_analyse,
    "torch-pruning": step_torch_pruning,
}


def step(name: str, *arguments: object, limit: float | None = None) -> Figures:
    """Run a step of this file in a process of its own; an error is a figure like any other."""
    import subprocess

    command = [sys.executable, __file__, "--step", name, *map(str, arguments)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {limit:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]}
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def analysed(name: str, width: int, depths: Iterable[int], rounds: int) -> list[Figures]:
    """Write a network for every number of layers, and analyse it."""
    with tempfile.TemporaryDirectory() as folder:
        written = step("write", name, width, folder, *depths)
        if "error" in written:
            raise SystemExit(f"{name}: {written['error']}")
        return [
            {"name": name, "width": width, "depth": depth}
            | step("analyse", Path(folder, f"{depth}.onnx"), rounds)
            for depth in depths
        ]


def exponent(rows: list[Figures], over: str) -> float:
    """Fit seconds ~ rows[over] ^ e by least squares in logarithms."""
    import numpy as np

    x, y = (np.log([row[key] for row in rows]) for key in (over, "seconds"))
    return float(np.polyfit(x, y, 1)[0])


def table(rows: list[Figures]) -> None:
    """Print rows as a Markdown table."""
    parts = ("load", "normal form", "rules", "units", "groups", "costs")
    print(
        f"| network | layers | nodes | positions | units | clock s | s | {' | '.join(parts)} | MB |"
    )
    print("| :-- |" + " --: |" * (7 + len(parts)))
    for row in rows:
        each = " | ".join(f"{row['parts'][part]:.2f}" for part in parts)
        label = row["name"] if row["name"] in BARS else f"{row['name']} {row['width']}"
        print(
            f"| {label} | {row['depth']} | {row['nodes']:,} | {row['positions']:,} | "
            f"{row['units']:,} | {row['wall']:.2f} | {row['seconds']:.2f} | {each} | {row['MB']:,.0f} |"
        )


def told(what: str, value: float, bar: float, unit: str = "") -> None:
    """Print a figure beside its bar."""
    print(f"{what}: {value:.3g}{unit}, {'within' if value <= bar else 'ABOVE'} {bar:g}{unit}")


def growth(what: str, rounds: int) -> Figures:
    """Measure over growing depth or width, and print."""
    found: Figures = {}
    sizes = DEPTHS if what == "depth" else WIDTHS
    for name, series in sizes.items():
        if what == "depth":
            found[name] = analysed(name, {"residual": 64, "llama": 256}[name], series, rounds)
        else:
            depth = {"residual": 4, "llama": 2}[name]
            found[name] = [row for n in series for row in analysed(name, n, [depth], rounds)]
        table(found[name])
        over = "nodes" if what == "depth" else "positions"
        print()
        told(f"{name}, exponent over {over}", exponent(found[name], over), EXPONENT)
        print()
    return found


def models(rounds: int) -> Figures:
    """Measure the named models, and print."""
    depths = {"BERT-base": 12, "llama 8 B": 32, "llama 70 B": 80}
    found = {name: analysed(name, 0, [n], rounds)[0] for name, n in depths.items()}
    table(list(found.values()))
    print()
    for name, (seconds, megabytes) in BARS.items():
        told(name, found[name]["seconds"], seconds, " s")
        if megabytes is not None:
            told(name, found[name]["MB"], megabytes, " MB")
    print()
    return found


def peers() -> Figures:
    """Time Torch-Pruning on the same networks, and print."""
    asked = [("residual", 64, 40), ("residual", 64, 160)]
    asked += [("llama", 256, 2), ("llama", 256, 8), ("BERT-base", 0, 12), ("llama 8 B", 0, 32)]
    found = {}
    print("| network | layers | graph s | all groups s | groups | MB |")
    print("| :-- | --: | --: | --: | --: | --: |")
    for name, width, depth in asked:
        device = "meta" if name in SIZES else "cpu"
        row = step("torch-pruning", name, width, depth, device, limit=LIMIT)
        found[f"{name} {width} {depth}"] = row
        if "error" in row:
            print(f"| {name} {width or ''} | {depth} | {row['error']} | | | |")
        else:
            print(
                f"| {name} {width or ''} | {depth} | {row['seconds']:.2f} | {row['groups s']:.2f} | "
                f"{row['groups']:,} | {row['MB']:,.0f} |"
            )
    print()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["models", "depth", "width", "peers"])
    parser.add_argument("--json", action="store_true", help="print all figures at the end")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        print(json.dumps(STEPS[asked.step[0]](*asked.step[1:])))
        return
    found: Figures = {}
    print(f"load average {os.getloadavg()[0]:.1f} at the start\n")
    for what in asked.only:
        if what == "models":
            found[what] = models(asked.rounds)
        elif what == "peers":
            found[what] = peers()
        else:
            found[what] = growth(what, asked.rounds)
    print(f"load average {os.getloadavg()[0]:.1f} at the end")
    if asked.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
