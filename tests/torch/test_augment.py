"""Changes of images: each is what it says, alike for all of a sample, anew in every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from onnxprune.core.errors import DataError, OnnxPruneError
from onnxprune.core.samples import Samples
from onnxprune.torch import Recipe, augment
from onnxprune.torch.batches import TRUTH, Batches
from onnxprune.torch.loss import Loss

IMAGES = np.random.default_rng(0).standard_normal((64, 3, 16, 24)).astype(np.float32)


def changed(
    *names: str, x: npt.NDArray[np.float32] = IMAGES, seed: int = 1
) -> tuple[npt.NDArray[np.float32], augment.Mix]:
    batch, mix = augment.augmented(names, {"x": x}, ["x"], np.random.default_rng(seed))
    return batch["x"], mix


def test_flip_mirrors_about_half() -> None:
    found, _ = changed("flip")

    mirrored = [np.array_equal(a, b[..., ::-1]) for a, b in zip(found, IMAGES, strict=True)]
    same = [np.array_equal(a, b) for a, b in zip(found, IMAGES, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 16 < sum(mirrored) < 48


def test_zoom_shows_a_part() -> None:
    """Of planes, zoomed, there are planes: their slopes say how large a part is, their values where."""
    rows, columns = np.mgrid[:16, :24].astype(np.float32)
    planes = np.stack([rows, columns, rows + 2 * columns])[None].repeat(200, 0)

    found, _ = changed("zoom", x=planes)

    inside = found[:, :, 1:-1, 1:-1]  # half a pixel beyond the border is not made up
    shares = np.stack([np.diff(inside[:, 0], axis=1)[:, 0, 0], np.diff(inside[:, 1])[:, 0, 0]], 1)
    np.testing.assert_allclose(np.diff(inside[:, 0], axis=1), np.broadcast_to(
        shares[:, :1, None], (200, 13, 22)), atol=1e-4)  # fmt: skip
    np.testing.assert_allclose(inside[:, 2], inside[:, 0] + 2 * inside[:, 1], atol=1e-4)
    area, stretch = shares.prod(1), shares[:, 0] / shares[:, 1]
    assert 0.249 < area.min() < 0.35 < 0.9 < area.max() <= 1.001
    assert 0.74 < stretch.min() < 0.8 < 1.25 < stretch.max() < 1.34
    assert found[:, 0].min() >= 0
    assert found[:, 0].max() <= 15
    assert len(np.unique(found[:, 0, 0, 0])) > 150


def test_crop_shifts_by_up_to_an_eighth() -> None:
    """Every image is a window of the image with mirrored borders; all shifts occur."""
    found, _ = changed("crop", x=np.repeat(IMAGES, 8, 0))
    wide = np.pad(IMAGES, ((0, 0), (0, 0), (2, 2), (3, 3)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(wide, (16, 24), axis=(2, 3))

    seen = set()
    for i, image in enumerate(found):
        places = np.argwhere((windows[i // 8] == image[:, None, None]).all((0, 3, 4)))
        assert len(places) == 1
        seen.add(tuple(places[0]))
    assert seen == {(row, column) for row in range(5) for column in range(7)}


def test_cutout_covers_a_square_with_the_mean() -> None:
    found, _ = changed("cutout")

    covered = (found == IMAGES.mean((2, 3), keepdims=True)).all(1)
    np.testing.assert_array_equal(found.transpose(0, 2, 3, 1)[~covered],
                                  IMAGES.transpose(0, 2, 3, 1)[~covered])  # fmt: skip
    sizes = covered.sum((1, 2))
    assert sizes.max() == 8 * 12  # whole, half of each side
    assert sizes.min() >= 4 * 6  # its middle is in the image
    assert len(set(sizes)) > 5


def test_mixup_is_the_share_it_says() -> None:
    found, mix = changed("mixup")

    assert 0 < mix.share < 1
    assert sorted(mix.partner) == list(range(64))
    expected = mix.share * IMAGES + (1 - mix.share) * IMAGES[mix.partner]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_channels_may_be_last_and_seeds_decide() -> None:
    last = np.ascontiguousarray(IMAGES.transpose(0, 2, 3, 1))
    first, _ = changed("crop", "flip", "cutout")
    moved, _ = changed("crop", "flip", "cutout", x=last)

    np.testing.assert_allclose(moved.transpose(0, 3, 1, 2), first, atol=1e-6)
    assert np.array_equal(first, changed("crop", "flip", "cutout")[0])
    assert not np.array_equal(first, changed("crop", "flip", "cutout", seed=2)[0])


def test_refuses_what_is_no_image_or_no_change() -> None:
    batch: dict[str, npt.NDArray[Any]] = {
        "x": np.zeros((2, 5), np.float32),
        "ids": np.zeros((2, 3, 4, 4), np.int64),
    }
    with pytest.raises(DataError, match=r"--augment flip is for images .* 'x' \[2, 5\]"):
        augment.images(("flip",), batch, ["x", "ids"])
    assert augment.images((), batch, ["x", "ids"]) == []
    with pytest.raises(OnnxPruneError, match="--augment 'rotate' is unknown: expected zoom, crop"):
        augment.check(("flip", "rotate"))


def test_mixed_images_have_two_labels() -> None:
    """Share CE(first) + (1 - share) CE(second), as images are mixed (Zhang et al., section 2)."""
    y = np.arange(64) % 5
    arrays: dict[str, npt.NDArray[Any]] = {"x": IMAGES, "y": y}
    samples = Samples(64, lambda a, b: {k: v[a:b] for k, v in arrays.items()}, extra=("y",))
    recipe = Recipe(batch=64, augment=("mixup",), label_weight=1.0, holdout=0.0)
    batch = Batches(samples, recipe, ["x"], "y").train(0)
    truth, own = batch.arrays[TRUTH], batch.arrays["y"]

    assert np.array_equal(truth[:, 0], own)
    assert not np.array_equal(truth[:, 1], own)
    scores = np.random.default_rng(3).standard_normal((64, 5)).astype(np.float32)
    loss = Loss(recipe, ["s"], [], {"s": torch.from_numpy(scores)}, labelled=True, own=None)
    held = {name: torch.from_numpy(value) for name, value in batch.arrays.items()}
    found = loss([torch.from_numpy(scores)], {"s": torch.from_numpy(scores)}, held, batch.share)
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    each = [-logs[np.arange(64), truth[:, i]].mean() for i in (0, 1)]
    expected = batch.share * each[0] + (1 - batch.share) * each[1]
    assert float(found) == pytest.approx(expected, rel=1e-5)
