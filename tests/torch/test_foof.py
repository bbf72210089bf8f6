"""FOOF: its step is that of least squares, for every layer, and training goes on where it was cut off."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper, parser

from onnxprune.torch import foof as module
from onnxprune.torch import from_onnx
from onnxprune.torch.foof import Foof

from .retraining import RECIPE, prepare, run, train

TINY = 1e-9  # damping that changes nothing
LAYERS = {
    "Conv": ("float[40, 4, 6, 6] x", "Conv <pads = [1, 0, 1, 2]> (x, w, b)", (5, 4, 3, 3), 5),
    "Conv of groups, strided": (
        "float[40, 4, 9, 9] x",
        "Conv <group = 2, strides = [2, 2], dilations = [2, 1]> (x, w, b)", (6, 2, 3, 2), 6,
    ),
    "Conv of each channel": ("float[40, 3, 6, 6] x", "Conv <group = 3> (x, w)", (3, 1, 2, 2), 0),
    "Conv of sequences": ("float[40, 4, 9] x", "Conv(x, w, b)", (5, 4, 3), 5),
    "Gemm": ("float[40, 4] x", "Gemm(x, w, b)", (4, 3), 3),
    "Gemm, turned": ("float[40, 4] x", "Gemm <transB = 1> (x, w)", (3, 4), 0),
    "MatMul": ("float[40, 5, 4] x", "MatMul(x, w)", (4, 3), 0),
}  # fmt: skip


def layer(name: str) -> ModelProto:
    """A network of one layer."""
    x, call, shape, bias = LAYERS[name]
    made = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> agraph ({x}) => (float[] y) {{ y = {call} }}'
    )
    rng = np.random.default_rng(0)
    values = {"w": rng.standard_normal(shape)} | ({"b": rng.standard_normal(bias)} if bias else {})
    for key, value in values.items():
        made.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), key))
    return made


def inputs(model: ModelProto) -> torch.Tensor:
    sizes = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    return torch.randn(sizes, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize("name", LAYERS)
def test_one_step_solves_least_squares(name: str) -> None:
    """Whatever the weights were: towards targets that the layer can reach, they are reached at once."""
    found, other = from_onnx(layer(name)), from_onnx(layer(name))
    x = inputs(layer(name))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
        target = other(x)
    ((found(x) - target).square().sum() / (2 * len(x))).backward()  # mean over samples

    foof = Foof(found, TINY)
    foof.renew([x])
    foof.apply()
    assert set(foof.covered) == {key for key, _ in found.named_parameters()}

    for (_, mine), (_, theirs) in zip(
        found.named_parameters(), other.named_parameters(), strict=True
    ):
        assert mine.grad is not None
        torch.testing.assert_close(mine - mine.grad, theirs, rtol=1e-3, atol=1e-3)


def test_a_very_wide_layer_has_no_inverse(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is divided by its positions, of which a matrix behind samples has one."""
    monkeypatch.setattr(module, "_WIDEST", 2)
    made = from_onnx(layer("Gemm, turned"))
    x = inputs(layer("Gemm, turned"))
    made(x).sum().backward()
    (weight,) = made.parameters()
    assert weight.grad is not None
    before = weight.grad.clone()

    foof = Foof(made, 0.5)
    foof.renew([x])
    foof.apply()

    assert not foof.layers
    torch.testing.assert_close(weight.grad, before / 1.5)


def test_what_the_loss_does_not_depend_on_stays() -> None:
    made = from_onnx(layer("Gemm"))
    foof = Foof(made, 1.0)
    foof.renew([inputs(layer("Gemm"))])
    foof.apply()

    assert all(parameter.grad is None for parameter in made.parameters())


def test_parameters_of_no_layer_are_divided_by_their_positions() -> None:
    """A shift of 3 channels acts at 4 x 5 places of each sample."""
    made = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        agraph (float[2, 3, 4, 5] x) => (float[] y) { y = Add (x, b) }
    """)
    shift = np.zeros((3, 1, 1), np.float32)
    made.graph.initializer.append(numpy_helper.from_array(shift, "b"))
    found = from_onnx(made)
    x = torch.randn(2, 3, 4, 5)
    found(x).sum().backward()
    (b,) = found.parameters()
    assert b.grad is not None

    foof = Foof(found, 1.0)
    foof.renew([x])
    foof.apply()

    assert not foof.layers
    torch.testing.assert_close(b.grad, torch.full((3, 1, 1), 2 * 20 / (20 * 2.0)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return prepare(tmp_path)


def test_learns_and_resumes_to_the_same_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments are taken every 5 steps; cut off between two, their inverses come from the checkpoint."""
    monkeypatch.setattr("onnxprune.torch.run._RENEWED", 5)
    recipe = dataclasses.replace(RECIPE, optimizer="foof", rate=0.2, epochs=4)
    whole = train(folder, "whole.onnx", recipe=recipe)

    def cut(_what: str, done: int, _total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    work = folder / "work"
    with pytest.raises(KeyboardInterrupt):
        train(folder, "resumed.onnx", recipe=recipe, work=work, every=0.0, progress=cut)
    resumed = train(folder, "resumed.onnx", recipe=recipe, work=work)

    assert resumed.resumed == 8
    assert (folder / "resumed.onnx").read_bytes() == (folder / "whole.onnx").read_bytes()
    assert whole.losses[-1] < 0.5 * whole.losses[0]
    x = np.load(folder / "data.npz")["x"]
    truth = run(folder / "teacher.onnx", x).argmax(1)
    assert (run(folder / "whole.onnx", x).argmax(1) == truth).mean() > 0.8
