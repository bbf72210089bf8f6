"""CMI: what the channels that are left still tell, step by step, and where that was cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...plan import Scored
from ..charts import Cut, falling
from ..section import SECTIONS, Documents

_CURVE = "cmi"


class Curves:
    """A chart per group of every criterion that gives such a curve."""

    place = 30
    title = "Conditional mutual information"
    template = """
<p>Channels in the order in which they were taken, each the one that tells most beside those before
it. The curve is what all others still tell then, in nats; where it levels off, the rest goes.</p>
{% for name, charts in blocks %}
{% if blocks | length > 1 %}<h3>{{ name }}</h3>{% endif %}
<div class="multiples">
{% for group, chart in charts %}
<figure><figcaption class="name">{{ group }}</figcaption>{{ chart }}</figure>
{% endfor %}
</div>
{% endfor %}
"""

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return the charts of every criterion with curves."""
        blocks = []
        for name, scores in documents.scores.items():
            for scored in scores.criteria:
                names = [group.name for group in scores.groups]
                if charts := _charts(names, scored):
                    blocks.append((f"{scored.label(scores.criteria)}, {name}", charts))
        return {"blocks": blocks} if blocks else None


def _charts(names: list[str], scored: Scored) -> list[tuple[Any, ...]]:
    return [
        (
            name,
            falling(
                ranked.curves[_CURVE],
                f"what is left to tell of {name}, in nats",
                () if ranked.count is None else (Cut(ranked.count, "kept"),),
            ),
        )
        for name, ranked in zip(names, scored.groups, strict=True)
        if ranked.curves.get(_CURVE)
    ]


SECTIONS.register("curves")(Curves())
