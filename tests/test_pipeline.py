"""The pipeline through the Python API: what is written is what was decided, proved and reported."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.core.contracts import CRITERIA, REPAIRS, SURGERIES, Samples
from onnxprune.core.cost import CostModel
from onnxprune.core.errors import BudgetError, OnnxPruneError, ProofError
from onnxprune.core.graph import Array
from onnxprune.demo import unpack
from onnxprune.discover import discover
from onnxprune.files.store import load
from onnxprune.pipeline.request import PruneRequest
from onnxprune.plan import read_plan
from onnxprune.proof.example import instance_of
from onnxprune.show.report import plain
from onnxprune.structure.dependency import analyse
from tests.networks import NETWORKS, NORMED

discover()
every_network = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return written(tmp_path, "residual")


def written(folder: Path, name: str) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(NETWORKS[name].model(), path)
    return path


def images(count: int = 64, seed: int = 0) -> dict[str, Array]:
    """Pictures with structure: a few patterns, mixed, so that channels are redundant."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(9).standard_normal((6, 3, 8, 8))
    mixed = np.tensordot(rng.standard_normal((count, 6)), patterns, 1)
    return {"x": (mixed + 0.1 * rng.standard_normal(mixed.shape)).astype(np.float32)}


@every_network
def test_files_are_what_was_reported(name: str, tmp_path: Path) -> None:
    """MACs, parameters and widths of the written file, counted anew, are those of the report."""
    path = written(tmp_path, name)
    original = path.read_bytes()

    report = onnxprune.prune(path, tmp_path / "out.onnx", ratio=0.5, round_to=1)

    assert report.output is not None
    analysis = analyse(load(report.output))
    feeds = {key: np.zeros(shape, np.float32) for key, shape in report.inputs.items()}
    cost = CostModel(analysis, instance_of(analysis.graph, feeds))
    assert cost.macs(cost.lengths()) == report.figures["macs"].after < report.figures["macs"].before
    assert cost.params(cost.lengths()) == report.figures["params"].after
    assert report.output.stat().st_size == report.figures["bytes"].after
    assert sum(len(group) for group in analysis.groups) <= report.figures["units"].after
    assert report.proof is not None
    assert report.proof.gap < report.proof.tolerance <= 1e-4
    assert report.proof.moved > 1e-3, "a proof on outputs that did not move would say nothing"
    assert path.read_bytes() == original


@pytest.mark.parametrize("option", ["macs", "params", "size"])
def test_budgets_hold_in_the_file(option: str, model: Path, tmp_path: Path) -> None:
    budget: dict[str, Any] = {option: 0.6}
    report = onnxprune.prune(model, tmp_path / "out.onnx", round_to=1, **budget)

    change = report.figures["bytes" if option == "size" else option]
    assert change.after <= 0.6 * change.before


def test_same_request_same_bytes(model: Path, tmp_path: Path) -> None:
    def run(name: str) -> tuple[bytes, bytes]:
        report = onnxprune.prune(
            model, tmp_path / f"{name}.onnx", data=images(), macs=0.5, round_to=1
        )
        assert report.output is not None
        return report.output.read_bytes(), report.plan.read_bytes()

    assert run("a") == run("b")


@pytest.mark.parametrize("repair", list(REPAIRS))
@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_every_criterion_with_every_repair(
    criterion: str, repair: str, model: Path, tmp_path: Path
) -> None:
    if criterion == "bn-scale":  # refuses groups without BatchNormalization
        onnx.save(NORMED.model(), model)
    report = onnxprune.prune(
        model, tmp_path / "out.onnx", data=images(), macs=0.6, round_to=1,
        criterion=criterion, repair=repair,
    )  # fmt: skip

    assert (report.criterion, report.repair) == (criterion, repair)
    assert (report.calibration, report.held_out) == (48, 16)
    assert report.evaluation is not None
    assert report.evaluation.error is not None
    assert 0 < report.evaluation.error < 1.5
    plan = read_plan(report.plan)
    assert plan.criterion.name == criterion
    assert plan.repair is not None
    assert plan.repair.name == repair
    assert plan.data is not None
    assert plan.data.samples == 48


def test_repair_helps_on_samples_that_it_has_not_seen(model: Path, tmp_path: Path) -> None:
    def error(repair: str) -> float:
        report = onnxprune.prune(
            model, tmp_path / "out.onnx", data=images(256), macs=0.6, round_to=1, repair=repair
        )
        assert report.evaluation is not None
        assert report.evaluation.error is not None
        return report.evaluation.error

    assert error("sequential") < 0.7 * error("none")


def test_calibration_never_sees_what_is_held_out(model: Path, tmp_path: Path) -> None:
    """Reads are recorded; the only common reader of the held-out range is the comparison."""
    arrays, reads = images(100)["x"], list[tuple[int, int]]()

    def read(start: int, stop: int) -> dict[str, Array]:
        reads.append((start, stop))
        return {"x": arrays[start:stop]}

    before_compare: list[tuple[int, int]] = []

    def progress(what: str, done: int, total: int) -> None:
        del done, total
        if what == "compare" and not before_compare:
            before_compare.extend(reads)

    report = onnxprune.prune(
        model,
        tmp_path / "out.onnx",
        data=Samples(100, read),
        macs=0.6,
        samples=60,
        progress=progress,
    )

    assert (report.calibration, report.held_out) == (60, 25)
    assert before_compare
    assert max(stop for _, stop in before_compare) <= 60
    assert reads[len(before_compare) :]
    assert min(start for start, _ in reads[len(before_compare) :]) >= 60


def test_a_plan_repeats_the_prune(model: Path, tmp_path: Path) -> None:
    first = onnxprune.prune(model, tmp_path / "a.onnx", data=images(), macs=0.5, round_to=1)
    again = onnxprune.prune(model, tmp_path / "b.onnx", data=images(), plan=first.plan)

    assert first.output is not None
    assert again.output is not None
    assert again.output.read_bytes() == first.output.read_bytes()
    assert again.criterion == first.criterion == "reconstruction"


def test_a_plan_without_samples_says_that_repair_is_missing(model: Path, tmp_path: Path) -> None:
    first = onnxprune.prune(model, tmp_path / "a.onnx", data=images(), macs=0.5, round_to=1)
    again = onnxprune.prune(model, tmp_path / "b.onnx", plan=first.plan)

    assert again.repair == "none"
    assert any("give --data" in note for note in again.notes)


def test_dry_run_writes_the_plan_only(model: Path, tmp_path: Path) -> None:
    report = onnxprune.prune(model, tmp_path / "out.onnx", ratio=0.5, round_to=1, dry_run=True)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.plan.json", "residual.onnx"]
    assert report.output is None
    assert report.latency is None
    applied = onnxprune.prune(model, tmp_path / "out.onnx", plan=report.plan)
    assert applied.figures["macs"] == report.figures["macs"]
    assert applied.widths == report.widths


def test_default_output_lies_beside_the_model(model: Path) -> None:
    report = onnxprune.prune(model, ratio=0.5)

    assert report.output == model.with_name("residual.pruned.onnx")
    assert report.plan == model.with_name("residual.pruned.plan.json")


def test_overwrite_replaces_the_input_when_asked(model: Path) -> None:
    original = model.read_bytes()

    report = onnxprune.prune(model, model, ratio=0.5, overwrite=True)

    assert report.figures["bytes"].before == len(original) > model.stat().st_size


def test_nothing_is_written_when_the_proof_fails(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A surgery that forgets half a bias is caught, and named."""
    honest = SURGERIES["channels"]

    def broken(mask: Any) -> Any:
        graph = honest(mask)
        graph.weights["b2"] = graph.weights["b2"].replace(graph.weights["b2"].array * 0.5)
        return graph

    monkeypatch.setitem(SURGERIES._entries, "channels", broken)

    with pytest.raises(ProofError, match=r"first at tensor 'c'.*nothing was written"):
        onnxprune.prune(model, tmp_path / "out.onnx", ratio=0.5)

    assert [p.name for p in tmp_path.iterdir()] == ["residual.onnx"]
    assert onnxprune.prune(model, tmp_path / "out.onnx", ratio=0.5, verify=False).proof is None


def test_progress_names_every_step(model: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    report = onnxprune.prune(
        model, tmp_path / "out.onnx", data=images(), macs=0.5, round_to=1,
        progress=lambda what, done, total: seen.append(what),  # noqa: ARG005
    )  # fmt: skip

    assert set(report.seconds) <= set(seen)
    assert list(report.seconds) == [
        "load", "analyse", "open data", "calibrate", "score", "select", "cut", "prove", "repair",
        "check", "compare", "latency", "write",
    ]  # fmt: skip


def test_reports_are_json(model: Path, tmp_path: Path) -> None:
    report = onnxprune.prune(model, tmp_path / "out.onnx", data=images(), macs=0.5)

    value = plain(report)

    assert set(value) == {f.name for f in dataclasses.fields(report)}
    assert value["latency"]["provider"] == "CPUExecutionProvider"
    assert plain(float("inf")) is None


def test_prune_has_the_parameters_of_the_request() -> None:
    assert inspect.signature(onnxprune.prune) == inspect.signature(PruneRequest)
    for field in dataclasses.fields(PruneRequest):
        assert field.name in (onnxprune.prune.__doc__ or ""), "every option is documented"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected one budget"),
        ({"macs": 0.5, "params": 0.5}, "found --macs and --params"),
        ({"macs": 0.5, "samples": 0}, "--samples 0: expected at least 1"),
        ({"macs": 0.5, "ridge": float("nan")}, "--ridge nan: expected at least 0"),
        ({"plan": "x.json", "macs": 0.5}, "leave out --macs"),
        ({"plan": "x.json", "criterion": "l1"}, "leave out --criterion"),
        ({"macs": 0.5, "scope": "locall"}, "expected one of uniform, global"),
        ({"macs": 0.5, "repair": "sequental"}, "did you mean 'sequential'"),
        ({"macs": 0.5, "provider": "gpu"}, "this onnxruntime has no provider 'gpu'"),
    ],
)
def test_requests_that_make_no_sense(options: dict[str, Any], message: str, model: Path) -> None:
    with pytest.raises(OnnxPruneError, match=message):
        PruneRequest(model, **options)


def test_out_of_reach_is_refused_before_any_sample_is_run(model: Path) -> None:
    reads: list[int] = []

    def read(start: int, stop: int) -> dict[str, Array]:
        reads.append(stop - start)
        return {"x": np.zeros((stop - start, 3, 8, 8), np.float32)}

    with pytest.raises(BudgetError, match=r"out of reach.*least reachable is"):
        onnxprune.prune(model, data=Samples(64, read), macs=0.001)

    assert sum(reads) <= 1, "one sample is read for its shape"


def test_the_readme_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python blocks of the README run in the folder of the demo."""
    readme = Path(__file__).resolve().parent.parent / "README.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", readme.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    unpack(tmp_path)

    for block in blocks:
        exec(compile(block, str(readme), "exec"), {})

    assert "Change(before=" in capsys.readouterr().out
