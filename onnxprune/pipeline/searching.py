"""What is asked of a search: `--max-drop` and `--sweep`, checked before any work."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from ..core.errors import BudgetError, DataError, OnnxPruneError

if TYPE_CHECKING:
    from .request import PruneRequest

_MOST_TRIALS = 20  # a millionth of the way
_MOST_POINTS = 100
_OF_USE_WITH = {
    "metric": ("max_drop", "sweep"),
    "by": ("max_drop", "sweep"),
    "confidence": ("max_drop", "sweep"),
    "trials": ("max_drop",),
    "bench": ("sweep",),
}


def check_search(request: PruneRequest) -> None:
    """Refuse what makes no sense of a search.

    Raises:
        OnnxPruneError: naming the option, and what to do about it.
    """
    for field in dataclasses.fields(request):
        kinds = _OF_USE_WITH.get(field.name, ())
        changed = getattr(request, field.name) != field.default
        if kinds and changed and all(getattr(request, kind) is None for kind in kinds):
            those = " or ".join(f"--{kind.replace('_', '-')}" for kind in kinds)
            raise OnnxPruneError(f"--{field.name} is of use with {those} only: leave it out")
    for name in ("judge", "judge_samples"):
        if getattr(request, name) is not None and request.data is None:
            option = name.replace("_", "-")
            raise DataError(f"--{option} is about samples to compare on: give --data, too")
    if request.max_drop is not None:
        _ = request.allowed
    if request.max_drop is not None or request.sweep is not None:
        _check(request, "--max-drop" if request.sweep is None else "--sweep")


def _check(request: PruneRequest, option: str) -> None:
    if request.data is None:
        raise DataError(f"{option} needs samples to judge by: give --data")
    if request.by == "latency" and request.sweep is None:
        raise OnnxPruneError("--by 'latency' is of use with --sweep only: name another figure")
    if not 0.5 <= request.confidence < 1:
        raise OnnxPruneError(
            f"--confidence {request.confidence}: expected from 0.5 (as measured) to below 1"
        )
    if request.trials > _MOST_TRIALS:
        raise OnnxPruneError(f"--trials {request.trials}: expected at most {_MOST_TRIALS}")
    if request.metric == "accuracy" and request.labels is None:
        raise DataError("--metric accuracy needs --labels: name them, or choose agreement")
    if request.sweep is not None:
        _check_sweep(request)


def _check_sweep(request: PruneRequest) -> None:
    _ = request.shares
    for name in ("dry_run", "overwrite", "then"):
        if getattr(request, name):
            option = name.replace("_", "-")
            raise OnnxPruneError(f"--{option} makes no sense with --sweep: leave it out")
    changed = [u for u in request.unlocked if u.kind != "output"]
    if request.benched and changed:
        raise OnnxPruneError(
            f"--bench feeds all files of a sweep alike, and --unlock {changed[0].kind} changes what they "
            "are fed: leave out one of both"
        )


def read_sweep(text: str | float | tuple[float, ...]) -> int | tuple[float, ...]:
    """Read the value of `--sweep`: how many points, or the shares that may remain, most first.

    Raises:
        BudgetError: if it is neither.
    """
    parts = text.split(",") if isinstance(text, str) else text
    values = [_number(part) for part in ([parts] if isinstance(parts, int | float) else parts)]
    if len(values) == 1 and values[0] >= 2 and values[0].is_integer():
        if values[0] <= _MOST_POINTS:
            return int(values[0])
    elif values and all(0 < value < 1 for value in values) and len(values) <= _MOST_POINTS:
        return tuple(sorted(set(values), reverse=True))
    raise BudgetError(
        f"--sweep {text}: expected shares that may remain, such as 0.8,0.6,0.4, or how many points, "
        f"such as 8 (at most {_MOST_POINTS})"
    )


def _number(part: str | float) -> float:
    """Return a number or a percentage; not a number, what is neither."""
    written = str(part).strip()
    try:
        value = float(written.removesuffix("%"))
    except ValueError:
        return math.nan
    return value / 100 if written.endswith("%") else value
