"""The pieces of `benchmarks/cmi_vgg.py`: what it asks for, how it trains, what it shows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from benchmarks import cifar, cmi_vgg, cmi_vgg_network, cmi_vgg_table
from onnxprune.core.configured import configured
from onnxprune.core.contracts import CRITERIA
from onnxprune.discover import discover
from onnxprune.models.vgg import VGG16
from onnxprune.passes.criteria.cmi import Cmi

SIZES = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
ROW = cmi_vgg_table.Row(
    variant="paper both compact scree", alpha=None, network=(0.9, 100, 50),
    kept=(64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 3, 3, 3), macs=0.5, params=0.4,
    seconds=12.0, pruned=0.3, repaired=0.8, retrained=None, images=2000, retrain=0,
)  # fmt: skip


def pictures(count: int, seed: int = 0) -> cmi_vgg_network.Pictures:
    """Random images whose class is told by their mean."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    x = 0.3 * torch.randn(count, 3, 32, 32, generator=draw) + (2.0 * y - 1)[:, None, None, None]
    return cmi_vgg_network.Pictures(x.half(), y)


def test_every_variant_is_a_setting_of_the_criterion() -> None:
    discover()
    variants = cmi_vgg.VARIANTS
    assert len(set(variants)) == 24
    assert all(variant.is_main for variant in variants[:4])
    assert not any(variant.is_main for variant in variants[4:])
    for variant in variants:
        found = configured(CRITERIA, variant.criterion(2.0))[1]
        assert isinstance(found, Cmi)
        assert found.alpha == 2.0
        for name, value in dataclasses.asdict(variant).items():
            assert getattr(found, name) == value


def test_words_choose_variants() -> None:
    def chosen(*texts: str) -> int:
        return sum(cmi_vgg.wanted(variant, list(texts)) for variant in cmi_vgg.VARIANTS)

    assert chosen("all") == 24
    assert chosen("main") == 4
    assert chosen("paper permutation") == 4
    assert chosen("paper both compact scree", "robust full x-means") == 3


def test_rows_are_read_as_written(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(dataclasses.asdict(ROW)) + "\n")
    assert cmi_vgg.read(file) == {ROW.key: ROW}
    assert cmi_vgg.read(tmp_path / "none") == {}


def test_tables_count_filters_as_the_paper_does() -> None:
    assert cmi_vgg_table.FILTERS == 4224 == sum(SIZES)
    # 1,527 filters are the paper's 36.15 %; here three layers of 512 keep 3.
    assert cmi_vgg_table.removed(ROW) == pytest.approx(1527 / 4224, abs=1e-12)
    assert cmi_vgg_table.paper(ROW.variant) == "36.15 % removed, -0.32 %"
    assert cmi_vgg_table.paper("paper forward full permutation") == "9.99 % accuracy"
    assert cmi_vgg_table.paper("robust both compact scree") == ""
    table = cmi_vgg_table.summary([ROW])
    assert "90.00% on 2,000 test images" in str(table.title)
    assert [next(iter(column.cells)) for column in table.columns][:4] == [
        ROW.variant, "", "36.15%", "50.0%"
    ]  # fmt: skip


def test_crops_are_parts_of_the_padded_images_mirrored_or_not() -> None:
    image = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    padded = image.half().repeat(64, 1, 1, 1)
    found = cmi_vgg_network._moved(padded, torch.Generator().manual_seed(0))
    windows = padded[0].float().unfold(1, 32, 1).unfold(2, 32, 1)  # (3, 9, 9, 32, 32)
    windows = windows.permute(1, 2, 0, 3, 4).reshape(81, -1)
    plain, turned = (
        (images.reshape(64, 1, -1) == windows).all(dim=2) for images in (found, found.flip(3))
    )
    is_plain, is_turned = plain.any(dim=1), turned.any(dim=1)
    assert (is_plain ^ is_turned).all()
    assert 16 < int(is_turned.sum()) < 48
    assert int((plain | turned).any(dim=0).sum()) > 20


def test_schedule_ends_at_either_limit() -> None:
    schedule = cmi_vgg_network.Schedule(seconds=100, images=1000)
    assert schedule.progress(50, (0, 0)) == 0.5
    assert schedule.progress(50, (1000, 600)) == pytest.approx(0.92)
    rates = [schedule.at(share) for share in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0, 5e-4, 1e-3, 5e-4, 0])


def test_training_on_learns_and_goes_back_into_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cmi_vgg_network, "AGAIN", 0.02)  # a narrow network needs more
    torch.manual_seed(0)
    path = cmi_vgg_network.written(narrow(), tmp_path / "a.onnx")
    data = pictures(256)
    seen = cifar.Images(data.x[:100].float().numpy(), data.y[:100].numpy())
    before = cmi_vgg_network.accuracy(path, seen)
    target = cmi_vgg_network.retrained(path, tmp_path / "b.onnx", data, 5120, seed=0)
    assert before <= 0.7
    assert cmi_vgg_network.accuracy(target, seen) >= 0.9
    assert cmi_vgg_network.widths(target) == (4,) * 13
    names = [node.op_type for node in onnx.load(target).graph.node]
    assert names.count("BatchNormalization") == 13


def test_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    def training() -> cmi_vgg_network.Training:
        torch.manual_seed(0)
        return cmi_vgg_network.Training(narrow())

    file, data = tmp_path / "a.pt", pictures(256)
    first, second = training(), training()
    assert not first.resumed(file, cmi_vgg_network.Schedule(images=400))
    first.run(data, cmi_vgg_network.Schedule(images=400), file)
    assert min(first.seen) > 0
    assert second.resumed(file, cmi_vgg_network.Schedule(images=400))
    assert second.seen == first.seen
    assert not second.resumed(file, cmi_vgg_network.Schedule(images=800))
    x = data.x[:8].float()
    np.testing.assert_array_equal(
        first.model.eval()(x).detach().numpy(), second.model.eval()(x).detach().numpy()
    )


def narrow() -> VGG16:
    """VGG-16-BN with four channels everywhere."""
    model = VGG16(classes=2, hidden=None)
    inputs = 3
    for number, layer in enumerate(model.features):
        if isinstance(layer, torch.nn.Conv2d):
            model.features[number] = torch.nn.Conv2d(inputs, 4, 3, padding=1, bias=False)
            model.features[number + 1] = torch.nn.BatchNorm2d(4)
            inputs = 4
    model.head = torch.nn.Linear(4, 2)
    return model
