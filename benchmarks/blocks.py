"""Every block of real networks left out, one at a time, each time proved.

    python benchmarks/blocks.py [--only NAME ...] [--exporter dynamo|torchscript] [--width 192]
        [--folder DIR]

Networks have the depth of the published ones (`tests/zoo.py`, `tests/deep.py`), the convolutional
ones and Swin-T also their widths, the other transformers the width of a ViT-tiny, 192 (Swin begins
with half of `--width`). Weights are random and perturbed, so that no mistake stays invisible. For
each network: the blocks found (halves of layers; halves with the norm behind their sum; whole
layers), the share of the parameters in them, the time to find them, and over the removals: how many
are proved, the worst gap between the model without the block and the oracle (1e-4 is allowed), the
least that outputs moved, and the median time of surgery and proof. Then all blocks at once. Exits
with 1 if a proof fails.

Exports are kept in the folder; the transformers need `pip install transformers`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ONNXPRUNE_THREADS"):
    os.environ.setdefault(_variable, "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402  # after the threads are set
import onnx  # noqa: E402

from onnxprune.core.analysis import Analysis  # noqa: E402
from onnxprune.core.blocks import Block  # noqa: E402
from onnxprune.core.contracts import SURGERIES  # noqa: E402
from onnxprune.core.cost import CostModel  # noqa: E402
from onnxprune.core.errors import OnnxPruneError  # noqa: E402
from onnxprune.core.graph import Array, Graph  # noqa: E402
from onnxprune.discover import discover  # noqa: E402
from onnxprune.models.export import Exporter  # noqa: E402
from onnxprune.proof.example import example, instance_of  # noqa: E402
from onnxprune.proof.prove import Proof, prove  # noqa: E402
from onnxprune.structure.blocks import find_blocks  # noqa: E402
from onnxprune.structure.dependency import analyse  # noqa: E402
from tests import zoo  # noqa: E402
from tests.deep import DEEP, exported_deep  # noqa: E402

CONVOLUTIONAL = ("resnet50", "mobilenet_v2")
NAMES = (*CONVOLUTIONAL, *DEEP)
EXPORTERS: tuple[Exporter, ...] = ("dynamo", "torchscript")
WIDTH = 192  # of the stream; Swin begins with half of it, for Swin-T that is its own
HEAD = (
    "network", "exporter", "width", "nodes", "halves", "with norm", "layers", "parameters in blocks",
    "found in s", "proved", "worst gap", "least moved", "each s", "all at once",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Removal:
    """Blocks left out: the proof, or why there is none; and the seconds that it took."""

    blocks: tuple[Block, ...]
    proof: Proof | None
    failure: str
    seconds: float


def load(name: str, exporter: Exporter, folder: Path, width: int) -> tuple[Graph, dict[str, Array]]:
    """Return a network and, where drawn inputs say little, samples for it."""
    if name in CONVOLUTIONAL:
        graph = Graph.from_model(onnx.load(zoo.exported(name, exporter, False, folder)))
        return graph, {graph.inputs[0].name: zoo.samples(name)}
    return Graph.from_model(onnx.load(exported_deep(name, exporter, folder, width=width))), {}


def leave_out(
    graph: Graph, analysis: Analysis, blocks: Sequence[Block], samples: dict[str, Array]
) -> Removal:
    """Remove blocks and prove it."""
    start = time.perf_counter()
    mask = analysis.mask(np.empty(0, np.int64), tuple(blocks))
    proof, failure = None, ""
    try:
        proof = prove(graph, mask, SURGERIES["blocks"](mask), [samples] if samples else [])
    except OnnxPruneError as error:
        failure = str(error)
    return Removal(tuple(blocks), proof, failure, time.perf_counter() - start)


def measure(
    name: str, exporter: Exporter, folder: Path, width: int
) -> tuple[tuple[str, ...], list[Removal]]:
    """Leave out every block of one network; return its row and the removals that failed."""
    width = width // 2 if name == "swin" else width
    graph, samples = load(name, exporter, folder, width)
    analysis = analyse(graph)
    cost = CostModel(analysis, instance_of(analysis.graph, example(graph)))
    start = time.perf_counter()
    blocks = find_blocks(analysis, cost)
    seconds = time.perf_counter() - start
    single = [leave_out(graph, analysis, [block], samples) for block in blocks]
    every = leave_out(graph, analysis, blocks, samples)
    proofs = [r.proof for r in single if r.proof is not None]
    held = sum(b.params for b in blocks if b.level == 0) / cost.params(cost.lengths())
    row = (
        name, exporter, "own" if name in CONVOLUTIONAL else str(width), f"{len(graph.nodes):,}",
        str(sum(b.kind == "residual" and not b.parts for b in blocks)),
        str(sum(b.kind == "post-norm" and not b.parts for b in blocks)),
        str(sum(bool(b.parts) for b in blocks)), f"{held:.0%}", f"{seconds:.2f}",
        f"{len(proofs)} of {len(blocks)}", f"{max(p.gap for p in proofs):.1e}",
        f"{min(p.moved for p in proofs):.1e}", f"{median(r.seconds for r in single):.2f}",
        f"{every.proof.gap:.1e}" if every.proof else "failed",
    )  # fmt: skip
    return row, [r for r in (*single, every) if r.proof is None]


def measured(
    names: Sequence[str], exporters: Sequence[Exporter], folder: Path, width: int
) -> Iterator[tuple[tuple[str, ...], list[Removal]]]:
    """Measure all networks through all exporters."""
    for name in names:
        for exporter in exporters:
            yield measure(name, exporter, folder, width)


def main() -> int:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--exporter", choices=EXPORTERS)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    discover()
    failed: list[str] = []
    print(f"| {' | '.join(HEAD)} |\n| :-- | :-- {'| --: ' * (len(HEAD) - 2)}|")
    with tempfile.TemporaryDirectory() as scratch:
        exporters = (given.exporter,) if given.exporter else EXPORTERS
        folder = given.folder or Path(scratch)
        for row, failures in measured(given.only, exporters, folder, given.width):
            print(f"| {' | '.join(row)} |", flush=True)
            failed += [f"{row[0]} {row[1]} {f.blocks[0].name}: {f.failure}" for f in failures]
    print("\n".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
