from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from onnxprune import models
from onnxprune.models import digits, resnet
from onnxprune.models.export import Exporter, export
from onnxprune.models.lenet import LeNet5
from onnxprune.models.vgg import VGG16

SHIPPED = Path(models.__file__).parent


def outputs(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run(["output"], {"images": images})
    return np.asarray(result)


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (LeNet5(), 61_706),
        (VGG16(), 14_986_698),
        (VGG16(hidden=None), 14_724_042),
        (resnet.CifarResNet(20), 269_722),
        (resnet.CifarResNet(56), 853_018),
        (digits.DigitsNet(), 150_506),
    ],
)
def test_networks_have_their_published_size(network: nn.Module, parameters: int) -> None:
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("raw", [False, True])
def test_exports_compute_what_the_module_does(
    exporter: Exporter, keep: bool, raw: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    network = digits.DigitsNet().train()
    images = rng.random((5, 1, 8, 8), np.float32)

    path = export(
        network,
        (torch.from_numpy(images[:2]),),
        tmp_path / "new" / "net.onnx",
        exporter=exporter,
        keep_batchnorm=keep,
        raw=raw,
    )

    assert network.training
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    types = [node.op_type for node in model.graph.node]
    assert types.count("BatchNormalization") == (7 if keep else 0)
    assert [opset.version for opset in model.opset_import if not opset.domain] == [20]
    assert b"stack_trace" not in path.read_bytes()
    assert [path.name] == [file.name for file in path.parent.iterdir()]
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(outputs(path, images), expected, rtol=1e-4, atol=1e-5)


def test_export_refuses_a_batch_of_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two or more"):
        export(LeNet5(), (torch.zeros(1, 1, 28, 28),), tmp_path / "net.onnx")


def test_export_refuses_more_inputs_than_parameters(tmp_path: Path) -> None:
    images = torch.zeros(2, 1, 28, 28)
    with pytest.raises(ValueError, match="2 inputs for the 1 parameters"):
        export(LeNet5(), (images, images), tmp_path / "net.onnx")


def test_unknown_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="depth is 21"):
        resnet.CifarResNet(21)


@pytest.mark.parametrize("depth", resnet.DEPTHS)
def test_public_weights_load(depth: int, data_dir: Path) -> None:
    (file,) = (data_dir / "weights").glob(f"resnet{depth}-*.th")

    network = resnet.load(file)

    blocks = network.layer3
    assert not network.training
    assert isinstance(blocks, nn.Sequential)
    assert len(blocks) == (depth - 2) // 6


def test_digits_are_what_their_record_says() -> None:
    record = json.loads((SHIPPED / "digits.json").read_text())
    arrays = np.load(SHIPPED / "digits.npz")

    for part, accuracy in record["accuracy"].items():
        scores = outputs(SHIPPED / "digits.onnx", arrays[f"{part}_images"])
        assert len(scores) == record["samples"][part]
        assert round(float((scores.argmax(1) == arrays[f"{part}_labels"]).mean()), 4) == accuracy
    assert record["accuracy"]["test"] >= 0.985
    np.testing.assert_array_equal(arrays["images"], arrays["train_images"][:256])


def test_digits_come_from_their_source() -> None:
    arrays = np.load(SHIPPED / "digits.npz")

    for name, expected in digits.split().items():
        np.testing.assert_array_equal(arrays[name], expected)
