"""LSTM, GRU, RNN: PyTorch's own, with gates in its order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..operators import Absent, Learned, torch_op

_kernels: Any = torch._VF
Kernel = Callable[[Tensor, list[Tensor]], tuple[Tensor, ...]]


def _directions(
    x: Tensor, direction: str, kernel: Kernel, weights: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, ...]:
    """Run every direction over x (time, batch, input).

    Args:
        x: what comes in.
        direction: forward, reverse or bidirectional.
        kernel: one direction, of time forwards: x and its weights and states -> outputs (time,
            batch, hidden), then last states (batch, hidden).
        weights: of each direction.

    Returns:
        outputs (time, directions, batch, hidden), then last states (directions, batch, hidden).
    """
    found = []
    for number, own in enumerate(weights):
        backwards = direction == "reverse" or number == 1
        y, *states = kernel(x.flip(0) if backwards else x, list(own))
        found.append((y.flip(0) if backwards else y, *states))
    first, *rest = zip(*found, strict=True)
    return torch.stack(first, 1), *(torch.stack(states) for states in rest)


def _parts(w: Tensor, r: Tensor, b: Tensor | None, order: Sequence[int]) -> list[list[Tensor]]:
    """Return weights of input and state and their biases of each direction, gates reordered."""
    count = len(order)
    biases = torch.zeros_like(w[:, :, :1]).squeeze(-1).repeat(1, 2) if b is None else b

    def reordered(t: Tensor) -> Tensor:
        return torch.cat([t.chunk(count)[i] for i in order]) if count > 1 else t

    return [
        [reordered(one) for one in (w[d], r[d], *biases[d].chunk(2))] for d in range(w.shape[0])
    ]


def _state(given: Tensor | None, x: Tensor, r: Tensor) -> Tensor:
    """Return the first state of each direction (directions, batch, hidden), zeros if not given."""
    return x.new_zeros(r.shape[0], x.shape[1], r.shape[2]) if given is None else given


_FLAGS = (True, 1, 0.0, False, False, False)  # biases, layers, dropout, training, two ways, layout
_SIZE = ("hidden_size",)
_ORDER = {"layout": (0,), "input_forget": (0,)}
_LSTM, _GRU = ["Sigmoid", "Tanh", "Tanh"], ["Sigmoid", "Tanh"]


@torch_op("LSTM", ignores=_SIZE, only={**_ORDER, "activations": (_LSTM, 2 * _LSTM)})
def lstm(
    x: Tensor,
    w: Learned,
    r: Learned,
    b: Learned | None = None,
    lengths: Absent = None,
    h: Tensor | None = None,
    c: Tensor | None = None,
    p: Absent = None,
    *,
    direction: str = "forward",
) -> tuple[Tensor, ...]:
    """Outputs, last output and last cell; gates i, o, f, c in the file and i, f, c, o in PyTorch."""
    del lengths, p
    states = zip(_state(h, x, r), _state(c, x, r), strict=True)
    weights = [
        [*own, *pair] for own, pair in zip(_parts(w, r, b, (0, 2, 3, 1)), states, strict=True)
    ]
    return _directions(x, direction, _lstm, weights)


def _lstm(x: Tensor, own: list[Tensor]) -> tuple[Tensor, ...]:
    y, h, c = _kernels.lstm(x, (own[4].unsqueeze(0), own[5].unsqueeze(0)), own[:4], *_FLAGS)
    return y, h[0], c[0]


@torch_op("GRU", ignores=_SIZE, only={"layout": (0,), "activations": (_GRU, 2 * _GRU)})
def gru(
    x: Tensor,
    w: Learned,
    r: Learned,
    b: Learned | None = None,
    lengths: Absent = None,
    h: Tensor | None = None,
    *,
    direction: str = "forward",
    linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:
    """Outputs and last output; gates z, r, h in the file and r, z, h in PyTorch."""
    del lengths
    weights = [
        [*own, state]
        for own, state in zip(_parts(w, r, b, (1, 0, 2)), _state(h, x, r), strict=True)
    ]
    kernel = _gru if linear_before_reset else _gru_reset_first
    return _directions(x, direction, kernel, weights)


def _gru(x: Tensor, own: list[Tensor]) -> tuple[Tensor, ...]:
    y, h = _kernels.gru(x, own[4].unsqueeze(0), own[:4], *_FLAGS)
    return y, h[0]


def _gru_reset_first(x: Tensor, own: list[Tensor]) -> tuple[Tensor, ...]:
    """The state is reset before it is multiplied, which PyTorch's kernel does after."""
    w, r, wb, rb, h = own
    size = h.shape[-1]
    incoming = torch.nn.functional.linear(x, w, wb)
    outputs = []
    for now in incoming:
        gates = torch.sigmoid(now[:, : 2 * size] + h @ r[: 2 * size].t() + rb[: 2 * size])
        reset, update = gates.chunk(2, 1)
        new = torch.tanh(now[:, 2 * size :] + (reset * h) @ r[2 * size :].t() + rb[2 * size :])
        h = (1 - update) * new + update * h
        outputs.append(h)
    return torch.stack(outputs), h


@torch_op("RNN", ignores=_SIZE, only={"layout": (0,), "activations": (["Tanh"], ["Tanh"] * 2)})
def rnn(
    x: Tensor,
    w: Learned,
    r: Learned,
    b: Learned | None = None,
    lengths: Absent = None,
    h: Tensor | None = None,
    *,
    direction: str = "forward",
) -> tuple[Tensor, ...]:
    """Outputs and last output."""
    del lengths
    weights = [
        [*own, state] for own, state in zip(_parts(w, r, b, (0,)), _state(h, x, r), strict=True)
    ]
    return _directions(x, direction, _rnn, weights)


def _rnn(x: Tensor, own: list[Tensor]) -> tuple[Tensor, ...]:
    y, h = _kernels.rnn_tanh(x, own[4].unsqueeze(0), own[:4], *_FLAGS)
    return y, h[0]
