"""What a user may ask of a selection: a budget, and how widths are chosen under it."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Literal

from .core.errors import BudgetError

Figure = Literal["macs", "params", "size", "units"]
Normalise = Literal["none", "mean", "sum", "max", "standard"]

_OPTIONS: dict[str, Figure] = {"macs": "macs", "params": "params", "size": "size", "ratio": "units"}
_SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
_UNITS = {"macs": "MACs", "params": "parameters", "size": "B", "units": "units"}
_EXPECTED = {
    "macs": "the share that remains, between 0 and 1, or an amount such as 1.2G",
    "params": "the share that remains, between 0 and 1, or an amount such as 6.9M",
    "size": "an amount such as 10MB or 500kB, or the share that remains, between 0 and 1",
    "ratio": "the share of units to remove, between 0 and 1",
}


@dataclasses.dataclass(frozen=True)
class Budget:
    """At most this much of a figure may remain.

    Attributes:
        figure: MACs of one sample, parameters, bytes of weights, or removable units.
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
        """Read the value of option `macs`, `params`, `size` or `ratio`.

        A number is a share between 0 and 1 ("0.5", "50%"): of what remains, or for `ratio` of the
        units that go. An amount has a scale or a unit ("1.2G", "10MB", "512KiB").

        Raises:
            BudgetError: if it is neither.
        """
        wrong = BudgetError(f"--{option} {value} is no budget: expected {_EXPECTED[option]}")
        match = re.fullmatch(r"([0-9.]+(?:e-?[0-9]+)?) ?(%|[kMGT]i?|[KMG]i)?(B)?", str(value).strip())
        try:
            number = float(match[1]) if match else math.nan
        except ValueError:
            raise wrong from None
        scale, byte = (match[2] or "", bool(match[3])) if match else ("", False)
        asked = f"--{option} {value}"
        relative = scale in {"", "%"} and not byte
        if relative:
            share = number / 100 if scale == "%" else number
            if not 0 < share < 1:
                raise wrong
            return cls(_OPTIONS[option], 1 - share if option == "ratio" else share, True, asked)
        if option == "ratio" or scale == "%" or (byte and option != "size") or not number > 0:
            raise wrong
        return cls(_OPTIONS[option], number * _SCALES[scale.replace("ki", "Ki")], False, asked)

    def limit(self, original: float) -> float:
        """Return the largest figure that meets the budget, given the original's.

        Raises:
            BudgetError: if the original meets it already.
        """
        limit = self.value * original if self.relative else self.value
        if limit >= original:
            raise BudgetError(f"{self.asked} is met already: the model has {amount(self.figure, original)}")
        return limit


@dataclasses.dataclass(frozen=True)
class Options:
    """How widths are chosen.

    Attributes:
        scope: "uniform": every group loses the same share; "global": one ranking over all groups.
        round_to: kept channels of a group are a multiple of this, or all.
        floor: least share of a group's units that stays.
        keep: patterns of groups or weights that stay whole (`*`, `?`, `[...]`).
        normalise: what scores are divided by before groups are compared: their mean, sum or largest
            magnitude per group, or standard scores. None: "none" if the criterion's scores can be
            compared as they are, else "mean".
    """

    scope: Literal["uniform", "global"] = "global"
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
            raise BudgetError(f"--round-to {self.round_to}: expected a positive number of channels")
        if not 0 <= self.floor < 1:
            raise BudgetError(f"--floor {self.floor}: expected the least share that stays, 0 <= floor < 1")


def amount(figure: Figure, value: float) -> str:
    """Write a figure for people: "1.07 GMACs", "6.9 Mparameters" becomes "6.90 M parameters"."""
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale and figure != "units":
            tight = "" if figure in {"macs", "size"} else " "
            return f"{value / scale:.3g} {prefix}{tight}{_UNITS[figure]}"
    return f"{value:.0f} {_UNITS[figure]}"
