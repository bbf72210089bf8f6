"""Sequences of tensors as exporters use them, to split and to join: lists of Python."""

from __future__ import annotations

import torch
from torch import Tensor

from ..operators import Fixed, Ints, Number, torch_op
from .unary import scalar


@torch_op("SequenceConstruct")
def sequence_construct(*xs: Tensor) -> Tensor:
    """Return the operands as one sequence."""
    return xs  # type: ignore[return-value]


@torch_op("SplitToSequence")
def split_to_sequence(
    x: Tensor, split: Ints | None = None, *, axis: int = 0, keepdims: int = 1
) -> Tensor:
    """Return pieces of given lengths, or of one length; single positions, without axis on request."""
    if split is None and not keepdims:
        return x.unbind(axis)  # type: ignore[return-value]
    return torch.split(x, 1 if split is None else split, axis)  # type: ignore[return-value]


@torch_op("SequenceAt")
def sequence_at(xs: Fixed, place: Number) -> Tensor:
    """Return one tensor of a sequence."""
    return xs[int(scalar(place) or 0)]


@torch_op("ConcatFromSequence")
def concat_from_sequence(xs: Fixed, *, axis: int, new_axis: int = 0) -> Tensor:
    """Return the tensors of a sequence one after the other, along an axis that is new or not."""
    return torch.stack(list(xs), axis) if new_axis else torch.cat(list(xs), axis)
