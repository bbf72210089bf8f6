"""The page and the Markdown of `onnxprune report`: frontiers, times, what could not go."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

import onnxprune as op
from onnxprune.cli import main
from onnxprune.plan import Settings, read_frontier, read_plan, write_plan
from onnxprune.plan.document import write_document
from onnxprune.show.report_page import in_markdown, report_page
from onnxprune.show.section import Documents
from onnxprune.timing.run import BenchReport, read_bench
from tests.test_html import browser, operated, show, title_of
from tests.test_report import hostile, made, section

__all__ = ["browser", "made"]  # fixtures


@pytest.fixture(scope="module")
def swept(home: Path) -> Path:
    """The digits: a sweep that was timed, a plan, and times of two files."""
    model, data = home / "digits.onnx", home / "train.npz"
    options: dict[str, Any] = {"data": data, "criterion": "l1", "samples": 64}
    op.sweep(model, home / "out", sweep="0.6,0.3", bench=True, **options)
    op.prune(model, home / "s.onnx", max_drop="30%", trials=2, judge_samples=100, **options)
    found = op.bench(model, home / "s.onnx", seconds=0.3, lives=2)
    assert isinstance(found, BenchReport)
    write_document(found, home / "b.json")
    op.report(*documents_of(home), output=home / "r.html")
    return home


def documents_of(home: Path) -> list[Path]:
    return [home / "s.plan.json", home / "out" / "frontier.json", home / "b.json"]


def test_frontiers_are_drawn(swept: Path) -> None:
    text = section(swept / "r.html", "frontier")
    found = read_frontier(swept / "out" / "frontier.json")

    for label in ("MACs", "parameters", "bytes", "time"):
        assert f"agreement by {label}, 3 points" in text
    for point in found.points:
        assert text.count(point.model.name) >= 5
        assert f'<td class="number">{point.macs / found.macs:.1%}</td>' in text
    assert "Tried for --max-drop 30.00 %, judged on 100 samples" in text
    trials = json.loads((swept / "s.plan.json").read_text())["selection"]["search"]["trials"]
    assert text.count(">trial ") >= len(trials)


def test_dominated_dots_are_hollow(swept: Path) -> None:
    found = read_frontier(swept / "out" / "frontier.json")
    first, second = found.points
    worse = dataclasses.replace(first, lost=0.5, bound=0.6, dominated=second.model.name)
    shown = dataclasses.replace(found, points=(worse, second))

    text = report_page(Documents(frontiers={"f": shown}))

    assert text.count('class="dot beaten"') == 4
    assert text.count('class="dot"') == 8
    assert f'<td class="number">{second.model.name}</td>' in text


def test_times_by_node(swept: Path) -> None:
    text = section(swept / "r.html", "times")
    found = read_bench(swept / "b.json")

    slowest = max(found.nodes, key=lambda name: max(found.nodes[name]))
    assert text.index(f">{slowest}</td>") == min(text.index(f">{n}</td>") for n in found.nodes)
    assert f"{found.cells[0].models[1].ratio:.3f}" in text
    assert f"of {len(found.nodes)} nodes" in text
    sums = [
        [sum(times) for times in zip(*kinds.values(), strict=True)]
        for kinds in (found.nodes, found.kernels)
    ]
    assert sums[0] == pytest.approx(sums[1], rel=1e-9)


def test_a_budget_in_time_is_told(swept: Path, tmp_path: Path) -> None:
    plan = read_plan(swept / "s.plan.json")
    rounds: list[JsonValue] = [{"aim": 0.5, "predicted": 0.49, "measured": 0.523}]
    times: Settings = {
        "asked": 0.5,
        "milliseconds": 2.0,
        "error": 0.012,
        "rounds": rounds,
        "chosen": 0,
    }
    write_plan(dataclasses.replace(plan, selection={"times": dict(times)}), tmp_path / "t.json")

    op.report(tmp_path / "t.json", output=tmp_path / "r.html")

    text = section(tmp_path / "r.html", "times")
    assert "50.00 % of the 2.00 ms" in text
    assert "52.30 %" in text


def test_what_could_not_go(swept: Path, made: Path) -> None:
    assert "graph output &#39;output&#39;" in section(swept / "r.html", "frozen")
    assert "fc2.weight" in section(swept / "r.html", "frozen")
    both = section(made / "r.html", "frozen")
    assert both.count("<table>") == 1  # the same of both plans


def test_markdown_has_the_main_tables(swept: Path, tmp_path: Path) -> None:
    assert (
        main(["report", *map(str, documents_of(swept)), "--md", "-o", str(tmp_path / "r.md")]) == 0
    )
    text = (tmp_path / "r.md").read_text()

    assert text.startswith("# digits.onnx\n\n## Before and after\n")
    assert "| --- | --- | --- | --- |\n| MACs | 3.60 M |" in text
    assert "Proved equal to the original" in text
    assert "| digits.macs-0.3.onnx |" in text
    for line in text.splitlines():  # tables have the same number of cells in every row
        assert not line.startswith("|") or line.endswith("|")
    assert "<svg" not in text
    assert "\n\n\n" not in text


def test_markdown_shows_names_as_they_are(made: Path, tmp_path: Path) -> None:
    op.report(*hostile(made, tmp_path), output=tmp_path / "r.md", markdown=True)
    text = (tmp_path / "r.md").read_text()

    assert "<script" not in re.sub(r"\\<", "", text)
    assert "<img" not in re.sub(r"\\<", "", text)
    assert "\\<script\\>" in text
    assert in_markdown("a|b\n`c` <d> _e_") == "a\\|b \\`c\\` \\<d\\> \\_e\\_"


def test_bench_writes_what_report_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["-o", str(tmp_path / "no" / "b.json")], ["-o", "b.json", "--bundle", "b.zip"]):
        assert main(["bench", "m.onnx", *options]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_it_fits_a_phone(swept: Path, tmp_path: Path, browser: str) -> None:
    """Charts and tables of long names scroll inside the page, which is never wider than the screen."""
    found = read_frontier(swept / "out" / "frontier.json")
    long = dataclasses.replace(found.points[0].model, name="n" * 300)
    points = tuple(dataclasses.replace(p, model=long, dominated=long.name) for p in found.points)
    page = tmp_path / "r.html"
    page.write_text(
        report_page(Documents(frontiers={"f": dataclasses.replace(found, points=points)}))
    )
    operated(page, "document.title = document.documentElement.scrollWidth <= innerWidth")

    done = show(browser, page, "--window-size=500,900", "--dump-dom")

    assert title_of(done) == "true"
    assert "CONSOLE" not in done.stderr
