"""What the user should know: notes of the criteria and about the samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..section import SECTIONS, Documents


class Notes:
    """A list, each note once."""

    place = 80
    title = "Notes"
    template = """
<ul class="notes">
{% for note in notes %}
<li>{{ note }}</li>
{% endfor %}
</ul>
"""
    markdown = """
{% for note in notes %}
* {{ note }}
{% endfor %}
"""

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return all notes in order."""
        said = [
            note
            for scores in documents.scores.values()
            for notes in (*(r.notes for c in scores.criteria for r in c.groups), scores.notes)
            for note in notes
        ]
        said += [note for frontier in documents.frontiers.values() for note in frontier.notes]
        said += [note for bench in documents.benches.values() for note in bench.notes]
        return {"notes": list(dict.fromkeys(said))} if said else None


SECTIONS.register("notes")(Notes())
