"""Times: of files side by side, node by node, and how a budget in time was met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...pipeline.timed import Times
from ...plan import Plan
from ...timing.judge import Timed
from ...timing.run import BenchReport, CellReport
from ..charts import bar
from ..section import SECTIONS, Documents
from ..words import amount, digits, share

_MOST_NODES = 40
_MOST_FILES = 6  # whose nodes stand side by side
_TIMES = TypeAdapter(Times)
_CELLS = ("model", "MACs", "ms", "times as fast", "between", "")


class RunTimes:
    """Cells, then the slowest nodes with a bar per file, then what holds each file up."""

    place = 30
    title = "Time"
    template = """
{% for name, plan in plans %}
<p>{% if plans | length > 1 %}<span class="name">{{ name }}</span>: {% endif %}{{ plan.note }}</p>
<div class="scroll"><table><thead><tr><th class="number">round</th><th class="number">aimed at</th><th class="number">the fit said</th><th class="number">the clock said</th></tr></thead><tbody>
{% for row in plan.rows %}
<tr>{% for cell in row %}<td class="number">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
{% for name, bench in benches %}
{% if benches | length > 1 %}<h3 class="name">{{ name }}</h3>{% endif %}
<p>{{ bench.note }}</p>
{% for cell, rows in bench.cells %}
<h3>{{ cell }}</h3>
<div class="scroll"><table class="bars"><thead><tr><th>model</th><th class="wide">median</th>{% for head in heads[1:] %}<th class="number">{{ head }}</th>{% endfor %}</tr></thead><tbody>
{% for bar, file, figures in rows %}
<tr><td class="name">{{ file }}</td><td class="wide">{{ bar }}</td>{% for figure in figures %}<td class="number">{{ figure }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
{% if bench.nodes %}
<h3>By node</h3>
<p>Microseconds per run of the {{ bench.nodes | length }} slowest of {{ bench.count }} nodes, after the provider's fusions; one profiled run is no comparison, the table above is.</p>
<div class="scroll"><table class="bars"><thead><tr><th>node</th><th class="wide">time</th>{% for file in bench.files %}<th class="number">{{ file }}</th>{% endfor %}</tr></thead><tbody>
{% for node, bars, times in bench.nodes %}
<tr><td class="name">{{ node }}</td><td class="wide">{% for bar in bars %}{{ bar }}{% endfor %}</td>{% for time in times %}<td class="number">{{ time }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if bench.findings %}<ul class="notes">{% for finding in bench.findings %}<li>{{ finding }}</li>{% endfor %}</ul>{% endif %}
{% endfor %}
"""
    markdown = """
{% for name, plan in plans %}
{{ plan.note }}

{% endfor %}
{% for name, bench in benches %}
{% for cell, rows in bench.cells %}
{{ cell }}:

|{% for head in heads %} {{ head }} |{% endfor %}

|{% for head in heads %} --- |{% endfor %}

{% for bar, file, figures in rows %}
| {{ file }} |{% for figure in figures %} {{ figure }} |{% endfor %}

{% endfor %}

{% endfor %}
{% for finding in bench.findings %}
* {{ finding }}
{% endfor %}

{{ bench.note }}

{% endfor %}
"""

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return every comparison, and every plan that met a budget in time."""
        plans = [(n, t) for n, plan in documents.plans.items() if (t := _of_plan(plan))]
        benches = [(name, _of_bench(bench)) for name, bench in documents.benches.items()]
        found = {"plans": plans, "benches": benches, "heads": _CELLS}
        return found if plans or benches else None


def _of_plan(plan: Plan) -> Mapping[str, Any] | None:
    """Return how a budget in time was met; None where there was none."""
    try:
        times = _TIMES.validate_python(plan.selection.get("times"))
    except ValidationError:
        return None
    note = (
        f"Asked for: {share(times.asked)} of the {digits(times.milliseconds)} ms that the original "
        f"takes. The fit of time to widths is off by {share(times.error)} at the median copy; "
        f"round {times.chosen + 1} was taken."
    )
    rows = [
        (str(number), share(r.aim), share(r.predicted), share(r.measured))
        for number, r in enumerate(times.rounds, 1)
    ]
    return {"note": note, "rows": rows}


def _of_bench(bench: BenchReport) -> Mapping[str, Any]:
    machine = bench.machine
    note = (
        f"{machine.processor}, {machine.cores} cores, {bench.provider}, onnxruntime "
        f"{machine.onnxruntime}; ratios at {100 * bench.confidence:g} % confidence."
    )
    names = [model.path.stem for model in bench.models]
    nodes = sorted(bench.nodes.items(), key=lambda item: -max(item[1]))
    largest = max((max(times) for _, times in nodes), default=1.0)
    shown = nodes[:_MOST_NODES] if len(names) <= _MOST_FILES else []
    return {
        "note": note,
        "cells": [(_setting(cell), list(_rows(bench, cell))) for cell in bench.cells],
        "count": len(nodes),
        "files": names,
        "nodes": [
            (name, [bar(largest, t, largest) for t in times], [f"{t:.0f}" if t else "" for t in times])
            for name, times in shown
        ],
        "findings": [
            f"{model.path.stem}: {100 * found.share:.0f} % of its time, where it is slower than its "
            f"MACs say: {found.cause} ({', '.join(found.nodes)}). {found.advice}"
            for model in bench.models[1:]
            for found in (model.findings if model.macs < bench.models[0].macs else ())
        ],
    }  # fmt: skip


def _setting(cell: CellReport) -> str:
    threads = f"{cell.threads} threads" if cell.threads else "threads as onnxruntime chooses"
    return f"batch {cell.batch}, {threads}"


def _rows(bench: BenchReport, cell: CellReport) -> Iterator[tuple[Any, ...]]:
    slowest = max(timed.median for timed in cell.models)
    for number, (model, timed) in enumerate(zip(bench.models, cell.models, strict=False)):
        figures = (amount(model.macs), digits(timed.median), *_ratio(timed, first=not number))
        yield bar(slowest, timed.median, slowest), model.path.name, figures


def _ratio(timed: Timed, *, first: bool) -> tuple[str, str, str]:
    if first:
        return "", "", ""
    low, high = timed.between
    return f"{timed.ratio:.3f}", f"{low:.3f} - {high:.3f}", timed.verdict


SECTIONS.register("times")(RunTimes())
