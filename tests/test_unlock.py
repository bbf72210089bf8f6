"""Unlocked inputs, outputs and vocabularies: what shrinks, what callers must do, what is refused."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import onnxprune as op
from onnxprune.cli import main
from onnxprune.core.analysis import Analysis, Mask
from onnxprune.core.errors import DataError, OnnxPruneError
from onnxprune.core.graph import Graph
from onnxprune.core.interface import interface_of, read_interface
from onnxprune.core.listed import decided
from onnxprune.core.runtime import Session
from onnxprune.demo import unpack
from onnxprune.files.store import load
from onnxprune.measure import latency
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.plan import read_plan
from onnxprune.proof.prove import prove
from onnxprune.structure.dependency import analyse
from onnxprune.structure.unlock import read_positions, unlocks
from tests.handmade import handmade
from tests.strategies import random_mask

EXACT = 1e-6  # relative: float32 sums of the same few terms

MLP = """(float[N,12] x) => (float[N,7] logits) {
    h = Gemm(x, w1, b1)  a = Relu(h)  logits = Gemm(a, w2, b2) }"""
SHARES = MLP.replace("logits = Gemm(a, w2, b2)", "y = Gemm(a, w2, b2) logits = Softmax<axis=1>(y)")
LAYERS: dict[str, Any] = {"w1": (12, 24), "b1": (24,), "w2": (24, 7), "b2": (7,)}
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

# One block of a language model; its last line is the head. Padding (id 1) is read from the ids.
TEXT = """(int64[N,S] ids, int64[N,S] kinds) => (float[N,S,40] logits) {
    i = Cast<to=6>(ids)  words = Gather(wte, i)  types = Gather(tte, kinds)
    one = Constant<value=int64 {1}>()  is_pad = Equal(ids, one)  pad = Cast<to=1>(is_pad)
    last = Constant<value=int64[1] {2}>()  pads = Unsqueeze(pad, last)
    s0 = Add(words, types)  s1 = Sub(s0, pads)  n1 = LayerNormalization(s1, g1, c1)
    q0 = MatMul(n1, wq)  k0 = MatMul(n1, wk)  v0 = MatMul(n1, wv)
    heads = Constant<value=int64[4] {0, 0, 4, 8}>()
    q1 = Reshape(q0, heads)  q = Transpose<perm=[0,2,1,3]>(q1)
    k1 = Reshape(k0, heads)  k = Transpose<perm=[0,2,3,1]>(k1)
    v1 = Reshape(v0, heads)  v = Transpose<perm=[0,2,1,3]>(v1)
    scores = MatMul(q, k)  p = Softmax(scores)  o1 = MatMul(p, v)
    o2 = Transpose<perm=[0,2,1,3]>(o1)  flat = Constant<value=int64[3] {0, 0, 32}>()
    o3 = Reshape(o2, flat)  o = MatMul(o3, wo)  s2 = Add(s1, o)
    h0 = MatMul(s2, wi)  h = Relu(h0)  f = MatMul(h, wf)  s3 = Add(s2, f)
    HEAD }"""
TIED = "t = Transpose<perm=[1,0]>(wte)  logits = MatMul(s3, t)"
UNTIED = "logits = MatMul(s3, wh)"
BLOCK: dict[str, Any] = {
    "wte": (40, 32), "tte": (3, 32), "g1": (32,), "c1": (32,), "wq": (32, 32), "wk": (32, 32),
    "wv": (32, 32), "wo": (32, 32), "wi": (32, 48), "wf": (48, 32),
}  # fmt: skip
ROWS = [0, 1, 2, 5, 9, *range(20, 31)]


def mlp(text: str = MLP) -> ModelProto:
    return handmade(text, **LAYERS)


def cnn() -> ModelProto:
    return handmade(CNN, **FILTERS)


def language(head: str) -> ModelProto:
    weights = BLOCK | ({} if head == TIED else {"wh": (32, 40)})
    return handmade(TEXT.replace("HEAD", head), **weights)


def opened(model: ModelProto, *texts: str, **lists: Any) -> tuple[Graph, Analysis]:
    graph = Graph.from_model(model)
    return graph, analyse(graph, unlocks(texts, **lists))


def proved(graph: Graph, mask: Mask) -> Graph:
    pruned = remove_channels(mask)
    prove(graph, mask, pruned)
    return pruned


def run(graph: Graph, **feeds: Any) -> dict[str, Any]:
    return Session(graph.to_model(), optimise=False).run(feeds)


def shapes(graph: Graph) -> dict[str, list[int]]:
    values = [*graph.inputs, *graph.outputs]
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


# -- locked without being asked -----------------------------------------------------------------
@pytest.mark.parametrize("model", [mlp(), mlp(SHARES), cnn(), language(TIED), language(UNTIED)])
def test_nothing_of_the_interface_shrinks_unless_unlocked(model: ModelProto) -> None:
    graph, analysis = opened(model)

    pruned = proved(graph, random_mask(analysis, np.random.default_rng(0), 0.5))

    assert shapes(pruned) == shapes(graph)
    assert not read_interface(pruned)


# -- scores decide ------------------------------------------------------------------------------
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


# -- lists decide -------------------------------------------------------------------------------
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


# -- refused ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "lists", "message"),
    [
        ("logits", {}, "expected input:NAME, output:NAME or vocabulary:NAME"),
        ("weight:wte", {}, "expected input:NAME, output:NAME or vocabulary:NAME"),
        ("output:logit", {}, "there is no output 'logit'; the nearest is 'logits'"),
        ("output:logits@3", {}, "'logits' has 3 axes, there is no 3"),
        ("output:logits@1", {}, "axis 1 of 'logits' has no fixed length"),
        ("output:logits", {"classes": "0-40"}, "position 40 is to be kept, but axis 2"),
        ("output:logits", {"classes": "4-2"}, "--keep-classes: 4-2 is no range"),
        ("output:logits", {"classes": []}, "--keep-classes: expected one integer or more"),
        ("output:logits", {"rows": "1"}, "--keep-rows needs --unlock vocabulary:NAME"),
        ("output:logits", {}, "it stays, looked up by index; --unlock vocabulary:TABLE too"),
        ("vocabulary:wte", {}, "say with --keep-rows which rows stay"),
        ("vocabulary:wte", {"rows": "0-9"}, "it stays, graph output 'logits'; --unlock output"),
        ("vocabulary:wte@1", {"rows": "0-9"}, "looked up along axis 0, not along axis 1"),
        ("vocabulary:wq", {"rows": "0-9"}, "there is no table that is looked up by index 'wq'"),
        ("vocabulary:wte", {"rows": "/nowhere"}, "--keep-rows '/nowhere': neither positions"),
    ],
)
def test_what_cannot_be_unlocked_is_said(text: str, lists: dict[str, Any], message: str) -> None:
    with pytest.raises(OnnxPruneError) as caught:
        opened(language(TIED), text, **lists)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ids_that_the_model_computes_cannot_be_counted_anew() -> None:
    text = "(float[N,9] x) => (float[N,6] y) { i = ArgMax<axis=1, keepdims=0>(x) y = Gather(t, i) }"

    with pytest.raises(OnnxPruneError, match=r"no caller gives \(op ArgMax does\)"):
        opened(handmade(text, t=(9, 6)), "vocabulary:t", rows="0-3")


def test_positions_that_go_together_go_together() -> None:
    text = """(float[N,8] x) => (float[N,3] y) {
        s = Constant<value=int64[3] {0, 2, 4}>()  a = Reshape(x, s)  b = Mul(a, g)
        f = Flatten(b)  y = MatMul(f, w) }"""
    model = handmade(text, g=(4,), w=(8, 3))
    graph, analysis = opened(model, "input:x", features=[0, 1, 4, 5])
    assert shapes(proved(graph, analysis.mask(decided(analysis).units)))["x"] == [0, 4]

    _, analysis = opened(model, "input:x", features=[0, 1, 4])
    with pytest.raises(OnnxPruneError, match="position 5 cannot go: it goes with others"):
        decided(analysis)


@pytest.mark.parametrize(
    ("value", "positions"),
    [("3", (3,)), ("0-2, 7 5", (0, 1, 2, 5, 7)), ([4, 1, 4], (1, 4)), (np.arange(2), (0, 1))],
)
def test_positions_are_read(value: Any, positions: tuple[int, ...]) -> None:
    assert read_positions("--keep-rows", value) == positions


def test_positions_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("7\n0-2\n")

    assert read_positions("--keep-rows", str(tmp_path / "ids.txt")) == (0, 1, 2, 7)


# -- the command line ---------------------------------------------------------------------------
@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    brief = functools.partial(latency.compare, seconds=0)
    monkeypatch.setattr(latency, "compare", brief)
    unpack(tmp_path)
    return tmp_path


def test_digits_with_five_classes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prune = ["prune", "digits.onnx", "--unlock", "output:output", "--keep-classes", "0-3,8"]
    assert main([*prune, "-o", "listed.onnx", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["interface"][0]["kept"] == [[0, 4], [8, 9]]
    assert main([*prune, "-o", "small.onnx", "--data", "train.npz", "--macs", "0.5"]) == 0
    assert "interface changed" in capsys.readouterr().out

    found = op.evaluate("small.onnx", "test.npz", labels="labels", reference="digits.onnx")
    alone = op.evaluate("small.onnx", "test.npz", labels="labels")

    assert found.accuracy is not None
    assert found.reference is not None
    assert found.accuracy.top1 > 0.97
    assert found.reference.top1 > 0.97
    assert alone.accuracy == found.accuracy
    assert op.interface("small.onnx").parts[0].kept == (0, 1, 2, 3, 8)
    assert read_plan("small.plan.json").interface[0].size == 10
    assert (
        main(["verify", "listed.onnx", "--plan", "listed.plan.json", "--original", "digits.onnx"])
        == 0
    )
    assert main(["prune", "digits.onnx", "-o", "again.onnx", "--plan", "listed.plan.json"]) == 0
    assert (home / "again.onnx").read_bytes() == (home / "listed.onnx").read_bytes()


def test_lists_and_other_options_must_agree(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = ["prune", "digits.onnx", "--unlock", "output:output", "--keep-classes", "0-3"]

    assert main([*lists, "--criterion", "l1"]) == 2
    assert "--criterion has nothing to rank" in capsys.readouterr().err
    assert main([*lists, "--keep", "fc2.weight"]) == 2
    assert "--keep holds 'fc2.weight', but a list" in capsys.readouterr().err
    assert main([*lists[:-1], "0-9"]) == 2
    assert "name everything: nothing goes" in capsys.readouterr().err
    assert not (home / "digits.pruned.onnx").exists()


def test_features_are_chosen_and_repaired(home: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 12)).astype(np.float32)
    x[:, 6:] *= 1e-3  # what hardly varies is worth least
    np.savez("x.npz", x=x)
    onnx.save(mlp(), "mlp.onnx")

    report = op.prune(
        "mlp.onnx", data="x.npz", unlock="input:x", keep=("b1",), round_to=1, ratio=0.5
    )

    assert report.evaluation is not None
    assert report.evaluation.error is not None
    assert report.evaluation.error < 0.05
    assert op.interface("mlp.pruned.onnx").parts[0].kept == (0, 1, 2, 3, 4, 5)
    assert op.evaluate("mlp.pruned.onnx", "x.npz", reference="mlp.onnx").error is not None
    assert (home / "mlp.pruned.plan.json").exists()


def test_a_vocabulary_by_the_command_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(language(TIED), "lm.onnx")
    rng = np.random.default_rng(0)
    ids, kinds = rng.choice(ROWS, (40, 9)), rng.integers(0, 3, (40, 9))
    np.savez("good.npz", ids=ids, kinds=kinds)
    np.savez("bad.npz", ids=np.full_like(ids, 3), kinds=kinds)
    (home / "ids.txt").write_text("\n".join(map(str, ROWS)))
    unlock = ["--unlock", "vocabulary:wte", "--unlock", "output:logits", "--keep-rows", "ids.txt"]

    for data in (["--data", "good.npz"], ["--data", "random", "--params", "0.6"]):
        assert main(["prune", "lm.onnx", *unlock, *data, "-q"]) == 0, capsys.readouterr().err
        assert read_interface(Graph.from_model(onnx.load("lm.pruned.onnx")))
    assert main(["inspect", "lm.onnx", *unlock, "--json"]) == 0
    assert main(["prune", "lm.onnx", *unlock, "-q", "-o", "a.onnx"]) == 0
    assert main(["prune", "lm.onnx", "--plan", "a.plan.json", "-q", "-o", "b.onnx"]) == 0
    assert (home / "a.onnx").read_bytes() == (home / "b.onnx").read_bytes()
    assert main(["prune", "lm.onnx", *unlock, "--data", "bad.npz"]) == 2
    assert "holds id 3, which is not among those kept" in capsys.readouterr().err
