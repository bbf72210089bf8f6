"""The CIFAR benchmark's peers: onnxsim and Torch-Pruning, brought to the same MACs."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto

from benchmarks import cifar, peers
from benchmarks.cifar_rows import Net, Row

_GAP = 1e-3  # of the outputs: rounding stays far below


def onnxsim(net: Net, speedups: Sequence[float]) -> Iterator[Row]:
    """Let onnxsim prune to the same MACs, and fine-tune."""
    batches = [dict(batch) for batch in net.samples.batches(64)]
    ways: dict[str, Callable[[float], bytes]] = {
        "onnxsim l2": functools.partial(peers.onnxsim_structured, net.path),
        "onnxsim l2 global": functools.partial(peers.onnxsim_structured, net.path, scope="global"),
        "onnxsim wanda": lambda ratio: peers.onnxsim_wanda(net.path, ratio, batches),
    }
    for tool, prune in ways.items():
        for speedup in speedups:
            row = Row(net.depth, speedup, 0, tool, "none")
            try:
                model, reached = within(net, prune, 1 / speedup)
                row = measured(net, row, model, reached=reached)
                yield row
                tuned = finetuned(net.path, model, batches)
                yield dataclasses.replace(row, repair="finetune", accuracy=net.accuracy(tuned))
            except Exception as error:  # noqa: BLE001 - whatever a peer raises is a result
                yield dataclasses.replace(row, note=one_line(error))


def within(net: Net, prune: Callable[[float], bytes], share: float) -> tuple[ModelProto, bool]:
    """Return a peer's largest model within a share of the MACs; else its smallest, and False."""
    low, high = 0.0, 0.9  # Torch-Pruning leaves layers whole when asked for more
    best = onnx.load_from_string(prune(high))
    if net.figures(best)[0] > share:
        return best, False
    for _ in range(9):  # to a fifth of a percent of the channels; the widest group has 64
        middle = (low + high) / 2
        model = onnx.load_from_string(prune(middle))
        if net.figures(model)[0] <= share:
            high, best = middle, model
        else:
            low = middle
    return best, True


def finetuned(original: Path, pruned: ModelProto, batches: list[dict[str, Any]]) -> ModelProto:
    """Call onnxsim's `apply_pruning_finetune`."""
    import onnxsim

    model, _ = onnxsim.simplify(onnx.load(original))
    tuned: ModelProto = onnxsim.apply_pruning_finetune(model, pruned, batches)
    return tuned


def torch_pruning(net: Net, speedups: Sequence[float]) -> Iterator[Row]:
    """Let Torch-Pruning prune the PyTorch module to the same MACs."""

    def prune(ratio: float) -> bytes:
        return peers.torch_pruning(lambda: module(net.depth), ratio).model

    for speedup in speedups:
        row = Row(net.depth, speedup, 0, "Torch-Pruning l2", "none")
        try:
            model, reached = within(net, prune, 1 / speedup)
            gap = misplaced(net.depth)
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is a result
            yield dataclasses.replace(row, note=one_line(error))
            continue
        row = measured(net, row, model, reached=reached)
        if gap > _GAP:  # it runs, but is not the network without those channels
            note = (
                f"not the masked original: outputs differ by {gap:.2f} of their largest {row.note}"
            )
            row = dataclasses.replace(row, note=note.strip())
        yield row


def measured(net: Net, row: Row, model: ModelProto, *, reached: bool) -> Row:
    """Fill in what a peer's model costs and is worth."""
    macs, params = net.figures(model)
    return dataclasses.replace(
        net.timed(row, model),
        macs=macs,
        params=params,
        accuracy=net.accuracy(model),
        note="" if reached else "cannot reach the budget",
    )


def module(depth: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """Return the PyTorch network and an example of its input."""
    return cifar.module(int(depth)), torch.zeros(2, 3, 32, 32)


def misplaced(depth: str) -> float:
    """Return how far Torch-Pruning's cut of one channel is from silencing that channel.

    Channel i of the first stage becomes channel 8 + i of the second, through the zeros that option A
    pads with. The reference is the original network in which nothing reads any more what
    Torch-Pruning says it removed; a right cut equals it.

    Returns:
        max |pruned - reference| / max |reference| of the outputs on random images.
    """
    import torch_pruning as tp

    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pruned = cifar.module(int(depth))
    reference = copy.deepcopy(pruned)
    graph = tp.DependencyGraph().build_dependency(pruned, images[:1])
    group = graph.get_pruning_group(pruned.conv1, tp.prune_conv_out_channels, idxs=[2])
    gone = {item.dep.target.module: item.idxs for item in group}
    names = {module: name for name, module in pruned.named_modules()}
    removed = {names[m]: idxs for m, idxs in gone.items() if m in names}
    group.prune()
    with torch.no_grad():
        for tensor in (reference.bn1.weight, reference.bn1.bias):
            tensor[removed["bn1"]] = 0
        for name, block in reference.named_modules():
            if f"{name}.bn2" in removed:
                block.register_forward_hook(functools.partial(_silence, removed[f"{name}.bn2"]))
        expected = reference(images)
        return float((pruned(images) - expected).abs().max() / expected.abs().max())


def _silence(channels: list[int], _block: object, _inputs: object, y: torch.Tensor) -> torch.Tensor:
    keep = torch.ones(y.shape[1])
    keep[channels] = 0
    return y * keep[:, None, None]


def one_line(error: Exception) -> str:
    """Write an error without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".removeprefix("RuntimeError: ").split())
