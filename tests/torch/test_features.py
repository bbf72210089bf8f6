"""Features: where blocks end, the student is compared with the kept channels of its teacher."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper, parser

import onnxprune
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session
from onnxprune.core.stream import Probes, with_probes
from onnxprune.torch import Recipe, from_onnx, retrain
from onnxprune.torch.features import features, with_outputs

from .retraining import Floats

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[N, 3, 8, 8] x) => (float[N, 4] y)
{
    s = Conv <pads = [1, 1, 1, 1]> (x, stem, stem_bias)
    a = Relu (s)
    t = Conv <pads = [1, 1, 1, 1]> (a, first, first_bias)
    u = Relu (t)
    v = Conv <pads = [1, 1, 1, 1]> (u, second, second_bias)
    end = Add (a, v)
    b = Relu (end)
    p = GlobalAveragePool (b)
    f = Flatten (p)
    y = Gemm (f, head)
}
"""
SHAPES = {
    "stem": (16, 3, 3, 3), "stem_bias": (16,), "first": (16, 16, 3, 3), "first_bias": (16,),
    "second": (16, 16, 3, 3), "second_bias": (16,), "head": (16, 4),
}  # fmt: skip
DEAD = [1, 4, 5, 9, 11, 12, 13, 15]  # channels of the residual stream that are always zero


def teacher() -> ModelProto:
    made, rng = parser.parse_model(TEXT), np.random.default_rng(0)
    for name, shape in SHAPES.items():
        value = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        if name.startswith(("stem", "second")):
            value[DEAD] = 0
        made.graph.initializer.append(numpy_helper.from_array(value, name))
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(teacher(), tmp_path / "teacher.onnx")
    onnxprune.prune(tmp_path / "teacher.onnx", tmp_path / "student.onnx", macs=0.3, criterion="l2")
    x = np.random.default_rng(1).standard_normal((64, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    return tmp_path


def ends(path: Path, x: Floats) -> Floats:
    """Return what a file computes where its block ends."""
    wider = with_probes(Graph.from_model(onnx.load(path)), [Probes(("end",))])
    found: Floats = Session(wider).run({"x": x}, ["end"])["end"]
    return found


def test_kept_channels_of_the_end_of_a_block(folder: Path) -> None:
    """Only dead channels of the stream go, and only then are features the teacher's exactly."""
    onnxprune.prune(folder / "teacher.onnx", folder / "student.onnx", criterion="l2", ratio=0.25,
                    keep="first_bias", round_to=1, overwrite=True)  # fmt: skip
    graphs = [Graph.from_model(onnx.load(folder / f"{n}.onnx")) for n in ("student", "teacher")]
    (feature,) = features(graphs[0], graphs[1], folder / "student.plan.json")

    x = np.load(folder / "data.npz")["x"]
    wanted = feature.of(torch.from_numpy(ends(folder / "teacher.onnx", x))).numpy()
    assert feature.name == "end"
    assert set(range(16)) - set(feature.kept[1]) <= set(DEAD)
    assert wanted.shape[1] < 16
    np.testing.assert_allclose(ends(folder / "student.onnx", x), wanted, rtol=1e-5, atol=1e-6)
    module = with_outputs(from_onnx(graphs[0]), ["end"])
    output, end = module(torch.from_numpy(x))
    np.testing.assert_allclose(end.detach(), wanted, rtol=1e-5, atol=1e-5)
    expected = Session(folder / "student.onnx").run({"x": x})["y"]
    np.testing.assert_allclose(output.detach(), expected, rtol=1e-4, atol=1e-5)


def test_training_brings_them_nearer(folder: Path) -> None:
    recipe = Recipe(epochs=10, batch=16, optimizer="sgd", rate=0.02)
    paths = folder / "student.onnx", folder / "teacher.onnx"
    data = str(folder / "data.npz")
    x = np.load(folder / "data.npz")["x"]
    graphs = [Graph.from_model(onnx.load(path)) for path in paths]
    (feature,) = features(graphs[0], graphs[1], folder / "student.plan.json")
    gaps = {}
    for weight in (0.0, 10.0):
        taught = dataclasses.replace(recipe, features=weight)
        retrain(*paths, data, folder / "a.onnx", recipe=taught)
        wanted = feature.of(torch.from_numpy(ends(folder / "teacher.onnx", x))).numpy()
        gap = ends(folder / "a.onnx", x) - wanted
        gaps[weight] = float(np.square(gap).mean())

    assert gaps[10.0] < 0.5 * gaps[0.0]


def test_block_ends_count_by_default_where_a_plan_is_at_hand(folder: Path) -> None:
    paths, data = (folder / "student.onnx", folder / "teacher.onnx"), str(folder / "data.npz")
    made = {}
    for plan in (True, False):
        if not plan:
            (folder / "student.plan.json").unlink()
        for weight in (None, 0.0, 1000.0) if plan else (None, 0.0):
            recipe = Recipe(epochs=1, batch=16, holdout=0.0, features=weight)
            retrain(*paths, data, folder / "a.onnx", recipe=recipe)
            made[plan, weight] = (folder / "a.onnx").read_bytes()

    assert made[True, None] == made[True, 1000.0] != made[True, 0.0]
    assert made[False, None] == made[False, 0.0] == made[True, 0.0]


def test_a_model_without_blocks(tmp_path: Path) -> None:
    model = teacher()
    del model.graph.node[5]  # the sum
    model.graph.node[5].input[0] = "v"
    onnx.save(model, tmp_path / "teacher.onnx")
    onnxprune.prune(tmp_path / "teacher.onnx", tmp_path / "student.onnx", macs=0.5, criterion="l2")
    x = np.zeros((4, 3, 8, 8), np.float32)

    with pytest.raises(OnnxPruneError, match="--features: no residual block of the original"):
        retrain(tmp_path / "student.onnx", tmp_path / "teacher.onnx", {"x": x},
                tmp_path / "a.onnx", recipe=Recipe(features=1.0))  # fmt: skip
    retrain(tmp_path / "student.onnx", tmp_path / "teacher.onnx", {"x": x}, tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").exists()


def test_trains_with_normalisation_put_back(folder: Path) -> None:
    """The file keeps its operators, and comes nearer to its teacher."""
    paths, data = (folder / "student.onnx", folder / "teacher.onnx"), str(folder / "data.npz")
    x = np.load(folder / "data.npz")["x"]

    recipe = Recipe(epochs=10, batch=16, optimizer="sgd", unfold=True, average=0.5, temperature=1.0)
    retrain(*paths, data, folder / "a.onnx", recipe=recipe)

    found = onnx.load(folder / "a.onnx").graph.node
    assert [n.op_type for n in found] == [n.op_type for n in onnx.load(paths[0]).graph.node]
    outputs = [Session(p).run({"x": x})["y"] for p in (paths[1], paths[0], folder / "a.onnx")]
    gaps = [np.square(values - outputs[0]).mean() for values in outputs[1:]]
    assert gaps[1] < 0.8 * gaps[0]
