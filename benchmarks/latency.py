"""Time as the budget: does the prediction hold, is what was asked for what the clock says, is it worth it?

    python benchmarks/latency.py [--networks NAMES] [--shares 0.7,0.5,0.35] [--plans 30] [--threads 1]
                                 [--rows rows.jsonl] [--ways time,macs,uniform,time:uniform]

Per network: the error of the fitted time on random plans it has not seen, beside that of "time falls as
MACs do"; then what stays of the scores, and of the MACs, at the same measured time: with time as the
budget, with MACs as the budget (narrowed until the time is as asked), and with the same share of every
group (narrowed likewise; `time:uniform`: with time as the budget). All against the original, timed by
`bench`. Weights are random or do not matter (`l2`, no repair): this is about selection alone; for
accuracy at equal time see `latency_accuracy.py` and `joint_cifar.py --figure latency`. Networks are those
of `tests/zoo.py` for images of 224 pixels, `bert_base` for 128 tokens (of 1,000 words: looking them up
costs no time), and files by their name in the folder that `cifar.py` speaks of. Rows are kept as they
come, and not measured again: run again to go on, network by network. Timings want a quiet machine,
though all are taken in turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import onnxprune  # noqa: E402
from benchmarks import cifar  # noqa: E402
from benchmarks.joint_cifar import narrowed  # noqa: E402
from onnxprune.core.cost import CostModel  # noqa: E402
from onnxprune.files.store import load  # noqa: E402
from onnxprune.latency.copies import Setting, drawn, observed  # noqa: E402
from onnxprune.latency.model import fitted  # noqa: E402
from onnxprune.models.export import export  # noqa: E402
from onnxprune.plan import read_plan  # noqa: E402
from onnxprune.proof.example import example, instance_of  # noqa: E402
from onnxprune.selection.budget import Options  # noqa: E402
from onnxprune.structure.dependency import analyse  # noqa: E402
from onnxprune.timing.run import BenchReport  # noqa: E402
from tests import zoo  # noqa: E402

NETWORKS = "mobilenet_v2,efficientnet_b0,yolox_nano,ppocrv3_det_en,resnet50,bert_base"
TOKENS, WORDS = 128, 1000
WAYS = {  # budget and scope
    "time": ("latency", "global"),
    "macs": ("macs", "global"),
    "uniform": ("macs", "uniform"),
    "time:uniform": ("latency", "uniform"),
}
BAR_ERROR, BAR_REQUEST = 0.05, 0.05
COPIES = 16
STEP = Options(round_to=16)


def prediction(path: Path, plans: int, threads: int) -> dict[str, float]:
    """Fit on some copies and predict others."""
    graph = load(path)
    analysis = analyse(graph)
    feeds = example(analysis.graph)
    instance = instance_of(analysis.graph, feeds)
    cost, setting = CostModel(analysis, instance), Setting(threads=threads)
    copies, ms = observed(graph, cost, feeds, drawn(analysis, STEP, COPIES), setting)
    model = fitted(cost, instance, copies, ms, STEP.round_to)
    others, _ = observed(graph, cost, feeds, drawn(analysis, STEP, plans, seed=7), setting)
    full = cost.macs(cost.full)
    ours = [abs(model.ratio(o.lengths) / o.ratio - 1) for o in others[1:]]
    plain = [abs(cost.macs(o.lengths) / full / o.ratio - 1) for o in others[1:]]
    return {
        "ms": ms, "median": float(np.median(ours)), "p90": float(np.quantile(ours, 0.9)),
        "macs": float(np.median(plain)),
    }  # fmt: skip


def request(path: Path, share: float, way: str, threads: int, folder: Path) -> dict[str, Any]:
    """Prune until a share of the time is left; or say why that cannot be."""
    target = folder / "pruned.onnx"
    budget, scope = WAYS[way]
    asked: dict[str, Any] = {"criterion": "l2", "overwrite": True, "scope": scope}

    def clock() -> float:
        found = onnxprune.bench(path, target, threads=[threads], seconds=6.0, profile=False)
        assert isinstance(found, BenchReport)
        return 1 / found.cells[0].models[1].ratio

    try:
        if budget == "latency":
            asked |= {"latency": share, "threads": threads, "work": folder / f"{path.stem}.work"}
            report = onnxprune.prune(path, target, **asked)
        else:
            prune = partial(onnxprune.prune, path, target, **asked)
            macs = narrowed(lambda macs: prune(macs=macs), clock, share)
            report = prune(macs=macs)
    except onnxprune.BudgetError as error:
        return {"refused": str(error)}
    left = report.figures["macs"]
    lost = read_plan(target.with_suffix(".plan.json")).selection["lost"]
    assert isinstance(lost, float)
    return {"time": clock(), "macs": left.after / left.before, "kept": 1 - lost}


def exported(name: str, folder: Path) -> Path:
    """Write a network, or find its file."""
    target = folder / f"{name}.onnx"
    if name == "bert_base":
        tokens = torch.ones(2, TOKENS, dtype=torch.int64)
        return export(Bert(), [tokens, tokens], target, exporter="torchscript")
    if name in zoo.ARCHITECTURES:
        return export(zoo.build(name)[0], [torch.zeros(2, 3, 224, 224)], target)
    return cifar.folder() / "onnx" / f"{name}.onnx"


class Bert(torch.nn.Module):
    """BERT-base with random weights: tokens and their mask to the last hidden state."""

    def __init__(self) -> None:
        super().__init__()
        zoo.torchvision_models()  # which transformers imports as it is
        from transformers import BertConfig, BertModel

        config = BertConfig(vocab_size=WORDS, attn_implementation="eager")
        self.model = BertModel(config, add_pooling_layer=False).eval()

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return states: shape (N, tokens, 768)."""
        states: torch.Tensor = self.model(tokens, attention_mask=mask).last_hidden_state
        return states


def rows(asked: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what was measured, rows of earlier runs first."""
    held = [json.loads(line) for line in asked.rows.open()] if asked.rows.exists() else []
    yield from held
    done = {(row["network"], row.get("asked"), row["way"]) for row in held}
    requests = [*itertools.product(asked.shares, asked.ways)]
    for name in asked.networks.split(","):
        wanted = [w for w in ((None, "prediction"), *requests) if (name, *w) not in done]
        path = exported(name, folder) if wanted else folder
        for share, way in wanted:
            if share is None:
                found = prediction(path, asked.plans, asked.threads)
            else:
                found = request(path, share, way, asked.threads, folder)
            row = {"network": name, "asked": share, "way": way, **found}
            with asked.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
            yield row


def shown(found: list[dict[str, Any]], plans: int) -> bool:
    """Print all rows; returns whether the bars are met."""
    errors = Table(
        "network", "ms", "median error", "90 %", "if time fell as MACs",
        title=f"{plans} plans not seen", box=MARKDOWN,
    )  # fmt: skip
    asks = Table(
        "network",
        "asked",
        "budget",
        "time",
        "MACs left",
        "MACs / time",
        "scores kept",
        box=MARKDOWN,
    )
    good = True
    for row in found:
        if row["asked"] is None:
            errors.add_row(
                row["network"], f"{row['ms']:.2f}", f"{row['median']:.1%}", f"{row['p90']:.1%}",
                f"{row['macs']:.1%}",
            )  # fmt: skip
            good &= row["median"] <= BAR_ERROR
            continue
        first = (row["network"], f"{row['asked']:g}", row["way"])
        if "refused" in row:
            asks.add_row(*first, "refused")
            print(f"{row['network']}: {row['refused']}")
            good &= WAYS[row["way"]][0] != "latency"
            continue
        asks.add_row(
            *first, f"{row['time']:.3f}", f"{row['macs']:.3f}", f"{row['macs'] / row['time']:.2f}",
            f"{row['kept']:.1%}",
        )  # fmt: skip
        good &= (
            WAYS[row["way"]][0] != "latency" or abs(row["time"] / row["asked"] - 1) <= BAR_REQUEST
        )
    Console(width=None if sys.stdout.isatty() else 140).print(errors, asks)
    return good


def main() -> int:
    """Measure and print; exit code 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default=NETWORKS)
    parser.add_argument(
        "--shares", type=lambda t: [*map(float, t.split(","))], default=[0.7, 0.5, 0.35]
    )
    parser.add_argument("--ways", type=lambda text: text.split(","), default=[*WAYS][:3])
    parser.add_argument("--plans", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, default=Path("latency.jsonl"))
    asked = parser.parse_args()
    logging.getLogger("onnxprune").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        found = list(rows(asked, Path(name)))
    return 0 if shown(found, asked.plans) else 1


if __name__ == "__main__":
    sys.exit(main())
