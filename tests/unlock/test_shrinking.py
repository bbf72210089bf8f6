"""Unlocked inputs, outputs and vocabularies: what shrinks, and what callers must do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxprune.core.errors import DataError, OnnxPruneError
from onnxprune.core.graph import Graph
from onnxprune.core.interface import interface_of, read_interface
from onnxprune.core.listed import decided
from onnxprune.core.runtime import Session
from onnxprune.files.store import load
from onnxprune.structure.dependency import analyse
from onnxprune.structure.unlock import unlocks
from tests.examples import random_mask
from tests.handmade import handmade
from tests.unlock.common import (
    LAYERS,
    MLP,
    ROWS,
    TIED,
    language,
    mlp,
    opened,
    proved,
    shapes,
)

EXACT = 1e-6  # relative: float32 sums of the same few terms


SHARES = MLP.replace("logits = Gemm(a, w2, b2)", "y = Gemm(a, w2, b2) logits = Softmax<axis=1>(y)")


CNN = """(float[N,6,8,8] image) => (float[N,5,8,8] maps, float[N,4] logits) {
    h = Conv<pads=[1,1,1,1]>(image, w1, b1)  r = Relu(h)  maps = Conv(r, w2, b2)
    m = GlobalAveragePool(r)  f = Flatten(m)  logits = Gemm(f, w3, b3) }"""


FILTERS: dict[str, Any] = {
    "w1": (8, 6, 3, 3),
    "b1": (8,),
    "w2": (5, 8, 1, 1),
    "b2": (5,),
    "w3": (8, 4),
    "b3": (4,),
}


UNTIED = "logits = MatMul(s3, wh)"


def cnn() -> ModelProto:
    return handmade(CNN, **FILTERS)


def run(graph: Graph, **feeds: Any) -> dict[str, Any]:
    return Session(graph.to_model(), optimise=False).run(feeds)


@pytest.mark.parametrize("model", [mlp(), mlp(SHARES), cnn(), language(TIED), language(UNTIED)])
def test_nothing_of_the_interface_shrinks_unless_unlocked(model: ModelProto) -> None:
    graph, analysis = opened(model)

    pruned = proved(graph, random_mask(analysis, np.random.default_rng(0), 0.5))

    assert shapes(pruned) == shapes(graph)
    assert not read_interface(pruned)


@pytest.mark.parametrize(
    ("model", "texts"),
    [
        (mlp(), ("output:logits",)),
        (mlp(), ("input:x",)),
        (mlp(), ("input:x", "output:logits")),
        (mlp(SHARES), ("output:logits",)),
        (mlp(SHARES.replace("Softmax", "LogSoftmax")), ("output:logits",)),
        (cnn(), ("input:image", "output:maps@1")),
        (cnn(), ("output:maps", "output:logits@1")),
        (language(UNTIED), ("output:logits",)),
    ],
    ids=["classes", "features", "both", "shares", "logarithms", "planes", "two", "tokens"],
)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_unlocked_is_pruned_as_any_group(
    model: ModelProto, texts: tuple[str, ...], seed: int
) -> None:
    graph, analysis = opened(model, *texts)
    mask = random_mask(analysis, np.random.default_rng(seed), 0.4)

    pruned = proved(graph, mask)

    parts = read_interface(pruned).parts
    assert {p.tensor for p in parts} == {text.split(":")[1].split("@")[0] for text in texts}
    assert all(shapes(pruned)[p.tensor][p.axis] == len(p.kept) < p.size for p in parts)


def test_every_opset_of_a_softmax() -> None:
    for opset in (8, 11, 13):
        model = handmade(SHARES, opset=opset, **LAYERS)
        graph, analysis = opened(model, "output:logits", classes=[0, 2, 3])
        proved(graph, analysis.mask(decided(analysis).units))


def test_kept_classes_have_the_scores_they_had(rng: np.random.Generator) -> None:
    graph, analysis = opened(mlp(), "output:logits", classes="4-5,1")
    pruned = proved(graph, analysis.mask(decided(analysis).units))
    x = rng.standard_normal((5, 12)).astype(np.float32)

    expected, found = run(graph, x=x)["logits"], run(pruned, x=x)["logits"]

    np.testing.assert_allclose(found, expected[:, [1, 4, 5]], rtol=EXACT, atol=EXACT)


def test_kept_features_are_what_is_read(rng: np.random.Generator) -> None:
    kept = [0, 3, 4, 11]
    graph, analysis = opened(mlp(), "input:x", features=kept)
    pruned = proved(graph, analysis.mask(decided(analysis).units))
    x = rng.standard_normal((5, 12)).astype(np.float32)
    silenced = np.where(np.isin(np.arange(12), kept), x, 0).astype(np.float32)

    expected, found = run(graph, x=silenced)["logits"], run(pruned, x=x[:, kept])["logits"]

    np.testing.assert_allclose(found, expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("head", [TIED, UNTIED], ids=["tied", "untied"])
def test_a_vocabulary_counts_anew(head: str, rng: np.random.Generator) -> None:
    model, texts = language(head), ["vocabulary:wte", "output:logits"]
    graph, analysis = opened(model, *texts[: 2 if head == TIED else 1], rows=ROWS)
    pruned = proved(graph, analysis.mask(decided(analysis).units))
    ids, kinds = rng.choice(ROWS, (3, 9)), rng.integers(0, 3, (3, 9))
    ids[0, :3] = [1, 0, 1]  # padding

    new = read_interface(pruned).feeds({"ids": ids, "kinds": kinds})
    expected, found = run(graph, ids=ids, kinds=kinds)["logits"], run(pruned, **new)["logits"]

    assert pruned.weights["wte"].shape == (len(ROWS), 32)
    assert (np.array(ROWS)[new["ids"]] == ids).all()
    expected = expected[..., ROWS] if head == TIED else expected
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_token_types_are_a_vocabulary_too() -> None:
    graph, analysis = opened(language(UNTIED), "vocabulary:tte", rows="0-1")

    pruned = proved(graph, analysis.mask(decided(analysis).units))

    (part,) = read_interface(pruned).parts
    assert (part.ids, part.kept) == (("kinds",), (0, 1))


def test_two_tables_of_one_input_lose_the_same_rows() -> None:
    text = """(int64[N,S] ids) => (float[N,S,6] y) {
        a = Gather(t1, ids)  b = Gather(t2, ids)  s = Add(a, b)  y = MatMul(s, w) }"""
    model = handmade(text, t1=(9, 8), t2=(9, 8), w=(8, 6))
    with pytest.raises(OnnxPruneError, match=r"input 'ids' also looks up in 't2'"):
        opened(model, "vocabulary:t1", rows="0-3")

    graph, analysis = opened(model, "vocabulary:t1", "vocabulary:t2", rows="0-3")
    pruned = proved(graph, analysis.mask(decided(analysis).units))

    assert pruned.weights["t1"].shape == pruned.weights["t2"].shape == (4, 8)
    assert len(read_interface(pruned).parts) == 1


def test_a_quantised_table_is_cut() -> None:
    text = """(int64[N,S] ids) => (float[N,S,6] y) {
        rows = Gather(q, ids)  e = DequantizeLinear(rows, s)  y = MatMul(e, w) }"""
    model = handmade(
        text,
        q=np.random.default_rng(0).integers(-99, 99, (9, 8)).astype(np.int8),
        s=np.array(0.02, np.float32),
        w=(8, 6),
    )
    graph, analysis = opened(model, "vocabulary:q", rows=[2, 3])

    assert proved(graph, analysis.mask(decided(analysis).units)).weights["q"].shape == (2, 8)


def test_cut_twice_the_numbers_are_of_the_first_model() -> None:
    graph, analysis = opened(mlp(), "output:logits", classes=[0, 2, 4, 6])
    once = proved(graph, analysis.mask(decided(analysis).units))
    again = analyse(once, unlocks(["output:logits"], classes=[1, 3]))

    twice = proved(once, again.mask(decided(again).units))

    (part,) = read_interface(twice).parts
    assert (part.kept, part.size) == ((2, 6), 7)


def test_ids_that_went_are_refused() -> None:
    _, analysis = opened(language(UNTIED), "vocabulary:wte", rows=ROWS)
    interface = interface_of(analysis.mask(decided(analysis).units))

    with pytest.raises(DataError, match="input 'ids' holds id 3, which is not among those kept"):
        interface.feeds({"ids": np.array([[1, 3]])})
    for wrong in (40, -1):
        with pytest.raises(DataError, match=f"input 'ids' holds {wrong}: expected 0 to 39, a row"):
            interface.feeds({"ids": np.array([[1, wrong]])})
    assert set(interface.admissible({"ids": np.arange(-40, 40)})["ids"]) <= set(ROWS)


@pytest.mark.parametrize(
    ("name", "what", "kept"),
    [
        ("magika_v3_3", "output:target_label", 100),  # a softmax over 214 classes
        ("cifar10_tf_nhwc", "output:Identity:0", 4),
        ("cgan_32", "input:X", 3),
        ("imagenet_mobilenetv2_dynquant", "output:output", 250),
    ],
)
def test_published_files_lose_classes_and_features(
    name: str, what: str, kept: int, data_dir: Path
) -> None:
    graph = load(data_dir / "onnx" / f"{name}.onnx")
    kind = "classes" if what.startswith("output") else "features"
    analysis = analyse(graph, unlocks([what], **{kind: range(kept)}))

    pruned = proved(graph, analysis.mask(decided(analysis).units))

    (part,) = read_interface(pruned).parts
    assert (part.kind, part.kept) == (what.split(":")[0], tuple(range(kept)))
