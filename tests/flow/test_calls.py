"""Local functions and branches inside of each other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.cli import main
from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session
from onnxprune.structure.dependency import analyse
from tests.handmade import members, proved
from tests.test_functions import LINEAR, SWISH, calls, half, written


def test_calls_inside_of_bodies() -> None:
    model = written(
        """(float[N,3] u, bool flag) => (float[N,2] y) {
            a = MatMul(u, w1)
            b = If(flag) <
                then_branch = yes () => (float[N,6] t) { t = local.Swish(a) },
                else_branch = no () => (float[N,6] e) { e = Relu(a) }
            >
            y = MatMul(b, w2)
        }""",
        SWISH, w1=(3, 6), w2=(6, 2),
    )  # fmt: skip
    analysis = proved(model)
    result = half(model)

    assert members(analysis) == [{("w1", 1), ("w2", 0)}]
    assert result.functions == model.functions
    branch = result.graph.node[1].attribute[0].g
    assert [n.op_type for n in branch.node] == ["Swish"]


def test_a_function_with_branches_is_seen_through() -> None:
    model = written(
        """(float[N,3] u, bool flag) => (float[N,2] y) {
            a = MatMul(u, w1)
            b = local.Maybe(flag, a)
            c = local.Maybe(flag, b)
            y = MatMul(c, w2)
        }""",
        '<domain: "local", opset_import: ["" : 18]> Maybe (f, x) => (y) '
        "{ y = If(f) <then_branch = yes () => (t) { s = Neg(x) t = Relu(s) },"
        " else_branch = no () => (e) { e = Relu(x) }> }",
        w1=(3, 6), w2=(6, 2),
    )  # fmt: skip

    assert members(proved(model)) == [{("w1", 1), ("w2", 0)}]


def test_what_calls_are_is_what_runs() -> None:
    """The inlined model and the one with calls are the same to onnxruntime."""
    model = written(
        "(float[N,3] u) => (float[N,3] y) { y = local.Swish<beta: float = 0.3>(u) }", SWISH
    )
    graph = analyse(Graph.from_model(model)).graph
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    closed, opened = Session(model), Session(graph.to_model())

    np.testing.assert_array_equal(closed.run({"u": x})["y"], opened.run({"u": x})["y"])


@pytest.mark.parametrize("repair", ["none", "mean", "least-squares", "sequential"])
def test_statistics_and_repairs_work_around_branches_and_calls(
    repair: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What always runs is measured and refitted, in functions too; a body of If only loses."""
    model = written(
        """(float[N,3,4,4] u) => (float[N,5] y) {
            a = Conv(u, w1, b1)
            b = local.Swish(a)
            total = ReduceSum<keepdims=0>(u)
            large = Greater(total, zero)
            c = If(large) <
                then_branch = yes () => (float[N,8,4,4] t) { t = Conv(b, w2, b2) },
                else_branch = no () => (float[N,8,4,4] e) { d = local.Swish(b) e = Conv(d, w3) }
            >
            f = Conv(c, w4, b4)
            g = local.Swish(f)
            h = GlobalAveragePool(g)
            i = Flatten(h)
            y = local.Layer(i, w5, b5)
        }""",
        SWISH, LINEAR, w1=(8, 3, 1, 1), b1=(8,), w2=(8, 8, 1, 1), b2=(8,), w3=(8, 8, 1, 1),
        w4=(8, 8, 1, 1), b4=(8,), w5=(8, 5), b5=(5,), zero=(),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "u.npz", u=rng.standard_normal((64, 3, 4, 4)).astype(np.float32))
    words = ["prune", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "p.onnx"), "--ratio", "0.5"]
    words += ["--data", str(tmp_path / "u.npz"), "--repair", repair, "--round-to", "1", "--json"]

    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    result = onnx.load(tmp_path / "p.onnx")
    assert report["proof"]["gap"] < 1e-5
    assert [f.name for f in result.functions] == ["Swish", "Layer"]
    assert calls(result) == ["Swish", "Swish", "Layer"]
    sizes = {t.name: list(t.dims) for t in result.graph.initializer}
    assert sizes["w2"][0] == sizes["w4"][1] < 8
    assert sizes["w5"][0] == sizes["w4"][0] < 8
