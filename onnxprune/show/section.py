"""What a section of the report page is, and what it is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Protocol

from ..core.registry import Registry
from ..plan import Frontier, Plan, RankedGroup, Scores
from ..timing.run import BenchReport
from .charts import Figure, beside_each_other


@dataclasses.dataclass(frozen=True)
class Documents:
    """What a report is of.

    Attributes:
        plans, scores, frontiers, benches: by the name that tells each from the others on the page.
    """

    plans: Mapping[str, Plan] = dataclasses.field(default_factory=dict)
    scores: Mapping[str, Scores] = dataclasses.field(default_factory=dict)
    frontiers: Mapping[str, Frontier] = dataclasses.field(default_factory=dict)
    benches: Mapping[str, BenchReport] = dataclasses.field(default_factory=dict)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All of them, plans first."""
        return (*self.plans, *self.scores, *self.frontiers, *self.benches)

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Names of the original models, each once."""
        told: list[Plan | Scores] = [*self.plans.values(), *self.scores.values()]
        names = [document.model.name for document in told]
        names += [frontier.model.name for frontier in self.frontiers.values()]
        names += [bench.models[0].path.name for bench in self.benches.values()]
        return tuple(dict.fromkeys(names))


class Section(Protocol):
    """One section: a title, a template, and what that is filled with; registered in `SECTIONS`.

    Attributes:
        place: sections stand in ascending order of it.
        title: its heading, and what the list of contents says.
        template: jinja2 text, which escapes what it is given; charts are `Markup` (`charts.py`).
        markdown: the same without charts, for `--md`; empty: left out there.
    """

    place: int
    title: str
    template: str
    markdown: str

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return the names that the template speaks of; None where there is nothing to show."""
        ...


BLOCKS = """
{% for name, charts in blocks %}
{% if blocks | length > 1 %}<h3>{{ name }}</h3>{% endif %}
{{ charts }}
{% endfor %}
"""  # what `charts_by_criterion` fills


def charts_by_criterion(
    documents: Documents, draw: Callable[[str, RankedGroup], Figure | None]
) -> Mapping[str, Any] | None:
    """Return small charts of groups for every criterion of every document that has some.

    Args:
        documents: what the report is of.
        draw: makes the chart of one group, given its name; None where there is nothing to draw.
    """
    blocks = []
    for name, scores in documents.scores.items():
        names = [group.name for group in scores.groups]
        for scored in scores.criteria:
            drawn = (draw(*pair) for pair in zip(names, scored.groups, strict=True))
            if figures := [figure for figure in drawn if figure is not None]:
                label = f"{scored.label(scores.criteria)}, {name}"
                blocks.append((label, beside_each_other(figures)))
    return {"blocks": blocks} if blocks else None


SECTIONS: Registry[Section] = Registry("section")
