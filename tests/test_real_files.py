"""Published files of many exporters: analysed in seconds, and pruned with proof or frozen with reasons."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.core.graph import Graph
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.prove import prove
from onnxprune.structure.dependency import analyse
from tests.examples import random_mask

SECONDS = 5.0  # for the analysis; half a second is usual
MOVED = 0.01

# Least number of groups and units that are found; more is progress, less is a loss of coverage.
FILES = {
    "cgan_32": (9, 595),
    "cifar10_conv8": (7, 464),
    "cifar10_sri_resnet_a": (8, 564),
    "cifar10_tf_nhwc": (4, 288),
    "cifar10_tinycnn": (8, 408),
    "cifar10_tinycnn_qlinear_int8": (8, 408),
    "cifar10_vit_ibp": (13, 441),
    "deeplabv3_257": (27, 4692),
    "dtln_1": (0, 0),
    "dtln_2": (1, 256),
    "espcn_x3": (3, 160),
    "fastestdet": (36, 1415),
    "imagenet_mobilenetv2_dynquant": (25, 9128),
    "imagenet_mobilenetv2_qdq": (25, 9128),
    "magika_v3_3": (3, 833),
    "mnist_cntk": (2, 24),
    "mnist_fc_256x6": (6, 1536),
    "mobilenetv2_035_flowers": (25, 4144),
    "openseeface_det_mnv3": (33, 1396),
    "pcb_simple_cnn_dynamo": (4, 240),
    "ppocrv3_det_en": (37, 3600),
    "rul_cnn_matlab": (5, 145),
    "silero_vad_v4": (16, 770),
    "ultraface_rfb_320": (25, 1716),
    "vittrack": (25, 1032),
    "yolox_nano": (67, 5472),
    "yunet_n_320": (16, 880),
}


# Inputs without which a file does not run.
FEEDS = {
    "silero_vad_v4": {
        "input": np.sin(np.arange(1024, dtype=np.float32).reshape(2, 512)),
        "sr": np.array(16000, np.int64),
        "h": np.zeros((2, 2, 64), np.float32),
        "c": np.zeros((2, 2, 64), np.float32),
    }
}


@pytest.mark.parametrize("name", list(FILES))
def test_a_third_of_every_group_goes(name: str, data_dir: Path) -> None:
    path = data_dir / "onnx" / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"no {path.name} in the folder of data")
    graph = Graph.from_model(onnx.load(path))
    start = time.perf_counter()
    analysis = analyse(graph)
    seconds = time.perf_counter() - start
    groups, units = FILES[name]

    assert seconds < SECONDS
    assert len(analysis.groups) >= groups
    assert sum(len(group) for group in analysis.groups) >= units
    if not analysis.groups:
        assert [f.reason for f in analysis.frozen] + [
            r.opaque for r in analysis.records if r.opaque
        ]
        return
    batches = [FEEDS[name]] if name in FEEDS else []
    mask = random_mask(analysis, np.random.default_rng(0), 1 / 3)
    assert prove(graph, mask, remove_channels(mask), batches).moved > MOVED
