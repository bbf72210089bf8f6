"""Kinds of damage: each lays out hostile files in a folder, and may say which commands to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

Rng = np.random.Generator
Commands = Sequence[Sequence[str]]
Damage = Callable[[Rng, Path], Commands | None]

MODEL = "m.onnx"
OUTPUT = "out.onnx"
PRUNE = ("prune", MODEL, "--ratio", "0.5", "--round-to", "1", "-o", OUTPUT, "--json")
DEFAULT: Commands = (("inspect", MODEL), PRUNE)

KINDS: dict[str, Damage] = {}
SHARES: dict[str, int] = {}


def kind(share: int = 2) -> Callable[[Damage], Damage]:
    """Register a kind of damage under its function's name; `share` says how often it is drawn."""

    def enter(damage: Damage) -> Damage:
        name = damage.__name__
        if name in KINDS:
            raise ValueError(f"two kinds are called '{name}'")
        KINDS[name], SHARES[name] = damage, share
        return damage

    return enter


def write(model: ModelProto | bytes, folder: Path) -> None:
    """Write the model file."""
    content = model if isinstance(model, bytes) else model.SerializePartialToString()
    (folder / MODEL).write_bytes(content)


def choose(rng: Rng, options: Sequence[Any]) -> Any:
    """Draw one of any objects."""
    return options[int(rng.integers(len(options)))]
