"""Checkpoints: tensors under their names, and notes, in one safetensors file.

Written beside and renamed, so that a kill leaves the old one or the new one, never half of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..core.errors import OnnxPruneError
from ..files.staged import Staged

State = dict[str, Tensor]


def write(path: Path, state: Mapping[str, Tensor], notes: dict[str, str]) -> None:
    """Write a checkpoint in place of the last one, and take away what a kill has left beside."""
    held = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    with Staged() as staged, staged.open(path.resolve()) as stream:
        stream.write(save(held, notes))
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink()


def read(path: Path, notes: Mapping[str, str]) -> tuple[State, dict[str, str]]:
    """Return tensors and notes.

    Raises:
        OnnxPruneError: if it is no checkpoint, or of another run: `notes` differ from its own.
    """
    try:
        with safe_open(path, "pt") as file:
            found = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise OnnxPruneError(f"'{path}' is no checkpoint: {error}; remove it") from error
    for key, value in notes.items():
        if found.get(key) != value:
            raise OnnxPruneError(
                f"checkpoint '{path}' is of another run, its {key} differs: give the settings it "
                "was made with, or remove it"
            )
    return state, found


def put(prefix: str, state: Mapping[str, Tensor]) -> State:
    """Return a state under names that begin with a prefix."""
    return {f"{prefix}.{name}": value for name, value in state.items()}


def take(prefix: str, state: Mapping[str, Tensor]) -> State:
    """Return what is under a prefix, without it."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}


def of_optimizer(optimizer: torch.optim.Optimizer) -> State:
    """Return what an optimizer holds per parameter, as "number.name"."""
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, held in optimizer.state_dict()["state"].items()
        for name, value in held.items()
        if value is not None
    }


def to_optimizer(optimizer: torch.optim.Optimizer, held: Mapping[str, Tensor]) -> None:
    """Give an optimizer back what it held."""
    state = optimizer.state_dict()
    for name, tensor in held.items():
        number, _, part = name.partition(".")
        state["state"].setdefault(int(number), {})[part] = tensor
    optimizer.load_state_dict(state)
