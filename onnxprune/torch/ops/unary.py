"""Functions of one number, position by position."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..operators import Number, torch_op
from ..refused import MICROSOFT

_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,  # halves to even, as ONNX
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "IsNaN": torch.isnan,
}


for _name, _function in _PLAIN.items():
    torch_op(_name, operands=1)(_function)


@torch_op("Identity")
def identity(x: Tensor) -> Tensor:
    """Y = x."""
    return x


@torch_op("Clip")
def clip(x: Tensor, min: Number | None = None, max: Number | None = None) -> Tensor:
    """Y is x within bounds, either of which may be open."""
    return x if min is None and max is None else torch.clamp(x, scalar(min), scalar(max))


def scalar(value: float | list[float] | None) -> float | None:
    """Return a number that a file may hold as a list of one."""
    return value[0] if isinstance(value, list) else value


@torch_op("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """Y = x where positive, alpha x elsewhere."""
    return F.leaky_relu(x, alpha)


@torch_op("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Y = x above alpha, zero elsewhere."""
    return F.threshold(x, alpha, 0.0)


@torch_op("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Y = x where positive, alpha (e^x - 1) elsewhere."""
    return F.elu(x, alpha)


@torch_op("Selu")
def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625,
         gamma: float = 1.05070102214813232421875) -> Tensor:  # fmt: skip
    """Y = gamma elu(x, alpha)."""
    return gamma * F.elu(x, alpha)


@torch_op("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Y = max(0, x) + min(0, alpha (e^(x / alpha) - 1))."""
    return F.celu(x, alpha)


@torch_op("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Y = alpha x + beta within 0 and 1."""
    return torch.clamp(alpha * x + beta, 0, 1)


@torch_op("HardSwish")
def hard_swish(x: Tensor) -> Tensor:
    """Y = x times (x / 6 + 1/2 within 0 and 1)."""
    return F.hardswish(x)


@torch_op("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Y = x sigmoid(alpha x)."""
    return x * torch.sigmoid(alpha * x)


@torch_op("QuickGelu", domain=MICROSOFT)
def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    """Y = x sigmoid(alpha x)."""
    return swish(x, alpha=alpha)


@torch_op("Gelu")
@torch_op("Gelu", domain=MICROSOFT)
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """Y = x times the normal distribution up to x, or its approximation by tanh."""
    return F.gelu(x, approximate=approximate)


@torch_op("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Y = x pulled to zero by bias beyond lambd, zero within."""
    return torch.where(x > lambd, x - bias, torch.where(x < -lambd, x + bias, torch.zeros_like(x)))


@torch_op("IsInf")
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Tell where x is infinite, on the sides that are asked for."""
    low, high = (x == -math.inf) & bool(detect_negative), (x == math.inf) & bool(detect_positive)
    return low | high


@torch_op("Dropout", ignores=("seed", "is_test", "consumed_inputs"))
class Dropout(nn.Module):
    """Leaves out a share of the values in training, does nothing in evaluation."""

    def __init__(self, results: int, ratio: float = 0.5) -> None:
        """Keep the ratio that stands in an attribute, and whether anybody asks what was kept."""
        super().__init__()
        self.results, self.ratio = results, ratio

    def forward(
        self, x: Tensor, ratio: Number | None = None, training_mode: Number | None = None
    ) -> tuple[Tensor, ...]:
        """Return values and what was kept; the mode of the module counts, not that of the file."""
        del training_mode
        share = self.ratio if ratio is None else float(scalar(ratio) or 0.0)
        if self.results == 1:
            return (F.dropout(x, share, self.training),)
        kept = torch.rand_like(x, dtype=torch.float32) >= share * self.training
        return x * kept / (1 - share * self.training), kept
