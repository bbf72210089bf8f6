"""Depth: how alike the points between blocks are, what formed clusters, and what each round cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from ...plan import DepthRound, PlannedDepth
from ..section import SECTIONS, Documents

_SIDE = 300  # of a heat map, in units of its view box
_SHADES = 12
_SETTINGS = ("tau", "k", "threshold", "cka", "level")


class Depth:
    """A heat map per round, and all rounds as a table."""

    place = 25
    title = "Blocks left out"
    template = """
{% for name, score, metric, judges, rounds, maps in plans %}
{% if plans | length > 1 %}<h3>{{ name }}</h3>{% endif %}
<p>By <b>{{ score }}</b>{% if metric %}; what a round lost is {{ metric }} on {{ judges }} samples that
no repair of it had seen{% endif %}.</p>
{% if maps %}
<p>Similarity (CKA) of the points where blocks begin and end, in order: the darker, the more alike.
Outlined are clusters, points like their first; a mark on the diagonal is where a block went.</p>
<div class="multiples">
{% for title, low, chart in maps %}
<figure><figcaption>{{ title }}<span class="said">white {{ low }}, dark 1</span></figcaption>{{ chart }}</figure>
{% endfor %}
</div>
{% endif %}
<div class="scroll"><table><thead><tr>
<th>round</th><th>settings</th><th>left out</th><th class="number">drop</th><th>kept so</th>
</tr></thead><tbody>
{% for number, settings, blocks, drop, accepted in rounds %}
<tr><td>{{ number }}</td><td>{{ settings }}</td><td class="name">{{ blocks }}</td>
<td class="number">{{ drop }}</td><td>{{ accepted }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
"""
    markdown = """
{% for name, score, metric, judges, rounds, maps in plans %}
| round | settings | left out | drop | kept so |
| --- | --- | --- | --- | --- |
{% for number, settings, blocks, drop, accepted in rounds %}
| {{ number }} | {{ settings }} | {{ blocks }} | {{ drop }} | {{ accepted }} |
{% endfor %}

{% endfor %}
"""

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return every plan whose blocks were chosen by a score."""
        plans = [
            (name, p.depth.score, p.depth.metric, p.depth.judges, _rows(p.depth), _maps(p.depth))
            for name, p in documents.plans.items()
            if p.depth is not None
        ]
        return {"plans": plans} if plans else None


def _rows(depth: PlannedDepth) -> list[tuple[int, str, str, str, str]]:
    return [
        (
            number,
            ", ".join(f"{s} {r.settings[s]}" for s in _SETTINGS if s in r.settings),
            ", ".join(r.blocks) or "nothing more",
            "" if r.drop is None else f"{100 * r.drop:.1f} %",
            "yes" if r.accepted else "no, undone",
        )
        for number, r in enumerate(depth.rounds, 1)
    ]


def _maps(depth: PlannedDepth) -> list[tuple[str, str, Markup]]:
    found = []
    for number, r in enumerate(depth.rounds, 1):
        if r.similarity:
            matrix = np.array(r.similarity, np.float64)  # None becomes NaN
            low = float(np.nanmin(matrix))
            found.append((f"round {number}", f"{low:.2g}", _heat_map(r, matrix, low)))
    return found


def _heat_map(r: DepthRound, matrix: Any, low: float) -> Markup:
    """Draw a matrix of similarities: one path for each shade, so that large ones stay small."""
    count = len(matrix)
    shades = (matrix - low) / max(1 - low, 1e-9) * _SHADES
    body = []
    for shade in range(1, _SHADES + 1):
        cells = np.argwhere(np.round(shades) == shade)
        path = "".join(f"M{x} {y}h1v1h-1z" for y, x in cells.tolist())
        if path:
            body.append(
                Markup('<path class="left" fill-opacity="{}" d="{}"/>').format(
                    f"{shade / _SHADES:.2f}", path
                )
            )
    clusters = "".join(_square(run[0], len(run)) for run in r.clusters if len(run) > 1)
    marks = "".join(f"M{n + 0.2} {n + 0.2}l.6 .6m0 -.6l-.6 .6" for n in r.cuts)
    for kind, path in (("cut", clusters), ("whisker", marks)):
        if path:
            body.append(
                Markup(
                    '<path class="{}" fill="none" vector-effect="non-scaling-stroke" d="{}"/>'
                ).format(kind, path)
            )
    return Markup('<svg class="chart" viewBox="0 0 {0} {0}" role="img" aria-label="{1}">{2}</svg>').format(
        _SIDE, _label(r, count),
        Markup('<g transform="scale({})">{}</g>').format(
            f"{_SIDE / count:.4f}", Markup("").join(body)
        ),
    )  # fmt: skip


def _square(first: int, size: int) -> str:
    return f"M{first} {first}h{size}v{size}h-{size}z"


def _label(r: DepthRound, count: int) -> str:
    runs = sum(len(run) > 1 for run in r.clusters)
    return f"similarity of {count} points, {runs} clusters, {len(r.blocks)} blocks left out"


SECTIONS.register("depth")(Depth())
