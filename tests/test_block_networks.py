"""Blocks of real networks: how many there are, and that each can be left out, proved."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from onnxprune.core.contracts import SURGERIES
from onnxprune.core.graph import Graph
from onnxprune.models.export import Exporter
from onnxprune.proof.prove import prove
from onnxprune.structure.blocks import find_blocks
from onnxprune.structure.dependency import analyse
from tests import zoo
from tests.deep import DEEP, exported_deep
from tests.streams import NO_UNITS, proved

# Residual blocks without a projection: a ResNet-50 has 16, of which 4 change the shape.
COUNTS = {
    "mlp": 0, "lenet5": 0, "vgg16bn_cifar": 0, "unet": 0, "densenet121": 0, "inception_v3": 0,
    "shufflenet_v2_x1_0": 0, "resnet18": 5, "resnet20": 7, "resnet50": 12, "mobilenet_v2": 10,
    "mobilenet_v3_small": 6, "efficientnet_b0": 9, "regnet_y_400mf": 12, "convnext_tiny": 18,
}  # fmt: skip
VARIANTS: list[tuple[Exporter, bool]] = [("dynamo", False), ("torchscript", True)]

# Halves of layers (attention, feed-forward) and whole layers, at the depth of the published network.
# TorchScript reads lengths for T5's tables of positions off keys inside of the first attention: these
# are read outside, so it is no block. In the decoder this holds for the first of both attentions.
DEEP_COUNTS = {
    "vit": (24, 12), "swin": (24, 12), "bert": (24, 12), "gpt2": (24, 12), "llama": (32, 16),
    "t5_encoder": (12, 6), "t5": (12 + 18, 6 + 6),
}  # fmt: skip
LEAKING = {("t5_encoder", "torchscript"): (1, 1), ("t5", "torchscript"): (1 + 2, 1 + 1)}
EXPORTERS: list[Exporter] = ["torchscript"]
if os.environ.get("ONNXPRUNE_ZOO_ALL"):
    EXPORTERS.append("dynamo")  # takes half a minute each


def load(name: str, exporter: Exporter, keep_batchnorm: bool, folder: Path) -> Graph:
    keep = keep_batchnorm and zoo.ARCHITECTURES[name].batchnorm
    return Graph.from_model(onnx.load(zoo.exported(name, exporter, keep, folder)))


@pytest.mark.parametrize(("exporter", "keep_batchnorm"), VARIANTS)
@pytest.mark.parametrize("name", COUNTS)
def test_blocks_of_networks(
    name: str, exporter: Exporter, keep_batchnorm: bool, zoo_dir: Path
) -> None:
    blocks = find_blocks(analyse(load(name, exporter, keep_batchnorm, zoo_dir)))

    assert len(blocks) == COUNTS[name]
    assert {(b.kind, b.level, b.sides, b.parts) for b in blocks} <= {("residual", 0, (), ())}


@pytest.mark.parametrize(
    ("name", "exporter", "keep_batchnorm"),
    [*(("resnet20", *variant) for variant in VARIANTS), ("mobilenet_v2", "torchscript", True)],
)
def test_blocks_of_networks_left_out_one_by_one(
    name: str, exporter: Exporter, keep_batchnorm: bool, zoo_dir: Path
) -> None:
    graph = load(name, exporter, keep_batchnorm, zoo_dir)
    analysis = analyse(graph)
    blocks = find_blocks(analysis)
    samples = {graph.inputs[0].name: zoo.samples(name)}
    for some in [*((block,) for block in blocks), tuple(blocks)]:
        mask = analysis.mask(NO_UNITS, some)

        assert prove(graph, mask, SURGERIES["blocks"](mask), [samples]).moved > 1e-4


def test_names_are_those_of_modules(zoo_dir: Path) -> None:
    expected = [f"layer{i}.{j}" for i, j in [(1, 0), (1, 1), (2, 1), (3, 1), (4, 1)]]
    for exporter in ("dynamo", "torchscript"):
        graph = load("resnet18", exporter, exporter == "torchscript", zoo_dir)
        assert [b.name for b in find_blocks(analyse(graph))] == expected


def deep(name: str, exporter: Exporter, folder: Path) -> Graph:
    if DEEP[name].library == "transformers":
        pytest.importorskip("transformers", reason="its networks are built from their classes")
    return Graph.from_model(onnx.load(exported_deep(name, exporter, folder)))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", DEEP_COUNTS)
def test_blocks_of_deep_transformers(name: str, exporter: Exporter, zoo_dir: Path) -> None:
    blocks = find_blocks(analyse(deep(name, exporter, zoo_dir)))
    leaking = LEAKING.get((name, exporter), (0, 0))

    halves, layers = (n - less for n, less in zip(DEEP_COUNTS[name], leaking, strict=True))
    assert sum(b.kind == "residual" and not b.parts for b in blocks) == halves
    assert sum(bool(b.parts) for b in blocks) == layers
    normal = halves if name == "bert" else 0
    assert sum(b.kind == "post-norm" and not b.parts for b in blocks) == normal
    assert len(blocks) == halves + layers + normal


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_layer_of_deep_transformers_left_out(name: str, zoo_dir: Path) -> None:
    """The last layer, each block in it, and all layers but those that stay for their leaks."""
    graph = deep(name, "torchscript", zoo_dir)
    analysis = analyse(graph)
    blocks = find_blocks(analysis)
    last = [b for b in blocks if b.parts][-1]
    within = [b for b in blocks if set(b.nodes) <= set(last.nodes)]

    assert len(within) >= 3
    for some in [*((block,) for block in within), tuple(blocks)]:
        assert proved(graph, analysis, some).moved > 1e-4


class Attention(nn.Module):
    """Two heads; (N, T, 16) and where to look, (N, S, 16) -> (N, T, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (
            layer(y).unflatten(-1, (2, 8)).transpose(1, 2)
            for layer, y in ((self.q, x), (self.k, other), (self.v, other))
        )
        seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        result: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return result


class Layer(nn.Module):
    """Attention, attention to a memory if `crosses`, and a feed-forward half, each a residual block."""

    def __init__(self, pre_norm: bool, crosses: bool) -> None:
        super().__init__()
        halves = [Attention(), *([Attention()] if crosses else [])]
        self.halves = nn.ModuleList(halves)
        self.mlp = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(len(halves) + 1))
        self.pre_norm = pre_norm

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        for number, norm in enumerate(self.norms):
            inner = norm(x) if self.pre_norm else x
            if number == len(self.halves):
                added = self.mlp(inner)
            elif number:
                added = self.halves[number](inner, memory, None)
            else:
                added = self.halves[number](inner, inner, mask)
            x = x + added if self.pre_norm else norm(x + added)
        return x


class Transformer(nn.Module):
    """Two layers; (N, T, 16), memory (N, S, 16) and mask (N, T, T) -> (N, T, 5)."""

    def __init__(self, pre_norm: bool, crosses: bool) -> None:
        super().__init__()
        self.embed = nn.LayerNorm(16)
        self.layers = nn.ModuleList(Layer(pre_norm, crosses) for _ in range(2))
        self.last = nn.LayerNorm(16) if pre_norm else nn.Identity()
        self.head = nn.Linear(16, 5)
        for name, parameter in self.named_parameters():
            if "norm" in name or "bias" in name:  # else neutral: mistakes there would be invisible
                nn.init.normal_(parameter, float("weight" in name), 0.2)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x, memory, mask[:, None])
        scores: Tensor = self.head(self.last(x)) + memory.mean()
        return scores


def transformer(pre_norm: bool, crosses: bool, exporter: Exporter, path: Path) -> Graph:
    """An export with open batch and lengths."""
    torch.manual_seed(0)
    network = Transformer(pre_norm, crosses).eval()
    inputs = (torch.randn(2, 7, 16), torch.randn(2, 5, 16), torch.randn(2, 7, 7))
    names = ["x", "memory", "mask"]
    if exporter == "torchscript":
        axes = {"x": {0: "N", 1: "T"}, "memory": {0: "N", 1: "S"}, "mask": {0: "N", 1: "T", 2: "T"}}
        torch.onnx.export(
            network,
            inputs,
            path,
            dynamo=False,
            opset_version=17,
            input_names=names,
            dynamic_axes=axes,
        )
    else:
        n, t, s = (torch.export.Dim(name) for name in "NTS")
        torch.onnx.export(
            network, inputs, path, dynamo=True, external_data=False, verbose=False, input_names=names,
            dynamic_shapes=({0: n, 1: t}, {0: n, 1: s}, {0: n, 1: t, 2: t}),
        )  # fmt: skip
    return Graph.from_model(onnx.load(path))


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("crosses", [False, True], ids=["encoder", "decoder"])
@pytest.mark.parametrize("pre_norm", [True, False], ids=["pre-norm", "post-norm"])
def test_blocks_of_transformers(
    pre_norm: bool, crosses: bool, exporter: Exporter, tmp_path: Path
) -> None:
    graph = transformer(pre_norm, crosses, exporter, tmp_path / "model.onnx")
    analysis = analyse(graph)
    blocks = find_blocks(analysis)
    for some in [*((block,) for block in blocks), tuple(blocks)]:
        assert proved(graph, analysis, some).moved > 1e-3

    residual = [b for b in blocks if b.kind == "residual" and not b.parts]
    normal = [b for b in blocks if b.kind == "post-norm" and not b.parts]
    layers = [b for b in blocks if b.parts]
    halves = 3 if crosses else 2
    assert [len(residual), len(normal), len(layers)] == [2 * halves, (not pre_norm) * 2 * halves, 2]
    assert sum(bool(b.sides) for b in residual) == 2 + 2 * crosses  # the mask, and the memory
    assert sum("memory" in b.sides for b in residual) == 2 * crosses
    by_name = {b.name: b for b in blocks}
    for number, layer in enumerate(layers):
        assert (layer.name, layer.level) == (f"layers.{number}", 0)
        assert [by_name[name].parent for name in layer.parts] == [layer.name] * halves
        assert layer.params == sum(by_name[name].params for name in layer.parts)
