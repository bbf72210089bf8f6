"""Small transformers of many families: every width is found, cut at random and by half, and proved.

Also BERT as onnxruntime's optimiser fuses it. Networks come from their configuration classes with
random weights (`text_zoo.py`); `benchmarks/coverage.py` does the same for some seventy families.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.core.analysis import Analysis, Mask
from onnxprune.core.contracts import CRITERIA, SURGERIES, Batch, Evidence
from onnxprune.core.cost import CostModel
from onnxprune.core.graph import Graph
from onnxprune.proof.example import instance_of
from onnxprune.proof.prove import Proof, prove
from onnxprune.selection.budget import Budget, Options
from onnxprune.selection.select import select
from onnxprune.structure.dependency import analyse

pytest.importorskip("transformers")
from tests.text_zoo import FAMILIES, examples, write  # needs it

TIGHT = 1e-5  # of the largest output: float32 rounding, through two or four layers
Kind = tuple[int, int, bool]  # units, channels of each, whether removal equals silencing

# All networks have a hidden width of 64, two layers a stack, 4 heads of 16 dimensions and FFNs of
# 160 (GPT-2: 4 x 64). That makes these groups; heads and their dimensions divide one axis.
HIDDEN: Kind = (64, 1, False)
FFN: Kind = (160, 1, True)
HEADS: Kind = (4, 16, True)
DIMENSIONS: Kind = (16, 4, True)  # of queries and keys, or of values
STACK = {HIDDEN: 1, FFN: 2, HEADS: 2, DIMENSIONS: 4}
DENSE: Kind = (64, 1, True)  # between the network and its classifier
# queries, keys and values in one weight: a dimension of the former is a column of either
PACKED = {HEADS: 2, (16, 8, True): 2, DIMENSIONS: 2}
# two query heads read each of two key-value heads: of these, or of all first or second readers, one
# goes; dimension i of queries and keys is rotated with i + 8, by tables that all layers share
GROUPED = {
    HIDDEN: 1, FFN: 2, (2, 16, True): 2, (2, 32, True): 2, (8, 4, True): 1, (16, 2, True): 2,
}  # fmt: skip

FOUND: dict[tuple[str, str], dict[Kind, int]] = {
    ("bert", "torchscript 13"): STACK | {DENSE: 1},
    ("distilbert", "dynamo 23"): STACK | {DENSE: 1},  # attention is one node
    # one layer, used twice; its input comes from an embedding of 48
    ("albert", "torchscript 20"): {
        HIDDEN: 1, FFN: 1, HEADS: 1, DIMENSIONS: 2, (48, 1, False): 1, DENSE: 1,
    },
    ("gpt2", "torchscript 13"): {HIDDEN: 1, (256, 1, True): 2} | PACKED,
    # keys and values of earlier tokens are inputs and outputs, whose shape stays: so do the heads
    ("gpt2-cache", "torchscript 17"): {HIDDEN: 1, (256, 1, True): 2},
    ("llama", "torchscript 17"): GROUPED,
    ("mixtral", "torchscript 20"): GROUPED,  # experts go on having the same width
    # width 2 x 64 inside a layer (with its gate), rank 4 of the step, 8 states
    ("mamba", "torchscript 17"): {HIDDEN: 1, (128, 1, True): 2, (4, 1, True): 2, (8, 2, True): 2},
    # encoder and decoder read one embedding; heads of all layers share one bias of positions, in
    # the encoder, in the decoder, and (all zero) between the two
    ("t5", "torchscript 17"): {HIDDEN: 1, FFN: 4, HEADS: 3, DIMENSIONS: 12},
    # two convolutions before the encoder, whose first has a width of its own
    ("whisper", "torchscript 17"): {HIDDEN: 2, FFN: 4, HEADS: 6, DIMENSIONS: 12, DENSE: 1},
    # two towers end in one space of 48 dimensions
    ("clip", "torchscript 17"): {k: 2 * v for k, v in STACK.items()} | {(48, 1, True): 1},
}  # fmt: skip
# a quarter where inputs and outputs of every weight are halved; tables keep their rows
KEPT = {"gpt2-cache": 0.5}


@dataclass(frozen=True)
class Subject:
    """One export, analysed, with the inputs that it was exported with."""

    name: str
    graph: Graph
    analysis: Analysis
    feeds: Batch

    def prove(self, mask: Mask) -> Proof:
        return prove(self.graph, mask, SURGERIES["channels"](mask), [self.feeds])


def subject_of(name: str, path: Path) -> Subject:
    graph = Graph.from_model(onnx.load(path))
    feeds = {k: x.example.numpy() for k, x in examples(FAMILIES[name]).items()}
    return Subject(name, graph, analyse(graph), feeds)


def kinds(analysis: Analysis) -> dict[Kind, int]:
    return dict(Counter((len(g), g.multiplicity, g.exact) for g in analysis.groups))


def third(analysis: Analysis, rng: np.random.Generator) -> Mask:
    chosen = [rng.choice(g.units, len(g) // 3, replace=False) for g in analysis.groups]
    return analysis.mask(np.concatenate(chosen))


def half(subject: Subject) -> tuple[Mask, float]:
    """What `prune --ratio 0.5 --round-to 1` removes by L1 norm, and the share of parameters left."""
    analysis = subject.analysis
    cost = CostModel(analysis, instance_of(analysis.graph, dict(subject.feeds)))
    scores = [ranking.scores for ranking in CRITERIA["l1"].rank(Evidence(analysis, None))]
    chosen = select(cost, scores, Budget.parse("ratio", 0.5), Options(round_to=1))
    return analysis.mask(chosen.units), chosen.after.params / chosen.before.params


@pytest.fixture(scope="module", params=FOUND, ids="-".join)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    name, label = request.param
    path = tmp_path_factory.mktemp(name) / "model.onnx"
    write(FAMILIES[name], label, path)
    return subject_of(name, path)


def test_every_width_is_a_group(subject: Subject) -> None:
    (found,) = [found for (name, _), found in FOUND.items() if name == subject.name]

    assert [r.opaque for r in subject.analysis.records if r.opaque] == []
    assert kinds(subject.analysis) == found


def test_a_random_third_is_proved(subject: Subject, rng: np.random.Generator) -> None:
    proof = subject.prove(third(subject.analysis, rng))  # raises unless it holds

    assert proof.gap < TIGHT
    assert proof.moved > 0.01


def test_half_of_everything_leaves_under_a_third(subject: Subject) -> None:
    mask, kept = half(subject)

    assert 0.2 < kept < KEPT.get(subject.name, 0.32)
    assert subject.prove(mask).gap < TIGHT


FUSED = {"EmbedLayerNormalization", "SkipLayerNormalization", "BiasGelu"}


@pytest.mark.parametrize(
    ("attention", "found"),
    [("Attention", STACK | PACKED | {DENSE: 1}), ("MultiHeadAttention", STACK | {DENSE: 1})],
)
def test_what_onnxruntime_fuses_has_the_same_widths(
    attention: str, found: dict[Kind, int], tmp_path: Path, rng: np.random.Generator
) -> None:
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    plain, path = tmp_path / "plain.onnx", tmp_path / "fused.onnx"
    write(FAMILIES["bert"], "torchscript 17", plain)
    options = FusionOptions("bert")
    options.use_multi_head_attention = attention == "MultiHeadAttention"
    logging.disable(logging.WARNING)
    try:
        optimizer.optimize_model(
            str(plain), "bert", num_heads=4, hidden_size=64, opt_level=0,
            optimization_options=options,
        ).save_model_to_file(str(path))  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    subject = subject_of("bert", path)
    nodes = {n.op_type for n in subject.graph.nodes if n.domain == "com.microsoft"}

    assert nodes == FUSED | {attention}
    assert kinds(subject.analysis) == found
    for mask in (third(subject.analysis, rng), half(subject)[0]):
        proof = subject.prove(mask)
        assert proof.gap < TIGHT
        assert proof.moved > 0.01
