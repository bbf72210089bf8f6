"""`--then quantize`: int8 by onnxruntime on the samples of the calibration, measured against the original."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnxprune as op
from onnxprune import OnnxPruneError
from onnxprune.cli import main
from onnxprune.files.store import digest
from onnxprune.plan import read_plan
from onnxprune.show.report import PruneReport
from onnxprune.show.words import share, size


@pytest.fixture(scope="module", name="report")
def _report(home: Path) -> PruneReport:
    return op.prune(
        home / "digits.onnx", home / "s.onnx", data=home / "train.npz", samples=256, macs=0.4,
        then="quantize",
    )  # fmt: skip


def test_the_pruned_file_in_int8(home: Path, report: PruneReport) -> None:
    found = report.quantised
    assert found is not None
    assert found.output == home / "s.int8.onnx"
    graph = onnx.load(found.output).graph
    kinds = {weight.name: weight.data_type for weight in graph.initializer}
    eights = [w for w in graph.initializer if w.data_type == TensorProto.INT8 and len(w.dims) > 1]
    assert {node.op_type for node in graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    assert len(eights) >= 9  # convolutions and matrices, per channel
    scales = [tuple(w.dims) for w in graph.initializer if w.name.endswith("weight_scale")]
    assert (24,) in scales
    assert len(kinds) == len(graph.initializer)
    assert found.bytes == found.output.stat().st_size < 0.6 * report.figures["bytes"].after
    assert found.evaluation is not None
    assert found.evaluation.agreement is not None
    assert found.evaluation.agreement > 0.97
    assert found.latency.rounds >= 5


def test_what_was_reported_is_what_the_file_does(home: Path, report: PruneReport) -> None:
    test = op.evaluate(
        home / "s.int8.onnx", home / "test.npz", labels="labels", reference=home / "digits.onnx"
    )
    assert test.accuracy is not None
    assert test.accuracy.top1 > 0.97
    plain = op.prune(
        home / "digits.onnx", home / "p.onnx", data=home / "train.npz", samples=256, macs=0.4
    )
    assert plain.quantised is None
    assert (home / "p.onnx").read_bytes() == (home / "s.onnx").read_bytes()
    assert report.evaluation == plain.evaluation


def test_the_plan_and_the_page_say_it(home: Path, report: PruneReport) -> None:
    found, said = report.quantised, read_plan(home / "s.plan.json").int8
    assert found is not None
    assert found.evaluation is not None
    assert said is not None
    assert said.agreement is not None
    assert said.model.sha256 == digest(home / "s.int8.onnx")
    assert said.agreement == pytest.approx(found.evaluation.agreement)
    plain = home / "plain.plan.json"
    op.prune(home / "digits.onnx", home / "plain.onnx", macs=0.4, dry_run=True)
    assert read_plan(plain).int8 is None

    page = op.report(plain, home / "s.plan.json", output=home / "r.html").read_text()
    table = op.report(plain, home / "s.plan.json", output=home / "r.md", markdown=True).read_text()
    part = page[page.index('<section id="int8">') :]
    for text in (part[: part.index("</section>")], table[table.index("## In int8, too") :]):
        assert "s.int8.onnx" in text
        for figure in (size(report.figures["bytes"].before), size(found.bytes)):
            assert figure in text
        assert f"{found.latency.speedup:.2f}x as fast" in text
        assert f"On {report.held_out} held-out samples: {share(said.agreement)} agree" in text
    op.report(plain, output=home / "p.html")
    assert "int8" not in (home / "p.html").read_text()


def test_accuracy_where_there_are_labels(home: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"samples": 64, "macs": 0.5, "labels": "labels", "then": "quantize"}
    found = op.prune(
        home / "digits.onnx", tmp_path / "l.onnx", data=home / "test.npz", **options
    ).quantised
    assert found is not None
    assert found.evaluation is not None
    assert found.evaluation.accuracy is not None
    text = op.report(
        tmp_path / "l.plan.json", output=tmp_path / "r.md", markdown=True
    ).read_text()  # fmt: skip
    assert f"| {share(found.evaluation.accuracy.top1)} |" in text


def test_classes_that_went(home: Path, tmp_path: Path) -> None:
    found = op.prune(
        home / "digits.onnx", tmp_path / "six.onnx", data=home / "train.npz", samples=64,
        unlock="output:output", keep_classes="0-5", then="quantize",
    ).quantised  # fmt: skip
    assert found is not None
    images = np.load(home / "test.npz")["images"][:4]
    session = op.evaluate(found.output, {"images": images}, reference=home / "digits.onnx")
    assert session.agreement == 1.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--macs 0.5 --then quantize", "give --data"),
        ("--macs 0.5 --then prune", "expected one of quantize"),
        ("--macs 0.5 --data D --then quantize --dry-run", "leave out --dry-run"),
        ("--sweep 3 --data D --then quantize", "--then makes no sense with --sweep"),
    ],
)
def test_refuses(
    home: Path, tmp_path: Path, options: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(home / "train.npz") if w == "D" else w for w in options.split()]
    assert main(["prune", str(home / "digits.onnx"), "-o", str(tmp_path / "n"), *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_halves_are_refused_before_the_work(home: Path, tmp_path: Path) -> None:
    from tests.test_halves import halved

    half = tmp_path / "half.onnx"
    onnx.save(halved(onnx.load(home / "digits.onnx"), TensorProto.FLOAT16), half)
    with pytest.raises(OnnxPruneError, match="takes float32 models"):
        op.prune(half, data=home / "train.npz", macs=0.5, then="quantize")


def test_table_and_json(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prune", str(home / "digits.onnx"), "-o", str(tmp_path / "t.onnx"), "--macs", "0.5"]
    command += ["--data", str(home / "train.npz"), "--samples", "64", "--criterion", "l1"]
    assert main([*command, "--then", "quantize", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quantised"]["output"].endswith("t.int8.onnx")
    assert main([*command, "--then", "quantize"]) == 0
    assert "in int8, too" in capsys.readouterr().out
