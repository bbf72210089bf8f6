"""What a user may ask of a selection: a budget, and how widths are chosen under it."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from ..core.cost import Weighed
from ..core.errors import BudgetError, InternalError

Figure = Literal["macs", "params", "size", "units", "latency"]
Scope = Literal["uniform", "global"]
Normalise = Literal["none", "mean", "sum", "max", "standard"]

_FIGURES: dict[str, Figure] = {
    "macs": "macs",
    "params": "params",
    "size": "size",
    "ratio": "units",
    "latency": "latency",
}
_EXPECTED = {
    "macs": "the share that may remain, above 0 and below 1, or an amount such as 1.2G",
    "params": "the share that may remain, above 0 and below 1, or an amount such as 6.9M",
    "size": "an amount such as 10MB or 500kB, or the share that may remain, above 0 and below 1",
    "ratio": "the share of units to remove, above 0 and below 1",
    "latency": "the share of the time that may remain, above 0 and below 1, or a time such as 12ms",
}
_NAMES = {"macs": "MACs", "params": " parameters", "size": "B", "units": " units"}
_SECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}  # in milliseconds
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclasses.dataclass(frozen=True)
class Budget:
    """At most this much of a figure may remain.

    Attributes:
        figure: MACs of one sample, parameters, bytes of the file, units that could be removed, or
            milliseconds of one run.
        value: a share of the original's if `relative`, else an amount.
        relative: whether `value` is a share.
        asked: what the user wrote, for messages.
    """

    figure: Figure
    value: float
    relative: bool
    asked: str

    @classmethod
    def parse(cls, option: str, value: str | float) -> Budget:
        """Read the value of option `macs`, `params`, `size`, `ratio` or `latency`.

        A number is a share ("0.5", "50%"): of what may remain, or for `ratio` of the units that go.
        An amount has a scale or a unit ("1.2G", "10MB", "512KiB", "12ms").

        Raises:
            BudgetError: if it is neither.
        """
        if option == "latency" and (
            match := re.fullmatch(r"(\d*\.?\d+)\s*(us|ms|s)", str(value).strip())
        ):
            asked, time = f"--latency {value}", float(match[1]) * _SECONDS[match[2]]
            if time > 0:
                return cls("latency", time, False, asked)
        pattern = r"(\d*\.?\d+(?:e[+-]?\d+)?)\s*(?:(%)|([KMGT]?)(I?)(B?))"
        match = re.fullmatch(pattern, str(value).strip(), re.IGNORECASE)
        if match is not None:
            number, percent, power, binary, byte = match.groups()
            asked, amount = f"--{option} {value}", float(number)
            if not (power or byte):
                share = amount / 100 if percent else amount
                if 0 < share < 1:
                    share = 1 - share if option == "ratio" else share
                    return cls(_FIGURES[option], share, True, asked)
            elif (
                option not in ("ratio", "latency") and amount > 0 and (option == "size" or not byte)
            ):
                amount *= (1024 if binary else 1000) ** _POWERS[power.upper()]
                return cls(_FIGURES[option], amount, False, asked)
        raise BudgetError(f"--{option} {value} is no budget: expected {_EXPECTED[option]}")

    @property
    def weighed(self) -> Weighed:
        """The figure, where a cost model gives it.

        Raises:
            InternalError: if it is of units.
        """
        if self.figure == "units":
            raise InternalError(f"{self.asked}: units have no cost")
        return self.figure

    def limit(self, original: float) -> float:
        """Return the largest figure that meets the budget, given the original's.

        Raises:
            BudgetError: if the original meets it already.
        """
        limit = self.value * original if self.relative else self.value
        if limit >= original:
            found = written(self.figure, original)
            raise BudgetError(f"{self.asked} is met already: the model has {found}")
        return limit


@dataclasses.dataclass(frozen=True)
class Options:
    """How widths are chosen.

    Attributes:
        scope: "uniform": every axis loses the same share; "global": one ranking over all groups.
            None: global if the criterion's scores can be compared between groups, else uniform.
        round_to: kept channels of a group are a multiple of this, or all.
        floor: least share of a group's units that stays.
        keep: patterns of groups or weights that stay whole (`*`, `?`, `[...]`).
        normalise: what scores are divided by before groups are compared: their mean, sum or largest
            magnitude in the group; or "standard" scores; or "none". None: "none" if the criterion's
            scores can be compared between groups, else "mean".
    """

    scope: Scope | None = None
    round_to: int = 8
    floor: float = 0.1
    keep: tuple[str, ...] = ()
    normalise: Normalise | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            BudgetError: naming the option.
        """
        if self.round_to < 1:
            raise BudgetError(f"--round-to {self.round_to}: expected one channel or more")
        if not 0 <= self.floor < 1:
            raise BudgetError(f"--floor {self.floor}: expected a share of at least 0 and below 1")


def written(figure: Figure, value: float) -> str:
    """Write a figure for people: 1.07 GMACs, 6.9 M parameters, 10.2 MB, 12 units, 3.21 ms."""
    if figure == "latency":
        return f"{value:.3g} ms"
    for power, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale and figure != "units":
            return f"{value / scale:.3g} {power}{_NAMES[figure]}"
    return f"{value:.0f} {_NAMES[figure].strip()}"
