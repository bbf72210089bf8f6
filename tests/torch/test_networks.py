"""Whole networks: equal to onnxruntime, and again after a step of training was written back.

`benchmarks/converter.py` does the same for all exports of the zoo and families of transformers.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

from onnxprune.core.errors import ModelError
from onnxprune.core.graph import Graph
from onnxprune.models.export import Exporter
from onnxprune.torch import from_onnx, to_onnx
from tests import zoo
from tests.test_real_files import FEEDS
from tests.torch.compare import Feeds, called, drawn, gap, outputs_of, step

EQUAL = 1e-4  # of the largest output
ZOO: list[tuple[str, Exporter, bool]] = [
    ("lenet5", "dynamo", False),
    ("resnet20", "dynamo", True),
    ("resnet20", "torchscript", True),
    ("unet", "dynamo", False),
]
FOLDER = Path(os.environ.get("ONNXPRUNE_DATA", "../shared/data"))
FILES = sorted((FOLDER / "onnx").glob("*.onnx"))
REFUSED = {"silero_vad_v4": "(If) cannot become PyTorch: control flow is not carried"}
# Rounding to 256 steps: float32 sums in another order fall on the other side here and there.
STEPS = {"imagenet_mobilenetv2_qdq": 0.05, "imagenet_mobilenetv2_dynquant": 0.05}
# Seconds each: only with ONNXPRUNE_ZOO_ALL=1, as the heavy part of the zoo, and in the benchmark.
HEAVY = {"yolox_nano", "deeplabv3_257", "ppocrv3_det_en", "openseeface_det_mnv3", *STEPS}
FILES = [f for f in FILES if os.environ.get("ONNXPRUNE_ZOO_ALL") or f.stem not in HEAVY]


def _trains(model: ModelProto, feeds: Feeds, allowed: float) -> None:
    """Hold module and file against each other, before and after a step."""
    module = from_onnx(model)
    before = outputs_of(model, feeds)
    assert gap(called(module, feeds), before) < allowed
    if not list(module.parameters()):
        return  # all weights are integers

    step(module, feeds)
    trained = to_onnx(module, model)

    after = called(module, feeds)
    assert gap(after, outputs_of(trained, feeds)) < allowed
    assert gap(after, before) > 0
    assert [n.op_type for n in trained.graph.node] == [n.op_type for n in model.graph.node]


@pytest.mark.parametrize("case", ZOO, ids=lambda case: "-".join(map(str, case)))
def test_zoo(case: tuple[str, Exporter, bool], zoo_dir: Path) -> None:
    name, exporter, keep = case
    model = onnx.load(zoo.exported(name, exporter, keep, zoo_dir))

    _trains(model, {model.graph.input[0].name: zoo.samples(name)}, EQUAL)


@pytest.mark.skipif(not FILES, reason="no data: set ONNXPRUNE_DATA")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_published_files(path: Path) -> None:
    model = onnx.load(path)
    if path.stem in REFUSED:
        with pytest.raises(ModelError, match=r"node '\w+'") as refused:
            from_onnx(model)
        assert REFUSED[path.stem] in str(refused.value)
        return

    names = [value.name for value in Graph.from_model(model).inputs]
    feeds = drawn(model) | FEEDS.get(path.stem, {})
    _trains(model, {n: feeds[n] for n in names}, STEPS.get(path.stem, EQUAL))


@functools.cache
def _transformer(name: str, label: str, folder: Path) -> ModelProto:
    pytest.importorskip("transformers")
    from tests.text_zoo import FAMILIES, write

    write(FAMILIES[name], label, folder / "model.onnx")
    return onnx.load(folder / "model.onnx")


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_transformers(name: str, tmp_path: Path) -> None:
    model = _transformer(name, "torchscript 17", tmp_path)
    from tests.text_zoo import FAMILIES, examples

    given = examples(FAMILIES[name])
    feeds = {v.name: given[v.name].example.numpy() for v in Graph.from_model(model).inputs}

    _trains(model, feeds, EQUAL)
