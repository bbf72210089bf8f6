"""A plan on the user's own module: sliced, it computes what the pruned file does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto
from torch import Tensor, nn

import onnxprune
from onnxprune.core.errors import OnnxPruneError, ProofError
from onnxprune.core.runtime import Session
from onnxprune.models.export import Exporter, export
from onnxprune.torch import apply_plan

EXPORTERS: tuple[Exporter, ...] = ("torchscript", "dynamo")
EQUAL = 1e-5  # relative to the largest output


class Residual(nn.Module):
    """Convolutions with BatchNorm, a shortcut, a grouped and a depthwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.wide = nn.Sequential(nn.Conv2d(16, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.ReLU())
        self.back = nn.Conv2d(24, 16, 1, bias=False)
        self.last = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.last(self.back(self.deep(self.wide(x)))))
        result: Tensor = self.head(x.mean((2, 3)))
        return result


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        y = self.first(x)
        q, k, v = (
            f(y).reshape(batch, length, self.heads, -1).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        shares = (q @ k.transpose(-1, -2) / 2.0).softmax(-1)
        x = x + self.out((shares @ v).transpose(1, 2).reshape(batch, length, -1))
        result: Tensor = x + self.down(torch.relu(self.up(self.second(x))))
        return result


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(Block(16, 4) for _ in range(2))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = block(x)
        result: Tensor = self.head(x.mean(1))
        return result


class Split(nn.Module):
    """One product gives queries, keys and values; a parameter without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 36)
        self.scale = nn.Parameter(torch.ones(12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.qkv(x).chunk(3, -1)
        result: Tensor = self.head(torch.tanh(a) * torch.sigmoid(b) * self.scale + torch.relu(c))
        return result


HEADS = {"blocks.0.heads": 3, "blocks.1.heads": 3}  # of 4: what `forward` reshapes by
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, int]]] = {
    "residual": (Residual, (2, 3, 8, 8), {}),
    "transformer": (Transformer, (2, 6, 8), HEADS),
    "split": (Split, (2, 8), {}),
}


def perturbed(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module none of whose values are those it begins with."""
    torch.manual_seed(seed)
    module = make().eval()
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                drawn = torch.rand_like(value) * 0.6 - 0.3
                value.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else value + drawn)
    return module


def pruned(
    module: nn.Module, shape: tuple[int, ...], folder: Path, exporter: Exporter, **settings: Any
) -> tuple[Path, Path, Tensor]:
    """Export and prune without repair; returns the original, the pruned file and an input."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    path = export(module, [x], folder / "whole.onnx", exporter=exporter, opset=18)
    target = folder / "small.onnx"
    asked: dict[str, Any] = {"ratio": 0.4, "round_to": 1, "criterion": "l2"} | settings
    onnxprune.prune(path, target, repair="none", **asked)
    return path, target, x


def outputs(path: Path | ModelProto, x: Tensor) -> np.ndarray[Any, Any]:
    session = Session(path, optimise=False)
    return np.asarray(session.run({session.inputs[0]: x.numpy()})[session.outputs[0]])


@torch.no_grad()
def gap(module: nn.Module, x: Tensor, expected: np.ndarray[Any, Any]) -> float:
    """Largest difference, relative to the largest output."""
    return float(np.abs(module(x).numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", list(CASES))
def test_a_sliced_module_is_the_pruned_file(name: str, exporter: Exporter, tmp_path: Path) -> None:
    make, shape, sizes = CASES[name]
    module = perturbed(make)
    path, small, x = pruned(module, shape, tmp_path, exporter)
    before = {n: v.clone() for n, v in module.state_dict().items()}

    sliced = apply_plan(module, small.with_suffix(".plan.json"), [x], sizes=sizes)

    expected = outputs(small, x)
    assert gap(sliced, x, expected) < EQUAL
    assert np.abs(outputs(path, x) - expected).max() > 0.01 * np.abs(expected).max()
    assert sum(p.numel() for p in sliced.parameters()) < sum(p.numel() for p in module.parameters())
    assert all(torch.equal(before[n], v) for n, v in module.state_dict().items())


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_trained_and_exported_anew_it_has_the_planned_structure(
    exporter: Exporter, tmp_path: Path
) -> None:
    module = perturbed(Residual)
    _, small, x = pruned(module, (2, 3, 8, 8), tmp_path, exporter)
    plan = small.with_suffix(".plan.json")
    sliced = apply_plan(module, plan, [x]).train()
    optimizer = torch.optim.SGD(sliced.parameters(), lr=0.1)
    sliced(x).square().sum().backward()
    optimizer.step()

    anew = export(sliced, [x], tmp_path / "anew.onnx", exporter=exporter, opset=18)

    assert onnxprune.verify(anew, plan).weights > 0
    with pytest.raises(ProofError, match="does not have the planned structure"):
        onnxprune.verify(tmp_path / "whole.onnx", plan)


def test_layers_know_their_new_sizes(tmp_path: Path) -> None:
    module = perturbed(Residual)
    _, small, x = pruned(module, (2, 3, 8, 8), tmp_path, "torchscript")

    sliced = apply_plan(module, small.with_suffix(".plan.json"), [x])

    assert isinstance(sliced, Residual)
    deep, wide = sliced.deep[0], sliced.wide[0]
    assert isinstance(deep, nn.Conv2d)
    assert isinstance(wide, nn.Conv2d)
    count = len(wide.weight)
    assert count < 24
    assert (deep.groups, deep.in_channels, deep.out_channels) == (count, count, count)
    assert (wide.in_channels, wide.out_channels) == (len(sliced.stem.weight), count)
    assert sliced.norm.num_features == len(sliced.stem.weight) == sliced.head.in_features


def test_renamed_weights_are_found_by_their_values(tmp_path: Path) -> None:
    """All that the exporter noted is gone; BatchNormalization was folded, so rows were scaled."""
    module = perturbed(Residual)
    path, _, x = pruned(module, (2, 3, 8, 8), tmp_path, "torchscript")
    bare = anonymous(path, tmp_path / "bare.onnx")
    small = tmp_path / "small-bare.onnx"
    onnxprune.prune(bare, small, criterion="l2", repair="none", ratio=0.4, round_to=1)
    plan = small.with_suffix(".plan.json")

    with pytest.raises(OnnxPruneError, match="is not found in the module by name") as caught:
        apply_plan(module, plan, [x])
    sliced = apply_plan(module, plan, [x], original=bare)

    assert "\n" not in str(caught.value)
    assert gap(sliced, x, outputs(small, x)) < EQUAL


def anonymous(path: Path, target: Path) -> Path:
    """Give nodes, tensors and weights other names."""
    model = onnx.load(path)
    names = {w.name: f"w{i}" for i, w in enumerate(model.graph.initializer)}
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
        del node.metadata_props[:]
        for output in node.output:
            names[output] = f"t{number}"
    names |= {v.name: v.name for v in (*model.graph.input, *model.graph.output)}
    for weight in model.graph.initializer:
        weight.name = names[weight.name]
    for node in model.graph.node:
        for held in (node.input, node.output):
            for slot, name in enumerate(held):
                held[slot] = names.get(name, name)
    del model.graph.value_info[:]
    onnx.save(model, target)
    return target


def test_what_forward_reshapes_by_has_to_be_told(tmp_path: Path) -> None:
    module = perturbed(Transformer)
    _, small, x = pruned(module, (2, 6, 8), tmp_path, "torchscript")
    plan = small.with_suffix(".plan.json")

    with pytest.raises(OnnxPruneError, match="the sliced module does not run") as caught:
        apply_plan(module, plan, [x])
    with pytest.raises(OnnxPruneError, match="runs, but output 1 is not what the plan leaves"):
        apply_plan(module, plan, [x], sizes=dict.fromkeys(HEADS, 1))
    with pytest.raises(OnnxPruneError, match="sizes: 'heads' is no whole number of the module"):
        apply_plan(module, plan, [x], sizes={"heads": 3})
    assert "\n" not in str(caught.value)


def test_another_module_is_refused(tmp_path: Path) -> None:
    _, small, _ = pruned(perturbed(Residual), (2, 3, 8, 8), tmp_path, "dynamo")

    with pytest.raises(OnnxPruneError, match=r"not found in the module|does not fit") as caught:
        apply_plan(perturbed(Transformer), small.with_suffix(".plan.json"), [torch.randn(2, 6, 8)])
    assert "\n" not in str(caught.value)
