"""Checkpoints: weights, running statistics and the optimizer's state in one safetensors file.

Written beside and renamed, so that a kill leaves the old one or the new one, never half of one.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core.errors import OnnxPruneError

_MODULE, _OPTIMIZER = "module.", "optimizer."


def write(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, notes: dict[str, str]
) -> None:
    """Write a checkpoint in place of the last one."""
    tensors = {_MODULE + name: value for name, value in module.state_dict().items()}
    for number, held in optimizer.state_dict()["state"].items():
        for name, value in held.items():
            if value is not None:
                tensors[f"{_OPTIMIZER}{number}.{name}"] = torch.as_tensor(value)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, draft, notes)
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)


def read(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, notes: dict[str, str]
) -> dict[str, str]:
    """Bring module and optimizer to where a checkpoint was written; returns its notes.

    Raises:
        OnnxPruneError: if it is none, or of another run: `notes` differ from its own.
    """
    try:
        with safe_open(path, "pt") as file:
            found = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise OnnxPruneError(f"'{path}' is no checkpoint: {error}; remove it") from error
    for key, value in notes.items():
        if found.get(key) != value:
            raise OnnxPruneError(
                f"checkpoint '{path}' is of another run, its {key} differs: give the settings it "
                "was made with, or remove it"
            )
    module.load_state_dict(_under(tensors, _MODULE))
    state = optimizer.state_dict()
    for name, tensor in _under(tensors, _OPTIMIZER).items():
        number, _, part = name.partition(".")
        state["state"].setdefault(int(number), {})[part] = tensor
    optimizer.load_state_dict(state)
    return found


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
