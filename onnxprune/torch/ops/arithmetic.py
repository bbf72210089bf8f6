"""Arithmetic, comparison and logic under broadcasting."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..operators import Fixed, Learned, torch_op
from ..types import torch_dtype

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Equal": torch.eq,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}


for _name, _function in _BINARY.items():
    torch_op(_name, operands=2)(_function)


@torch_op("Div")
def div(a: Tensor, b: Tensor) -> Tensor:
    """Y = a / b; of integers, towards zero."""
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


@torch_op("Mod")
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Y = a - b * quotient: with the sign of b, or with fmod that of a."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@torch_op("Pow")
def power(a: Tensor, b: Tensor) -> Tensor:
    """Y = a^b in the type of a."""
    return torch.pow(a, b).to(a.dtype)


@torch_op("BitShift")
def bit_shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """Y = a shifted by b bits."""
    shift = torch.bitwise_left_shift if direction == "LEFT" else torch.bitwise_right_shift
    return shift(a, b)


@torch_op("PRelu")
def prelu(x: Tensor, slope: Learned) -> Tensor:
    """Y = x where positive, slope x elsewhere."""
    return torch.where(x < 0, slope * x, x)


torch_op("Where", operands=3)(torch.where)


@torch_op("Sum")
def total(*xs: Tensor) -> Tensor:
    """Y = a + b + ..."""
    return functools.reduce(torch.add, xs)


@torch_op("Mean")
def mean(*xs: Tensor) -> Tensor:
    """Y = (a + b + ...) / count."""
    return functools.reduce(torch.add, xs) / len(xs)


@torch_op("Max")
def maximum(*xs: Tensor) -> Tensor:
    """Y is the largest of the operands."""
    return functools.reduce(torch.maximum, xs)


@torch_op("Min")
def minimum(*xs: Tensor) -> Tensor:
    """Y is the smallest of the operands."""
    return functools.reduce(torch.minimum, xs)


@torch_op("Cast", ignores=("saturate", "round_mode"))
def cast(x: Tensor, *, to: int) -> Tensor:
    """Y is x in another type."""
    return x.to(torch_dtype(to))


@torch_op("CastLike", ignores=("saturate", "round_mode"))
def cast_like(x: Tensor, other: Fixed) -> Tensor:
    """Y is x in the type of the second operand."""
    return x.to(other.dtype)
