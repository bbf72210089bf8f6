"""CMI: what the channels that are left still tell, step by step, and where that was cut."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from markupsafe import Markup

from ...plan import RankedGroup
from ..charts import Cut, Figure, falling
from ..section import BLOCKS, SECTIONS, Documents, charts_by_criterion

_CURVE = "cmi"


class Curves:
    """A chart per group of every criterion that gives such a curve."""

    place = 30
    title = "Conditional mutual information"
    markdown = ""  # nothing but charts
    template = (
        """
<p>Channels in the order in which they were taken, each the one that tells most beside those before
it. The curve is what all others still tell then, in nats; where it levels off, the rest goes.</p>
"""
        + BLOCKS
    )

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return the charts of every criterion with curves."""
        return charts_by_criterion(documents, _figure)


def _figure(name: str, ranked: RankedGroup) -> Figure | None:
    return Figure(name, partial(_chart, name, ranked)) if ranked.curves.get(_CURVE) else None


def _chart(name: str, ranked: RankedGroup) -> Markup:
    cuts = () if ranked.count is None else (Cut(ranked.count, "kept"),)
    return falling(ranked.curves[_CURVE], f"what is left to tell of {name}, in nats", cuts)


SECTIONS.register("curves")(Curves())
