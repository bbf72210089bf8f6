"""Every setting and version, and which model and samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...plan import DataId, Frontier, Plan, Scores, Step
from ...timing.run import BenchReport
from ..section import SECTIONS, Documents

_Row = tuple[str, object]


class AllSettings:
    """A table per document."""

    place = 90
    title = "Settings and versions"
    template = """
{% for name, rows in tables %}
<h3 class="name">{{ name }}</h3>
<div class="scroll"><table><tbody>
{% for key, value in rows %}
<tr><th scope="row">{{ key }}</th><td class="name">{{ value }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
"""
    markdown = """
<details><summary>all</summary>

{% for name, rows in tables %}
| {{ name }} | |
| --- | --- |
{% for key, value in rows %}
| {{ key }} | {{ value }} |
{% endfor %}

{% endfor %}
</details>
"""

    def fill(self, documents: Documents) -> Mapping[str, Any] | None:
        """Return one table per document."""
        tables = [(name, list(_of_plan(plan))) for name, plan in documents.plans.items()]
        tables += [(name, list(_of_scores(scores))) for name, scores in documents.scores.items()]
        tables += [(name, list(_of_frontier(f))) for name, f in documents.frontiers.items()]
        tables += [(name, list(_of_bench(bench))) for name, bench in documents.benches.items()]
        return {"tables": tables}


def _of_plan(plan: Plan) -> Iterator[_Row]:
    yield from _model(plan.model.name, plan.model.sha256, plan.data)
    yield from _step("criterion", plan.criterion)
    yield from ((f"selection: {key}", value) for key, value in sorted(plan.selection.items()))
    yield from _step("repair", plan.repair or Step("none"))
    yield from ((f"proof: {key}", value) for key, value in sorted((plan.proof or {}).items()))
    yield "seed", plan.seed
    yield from _versions(plan.versions)


def _of_scores(scores: Scores) -> Iterator[_Row]:
    yield from _model(scores.model.name, scores.model.sha256, scores.data)
    for scored in scores.criteria:
        step = Step(scored.name, scored.settings)
        yield from _step(f"criterion {scored.label(scores.criteria)}", step)
    yield "labels", scores.labels or "none"
    yield "rows per sample", scores.rows
    yield "unlocked", ", ".join(scores.unlocked) or "nothing"
    yield "seed", scores.seed
    yield from _versions(scores.versions)


def _of_frontier(frontier: Frontier) -> Iterator[_Row]:
    yield from _model(frontier.model.name, frontier.model.sha256, frontier.data)
    yield from _step("criterion", frontier.criterion)
    yield from _step("repair", frontier.repair)
    yield "confidence", frontier.confidence
    yield "machine", frontier.machine or "nothing was timed"
    yield "seed", frontier.seed
    yield from _versions(frontier.versions)


def _of_bench(bench: BenchReport) -> Iterator[_Row]:
    yield "models", ", ".join(str(model.path) for model in bench.models)
    yield "provider", bench.provider
    yield from sorted(vars(bench.machine).items())


def _model(name: str, sha256: str, data: DataId | None) -> Iterator[_Row]:
    yield "model", name
    yield "SHA-256", sha256
    if data is None:
        yield "samples", "none"
    else:
        yield "samples", f"{data.samples}{', random' if data.random else ''}; {data.digest}"


def _step(what: str, step: Step) -> Iterator[_Row]:
    yield what, step.name
    yield from ((f"{what}: {key}", value) for key, value in sorted(step.settings.items()))


def _versions(versions: Mapping[str, str]) -> Iterator[_Row]:
    yield "versions", ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


SECTIONS.register("settings")(AllSettings())
