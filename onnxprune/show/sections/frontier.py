"""The frontier: what is lost against what remains, for the files of a sweep and the trials of a search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from markupsafe import Markup
from pydantic import TypeAdapter, ValidationError

from ...measure.drop import Search
from ...plan import Frontier, Plan, Point
from ..charts import Figure, beside_each_other
from ..frontier_text import said
from ..scatter import Dot, scatter
from ..section import SECTIONS, Documents
from ..words import digits, share, size

_SEARCH = TypeAdapter(Search)
_Row = tuple[str, ...]
_COSTS = {"macs": "MACs", "params": "parameters", "bytes": "bytes"}


class Frontiers:
    """A chart per cost, and all points as a table."""

    place = 15
    title = "What is lost against what remains"
    template = """
{% for name, note, charts, head, rows in found %}
{% if found | length > 1 %}<h3 class="name">{{ name }}</h3>{% endif %}
<p>{{ note }}. Filled dots: no other file is better in everything; whiskers reach down to what is sure.</p>
{{ charts }}
<div class="scroll"><table><thead><tr>{% for title in head %}<th{% if not loop.first %} class="number"{% endif %}>{{ title }}</th>{% endfor %}</tr></thead><tbody>
{% for row in rows %}
<tr>{% for cell in row %}<td class="{{ "name" if loop.first else "number" }}">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
"""
    markdown = """
{% for name, note, charts, head, rows in found %}
{% if found | length > 1 %}### {{ name }}

{% endif %}
|{% for title in head %} {{ title }} |{% endfor %}

|{% for title in head %} --- |{% endfor %}

{% for row in rows %}
|{% for cell in row %} {{ cell }} |{% endfor %}

{% endfor %}

{{ note }}.

{% endfor %}
"""

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return every frontier, and every search that a plan tells of."""
        found = [_of_frontier(name, f) for name, f in documents.frontiers.items() if f.points]
        for name, plan in documents.plans.items():
            found += _of_plan(name, plan)
        return {"found": found} if found else None


def _of_frontier(name: str, found: Frontier) -> tuple[Any, ...]:
    """Return name, note, charts, heads and rows of a sweep."""
    points = found.points
    remains = {
        label: [getattr(p, key) / (getattr(found, key) or 1) for p in points]
        for key, label in _COSTS.items()
    }
    times = [p.time for p in points if p.time is not None]
    if len(times) == len(points):
        remains["time"] = [1 / time.ratio for time in times]
    best = found.accuracy if found.metric == "accuracy" and found.accuracy is not None else 1.0
    losses = [(p.model.name, p.lost, p.bound, p.dominated is None) for p in points]
    charts = _charts(found.metric, best, losses, remains)
    timed = ["times as fast"] if times else []
    head = [
        "file",
        "MACs",
        "parameters",
        "size",
        *timed,
        f"{found.metric} lost",
        "at most",
        "beaten by",
    ]
    return name, said(found), charts, head, [_row(found, point) for point in points]


def _row(found: Frontier, point: Point) -> _Row:
    timed = [digits(point.time.ratio)] if point.time is not None else []
    return (
        point.model.name, f"{point.macs / (found.macs or 1):.1%}",
        f"{point.params / (found.params or 1):.1%}", size(point.bytes), *timed, share(point.lost),
        share(point.bound), point.dominated or "",
    )  # fmt: skip


def _of_plan(name: str, plan: Plan) -> Iterator[tuple[Any, ...]]:
    """Yield the search of a plan, where there was one."""
    try:
        search = _SEARCH.validate_python(plan.selection.get("search"))
    except ValidationError:  # there was none, or one that told of losses without end
        return
    whole = {key: plan.figures[key].before for key in ("macs", "params") if key in plan.figures}
    trials = sorted(search.trials, key=lambda trial: -trial.macs)
    if not trials or len(whole) < len(_COSTS) - 1:
        return
    remains = {
        _COSTS[key]: [getattr(t, key) / (n or 1) for t in trials] for key, n in whole.items()
    }
    losses = [(f"trial {n}", t.drop.value, t.drop.bound, True) for n, t in enumerate(trials, 1)]
    rows = [
        (
            f"trial {n}", *(f"{values[n - 1]:.1%}" for values in remains.values()),
            share(t.drop.value), share(t.drop.bound), "yes" if t.drop.holds else "no",
        )
        for n, t in enumerate(trials, 1)
    ]  # fmt: skip
    head = ["", "MACs", "parameters", f"{search.metric} lost", "at most", "holds"]
    note = f"Tried for --max-drop {share(search.limit)}, judged on {search.samples} samples"
    yield name, note, _charts(search.metric, 1.0, losses, remains), head, rows


def _charts(
    metric: str,
    best: float,
    losses: list[tuple[str, float, float, bool]],
    remains: Mapping[str, list[float]],
) -> Markup:
    """Draw one chart per cost; losses are name, loss, its bound, and whether nothing beats it."""
    error = metric == "error"
    top, title = (0.0, "output error") if error else (best, metric)
    figures = []
    for label, shares in remains.items():
        dots = [Dot("original", 1.0, top)]
        dots += [
            Dot(name, x, top - lost, top - bound, is_best)
            for x, (name, lost, bound, is_best) in zip(shares, losses, strict=True)
        ]
        what = f"{title} by {label}"
        draw = partial(scatter, dots, what, label, _error if error else _short)
        figures.append(Figure(what, draw))
    return beside_each_other(figures)


def _short(value: float) -> str:
    return f"{100 * value:.4g} %"


def _error(value: float) -> str:
    return _short(abs(value))


SECTIONS.register("frontier")(Frontiers())
