"""Scores of all units, per criterion: their range in every group, and sorted with the cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...plan import Plan, RankedGroup, Scored, ScoredGroup
from ..charts import Cut, Figure, Scale, beside_each_other, box, falling, is_wide
from ..section import SECTIONS, Documents


@dataclasses.dataclass(frozen=True)
class _Shown:
    """One group: its scores, falling, and where they are cut."""

    name: str
    scores: Sequence[float]
    cuts: tuple[Cut, ...]


class ScoreCharts:
    """A box per group, then a chart per group."""

    place = 40
    title = "Scores"
    markdown = ""  # nothing but charts
    template = """
<p>Higher stays. Boxes: least, quartiles, most. Charts: the units of a group by falling score; what is
shaded stays.</p>
{% for name, note, rows, charts in blocks %}
<h3>{{ name }}</h3>
<p>{{ note }}</p>
<details open><summary>ranges of {{ rows | length }} groups</summary>
<div class="scroll"><table class="bars"><thead><tr><th>group</th><th class="wide">range</th><th class="number">least</th><th class="number">median</th><th class="number">most</th></tr></thead><tbody>
{% for group, box, least, median, most in rows %}
<tr><td class="name">{{ group }}</td><td class="wide">{{ box }}</td><td class="number">{{ least }}</td><td class="number">{{ median }}</td><td class="number">{{ most }}</td></tr>
{% endfor %}
</tbody></table></div></details>
<details open><summary>{{ rows | length }} groups, sorted</summary>
{{ charts }}</details>
{% endfor %}
"""

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return what each criterion says, and each plan without scores of its own file."""
        blocks = [*_of_scores(documents), *_of_plans(documents)]
        return {"blocks": blocks} if blocks else None


def planned(documents: Documents, name: str, scored: Scored) -> Plan | None:
    """Return the plan that decided about the model of some scores by that criterion."""
    model = documents.scores[name].model.sha256
    for plan in documents.plans.values():
        same = plan.criterion.name, plan.criterion.settings
        if plan.model.sha256 == model and same == (scored.name, scored.settings):
            return plan
    return None


def cuts(group: ScoredGroup, ranked: RankedGroup, plan: Plan | None) -> tuple[Cut, ...]:
    """Return where a plan cuts a group, or else the criterion itself."""
    if plan is not None:
        for decided in plan.groups:
            if decided.name == group.name:
                lost = [range(*pair) for pair in decided.removed]
                gone = sum(any(unit[0][0] in run for run in lost) for unit in group.units)
                return (Cut(len(group.units) - gone, "kept"),)
    return () if ranked.count is None else (Cut(ranked.count, "kept"),)


def _of_scores(documents: Documents) -> Iterator[tuple[Any, ...]]:
    for name, scores in documents.scores.items():
        for scored in scores.criteria:
            plan = planned(documents, name, scored)
            pairs = zip(scores.groups, scored.groups, strict=True)
            shown = [_Shown(g.name, r.scores, cuts(g, r, plan)) for g, r in pairs]
            source = name if len(documents.names) > 1 else ""
            yield _block(scored.label(scores.criteria), source, scored.comparable, shown)


def _of_plans(documents: Documents) -> Iterator[tuple[Any, ...]]:
    """Show scores that stand in a plan only; where units are channels, they are cut, too."""
    known = {
        (scores.model.sha256, scored.name)
        for scores in documents.scores.values()
        for scored in scores.criteria
    }
    for name, plan in documents.plans.items():
        if (plan.model.sha256, plan.criterion.name) in known:
            continue
        groups = [group for group in plan.groups if group.scores]
        if groups:
            cut = {g.name: (Cut(g.after, "kept"),) for g in groups if len(g.scores) == g.before}
            shown = [_Shown(g.name, g.scores, cut.get(g.name, ())) for g in groups]
            yield _block(plan.criterion.name, name, None, shown)


def _block(
    name: str, source: str, comparable: bool | None, shown: Sequence[_Shown]
) -> tuple[Any, ...]:
    notes = {
        True: "Scores of different groups can be compared.",
        False: "Scores can be compared within a group only, so every box has a scale of its own.",
        None: "As the plan says them; every box has a scale of its own.",
    }
    every = np.concatenate([np.asarray(group.scores, np.float64) for group in shown])
    wide = is_wide(every)
    rows, charts = [], []
    for group in shown:
        values = np.sort(np.asarray(group.scores, np.float64))[::-1]
        drawn = box(group.scores, Scale.of(every if comparable else values, logarithmic=wide))
        said = (f"{v:.3g}" for v in (values.min(), np.median(values), values.max()))
        rows.append((group.name, drawn, *said))
        what = f"scores of {group.name}"
        draw = partial(falling, values.tolist(), what, group.cuts, logarithmic=wide)
        charts.append(Figure(group.name, draw))
    said_of_scale = " Scales are logarithmic." if wide else ""
    return (
        name,
        f"{f'From {source}. ' if source else ''}{notes[comparable]}{said_of_scale}",
        rows,
        beside_each_other(charts),
    )


SECTIONS.register("scores")(ScoreCharts())
