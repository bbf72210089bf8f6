from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from onnxprune.models.export import Exporter
from tests import zoo


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_exports_are_kept_and_runnable(exporter: Exporter, zoo_dir: Path) -> None:
    path = zoo.exported("unet", exporter, True, zoo_dir)
    written = path.stat().st_mtime_ns

    assert zoo.exported("unet", exporter, True, zoo_dir).stat().st_mtime_ns == written
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"images": zoo.samples("unet")})
    assert np.asarray(result).std(0).mean() > 0.01


def test_torchvision_builds() -> None:
    network, batch = zoo.build("mobilenet_v3_small")

    assert network(batch).shape == (2, 1000)


def test_perturbation_leaves_nothing_neutral(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        agraph (float[N, 2, H, W] x) => (float[N, 2, K, L] y)
        <float[2] scale = {1, 1}, float[2] bias = {0, 0}, float[2] mean = {0, 0},
         float[2] variance = {0, 1}, float[4] scales = {1, 1, 2, 2}, float exponent = {2}>
        {
            normal = BatchNormalization (x, scale, bias, mean, variance)
            wide = Resize <mode = "nearest"> (normal, , scales)
            y = Pow (wide, exponent)
        }
        """
    )
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(model, source)

    zoo.perturb(source, target)

    moved = {t.name: numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer}
    for name in ("scale", "bias", "mean", "variance"):
        assert len({*moved[name].tolist(), 0.0, 1.0}) == 4, name
    assert moved["variance"].min() > 0
    assert moved["scales"].tolist() == [1, 1, 2, 2]
    assert moved["exponent"] == 2
