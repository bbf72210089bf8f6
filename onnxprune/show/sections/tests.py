"""TERC: which nodes transfer information to the next layer, node by node."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup

from ...plan import RankedGroup
from ..charts import Figure, stems
from ..section import BLOCKS, SECTIONS, Documents, charts_by_criterion

_CURVES = ("rise", "bound", "order")


class Tests:
    """A chart per group of every criterion that tests nodes."""

    place = 35
    title = "Tests of nodes (TERC)"
    markdown = ""  # nothing but charts
    template = (
        """
<p>Nodes in the order in which they were tested, least informative first. A stem is how much the loss of
predicting the next layer rises without the node, as a share of what predicting the mean costs, on a
logarithmic scale; the line is what it must exceed for the node to stay.</p>
<ul class="legend"><li class="keeps"><svg width="16" height="16" aria-hidden="true"><path d="M8 1v14" stroke="currentColor" stroke-width="4"/></svg>stays</li>
<li class="fixed"><svg width="16" height="16" aria-hidden="true"><path d="M8 1v14" stroke="currentColor" stroke-width="4"/></svg>goes</li>
<li class="limit"><svg width="16" height="16" aria-hidden="true"><path d="M0 8h16" stroke="currentColor" stroke-width="2"/></svg>bound</li></ul>
"""
        + BLOCKS
    )

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return the charts of every criterion with tests."""
        return charts_by_criterion(documents, _figure)


def _figure(name: str, ranked: RankedGroup) -> Figure | None:
    if not _tested(ranked):
        return None
    return Figure(name, partial(_chart, name, ranked), _said(ranked))


def _tested(ranked: RankedGroup) -> bool:
    """Tell whether there are curves of tests, one value per unit."""
    count = len(ranked.scores)
    curves = [ranked.curves.get(name, ()) for name in _CURVES]
    fits = all(len(curve) == count for curve in curves)
    return ranked.kept is not None and fits and sorted(curves[2]) == list(range(count))


def _chart(name: str, ranked: RankedGroup) -> Markup:
    rise, bound, order = (np.asarray(ranked.curves[curve]) for curve in _CURVES)
    stays = np.zeros(len(rise), np.bool_)
    for start, stop in ranked.kept or ():
        stays[start:stop] = True
    places = order.astype(np.int64)
    what = f"loss rise per node of {name}"
    return stems(rise[places].tolist(), bound[places].tolist(), stays[places].tolist(), what)


def _said(ranked: RankedGroup) -> str:
    loss = ranked.curves.get("loss", ())
    lost = f"; loss {loss[0]:.3f}, then {loss[1]:.3f}" if len(loss) == 2 else ""
    return f"{ranked.count} of {len(ranked.scores)} stay{lost}"


SECTIONS.register("tests")(Tests())
