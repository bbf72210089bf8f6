"""`onnxprune score`: one calibration run for all criteria, a file that reads back, bad input refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune as op
from onnxprune.cli import main
from onnxprune.core.configured import configured
from onnxprune.core.contracts import CRITERIA
from onnxprune.pipeline.collect import collect
from onnxprune.pipeline.score import separated
from onnxprune.plan import read_plan, read_scores, to_json
from tests.networks import NETWORKS

ALL = "cmi:alpha=2,cut=scree,mipp,l1,reconstruction"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    onnx.save(NETWORKS["chain"].model(), tmp_path / "m.onnx")
    shape = [d.dim_value for d in NETWORKS["chain"].graph().inputs[0].type.tensor_type.shape.dim]
    x = rng.standard_normal((96, *shape[1:])).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_run_serves_all_criteria(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs: list[frozenset[str]] = []

    def counted(analysis: Any, samples: Any, asked: Any, **how: Any) -> Any:
        needs.append(frozenset(asked))
        return collect(analysis, samples, asked, **how)

    monkeypatch.setattr("onnxprune.pipeline.decide.collect", counted)
    found = op.score("m.onnx", data="x.npz", criterion=ALL)

    each = [configured(CRITERIA, name)[1].needs for name in separated(ALL)]
    assert needs == [frozenset().union(*each)]
    assert len(needs[0]) > max(map(len, each))
    assert [scored.name for scored in found.criteria] == ["cmi", "mipp", "l1", "reconstruction"]
    assert found.criteria[0].settings["alpha"] == 2
    assert read_scores("m.scores.json") == read_back(found, home)


def read_back(scores: Any, home: Path) -> Any:
    """What nine digits leave of scores."""
    (home / "again.json").write_text(to_json(scores))
    return read_scores(home / "again.json")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("criterion", ["reconstruction", "l1", "mipp"])
def test_scores_are_those_that_prune_goes_by(criterion: str) -> None:
    op.score("m.onnx", data="x.npz", criterion=criterion)
    op.prune("m.onnx", data="x.npz", criterion=criterion, ratio=0.4, round_to=1, dry_run=True)

    scores, plan = read_scores("m.scores.json"), read_plan("m.pruned.plan.json")
    planned = {group.name: group.scores for group in plan.groups}
    for group, ranked in zip(scores.groups, scores.criteria[0].groups, strict=True):
        np.testing.assert_allclose(ranked.scores, planned[group.name], rtol=1e-6)
        assert len(group.units) == len(ranked.scores)
    assert (scores.model, scores.data, scores.seed) == (plan.model, plan.data, plan.seed)


@pytest.mark.usefixtures("home")
def test_what_a_criterion_keeps_is_what_prune_without_a_budget_keeps() -> None:
    asked = "mipp:tolerance=0.05"
    (scored,) = op.score("m.onnx", data="x.npz", criterion=asked).criteria
    report = op.prune("m.onnx", data="x.npz", criterion=asked, round_to=1, floor=0, dry_run=True)

    assert [ranked.count for ranked in scored.groups] == [w.units.after for w in report.widths]


def test_the_same_bytes_each_time(home: Path) -> None:
    assert (
        main(["score", "m.onnx", "--data", "x.npz", "--criterion", ALL, "-o", "1.json", "-q"]) == 0
    )
    assert (
        main(["score", "m.onnx", "--data", "x.npz", "--criterion", ALL, "-o", "2.json", "-q"]) == 0
    )

    assert (home / "1.json").read_bytes() == (home / "2.json").read_bytes()


@pytest.mark.usefixtures("home")
def test_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--criterion", "l1,cmi:alpha=2", "--criterion", "cmi:alpha=3"]
    assert main(["score", "m.onnx", "--data", "x.npz", *asked]) == 0
    table = capsys.readouterr().out
    assert main(["score", "m.onnx", "--data", "x.npz", *asked, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)

    for text in ("l1", "cmi:alpha=2", "cmi:alpha=3", "least", "median", "keeps", "m.scores.json"):
        assert text in table
    assert all(group.name in table for group in read_scores("m.scores.json").groups)
    assert len(said["criteria"]) == 3
    assert said["criteria"][0]["groups"][0]["kept"] is None
    assert set(said["versions"]) >= {"numpy", "onnx"}


def test_criteria_are_told_apart() -> None:
    assert separated("cmi:alpha=2,cut=scree, l1 ,mipp") == ["cmi:alpha=2,cut=scree", "l1", "mipp"]


@pytest.mark.usefixtures("home")
def test_without_samples_only_weights() -> None:
    assert op.score("m.onnx", criterion="l1").data is None
    assert op.score("m.onnx").criteria[0].name == "l2"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--criterion", "l1,l1"], "'l1' is named twice"),
        (["--criterion", "l1,cni"], "did you mean 'cmi'"),
        (["--criterion", "cmi"], "'cmi' needs sample inputs: give --data"),
        (["--criterion", "cmi:alfa=2", "--data", "x.npz"], "no setting 'alfa'"),
        (["--criterion", "l1", "-o", "m.onnx"], "the output 'm.onnx' is the model"),
        (["--criterion", "l1", "-o", "no/s.json"], "there is no folder 'no'"),
        (["--criterion", "l1", "-o", "."], "not a regular file"),
        (["--data", "x.npz", "--labels", "z"], "the data has no such key"),
        (["--data", "x.npz", "--work", "x.npz"], "--work 'x.npz' cannot be used"),
        (["--data", "nowhere.npz"], "nowhere.npz"),
        (["--samples", "0"], "--samples 0: expected at least 1"),
    ],
)
def test_bad_input_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    if "--work" in arguments:
        arguments = ["--criterion", "cmi", *arguments]
    before = {path.name: path.read_bytes() for path in home.iterdir()}

    assert main(["score", "m.onnx", *arguments]) == 2

    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


def _with(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document | {key: value}


def _in_ranking(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(document: dict[str, Any]) -> dict[str, Any]:
        document["criteria"][0]["groups"][0][key] = value
        return document

    return change


def _in_group(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(document: dict[str, Any]) -> dict[str, Any]:
        document["groups"][0][key] = value
        return document

    return change


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_with("format", 2), "has format 2, this onnxprune reads 1"),
        (_with("kind", "plan"), "it says that it is 'plan'"),
        (_with("more", 1), "more"),
        (_with("groups", []), "does not rank the units of these groups"),
        (_in_ranking("scores", [1.0]), "does not rank the units of these groups"),
        (_in_ranking("scores", "many"), "criteria.0.groups.0.scores"),
        (_in_ranking("kept", [[0, 9999]]), "cannot keep these ranges"),
        (_in_ranking("kept", []), "cannot keep these ranges"),
        (_in_ranking("curves", {"cmi": [float("nan")]}), "criteria.0.groups.0.curves"),
        (_in_ranking("curves", {"cmi": [float("inf")]}), "criteria.0.groups.0.curves"),
        (_in_group("units", []), "has no units"),
        (_in_group("units", [[[-1, 2]]]), "cannot keep these ranges"),
        (lambda _: [], "is not a scores"),
        (lambda _: "x" * 1000, "is not a scores"),
        (lambda _: None, "is not a scores"),
    ],
)
def test_a_strangers_file_is_one_line(change: Callable[[Any], Any], line: str) -> None:
    op.score("m.onnx", criterion="l1")
    document = change(json.loads(Path("m.scores.json").read_text()))
    Path("bad.json").write_text(json.dumps(document))

    with pytest.raises(op.OnnxPruneError) as found:
        read_scores("bad.json")
    assert line in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.usefixtures("home")
def test_a_plan_is_no_scores() -> None:
    op.prune("m.onnx", ratio=0.3, round_to=1, dry_run=True)

    with pytest.raises(op.OnnxPruneError, match="it says that it is 'plan'"):
        read_scores("m.pruned.plan.json")
