"""What each plan comes to: costs before and after, how it was decided and proved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...plan import Plan
from ..charts import bar
from ..section import SECTIONS, Documents
from ..words import amount, size

_FIGURES: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "macs": ("MACs", amount),
    "params": ("parameters", amount),
    "bytes": ("file, as foreseen", size),
    "units": ("removable units", lambda value: f"{value:.0f}"),
}


class Figures:
    """A card per figure, and the proof."""

    place = 10
    title = "Before and after"
    template = """
{% for name, plan, cards, proof in plans %}
<h3 class="name">{{ name }}</h3>
<p>Asked for: {{ plan.selection.get("budget", "not said") }}. Scored by {{ plan.criterion.name }}{% if plan.selection.lost is defined %} (what goes holds {{ "%.1f" | format(100 * plan.selection.lost) }} % of all scores){% endif %}, {{ "no repair" if plan.repair is none or plan.repair.name == "none" else plan.repair.name ~ " repair" }}.</p>
<div class="cards">
{% for title, write, change, bar in cards %}
<div class="card"><span>{{ title }}</span><b>{{ write(change.after) }}</b><span>of {{ write(change.before) }}{% if change.after < change.before %}, {{ change | less }}{% endif %}</span>{{ bar }}</div>
{% endfor %}
</div>
{% if plan.blocks %}<p>Left out whole: <span class="name">{{ plan.blocks | map(attribute="name") | join(", ") }}</span>.</p>{% endif %}
{% for face in plan.interface %}<p>Interface changed: {{ face.kind }} <span class="name">{{ face.tensor }}</span>, axis {{ face.axis }}, of {{ face.size }} positions.</p>{% endfor %}
<p class="verdict{{ "" if proof else " none" }}">{{ proof or "Not proved: a dry run, or --no-verify." }}</p>
{% endfor %}
"""
    markdown = """
{% for name, plan, cards, proof in plans %}
{% if plans | length > 1 %}### {{ name }}

{% endif %}
{{ plan.selection.get("budget", "") }}, {{ plan.criterion.name }}, {{ "no" if plan.repair is none else plan.repair.name }} repair.

| | before | after | |
| --- | --- | --- | --- |
{% for title, write, change, bar in cards %}
| {{ title }} | {{ write(change.before) }} | {{ write(change.after) }} | {{ change | less }} |
{% endfor %}

{{ proof or "Not proved: a dry run, or --no-verify." }}

{% endfor %}
"""

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return plans with their cards."""
        plans = [(name, plan, _cards(plan), _proof(plan)) for name, plan in documents.plans.items()]
        return {"plans": plans} if plans else None


def _cards(plan: Plan) -> list[tuple[Any, ...]]:
    return [
        (title, write, change, bar(change.before, change.after, change.before))
        for name, (title, write) in _FIGURES.items()
        if (change := plan.figures.get(name)) is not None
    ]


def _proof(plan: Plan) -> str:
    """Say what was proved, with the figures that the plan gives; empty if nothing was."""
    if plan.proof is None:
        return ""
    figures = {"gap": "within {:.1e}", "tolerance": "allowed {:.0e}", "runs": "on {:.0f} inputs"}
    told = [text.format(plan.proof[key]) for key, text in figures.items() if key in plan.proof]
    return ": ".join(
        filter(
            None, ["Proved equal to the original with the removed parts silenced", ", ".join(told)]
        )
    )


SECTIONS.register("figures")(Figures())
