"""CMI: what the channels that are left still tell, step by step, and where that was cut."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from markupsafe import Markup

from ...plan import RankedGroup, Scored
from ..charts import Cut, Figure, beside_each_other, falling
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
{{ charts }}
{% endfor %}
"""

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return the charts of every criterion with curves."""
        blocks = []
        for name, scores in documents.scores.items():
            for scored in scores.criteria:
                names = [group.name for group in scores.groups]
                if charts := _charts(names, scored):
                    blocks.append(
                        (f"{scored.label(scores.criteria)}, {name}", beside_each_other(charts))
                    )
        return {"blocks": blocks} if blocks else None


def _charts(names: list[str], scored: Scored) -> list[Figure]:
    pairs = zip(names, scored.groups, strict=True)
    return [Figure(name, partial(_chart, name, r)) for name, r in pairs if r.curves.get(_CURVE)]


def _chart(name: str, ranked: RankedGroup) -> Markup:
    cuts = () if ranked.count is None else (Cut(ranked.count, "kept"),)
    return falling(ranked.curves[_CURVE], f"what is left to tell of {name}, in nats", cuts)


SECTIONS.register("curves")(Curves())
