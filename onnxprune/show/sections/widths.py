"""Widths of the groups before and after, per plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...plan import Change, Plan
from ..charts import bar
from ..section import SECTIONS, Documents


class Widths:
    """A bar per group; the scale is that of the widest."""

    place = 20
    title = "Widths"
    template = """
<p>Channels on the axis of each group: what stays, of what there was.</p>
{% for name, rows in plans %}
{% if plans | length > 1 %}<h3 class="name">{{ name }}</h3>{% endif %}
<div class="scroll"><table class="bars"><thead><tr><th>group</th><th class="wide">channels</th><th class="number">from, to</th><th class="number">kept</th></tr></thead><tbody>
{% for group, change, bar in rows %}
<tr{% if change.after == change.before %} class="same"{% endif %}><td class="name">{{ group }}</td><td class="wide">{{ bar }}</td><td class="number">{{ change | arrow }}</td><td class="number">{{ change | kept }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
"""
    markdown = """
<details><summary>from, to</summary>

{% for name, rows in plans %}
| group | channels | kept |
| --- | --- | --- |
{% for group, change, bar in rows if change.after != change.before %}
| {{ group }} | {{ change | arrow }} | {{ change | kept }} |
{% endfor %}

{% endfor %}
</details>
"""

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return the rows of every plan."""
        plans = [(name, _rows(plan)) for name, plan in documents.plans.items() if plan.groups]
        return {"plans": plans} if plans else None


def _rows(plan: Plan) -> list[tuple[Any, ...]]:
    largest = max(group.before for group in plan.groups)
    return [
        (group.name, Change(group.before, group.after), bar(group.before, group.after, largest))
        for group in plan.groups
    ]


SECTIONS.register("widths")(Widths())
