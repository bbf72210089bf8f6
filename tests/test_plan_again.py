"""A plan applied again: the same mask, also where weights have other names; what is refused."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from onnxprune.core.contracts import SURGERIES
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Graph
from onnxprune.files.store import load, save
from onnxprune.plan import (
    mask_of,
    verify_plan,
)
from onnxprune.structure.dependency import analyse
from tests.networks import NETWORKS
from tests.test_plan import analysis_of, each_network, planned, random_mask, read_back, rename


@each_network
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 0.9))
def test_a_plan_gives_the_same_mask_again(network: str, seed: int, share: float) -> None:
    mask = random_mask(analysis_of(network), np.random.default_rng(seed), share)
    newer = analysis_of(network, seed=1)  # other weights, the same graph
    again = mask_of(newer, planned(mask))
    np.testing.assert_array_equal(again.removed, mask.removed)
    assert again.analysis is newer


@each_network
def test_the_pruned_file_has_the_planned_structure(
    network: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    mask = random_mask(analysis_of(network), rng)
    plan = read_back(planned(mask), tmp_path)
    save(SURGERIES["channels"](mask), tmp_path / "pruned.onnx")
    assert verify_plan(load(tmp_path / "pruned.onnx"), plan) == []
    changed = [n for n, t in plan.tensors.items() if t.shape != t.shape_after]
    problems = verify_plan(NETWORKS[network].graph(), plan)
    assert len(problems) == len(changed) > 0
    assert all(f"'{name}'" in line for name, line in zip(changed, problems, strict=True))


def shared() -> ModelProto:
    """The chain as a fresh export: equal vectors of zeros were merged into the first of them."""
    model = NETWORKS["chain"].model(1)
    kept = [t for t in model.graph.initializer if t.name not in {"n_bias", "n_mean"}]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            node.input[slot] = "b1" if name in {"n_bias", "n_mean"} else name
    onnx.checker.check_model(model, full_check=True)
    return model


def test_weights_that_an_exporter_merged_are_found_by_their_readers(
    rng: np.random.Generator,
) -> None:
    apart, merged = analysis_of("chain"), analyse(Graph.from_model(shared()))
    assert merged.graph.origin["b1::use"] == "b1"
    for one, other in ((apart, merged), (merged, apart)):
        mask = random_mask(one, rng)
        again = mask_of(other, planned(mask))
        np.testing.assert_array_equal(again.gone_at("w1", 0), mask.gone_at("w1", 0))


def test_renamed_weights_are_found_by_their_readers(rng: np.random.Generator) -> None:
    mask = random_mask(analysis_of("residual"), rng)
    model = NETWORKS["residual"].model()
    rename(model, {"w1": "onnx::Conv_17", "b1": "onnx::Conv_18"})
    np.testing.assert_array_equal(
        mask_of(analyse(Graph.from_model(model)), planned(mask)).removed, mask.removed
    )


def test_another_file_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    plan = planned(analysis_of("chain").mask(np.array([0])))
    with caplog.at_level(logging.WARNING):
        mask_of(analysis_of("chain"), plan, sha256="0" * 64)
        assert not caplog.records
        mask_of(analysis_of("chain"), plan, sha256="1" * 64)
    assert "net.onnx" in caplog.text


def test_another_model_is_refused() -> None:
    plan = planned(analysis_of("chain").mask(np.array([0])))
    with pytest.raises(OnnxPruneError, match=r"'\w+' has shape \[.*\], planned \["):
        mask_of(analysis_of("residual"), plan)


def test_positions_that_cannot_go_alone_are_refused() -> None:
    """The plan is tampered with: one weight keeps more, less, or other positions than the rest."""
    plan = planned(analysis_of("chain").mask(np.array([0, 3])))
    name, tensor = next((n, t) for n, t in plan.tensors.items() if t.shape != t.shape_after)
    size = tensor.shape[0]
    for ranges in (((0, size),), ((0, 1),), ((0, 1), (2, size))):
        changed = dataclasses.replace(tensor, kept=(ranges, *tensor.kept[1:]))
        tampered = dataclasses.replace(plan, tensors=plan.tensors | {name: changed})
        with pytest.raises(
            OnnxPruneError, match=r"axis \d of '.*does not fit this model"
        ) as caught:
            mask_of(analysis_of("chain"), tampered)
        assert "\n" not in str(caught.value)


def test_frozen_axes_are_refused() -> None:
    """The classes of the last layer are a face of the model."""
    plan = planned(analysis_of("dense").mask(np.array([0])))
    tensor = plan.tensors["w3"]
    changed = dataclasses.replace(tensor, kept=(tensor.kept[0], ((0, 4),)))
    tampered = dataclasses.replace(plan, tensors=plan.tensors | {"w3": changed})
    with pytest.raises(OnnxPruneError, match="axis 1 of 'w3' cannot keep just the 4 of 5"):
        mask_of(analysis_of("dense"), tampered)


def test_real_files(data_dir: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    count = 0
    for file in sorted((data_dir / "onnx").glob("*.onnx"))[::3]:
        analysis = analyse(load(file))
        mask = random_mask(analysis, rng, 0.3)
        plan = read_back(planned(mask), tmp_path)
        np.testing.assert_array_equal(mask_of(analyse(load(file)), plan).removed, mask.removed)
        save(SURGERIES["channels"](mask), tmp_path / "pruned.onnx")
        assert verify_plan(load(tmp_path / "pruned.onnx"), plan) == []
        count += bool(analysis.groups)
    assert count > 5
