"""Small charts as inline SVG: light, printable, in the colours of the page, without a script.

A plotting library would draw each with its own style, tens of kilobytes and fixed colours; a page has
hundreds of these, and its policy forbids inline styles. Lengths are in units of the view box, which
scales with the column.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WIDTH, HEIGHT = 300, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 14, 20
_MOST_POINTS = 100  # a pixel or two apart; of more, the highest of each neighbourhood
_MOST_STEMS = 256  # of more, some all along
_MOST_CHARTS = 48  # beside each other: what a page of many criteria can hold
_HUGE = 1e300  # differences of larger numbers overflow
_WIDE = 25  # times the median is the largest value: most others lie on the ground
_DECADES = 5  # shown below the largest value on a logarithmic scale


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where a chart is cut: how many stay, and what the mark is called ("kept", "plan")."""

    keep: int
    name: str


def falling(
    values: Sequence[float], what: str, cuts: Iterable[Cut] = (), *, logarithmic: bool = False
) -> Markup:
    """Draw values over their rank or step, with what is kept shaded: `what` says what they are."""
    array = np.asarray(values, np.float64)
    scale = Scale.of(array, logarithmic=logarithmic)
    marks = list(cuts)
    x = _places(len(array))
    line = _line(_thinned(x, scale.heights(array)))
    first = marks[0].keep if marks else len(array)
    kept = _thinned(x[: first or 1], scale.heights(array[: first or 1]))
    floor = scale.height(max(scale.low, 0.0))
    area = f"M{kept[0][0]:.1f} {floor:.1f}L{line_of(kept)}V{floor:.1f}Z"
    body = [_frame(scale, len(array)), Markup('<path class="area" d="{}"/>').format(area)]
    body.append(Markup('<path class="curve" d="{}"/>').format(line))
    body += [_cut(mark, len(array), row) for row, mark in enumerate(marks)]
    return _chart(f"{what}, {len(array)} values{_told(marks)}", body)


def stems(
    values: Sequence[float], bounds: Sequence[float], keep: Sequence[bool], what: str
) -> Markup:
    """Draw a stem per node on a logarithmic scale, and the bound that each had to exceed to stay."""
    drawn = np.unique(np.linspace(0, len(values) - 1, min(len(values), _MOST_STEMS)).astype(int))
    high, bound, stays = (np.asarray(a)[drawn] for a in (values, bounds, keep))
    scale = Scale.of(np.concatenate([high, bound]), logarithmic=True)
    x, floor = _places(len(high)), scale.height(scale.low)
    tops = scale.heights(high)
    body = [_frame(scale, len(values))]
    for name, chosen in (("gone", ~stays), ("stays", stays)):
        path = "".join(
            f"M{a:.1f} {floor:.1f}V{min(b, floor - 1):.1f}"
            for a, b in zip(x[chosen], tops[chosen], strict=True)
        )
        wide = Markup(' stroke-width="{}"').format(f"{max(0.8, min(4.0, 180 / len(high))):.1f}")
        if path:
            body.append(Markup('<path class="stem {}"{} d="{}"/>').format(name, wide, path))
    body.append(
        Markup('<path class="bound" d="{}"/>').format(_line(_thinned(x, scale.heights(bound))))
    )
    return _chart(f"{what}: {sum(keep)} of {len(values)} stay", body)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A chart that is drawn when it is shown, its name, and what is said beside that."""

    name: str
    draw: Callable[[], Markup]
    said: str = ""


def beside_each_other(figures: Sequence[Figure]) -> Markup:
    """Return small charts in as many columns as there is room; of very many the first, which is said."""
    drawn = [
        Markup(
            '<figure><figcaption><span class="name">{}</span><span class="said">{}</span></figcaption>'
            "{}</figure>"
        ).format(figure.name, figure.said, figure.draw())
        for figure in figures[:_MOST_CHARTS]
    ]
    grid = Markup('<div class="multiples">{}</div>').format(Markup("\n").join(drawn))
    left = len(figures) - len(drawn)
    return grid + (Markup("<p>{} more groups are not drawn.</p>").format(left) if left else "")


def bar(before: float, after: float, largest: float) -> Markup:
    """Draw what is left of a length, on a scale that several bars share."""
    widths = [f"{100 * value / (largest or 1):.2f}" for value in (before, after)]
    return Markup(
        '<svg class="bar2" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="whole" width="{}" height="10"/><rect class="left" width="{}" height="10"/></svg>'
    ).format(*widths)


def box(values: Sequence[float], scale: Scale) -> Markup:
    """Draw least, quartiles and most of values on a scale that several boxes may share."""
    quantiles = scale.shares(np.quantile(np.asarray(values, np.float64), [0, 0.25, 0.5, 0.75, 1]))
    least, first, middle, third, most = (f"{100 * share:.2f}" for share in quantiles)
    return Markup(
        '<svg class="box" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<path class="whisker" d="M{} 5H{}"/><path class="quartiles" d="M{} 5H{}"/>'
        '<path class="median" d="M{} 0V10"/></svg>'
    ).format(least, most, first, third, middle)


@dataclasses.dataclass(frozen=True)
class Scale:
    """From values to places: `low` and `high` are its ends."""

    low: float
    high: float
    logarithmic: bool = False

    @classmethod
    def of(cls, values: Floats, *, logarithmic: bool = False) -> Scale:
        """Span all values and zero; on a logarithmic scale whole decades, the last few at most."""
        values = np.clip(values, -_HUGE, _HUGE)
        if not logarithmic:
            low, high = min(float(values.min()), 0.0), float(values.max())
            return cls(low, high if high > low else low + 1.0)
        positive = values[values > 0]
        top = math.ceil(math.log10(positive.max())) if len(positive) else 0
        least = math.floor(math.log10(positive.min())) if len(positive) else -1
        return cls(10.0 ** max(min(least, top - 1), top - _DECADES), 10.0**top, logarithmic=True)

    def shares(self, values: Floats) -> Floats:
        """Return how far along the scale values are, from 0 to 1; what is below lies at 0."""
        low, high, values = self.low, self.high, np.clip(values, self.low, self.high)
        if self.logarithmic:
            low, high, values = math.log10(low), math.log10(high), np.log10(values)
        found: Floats = (values - low) / (high - low)
        return found

    def heights(self, values: Floats) -> Floats:
        """Return heights in a chart, downwards from the top."""
        return np.asarray(_TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - self.shares(values)))

    def height(self, value: float) -> float:
        """Return the height of one value."""
        return float(self.heights(np.array([value]))[0])


def is_wide(values: Floats) -> bool:
    """Tell whether values need a logarithmic scale: most would lie on the ground of another."""
    high = float(values.max())
    return bool(values.min() >= 0 < high and np.median(values) < high / _WIDE)


def _places(count: int) -> Floats:
    """Return the places of ranks from left to right."""
    inside = WIDTH - _LEFT - _RIGHT
    return np.asarray(_LEFT + inside * (np.arange(count) + 0.5) / count, np.float64)


def _thinned(x: Floats, y: Floats) -> list[tuple[float, float]]:
    """Return points, of too many the highest of each neighbourhood, and always the last."""
    if len(x) <= _MOST_POINTS:
        return list(zip(x.tolist(), y.tolist(), strict=True))
    parts = np.array_split(np.arange(len(x)), _MOST_POINTS)
    best = [int(part[np.argmin(y[part])]) for part in parts]
    return [(float(x[i]), float(y[i])) for i in [*best[:-1], len(x) - 1]]


def line_of(points: Sequence[tuple[float, float]]) -> str:
    """Write points as a path goes through them."""
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _line(points: Sequence[tuple[float, float]]) -> str:
    return f"M{line_of(points)}"


def _frame(scale: Scale, count: int) -> Markup:
    """Draw the ground, both ends of the scale and the number of values."""
    top, floor = _TOP, HEIGHT - _BOTTOM
    return Markup(
        '<path class="axis" d="M{} {}V{}H{}"/>'
        '<text class="tick y" x="{}" y="{}">{}</text><text class="tick y" x="{}" y="{}">{}</text>'
        '<text class="tick" x="{}" y="{}">1</text><text class="tick end" x="{}" y="{}">{}</text>'
    ).format(
        _LEFT, top, floor, WIDTH - _RIGHT,
        _LEFT - 4, top + 4, f"{scale.high:.2g}", _LEFT - 4, floor, f"{scale.low:.2g}",
        _LEFT, HEIGHT - 6, WIDTH - _RIGHT, HEIGHT - 6, count,
    )  # fmt: skip


def _cut(mark: Cut, count: int, row: int) -> Markup:
    """Draw where a chart is cut, and how many stay; the label keeps inside."""
    x = _LEFT + (WIDTH - _LEFT - _RIGHT) * mark.keep / count
    right = x > WIDTH * 0.6
    return Markup(
        '<path class="cut cut{}" d="M{} {}V{}"/><text class="label{} cut{}" x="{}" y="{}">{} {}</text>'
    ).format(
        row, f"{x:.1f}", _TOP - 6, HEIGHT - _BOTTOM, " end" if right else "", row,
        f"{x + (-4 if right else 4):.1f}", _TOP + 3 + 13 * row, mark.keep, mark.name,
    )  # fmt: skip


def _told(marks: Sequence[Cut]) -> str:
    return "".join(f", {mark.keep} {mark.name}" for mark in marks)


def _chart(label: str, body: Iterable[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, HEIGHT, label, Markup("").join(body))
