"""The page of `onnxprune report`: complete, self-contained, safe, at home on any screen; bad input refused.

The browser is headless Chromium, as for the page of `inspect --html`; without one those tests are skipped.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune as op
from onnxprune.cli import main
from onnxprune.plan import Scores, read_plan, read_scores, write_plan, write_scores
from onnxprune.show.report_page import read_documents, report_page
from onnxprune.show.section import SECTIONS, Documents
from tests.networks import NETWORKS
from tests.test_html import _LARGEST, ATTACK, _Elements, browser, operated, show, title_of

__all__ = ["browser", "made"]  # fixtures

MIPP = "mipp:tolerance=0.05"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan that MIPP made, scores by five criteria, a plan by weights, and their page."""
    home = tmp_path_factory.mktemp("made")
    model, data = home / "m.onnx", home / "x.npz"
    onnx.save(NETWORKS["chain"].model(), model)
    shape = [d.dim_value for d in NETWORKS["chain"].graph().inputs[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal((96, *shape[1:])).astype(np.float32)
    np.savez(data, x=x)
    criteria = f"cmi:alpha=2,{MIPP},l1,reconstruction,{MIPP},confidence=0.5"
    op.score(model, home / "s.json", data=data, criterion=criteria)
    op.prune(model, home / "a.onnx", data=data, criterion=MIPP, round_to=1)
    op.prune(model, home / "b.onnx", ratio=0.4, round_to=1, dry_run=True)
    op.report(home / "a.plan.json", home / "b.plan.json", home / "s.json", output=home / "r.html")
    return home


def section(page: Path, key: str) -> str:
    found = re.search(rf'<section id="{key}">.*?</section>', page.read_text(), re.DOTALL)
    assert found is not None, key
    return found[0]


# -- what is on it ------------------------------------------------------------------------------
def test_figures_and_proof(made: Path) -> None:
    plan, text = read_plan(made / "a.plan.json"), section(made / "r.html", "figures")

    assert f"{plan.figures['units'].after:.0f}" in text
    assert "Proved equal to the original" in text
    assert "Not proved: a dry run" in text  # the other plan
    assert text.count('class="card"') == 8


def test_every_group_has_its_widths(made: Path) -> None:
    text = section(made / "r.html", "widths")

    for name in ("a.plan.json", "b.plan.json"):
        for group in read_plan(made / name).groups:
            change = (
                f"{group.before} -&gt; {group.after}"
                if group.after < group.before
                else group.before
            )
            assert re.search(rf"{group.name}</td>.*?>{change}</td>", text)


def test_curves_with_the_cut(made: Path) -> None:
    scores, text = read_scores(made / "s.json"), section(made / "r.html", "curves")
    charts = re.findall(
        r'aria-label="what is left to tell of (.*?), in nats, \d+ values, (\d+) kept"', text
    )

    cmi = scores.criteria[0].groups
    assert charts == [(g.name, str(r.count)) for g, r in zip(scores.groups, cmi, strict=True)]
    assert text.count('<path class="cut cut0"') == len(cmi)


def test_tests_of_nodes(made: Path) -> None:
    scores, text = read_scores(made / "s.json"), section(made / "r.html", "tests")
    mipp = [c for c in scores.criteria if c.name == "mipp"]

    assert len(mipp) == 2
    for ranked in (r for c in mipp for r in c.groups):
        rise, bound = (np.array(ranked.curves[name]) for name in ("rise", "bound"))
        (told,) = {ranked.count}
        assert f"{told} of {len(rise)} stay" in text
        kept = np.concatenate([np.arange(*pair) for pair in ranked.kept or ()])
        above = np.flatnonzero(rise > bound)
        assert set(above) == set(kept) or (len(above) == 0 and len(kept) == 1)
    assert text.count('class="bound"') == 2 * len(scores.groups)


def test_scores_are_cut_where_the_plan_cuts(made: Path) -> None:
    text = section(made / "r.html", "scores")
    scores, plan = read_scores(made / "s.json"), read_plan(made / "a.plan.json")
    kept = {group.name: group.after for group in plan.groups}
    block = text[text.index("<h3>mipp:confidence=0.95</h3>") :].split("<h3>")[1]

    for group in scores.groups:
        assert (
            f"scores of {group.name}, {len(group.units)} values, {kept[group.name]} kept" in block
        )
    assert "<h3>l2</h3>" in text  # of the plan without a file of scores
    assert "<h3>mipp:confidence=0.5</h3>" in text


def test_all_settings_and_versions(made: Path) -> None:
    text = section(made / "r.html", "settings")
    plan, scores = read_plan(made / "a.plan.json"), read_scores(made / "s.json")

    for value in (plan.model.sha256, scores.data and scores.data.digest, *plan.versions.values()):
        assert str(value) in text
    for settings in (
        plan.criterion.settings,
        plan.selection,
        *(c.settings for c in scores.criteria),
    ):
        assert [key for key in settings if f": {key}</th>" not in text] == []


def test_notes_are_told_once(made: Path) -> None:
    scores = read_scores(made / "s.json")
    noted = dataclasses.replace(scores, notes=("mind the gap", "mind the gap"))

    page = report_page(Documents({}, {"s": noted}))

    assert page.count("<li>mind the gap</li>") == 1


def test_each_document_alone(made: Path) -> None:
    for name, absent in (("a.plan.json", "curves"), ("s.json", "figures")):
        page = report_page(read_documents([made / name]))
        assert f'id="{absent}"' not in page
        assert 'id="settings"' in page


def test_sections_stand_in_order(made: Path) -> None:
    heads = re.findall(r'<section id="(.*?)">', (made / "r.html").read_text())

    assert heads == sorted(heads, key=lambda key: SECTIONS[key].place)
    assert set(heads) >= {"figures", "widths", "curves", "tests", "scores", "settings"}
    linked = re.findall(r'href="#(.*?)"', (made / "r.html").read_text())
    assert linked == heads


def test_the_same_page_each_time(made: Path) -> None:
    names = [made / name for name in ("a.plan.json", "b.plan.json", "s.json")]
    assert report_page(read_documents(names)) == (made / "r.html").read_text()


# -- safe, and light ----------------------------------------------------------------------------
def test_nothing_is_loaded_from_elsewhere(made: Path) -> None:
    text = (made / "r.html").read_text()

    for tag, attributes in _Elements(text).found:
        assert tag not in {"script", "link", "iframe", "img", "object", "embed", "base"}
        assert not {"src", "srcset", "action", "style"} & attributes.keys(), tag
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?:", text)
    assert "default-src 'none'" in text


def hostile(home: Path, folder: Path) -> list[Path]:
    """A plan and scores with an attack wherever they hold text."""

    def attacked(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key if key in _NUMBERED else f"{key}{ATTACK}": attacked(v)
                for key, v in value.items()
            }
        if isinstance(value, list):
            return [attacked(v) for v in value]
        return f"{value}{ATTACK}" if isinstance(value, str) else value

    plan, scores = (json.loads((home / name).read_text()) for name in ("a.plan.json", "s.json"))
    for document in (plan, scores):
        for key in ("model", "versions", "data", "criterion", "selection"):
            if key in document:
                document[key] = {k: attacked(v) for k, v in document[key].items()}
        for group in document["groups"]:
            group["name"] += ATTACK
    scores["notes"] = [ATTACK]
    for scored in scores["criteria"]:
        scored["name"] += ATTACK
        scored["settings"] = {f"{k}{ATTACK}": attacked(v) for k, v in scored["settings"].items()}
    paths = [folder / "plan.json", folder / "scores.json"]
    for path, document in zip(paths, (plan, scores), strict=True):
        path.write_text(json.dumps(document))
    return paths


_NUMBERED = {"random", "samples"}


def test_text_of_documents_is_text(made: Path, tmp_path: Path) -> None:
    op.report(*hostile(made, tmp_path), output=tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()

    tags = [tag for tag, _ in _Elements(text).found]
    assert "script" not in tags
    assert "img" not in tags
    assert "{{7*7}}" in text  # not computed by the template
    assert text.count("&lt;script&gt;") > 20


def large(scores: Scores) -> Scores:
    """200 groups of 512 units, ranked by four criteria."""
    rng = np.random.default_rng(0)
    group = dataclasses.replace(
        scores.groups[0], width=512, units=tuple(((i, i + 1),) for i in range(512))
    )
    values = tuple(rng.random(512).tolist())
    curves = {"cmi": values, "rise": values, "bound": values, "loss": (0.1, 0.2)}
    curves["order"] = tuple(map(float, range(512)))
    ranked = dataclasses.replace(
        scores.criteria[0].groups[0], scores=values, kept=((0, 256),), curves=curves
    )
    criteria = [dataclasses.replace(c, groups=(ranked,) * 200) for c in scores.criteria[:4]]
    names = [f"features.{i}.branch.0.conv.weight" for i in range(200)]
    groups = tuple(dataclasses.replace(group, name=name) for name in names)
    return dataclasses.replace(scores, groups=groups, criteria=tuple(criteria))


def test_a_large_model_gives_a_small_page(made: Path) -> None:
    page = report_page(Documents({}, {"s.json": large(read_scores(made / "s.json"))}))

    assert len(page.encode()) < _LARGEST
    assert "more groups are not drawn" in page


# -- bad input ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("files", "output", "line"),
    [
        (["no.json"], "r.html", "cannot read the plan or scores 'no.json': No such file"),
        (["m.onnx"], "r.html", "'m.onnx' is not a plan or scores of onnxprune"),
        (["x.npz"], "r.html", "'x.npz' is not a plan or scores of onnxprune"),
        (["."], "r.html", "cannot read the plan or scores '.': Is a directory"),
        (["a.plan.json", "a.plan.json"], "r.html", "'a.plan.json' is given twice"),
        (["cut.json"], "r.html", "'cut.json' is not a plan or scores of onnxprune"),
        (["old.json"], "r.html", "has format 0, this onnxprune reads 1"),
        (["odd.json"], "r.html", "it says that it is 'odd'"),
        (["s.json"], "s.json", "the output 's.json' is what to report on"),
        (["s.json"], "no/r.html", "there is no folder"),
        (["s.json"], ".", "not a regular file"),
    ],
)
def test_bad_input_is_one_line(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    files: list[str], output: str, line: str,
) -> None:  # fmt: skip
    for name in ("m.onnx", "x.npz", "a.plan.json", "s.json"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    text = (made / "s.json").read_text()
    (tmp_path / "cut.json").write_text(text[: len(text) // 2])
    (tmp_path / "old.json").write_text(text.replace('"format": 1', '"format": 0'))
    (tmp_path / "odd.json").write_text(text.replace('"kind": "scores"', '"kind": "odd"'))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)

    assert main(["report", *files, "-o", output]) == 2

    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_plans_that_say_little_are_shown(made: Path, tmp_path: Path) -> None:
    """What a plan may leave out, or a stranger put in."""
    plan = read_plan(made / "a.plan.json")
    changes: list[Callable[[], Any]] = [
        lambda: dataclasses.replace(plan, figures={}, proof={}, selection={}, repair=None),
        lambda: dataclasses.replace(plan, groups=(), data=None, proof={"gap": 1.0}),
        lambda: dataclasses.replace(
            plan, groups=tuple(dataclasses.replace(g, before=0, after=0) for g in plan.groups)
        ),
    ]
    for change in changes:
        write_plan(change(), tmp_path / "p.json")
        assert "</html>" in report_page(read_documents([tmp_path / "p.json", made / "s.json"]))


def test_scores_that_say_little_are_shown(made: Path, tmp_path: Path) -> None:
    """Curves of other lengths, or with other values, than the criterion would give."""
    scores = read_scores(made / "s.json")
    odd: list[dict[str, tuple[float, ...]]] = [
        {},
        {"cmi": (), "rise": (1.0,), "bound": (1.0,), "order": (1.0,)},
        {"cmi": (-1e308, 1e308), "loss": (0.5,)},
        {
            name: tuple([-1.0] * len(scores.groups[0].units))
            for name in ("cmi", "rise", "bound", "order")
        },
    ]
    for curves in odd:
        changed = tuple(
            dataclasses.replace(
                c, groups=tuple(dataclasses.replace(r, curves=curves) for r in c.groups)
            )
            for c in scores.criteria
        )
        write_scores(dataclasses.replace(scores, criteria=changed), tmp_path / "s.json")
        text = report_page(read_documents([tmp_path / "s.json"]))
        assert "nan" not in re.sub(r"[a-z]*nan[a-z]+", "", text)


# -- in a browser -------------------------------------------------------------------------------
def test_a_hostile_document_does_nothing(made: Path, tmp_path: Path, browser: str) -> None:
    op.report(*hostile(made, tmp_path), output=tmp_path / "r.html")

    done = show(browser, tmp_path / "r.html", "--dump-dom")

    assert "CONSOLE" not in done.stderr  # no error, no blocked style or request
    tags = [tag for tag, _ in _Elements(done.stdout).found]
    assert "script" not in tags
    assert "img" not in tags
    assert title_of(done) != "owned"


def test_it_fits_a_phone_and_a_desk(made: Path, tmp_path: Path, browser: str) -> None:
    """Tables scroll inside; the page itself is never wider than the screen, whatever the names."""
    path = tmp_path / "r.html"
    op.report(*hostile(made, tmp_path), output=path)
    operated(
        path, "parent.document.title += [innerWidth, document.documentElement.scrollWidth] + ';'"
    )
    frames = "".join(f"<iframe width={width} height=800></iframe>" for width in (390, 1280))
    inner = json.dumps(path.read_text()).replace("</", "<\\/")
    fill = f"for (const frame of document.querySelectorAll('iframe')) frame.srcdoc = {inner}"
    style = "<style>iframe { border: 0 }</style><title></title>"
    path.write_text(f"<!doctype html><meta charset=utf-8>{style}{frames}<script>{fill}</script>")

    done = show(browser, path, "--dump-dom")

    assert sorted(title_of(done).split(";")) == ["", "1280,1280", "390,390"]
