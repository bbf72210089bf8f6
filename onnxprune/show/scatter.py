"""A chart of what is lost against what remains: one dot per file, in the style of `charts.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

from .charts import Scale, line_of

WIDTH, HEIGHT = 300, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 20, 14, 34
_ROOM = 0.06  # of the height, above and below the dots
_FLAT = 0.002  # the least height of the scale, in units of y


@dataclasses.dataclass(frozen=True)
class Dot:
    """One file.

    Attributes:
        name: said when it is pointed at.
        x: what remains, as a share of the original.
        y: how good it is, the more the better.
        least: y is surely no less than this; None: not said.
        best: whether nothing else is better in everything: such dots are filled, and joined by a line.
    """

    name: str
    x: float
    y: float
    least: float | None = None
    best: bool = True


def scatter(dots: Sequence[Dot], what: str, axis: str, told: Callable[[float], str]) -> Markup:
    """Draw dots, the original among them; what is best is joined from left to right.

    Args:
        dots: one at least, finite.
        what: what the chart is of, for those who do not see it.
        axis: what x is a share of.
        told: writes a value of y.
    """
    lows = [dot.y for dot in dots] + [dot.least for dot in dots if dot.least is not None]
    low, high = min(lows), max(dot.y for dot in dots)
    room = max(high - low, _FLAT) * _ROOM
    across, up = Scale(0.0, max(1.0, *(dot.x for dot in dots))), Scale(low - room, high + room)
    body = [_frame(across, (low, high), up, axis, told)]
    best = sorted((d for d in dots if d.best), key=lambda d: d.x)
    line = [(_x(across, d.x), _y(up, d.y)) for d in best]
    body.append(Markup('<path class="curve" d="M{}"/>').format(line_of(line)))
    body += [_dot(dot, _x(across, dot.x), up, told) for dot in dots]
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, HEIGHT, f"{what}, {len(dots)} points", Markup("").join(body))


def _x(scale: Scale, value: float) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * float(scale.shares(np.array([value]))[0])


def _y(scale: Scale, value: float) -> float:
    share = float(scale.shares(np.array([value]))[0])
    return _TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - share)


def _dot(dot: Dot, x: float, up: Scale, told: Callable[[float], str]) -> Markup:
    y, whisker = _y(up, dot.y), Markup()
    if dot.least is not None:
        whisker = Markup('<path class="whisker" d="M{0:.1f} {1:.1f}V{2:.1f}"/>').format(
            x, y, _y(up, dot.least)
        )
    return whisker + Markup(
        '<circle class="dot{}" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}: {}</title></circle>'
    ).format("" if dot.best else " beaten", x, y, dot.name, told(dot.y))


def _frame(
    across: Scale,
    ends: tuple[float, float],
    up: Scale,
    axis: str,
    told: Callable[[float], str],
) -> Markup:
    """Draw both axes: quarters of the original below, the ends of the values on the left."""
    floor, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = [Markup('<path class="axis" d="M{} {}V{}H{}"/>').format(_LEFT, _TOP, floor, right)]
    parts += [
        Markup('<text class="tick mid" x="{:.1f}" y="{}">{:.0f} %</text>').format(
            _x(across, share), floor + 13, 100 * share
        )
        for share in np.arange(0, across.high + 1e-9, 0.25).tolist()
    ]
    parts += [
        Markup('<text class="tick y" x="{}" y="{:.1f}">{}</text>').format(
            _LEFT - 5, _y(up, value) + 4, told(value)
        )
        for value in dict.fromkeys(ends)
    ]
    middle = (_LEFT + right) / 2
    parts.append(
        Markup('<text class="tick mid" x="{:.1f}" y="{}">{}</text>').format(
            middle, HEIGHT - 4, f"share of the {axis} that remains"
        )
    )
    return Markup("").join(parts)
