"""What may be asked of a prune in rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import BudgetError, DataError, OnnxPruneError

if TYPE_CHECKING:
    from .request import PruneRequest

_ALONE = ("plan", "max_drop", "sweep", "latency", "unlock")


def is_iterative(request: PruneRequest) -> bool:
    """Tell whether a prune is made in rounds, of one at least."""
    return request.rounds > 1 or request.retrain is not None


def check_rounds(request: PruneRequest) -> None:
    """Refuse what makes no sense of rounds and of training in them.

    Raises:
        OnnxPruneError: naming the option, and what to do about it.
    """
    if request.retrain is None:
        for name in ("train", "rewind"):
            if getattr(request, name):
                raise OnnxPruneError(f"--{name} is of use with --retrain only: leave it out")
    elif request.data is None and request.train is None:
        raise DataError("--retrain needs samples to train on: give --data, or --train")
    if not is_iterative(request):
        return
    option = "--retrain" if request.rounds == 1 else "--rounds"
    for name in _ALONE:
        if getattr(request, name):
            other = name.replace("_", "-")
            raise OnnxPruneError(f"{option} does not go with --{other}: leave one of them out")
    if request.budget is None:
        raise BudgetError(
            f"{option} goes to a budget: give one of --macs, --params, --size, --ratio"
        )
