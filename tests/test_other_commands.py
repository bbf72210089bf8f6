"""`evaluate`, `verify` and `inspect` after a prune."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.core.errors import OnnxPruneError, ProofError
from onnxprune.core.runtime import Session
from tests.networks import NETWORKS
from tests.test_pipeline import images, written


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return written(tmp_path, "residual")


def test_labels_give_accuracy_of_both(tmp_path: Path) -> None:
    path, arrays = written(tmp_path, "chain"), images(200)
    labels = Session(path).run(arrays)["y"].argmax(1)

    report = onnxprune.prune(
        path, tmp_path / "out.onnx", data=arrays | {"truth": labels}, labels="truth", ratio=0.25
    )

    assert report.evaluation is not None
    assert report.evaluation.reference is not None
    assert report.evaluation.accuracy is not None
    assert report.evaluation.reference.top1 == 1.0
    assert report.evaluation.accuracy.top1 == report.evaluation.agreement


def test_evaluate_against_oneself_is_perfect(model: Path) -> None:
    found = onnxprune.evaluate(model, images(), reference=model)

    assert (found.samples, found.agreement, found.error) == (64, 1.0, 0.0)


def test_evaluate_measures_what_numpy_measures(tmp_path: Path) -> None:
    arrays = images(70)
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for seed, path in enumerate(paths):
        onnx.save(NETWORKS["chain"].model(seed), path)
    a, b = (Session(path).run(arrays)["y"] for path in paths)
    labels = np.arange(70) % 5

    found = onnxprune.evaluate(paths[0], arrays | {"t": labels}, labels="t", reference=paths[1])

    assert found.accuracy is not None
    assert found.accuracy.top1 == pytest.approx((a.argmax(1) == labels).mean(), abs=1e-12)
    assert found.accuracy.top5 is None, "five of five classes say nothing"
    assert found.agreement == pytest.approx((a.argmax(1) == b.argmax(1)).mean(), abs=1e-12)
    assert found.error == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b), rel=1e-5)


def test_verify_proves_again_and_notices_another_file(model: Path, tmp_path: Path) -> None:
    report = onnxprune.prune(model, tmp_path / "out.onnx", ratio=0.5)
    assert report.output is not None

    found = onnxprune.verify(report.output, report.plan, original=model)

    assert found.proof is not None
    assert found.proof.gap < 1e-5
    with pytest.raises(
        ProofError, match=r"planned structure: weight 'b1' has shape \[16\], planned \[8\]"
    ):
        onnxprune.verify(model, report.plan)
    with pytest.raises(OnnxPruneError, match="not the file the plan was made for"):
        onnxprune.verify(report.output, report.plan, original=report.output)


def test_verify_notices_changed_weights(model: Path, tmp_path: Path) -> None:
    report = onnxprune.prune(model, tmp_path / "out.onnx", ratio=0.5)
    other = tmp_path / "other.onnx"
    onnx.save(NETWORKS["residual"].model(seed=1), other)
    onnxprune.prune(other, other, plan=report.plan, overwrite=True)

    with pytest.raises(ProofError, match="first at tensor"):
        onnxprune.verify(other, report.plan, original=model)


def test_inspect_counts_what_onnx_counts(tmp_path: Path) -> None:
    """Groups, totals and reasons of a network small enough to count by hand."""
    found = onnxprune.inspect(written(tmp_path, "dense"), round_to=1)

    assert [(g.name, g.units, g.kind, g.exact) for g in found.groups] == [
        ("w1", 32, "inner", True),
        ("w2", 20, "inner", True),
    ]
    assert found.total.macs == 10 * 32 + 32 * 20 + 20 * 5
    assert found.total.params == found.total.macs + 32 + 20
    assert found.groups[0].macs == 10 * 32 + 32 * 20
    assert [(f.reason, f.count) for f in found.frozen] == [("graph output 'y'", 1)]
    assert found.opaque == ()
    assert found.least.macs == 10 * 4 + 4 * 2 + 2 * 5
