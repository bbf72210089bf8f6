"""What PyTorch exports of a trained module is the model that `to_onnx` writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto

from onnxprune.core.errors import ProofError
from onnxprune.torch import anew, export, from_onnx, to_onnx
from tests.networks import NETWORKS, NORMED, Network
from tests.torch.compare import Feeds, drawn, outputs_of, step

SEQUENCE = Network(  # a MatMul whose weight the exporter transposes, LayerNormalization, attention
    """net (float[2,6,16] x) => (float[2,6,5] y) {
        a = LayerNormalization(x, n_scale, n_bias)
        b = MatMul(a, w1)
        c = Transpose<perm=[0,2,1]>(b)
        d = MatMul(b, c)
        e = Softmax<axis=-1>(d)
        f = MatMul(e, b)
        g = Add(x, f)
        y = MatMul(g, w2)
    }""",
    {"n_scale": (16,), "n_bias": (16,), "w1": (16, 16), "w2": (16, 5)},
)
CASES = {"residual": NETWORKS["residual"], "normed": NORMED, "sequence": SEQUENCE}


def trained(model: ModelProto) -> torch.fx.GraphModule:
    module = from_onnx(model)
    for _ in range(20):
        step(module, drawn(model))
    return module


def apart(model: ModelProto, other: ModelProto, feeds: Feeds) -> float:
    """Largest difference of outputs, relative to the largest output."""
    pairs = zip(outputs_of(model, feeds), outputs_of(other, feeds), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


@pytest.mark.parametrize("name", list(CASES))
def test_exported_anew_it_is_the_same_model(name: str, tmp_path: Path) -> None:
    model = CASES[name].model()
    module = trained(model)

    path = export(module, model, tmp_path / "anew.onnx")

    made, feeds = onnx.load(path), drawn(model)
    assert apart(made, to_onnx(module, model), feeds) < 1e-4
    assert apart(made, model, feeds) > 1e-3  # it was trained


def test_an_export_of_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CASES["residual"].model()
    monkeypatch.setattr(anew, "written_back", lambda _, graph: graph)  # weights before training

    with pytest.raises(ProofError, match="whose output 'y' is another") as caught:
        export(trained(model), model, tmp_path / "anew.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "anew.onnx").exists()
