"""What is asked of blocks: `--depth` and `--blocks`, checked before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import BudgetError, DataError, OnnxPruneError
from .schedule import is_iterative

if TYPE_CHECKING:
    from .request import PruneRequest


def check_depth(request: PruneRequest) -> None:
    """Refuse what makes no sense of blocks.

    Raises:
        OnnxPruneError: naming the option, and what to do about it.
    """
    if request.depth is None:
        if request.blocks is not None:
            raise OnnxPruneError("--blocks is of use with --depth only: name a score, too")
        return
    if request.dropped:
        raise OnnxPruneError("--depth chooses blocks, --drop-block names them: give one of them")
    name, score = request.deepening
    if score.guard is None and request.blocks is None and not request.bounded:
        raise BudgetError(
            f"--depth {name} ranks blocks: say how many go with --blocks, or give a budget"
        )
    if score.guard is not None and request.blocks is not None:
        raise BudgetError(f"--depth {name} says by itself what goes: leave out --blocks")
    _ = request.block_count
    if request.joint:
        _check_joint(request)


def _check_joint(request: PruneRequest) -> None:
    """Refuse what cannot be had where blocks and channels are chosen together."""
    if request.ratio is not None:
        raise BudgetError(
            "--ratio counts units of channels: say with --blocks how many blocks go, or give --macs, "
            "--params, --size or --latency"
        )
    if request.data is None:
        raise DataError(
            f"--depth {request.depth} with a budget compares models on samples: give --data, or say "
            "how many blocks go with --blocks"
        )
    if is_iterative(request):
        raise BudgetError(
            "--rounds and --retrain go by channels: say with --blocks how many blocks go"
        )
    name, repair = request.repairing
    if name != "none" and not repair.needs_samples:
        raise OnnxPruneError(
            f"--repair {name} refits what reads removed channels: with blocks beside them choose "
            "sequential, or none"
        )


def read_blocks(blocks: float | str) -> float:
    """Read the value of `--blocks`: a whole number, or a share below 1.

    Raises:
        BudgetError: if it is neither.
    """
    text = str(blocks).strip()
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not (0 < value < 1 or (value >= 1 and value.is_integer() and not text.endswith("%"))):
        raise BudgetError(
            f"--blocks {blocks}: expected how many go, such as 6, or a share, such as 25%"
        )
    return value
