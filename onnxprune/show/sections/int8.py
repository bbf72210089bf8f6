"""The pruned models in int8, where `--then quantize` made them, against the originals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...plan import PlannedInt8
from ..section import SECTIONS, Documents
from ..words import digits, less, share, size


class InInt8:
    """A table per file: before and after, in the words of the command."""

    place = 12
    title = "In int8, too"
    template = """
{% for file, said, rows in files %}
<div class="scroll"><table><thead><tr><th></th><th class="number">original</th><th class="number">{{ file }}</th><th class="number"></th></tr></thead><tbody>
{% for row in rows %}
<tr><td>{{ row[0] }}</td>{% for cell in row[1:] %}<td class="number">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p>{{ said }}</p>
{% endfor %}
"""
    markdown = """
{% for file, said, rows in files %}
| | original | {{ file }} | |
| --- | --- | --- | --- |
{% for row in rows %}
|{% for cell in row %} {{ cell }} |{% endfor %}

{% endfor %}

{{ said }}

{% endfor %}
"""

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return all plans that say of such a file."""
        found = [plan.int8 for plan in documents.plans.values() if plan.int8 is not None]
        files = [(int8.model.name, _said(int8), list(_rows(int8))) for int8 in found]
        return {"files": files} if files else None


def _rows(int8: PlannedInt8) -> Iterator[tuple[str, ...]]:
    times, found = int8.milliseconds, int8.accuracy
    yield "file", size(int8.bytes.before), size(int8.bytes.after), less(int8.bytes)
    ms = (f"{digits(value)} ms" for value in (times.before, times.after))
    yield "latency", *ms, f"{int8.speedup:.2f}x as fast"
    if found is not None:
        points = f"{100 * (found.after - found.before):+.2f} points"
        yield "accuracy", share(found.before), share(found.after), points


def _said(int8: PlannedInt8) -> str:
    """Say how like the original it is."""
    if not int8.samples:
        return "Not compared with the original: no samples were held out."
    parts = []
    if int8.agreement is not None:
        parts.append(f"{share(int8.agreement)} agree with the original")
    if int8.error is not None:
        parts.append(f"outputs differ by {share(int8.error)}")
    return f"On {int8.samples} held-out samples: {', '.join(parts) or 'no output is a number'}."


SECTIONS.register("int8")(InInt8())
