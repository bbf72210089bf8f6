"""What could not go, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..section import SECTIONS, Documents


class Stays:
    """Weights and nodes by reason."""

    place = 70
    title = "What could not go"
    template = """
{% for name, tables in plans %}
{% if plans | length > 1 %}<h3 class="name">{{ name }}</h3>{% endif %}
{% for what, views in tables if views %}
<div class="scroll"><table><thead><tr><th>{{ what }}</th><th class="number">how many</th><th>such as</th></tr></thead><tbody>
{% for view in views %}
<tr><td>{{ view.reason }}</td><td class="number">{{ view.count }}</td><td class="name">{{ view.told() }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
{% endfor %}
"""
    markdown = """
{% for name, tables in plans %}
{% for what, views in tables if views %}
{% for view in views %}
* {{ view.reason }}: {{ view.count }} ({{ view.told() }})
{% endfor %}
{% endfor %}
{% endfor %}
"""

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return the plans that name something, each model once."""
        told: dict[Any, str] = {}
        for name, plan in documents.plans.items():
            if plan.frozen or plan.opaque:
                told.setdefault((plan.model, plan.frozen, plan.opaque), name)
        plans = [
            (
                name,
                [
                    ("outputs of weights stay, since", frozen),
                    ("all that these nodes touch stays", opaque),
                ],
            )
            for (_, frozen, opaque), name in told.items()
        ]
        return {"plans": plans} if plans else None


SECTIONS.register("frozen")(Stays())
