"""What one run of a model may take: a file of a few bytes can ask for terabytes, or for ever.

The allowance grows with the weights: large models have large activations. It bounds what the model
itself makes of its inputs; weights come on top. ONNXPRUNE_MEMORY (GB) and ONNXPRUNE_PATIENCE
(seconds) set other bounds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from onnx import NodeProto

from .errors import ModelError, OnnxPruneError

_LEAST_TENSOR = 256 << 20  # bytes: 64 channels of an image of 1000 x 1000
_TENSOR_PER_WEIGHT = 8  # attention over 4096 places beside 350 MB of weights takes 800 MB
_LIVE = 4  # tensors of the largest size that live at the same time
_COPIES = 4  # of the weights: as read, as the operators pack them, while both are there
_LEAST_SECONDS, _SECONDS_PER_BYTE = 3.0, 60e-9
LONGEST_RANK = 32  # axes: numpy ends at 64, and rules add some

_RECURRENT, _MOST_STEPS = {"LSTM", "GRU", "RNN"}, 1 << 14

# Elements of float32 and half as large ones alike: this is a bound on absurdity, not an account.
_ELEMENT = 4


def largest_tensor(weights: int) -> int:
    """Return how many bytes a tensor may take in a model with so many bytes of weights."""
    given = _setting("ONNXPRUNE_MEMORY")
    return max(_LEAST_TENSOR, _TENSOR_PER_WEIGHT * weights) if given is None else int(given * 1e9)


def largest_run(weights: int) -> int:
    """Return how many bytes onnxruntime may take for a model with so many bytes of weights."""
    return _LIVE * largest_tensor(weights) + _COPIES * weights


def longest_loop(weights: int) -> float:
    """Return how many seconds a run may take if the model has loops, which may never end."""
    given = _setting("ONNXPRUNE_PATIENCE")
    return _LEAST_SECONDS + _SECONDS_PER_BYTE * weights if given is None else given


def check_shape(tensor: str, shape: Sequence[int], limit: int) -> None:
    """Refuse a tensor of more than `limit` bytes, or of absurd rank.

    Raises:
        ModelError: naming the tensor.
    """
    if len(shape) > LONGEST_RANK:
        raise ModelError(
            f"tensor '{tensor}' has {len(shape)} axes, expected at most {LONGEST_RANK}: "
            "export the model again"
        )
    size = _ELEMENT * math.prod(shape)
    if size > limit:
        raise ModelError(
            f"tensor '{tensor}' has shape {list(shape)}, about {size / 1e9:.3g} GB, expected at most "
            f"{limit / 1e9:.3g} GB for a model of this size: mend the shapes of the model, or allow "
            "more with ONNXPRUNE_MEMORY=<GB>"
        )


def check_steps(node: NodeProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse a recurrence of absurdly many steps: onnxruntime takes them one by one, in one go.

    Raises:
        ModelError: naming the node.
    """
    if node.op_type not in _RECURRENT or not node.input or not shapes.get(node.input[0]):
        return
    if (steps := shapes[node.input[0]][0]) > _MOST_STEPS:
        raise ModelError(
            f"{node.op_type} '{node.name or node.output[0]}' runs over {steps} steps, expected at most "
            f"{_MOST_STEPS}: export the model for shorter sequences, or with a symbolic length"
        )


def _setting(name: str) -> float | None:
    """Read a positive number from the environment."""
    text = os.environ.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise OnnxPruneError(f"{name}={text}: expected a positive number")
    return value
