"""What a section of the report page is, and what it is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol

from ..core.registry import Registry
from ..plan import Plan, Scores


@dataclasses.dataclass(frozen=True)
class Documents:
    """What a report is of.

    Attributes:
        plans, scores: by the name that tells each from the others on the page.
    """

    plans: Mapping[str, Plan]
    scores: Mapping[str, Scores]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All of them, plans first."""
        return (*self.plans, *self.scores)


class Section(Protocol):
    """One section: a title, a template, and what that is filled with; registered in `SECTIONS`.

    Attributes:
        place: sections stand in ascending order of it.
        title: its heading, and what the list of contents says.
        template: jinja2 text, which escapes what it is given; charts are `Markup` (`charts.py`).
    """

    place: int
    title: str
    template: str

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return the names that the template speaks of; None where there is nothing to show."""
        ...


SECTIONS: Registry[Section] = Registry("section")
