"""Published networks at half of their MACs, distilled without labels on what samples there are.

    python benchmarks/retrain_files.py [NAME ...] [--macs 0.5] [--minutes 8] [--work FOLDER] [--quick]
           [--recipe optimizer=sgd,rate=0.005] [--repair sequential:steps=0]

A small MobileNetV2, two detectors of objects, one of text and a sentence encoder. Each is pruned and
repaired with the defaults, then taught by its original on the same samples: 150 photos (for text, with
words written on them), zoomed and mirrored, or 4,096 sentences. Likeness to the original is on 50 photos
and 1,821 sentences that neither step has seen: of answers, of outputs, and of the objects that a detector
finds (Dice's coefficient; an object is the same in its class and in half of its box); accuracy where there
are labels. `--recipe` changes settings of the training. The number of epochs follows from the time of
the first steps.
Needs the data that `benchmarks/cifar.py` describes.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import onnxprune
from benchmarks import cifar
from benchmarks.files_detections import Objects, alike, boxed, fastest, texts, yolox
from benchmarks.files_samples import Array, fitted, outputs, photos
from onnxprune.core.configured import replaced, written
from onnxprune.core.runtime import Session
from onnxprune.torch import Recipe, retrain

UNSEEN, SENTENCES, CALIBRATION = 50, 4096, 512
WORDS = (
    "OPEN exit Main Street coffee No.7 station 24h ticket Garden sale Market bus left TAXI hotel"
)
MEAN, STD = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])
FIGURES = ("accuracy", "agreement", "same objects", "error")
IMAGES = Recipe(batch=16, augment=("zoom", "flip"))  # photos are few


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and its samples.

    Attributes:
        model: the ONNX file.
        train: samples without labels.
        unseen: samples to compare on, with `labels` if there are any.
        recipe: of the training.
        labels: key of the labels among the unseen samples, if there are any.
        read: what a detector found in one picture, of its outputs.
    """

    model: Path
    train: dict[str, Any]
    unseen: dict[str, Any]
    recipe: Recipe
    labels: str | None = None
    read: Callable[[list[Array]], Objects] | None = None


def of_photos(
    file: str,
    name: str,
    prepare: Callable[[Any], Any],
    read: Callable[[list[Array]], Objects] | None = None,
) -> Callable[[Path], Case]:
    """Return a published file that sees photos."""

    def case(home: Path) -> Case:
        del home
        folder = cifar.folder()
        seen = np.concatenate([prepare(image) for image in photos(folder)[0]])
        model = folder / "onnx" / f"{file}.onnx"
        return Case(model, {name: seen[:-UNSEEN]}, {name: seen[-UNSEEN:]}, IMAGES, read=read)

    return case


def lettered(image: Image.Image, rng: np.random.Generator) -> Array:
    """Return a photo with a few words written on it, as PP-OCR sees it."""
    image = image.copy()
    pen = ImageDraw.Draw(image)
    for y in range(rng.integers(10, 40), 230, rng.integers(40, 80)):
        words = " ".join(rng.choice(WORDS.split(), rng.integers(1, 4)))
        colour = (255, 255, 200) if np.asarray(image)[y].mean() < 128 else (30, 0, 60)
        font = ImageFont.load_default(int(rng.integers(14, 26)))
        pen.text((int(rng.integers(60)), y), words, fill=colour, font=font)
    return fitted(image, 256, 256, mean=MEAN, std=STD)


def signs(home: Path) -> Case:
    """Return the detector of text, on photos that words are written on."""
    del home
    folder, rng = cifar.folder(), np.random.default_rng(0)
    seen = np.concatenate([lettered(image, rng) for image in photos(folder)[0]])
    model = folder / "onnx" / "ppocrv3_det_en.onnx"
    return Case(model, {"x": seen[:-UNSEEN]}, {"x": seen[-UNSEEN:]}, IMAGES, read=texts)


def encoder(home: Path) -> Case:
    """Return the sentence encoder with its head."""
    from benchmarks import text  # which needs transformers

    train, test = text.sentences("train")[:SENTENCES].fed, text.sentences("test").fed
    train = {name: train[name] for name in text.Head.inputs}
    return Case(text.network(home / "encoder.onnx"), train, test, Recipe(batch=32), "labels")


CASES: dict[str, Callable[[Path], Case]] = {
    "mobilenetv2_035_flowers": of_photos(
        "mobilenetv2_035_flowers", "input_1", lambda i: fitted(i, 128, 128, mean=127.5, std=127.5)
    ),
    "fastestdet": of_photos(
        "fastestdet", "input.1", lambda i: fitted(i, 352, 352, bgr=True, std=255), fastest
    ),
    "yolox_nano": of_photos("yolox_nano", "images", boxed, yolox),
    "ppocrv3_det_en": signs,
    "text": encoder,
}


def epochs(case: Case, student: Path, home: Path, minutes: float) -> int:
    """Return how many epochs take so long, by the second of two short trainings of three steps."""
    batch = case.recipe.batch
    few = {name: array[: 3 * batch] for name, array in case.train.items()}
    times = []
    for _ in range(2):
        done = retrain(
            student, case.model, few, home / "try.onnx",
            recipe=dataclasses.replace(case.recipe, epochs=1),
        )  # fmt: skip
        times.append(done.seconds / done.steps)
    steps = len(next(iter(case.train.values()))) // batch
    return max(1, round(60 * minutes / times[1] / steps))


def compared(case: Case, model: Path) -> list[str]:
    """Return the figures of `FIGURES` on samples that nothing has seen."""
    found = onnxprune.evaluate(model, case.unseen, labels=case.labels, reference=case.model)
    shares = [
        found.accuracy.top1 if found.accuracy else None,
        found.agreement,
        detected(case, model),
    ]
    said = ["" if share is None else f"{100 * share:.2f} %" for share in shares]
    return [*said, f"{found.error:.3f}"]


def detected(case: Case, model: Path) -> float | None:
    """Return Dice's coefficient of the objects that a detector and its original find."""
    if case.read is None:
        return None
    ((name, pictures),) = case.unseen.items()
    theirs, mine = (
        [case.read(outputs(session, {name: picture[None]})) for picture in pictures]
        for session in (Session(case.model), Session(model))
    )
    shared = sum(alike(a, b) for a, b in zip(theirs, mine, strict=True))
    return 2 * shared / sum(len(found.classes) for found in [*theirs, *mine])


def row(name: str, home: Path, asked: argparse.Namespace, table: Table) -> None:
    """Prune, retrain and compare one network."""
    case, minutes = CASES[name](home), 0.25 if asked.quick else asked.minutes
    recipe = replaced(case.recipe, written(asked.recipe), "--recipe")
    case = dataclasses.replace(case, recipe=recipe)
    student, final = home / f"{name}.pruned.onnx", home / f"{name}.final.onnx"
    report = onnxprune.prune(
        case.model, student, data=case.train, macs=asked.macs, round_to=1, samples=CALIBRATION,
        overwrite=True, repair=asked.repair, work=home / f"{name}.work",
    )  # fmt: skip
    left = report.figures["macs"].after / report.figures["macs"].before
    table.add_row(name, "original", "1.000", *compared(case, case.model))
    repaired = f"pruned, repaired ({asked.repair or 'default'})"
    table.add_row(name, repaired, f"{left:.3f}", *compared(case, student))
    if not minutes:
        return
    recipe = dataclasses.replace(case.recipe, epochs=epochs(case, student, home, minutes))
    start = time.process_time()
    done = retrain(student, case.model, case.train, final, recipe=recipe)
    spent = (time.process_time() - start) / 60
    told = f"retrained, {done.steps} steps of {recipe.batch}, {spent:.1f} CPU min"
    told += f", epoch {done.kept} of {recipe.epochs} kept"
    table.add_row(name, told, f"{left:.3f}", *compared(case, final))


def main() -> None:
    """Run the cases asked for and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(CASES)}; all")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--minutes", type=float, default=8, help="of each training; 0: none")
    parser.add_argument("--repair", help="in place of the default: sequential:steps=0, ...")
    parser.add_argument("--work", type=Path, help="where files and scores stay")
    parser.add_argument("--recipe", default="", help="other settings: epochs=4,rate=0.01,...")
    parser.add_argument("--quick", action="store_true", help="a quarter of a minute each")
    asked = parser.parse_args()
    table = Table("network", "model", "MACs", *FIGURES, box=MARKDOWN)
    with tempfile.TemporaryDirectory() as folder:
        home = asked.work or Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        for name in asked.names or CASES:
            row(name, home, asked, table)
            Console(width=140).print(table)


if __name__ == "__main__":
    main()
