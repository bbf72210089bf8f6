"""What cannot be unlocked is said, and the command line with it."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune as op
from onnxprune.cli import main
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Graph
from onnxprune.core.interface import read_interface
from onnxprune.core.listed import decided
from onnxprune.demo import unpack
from onnxprune.measure import latency
from onnxprune.plan import read_plan
from onnxprune.structure.unlock import read_positions
from tests.handmade import handmade
from tests.unlock.common import (
    ROWS,
    TIED,
    language,
    mlp,
    opened,
    proved,
    shapes,
)


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
