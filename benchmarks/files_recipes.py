"""What the published files are for: the samples each is calibrated on, and the figure it is judged by.

A recipe's samples and the pictures, sounds or images of its figure are apart, except where only one
sound is there (`note` says so).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.files_detections import (
    best_object,
    boxed,
    cells_found,
    faces_found,
    objects_found,
    regions_found,
)
from benchmarks.files_samples import (
    Array,
    Recipe,
    Samples,
    cifar,
    fitted,
    mnist,
    outputs,
    photos,
    picture,
)
from benchmarks.files_sounds import enhancer, voice_activity
from onnxprune.core.runtime import Session

_CALIBRATION, _TEST = 512, 10_000
_PHOTOS = 100  # photos to calibrate on; the other hundred are for figures
_PICTURES, _CROPS = ("faces.jpg", "people.jpg", "street.jpg", "text.jpg"), 16


# Images with labels


def labelled(
    name: str,
    train: Callable[[Path], tuple[Array, Array]],
    test: Callable[[Path], tuple[Array, Array]],
    prepare: Callable[[Array], Array],
    batch: int,
) -> Recipe:
    """Return the recipe of a classifier: accuracy on the test images."""

    def samples(folder: Path, _: Session) -> Samples:
        return {name: prepare(train(folder)[0][:_CALIBRATION])}

    def figure(folder: Path, session: Session, _: Session) -> str:
        images, labels = test(folder)
        right = 0
        for start in range(0, _TEST, batch):
            part = prepare(images[start : start + batch])
            found = outputs(session, {name: part})[0].reshape(len(part), -1).argmax(1)
            right += int((found == labels[start : start + batch]).sum())
        return f"{100 * right / _TEST:.2f} %"

    return Recipe("accuracy on 10,000 test images", samples, figure)


def channels_first(mean: list[float], std: list[float]) -> Callable[[Array], Array]:
    """Return the usual preprocessing of RGB images."""

    def prepare(images: Array) -> Array:
        scaled = (images.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2).astype(np.float32))

    return prepare


def of_mnist(name: str, shape: tuple[int, ...], scale: float, batch: int) -> Recipe:
    """Return the recipe of an MNIST classifier."""
    return labelled(
        name,
        lambda folder: mnist(folder, "train"),
        lambda folder: mnist(folder, "test"),
        lambda images: images.reshape(-1, *shape).astype(np.float32) / np.float32(scale),
        batch,
    )


def of_cifar(name: str, prepare: Callable[[Array], Array], batch: int = 1) -> Recipe:
    """Return the recipe of a CIFAR-10 classifier."""
    return labelled(
        name,
        lambda folder: cifar(folder, "train_1"),
        lambda folder: cifar(folder, "test"),
        prepare,
        batch,
    )


# Photos


_MEAN, _STD = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])


def on_photos(
    name: str, prepare: Callable[[Image.Image], Array], judged: tuple[str, ...] | None = None
) -> Callable[[Path, Session], Samples]:
    """Return calibration on photos of all kinds, and on crops of the pictures that are not judged."""

    def samples(folder: Path, _: Session) -> Samples:
        images, rng = photos(folder)[0][:_PHOTOS], np.random.default_rng(0)
        for spare in sorted(set(_PICTURES) - set(judged)) if judged else ():
            whole = picture(folder, spare)
            for share in np.linspace(0.4, 1, _CROPS):
                size = [int(share * side) for side in whole.size]
                left, top = (
                    int(rng.integers(a - b + 1)) for a, b in zip(whole.size, size, strict=True)
                )
                images = [*images, whole.crop((left, top, left + size[0], top + size[1]))]
        return {name: np.concatenate([prepare(image) for image in images])}

    return samples


def imagenet(name: str) -> Recipe:
    """Return the recipe of an ImageNet classifier: top-1 and top-5 on a hundred photos."""

    def prepare(image: Image.Image) -> Array:
        return fitted(image.crop((16, 16, 240, 240)), 224, 224, mean=_MEAN, std=_STD)

    def figure(folder: Path, session: Session, _: Session) -> str:
        images, labels = photos(folder)
        first, five = 0, 0
        for image, label in zip(images[_PHOTOS:], labels[_PHOTOS:], strict=True):
            best = outputs(session, {name: prepare(image)})[0].ravel().argsort()[::-1][:5]
            first, five = first + int(best[0] == label), five + int(label in best)
        return f"{first} % / {five} %"

    return Recipe("top-1 / top-5 on 100 photos", on_photos(name, prepare), figure)


def detector(
    what: str,
    name: str,
    prepare: Callable[[Image.Image], Array],
    read: Callable[[list[Array]], str],
    pictures: tuple[str, ...],
    calibrate: Callable[[Image.Image], Array] | None = None,
) -> Recipe:
    """Return the recipe of a detector: what it finds on known pictures."""

    def figure(folder: Path, session: Session, _: Session) -> str:
        found = (outputs(session, {name: prepare(picture(folder, p))}) for p in pictures)
        return "; ".join(map(read, found))

    return Recipe(what, on_photos(name, calibrate or prepare, pictures), figure)


def openseeface() -> Recipe:
    """Return the recipe of a face heat-map: its maximum with faces, and on a blank image."""
    prepare = lambda image: fitted(image, 224, 224, mean=_MEAN, std=_STD)  # noqa: E731  # one line

    def figure(folder: Path, session: Session, _: Session) -> str:
        blank = Image.new("RGB", (224, 224), (128, 128, 128))
        images = (picture(folder, "faces.jpg"), blank)
        heat = [outputs(session, {"input": prepare(image)})[0][0, 0].max() for image in images]
        return f"{heat[0]:.2f} / {heat[1]:.2f}"

    return Recipe("heat with faces / blank", on_photos("input", prepare, ("faces.jpg",)), figure)


def segmentation() -> Recipe:
    """Return the recipe of DeepLab: pixels whose class is still that of the original."""

    def prepare(image: Image.Image) -> Array:
        return fitted(image, 257, 257, mean=127.5, std=127.5).transpose(0, 2, 3, 1).copy()

    def figure(folder: Path, session: Session, original: Session) -> str:
        same: list[float] = []
        both = total = 0
        for image in photos(folder)[0][_PHOTOS : _PHOTOS + 40]:
            a, b = (
                outputs(s, {"sub_7": prepare(image)})[0].argmax(-1) for s in (session, original)
            )
            same.append(float((a == b).mean()))
            both, total = (
                both + int(((a == b) & (b > 0)).sum()),
                total + int(((a > 0) | (b > 0)).sum()),
            )
        return f"{100 * np.mean(same):.1f} % / {100 * both / total:.1f} %"

    what = "pixels as the original, all / of objects (intersection over union), 40 photos"
    return Recipe(what, on_photos("sub_7", prepare), figure)


def flowers() -> Recipe:
    """Return the recipe of a classifier of flowers: the probability of the daisy that is a daisy."""

    def prepare(image: Image.Image) -> Array:
        return fitted(image, 128, 128, mean=127.5, std=127.5)

    def samples(folder: Path, _: Session) -> Samples:
        images, labels = photos(folder)
        kept = [i for i, n in zip(images, labels, strict=True) if n != 985]
        return {"input_1": np.concatenate([prepare(image) for image in kept])}

    def figure(folder: Path, session: Session, original: Session) -> str:
        images, labels = photos(folder)
        daisy = images[int(np.nonzero(labels == 985)[0][0])]
        found = outputs(session, {"input_1": prepare(daisy)})[0].ravel()
        same = [
            outputs(session, {"input_1": x})[0].argmax()
            == outputs(original, {"input_1": x})[0].argmax()
            for x in map(prepare, images[_PHOTOS:])
        ]
        return f"{found[0]:.3f} / {100 * np.mean(same):.0f} %"

    return Recipe("daisy / answers as the original", samples, figure)


def super_resolution() -> Recipe:
    """Return the recipe of ESPCN: PSNR of an image three times as wide."""

    def luminance(image: Image.Image, size: int) -> Array:
        grey = image.convert("YCbCr").getchannel("Y").resize((size, size), Image.Resampling.BICUBIC)
        return np.asarray(grey, np.float32)[None, None] / 255

    def samples(folder: Path, _: Session) -> Samples:
        return {"input.1": np.concatenate([luminance(i, 170) for i in photos(folder)[0][:48]])}

    def figure(folder: Path, session: Session, _: Session) -> str:
        image = picture(folder, "street.jpg")
        found = outputs(session, {"input.1": luminance(image, 170)})[0]
        return f"{-10 * np.log10(((found - luminance(image, 510)) ** 2).mean()):.2f} dB"

    return Recipe("PSNR on street.jpg, luminance", samples, figure)


def tracker() -> Recipe:
    """Return the recipe of VitTrack: columns of the peak when what is tracked moves by half of it."""

    def pair(image: Image.Image, shift: int) -> tuple[Array, Array]:
        template = fitted(image.crop((96, 96, 160, 160)), 128, 128, mean=_MEAN, std=_STD)
        left = 64 - shift
        search = image.crop((left, 64, left + 128, 192))
        return template, fitted(search, 256, 256, mean=_MEAN, std=_STD)

    def samples(folder: Path, _: Session) -> Samples:
        rng = np.random.default_rng(0)
        pairs = [pair(image, int(rng.integers(-32, 33))) for image in photos(folder)[0][:_PHOTOS]]
        names = ("template", "search")
        return {n: np.concatenate([p[i] for p in pairs]) for i, n in enumerate(names)}

    def figure(folder: Path, session: Session, _: Session) -> str:
        right, scores = 0, []
        for image in photos(folder)[0][_PHOTOS : _PHOTOS + 30]:
            for shift, column in ((0, 8), (16, 10), (-16, 6)):
                template, search = pair(image, shift)
                heat = outputs(session, {"template": template, "search": search})[0][0, 0]
                right += abs(int(heat.argmax()) % 16 - column) <= 1
                scores.append(float(heat.max()))
        return f"{100 * right / len(scores):.0f} % / {np.mean(scores):.3f}"

    return Recipe(
        "peaks in the right column (of 16, give or take one) / mean peak", samples, figure
    )


_CIFAR_STD = [0.2470, 0.2435, 0.2616]
_USUAL = channels_first([0.4914, 0.4822, 0.4465], _CIFAR_STD)

RECIPES: dict[str, Recipe] = {
    "mnist_cntk": of_mnist("Input3", (1, 28, 28), 1, 1),
    "mnist_fc_256x6": of_mnist("0", (784, 1), 255, 1),
    "cifar10_sri_resnet_a": of_cifar("input", _USUAL),
    "cifar10_conv8": of_cifar("x", channels_first([0.485, 0.456, 0.406], [0.225] * 3)),
    "cifar10_tf_nhwc": of_cifar("x:0", lambda x: x.astype(np.float32) / 255, 250),
    "cifar10_vit_ibp": of_cifar(
        "input", channels_first([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]), 250
    ),
    "cifar10_tinycnn": of_cifar("input", _USUAL),
    "cifar10_tinycnn_qlinear_int8": of_cifar("input", _USUAL),
    "imagenet_mobilenetv2_qdq": imagenet("image"),
    "imagenet_mobilenetv2_dynquant": imagenet("input"),
    "mobilenetv2_035_flowers": flowers(),
    "ultraface_rfb_320": detector(
        "faces on faces.jpg", "input", lambda i: fitted(i, 320, 240, mean=127, std=128),
        faces_found, ("faces.jpg",)
    ),
    "yunet_n_320": detector(
        "cells above 0.6 on faces.jpg", "input", lambda i: fitted(i, 320, 320, bgr=True),
        cells_found, ("faces.jpg",)
    ),
    "openseeface_det_mnv3": openseeface(),
    "yolox_nano": detector(
        "best score on street.jpg; people.jpg", "images", boxed, objects_found,
        ("street.jpg", "people.jpg")
    ),
    "fastestdet": detector(
        "best score on street.jpg; people.jpg", "input.1",
        lambda i: fitted(i, 352, 352, bgr=True, std=255), best_object, ("street.jpg", "people.jpg")
    ),
    "ppocrv3_det_en": detector(
        "text on text.jpg", "x", lambda i: fitted(i, 736, 736, mean=_MEAN, std=_STD),
        regions_found, ("text.jpg",), lambda i: fitted(i, 256, 256, mean=_MEAN, std=_STD)
    ),
    "deeplabv3_257": segmentation(),
    "vittrack": tracker(),
    "espcn_x3": super_resolution(),
    "silero_vad_v4": voice_activity(),
    "dtln_2": enhancer(),
}  # fmt: skip
