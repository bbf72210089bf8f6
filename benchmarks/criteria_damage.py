"""Do scores tell what is lost when one unit goes? Rank correlation on a published CIFAR-10 ResNet.

    python benchmarks/criteria_damage.py [--network 20] [--units 4] [--samples 192] [--criteria NAMES]

Some units of every group are taken out, one at a time and with nothing repaired, and the rise of the
cross-entropy on the calibration images is measured. A criterion is as good as its scores put those
units in the same order (Spearman's coefficient over all units of all groups; 1 is the same order).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from onnx import ModelProto
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from scipy.special import log_softmax
from scipy.stats import spearmanr

from benchmarks import cifar
from onnxprune.core.configured import configured
from onnxprune.core.contracts import CRITERIA, SURGERIES, Evidence, Samples
from onnxprune.core.runtime import Session
from onnxprune.discover import discover
from onnxprune.files.store import load
from onnxprune.pipeline.collect import collect
from onnxprune.structure.dependency import analyse

NAMES = (
    "taylor;taylor:of=weight;snip;grasp;grasp:combine=sum;sosp;fisher;obd;imp;l1;l2;wanda;"
    "reconstruction"
)


def main() -> int:
    """Measure and print.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", type=int, default=20)
    parser.add_argument("--units", type=int, default=4, help="of each group")
    parser.add_argument("--samples", type=int, default=192)
    parser.add_argument("--criteria", default=NAMES, help="apart by semicolons")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    discover()
    try:
        with tempfile.TemporaryDirectory() as folder:
            graph = load(cifar.network(asked.network, Path(folder)))
            images = cifar.images("train_1", asked.samples)
    except cifar.NoDataError as error:
        print(f"skipped: {error}")
        return 0
    analysis, name = analyse(graph), graph.inputs[0].name

    def loss(model: ModelProto) -> float:
        (logits,) = Session(model).run({name: images.x}).values()
        shares = log_softmax(logits.astype(np.float64), axis=1)
        return float(-shares[np.arange(len(images.y)), images.y].mean())

    rng = np.random.default_rng(asked.seed)
    drawn = [
        (number, int(unit))
        for number, group in enumerate(analysis.groups)
        for unit in rng.permutation(len(group))[: asked.units]
    ]
    whole = loss(analysis.graph.to_model())
    masks = [analysis.mask(analysis.groups[number].units[[unit]]) for number, unit in drawn]
    damage = [loss(SURGERIES["channels"](mask).to_model()) - whole for mask in masks]
    criteria = {text: configured(CRITERIA, text)[1] for text in asked.criteria.split(";")}
    needs = frozenset[str]().union(*(criterion.needs for criterion in criteria.values()))
    table = Table("criterion", "rank correlation", box=MARKDOWN)
    arrays: dict[str, Any] = {name: images.x, "labels": images.y}
    samples = Samples(
        len(images.x), lambda a, b: {n: v[a:b] for n, v in arrays.items()}, extra=("labels",)
    )
    for labels in (None, "labels"):
        evidence = Evidence(analysis, collect(analysis, samples, needs, labels=labels))
        for text, criterion in criteria.items():
            rankings = criterion.rank(evidence)
            found = [rankings[number].scores[unit] for number, unit in drawn]
            title = f"{text}, {'labels' if labels else 'own answers'}"
            table.add_row(title, f"{spearmanr(found, damage).statistic:.2f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(f"{len(drawn)} units; the loss rises by {min(damage):.4f} to {max(damage):.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
