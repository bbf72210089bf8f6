"""The original model as a teacher: run by onnxruntime, or as a module beside the student."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, from_numpy

from ..core.graph import Array, Graph
from ..core.runtime import Session
from ..core.stream import Probes, with_probes
from .answers import Teacher
from .convert import from_onnx
from .features import Feature, with_outputs


def by_onnxruntime(
    original: Graph,
    outputs: Sequence[str],
    ends: Sequence[Feature],
    provider: str,
    device: torch.device,
) -> Teacher:
    """Return what computes the original's outputs, then features, in the student's order and shape.

    Args:
        original: the graph.
        outputs: that the student has, in order.
        ends: features, of which it gives the channels that the student kept.
        provider: onnxruntime's.
        device: where the answers go.
    """
    wider = with_probes(original, [Probes(tuple(end.name for end in ends))])
    session = Session(wider, provider=provider)
    names = [*outputs, *(end.name for end in ends)]

    def teach(feeds: dict[str, Array]) -> dict[str, Tensor]:
        found = session.run(feeds, names)
        return _kept({name: from_numpy(found[name]).to(device) for name in names}, ends)

    return teach


def by_pytorch(
    original: Graph,
    outputs: Sequence[str],
    ends: Sequence[Feature],
    device: torch.device,
    mixed: bool,
) -> Teacher:
    """Return the same, computed on the student's device, and in mixed precision if asked for."""
    names = [value.name for value in original.outputs]
    inputs = [value.name for value in original.inputs]
    module = with_outputs(from_onnx(original), [end.name for end in ends]).eval()
    module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    names += [end.name for end in ends]
    wanted = [*outputs, *(end.name for end in ends)]

    @torch.no_grad()
    def teach(feeds: dict[str, Array]) -> dict[str, Tensor]:
        held = (laid_out(from_numpy(feeds[name]).to(device)) for name in inputs)
        with torch.autocast(device.type, torch.bfloat16, mixed):
            made = dict(zip(names, module(*held), strict=True))
        return _kept({name: _wide(made[name]) for name in wanted}, ends)

    return teach


def laid_out(x: Tensor) -> Tensor:
    """Return images with their channels last in memory, all else as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


def _kept(found: dict[str, Tensor], ends: Sequence[Feature]) -> dict[str, Tensor]:
    return found | {end.name: end.of(found[end.name]) for end in ends}
