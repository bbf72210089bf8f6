"""CMI on VGG-16-BN and CIFAR-10, the protocol of its paper (Vu-Van et al. 2024, arXiv 2411.18578).

    python benchmarks/cmi_vgg.py --folder CACHE --minutes 40      # trains, then runs all variants
    python benchmarks/cmi_vgg.py --folder CACHE --variants main   # the four compared in the paper
    python benchmarks/cmi_vgg.py --folder CACHE --show            # table only

256 training images with their labels order the filters and accept the cuts, as cut ("paper") or with
the mean of what is lost kept ("robust"); nothing is chosen on test images. Each variant removes what
it will, without a budget. Accuracy is that of the cut network, of the same cut after the repair
`sequential` (512 training images, no training), and, for the main variants and the network itself,
after a short training on. Everything done is kept in the folder (or $ONNXPRUNE_BENCH), and a run that
was stopped goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console

import onnxprune
from onnxprune.core.errors import BudgetError, OnnxPruneError
from onnxprune.models.vgg import VGG16

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import cifar
from benchmarks import cmi_vgg_network as net
from benchmarks.cmi_vgg_table import Row, summary, widths

ORDER, REPAIR = 256, 512  # images: the paper's N; those that the repair sees
JUDGED = {"paper": "none", "robust": "mean"}  # repair of what is accepted or not
MODES, DIRECTIONS = ("paper", "robust"), ("both", "forward")
CONDITIONING, CUTS = ("compact", "full"), ("scree", "x-means", "permutation")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One reading of the method; `original` is the network as it was."""

    mode: str
    direction: str
    conditioning: str
    cut: str

    @property
    def name(self) -> str:
        """How it is called in tables and files."""
        return " ".join(dataclasses.astuple(self)).strip()

    @property
    def is_main(self) -> bool:
        """Whether it is one of the two that the paper compares, in either mode, or the original."""
        return (self.conditioning, self.cut) in {("compact", "scree"), ("", "")}

    def criterion(self, alpha: float | None) -> str:
        """Return it as `--criterion` takes it."""
        text = ",".join(
            f"{field.name}={getattr(self, field.name)}" for field in dataclasses.fields(self)
        )
        return f"cmi:{text}" + (f",alpha={alpha:g}" if alpha else "")


ORIGINAL = Variant("original", "", "", "")
# Those that the paper compares come first.
VARIANTS = sorted(
    itertools.starmap(Variant, itertools.product(MODES, DIRECTIONS, CONDITIONING, CUTS)),
    key=lambda variant: not variant.is_main,
)


class Study:
    """The network, and what is cut from it."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.folder = asked, asked.folder
        self.test = cifar.images("test", asked.test)
        calibration = cifar.images("train_1", ORDER + REPAIR)  # a quarter is held out by `prune`
        self.data = {"images": calibration.x, "y": calibration.y}
        model, seen = self._trained()
        self.path = net.written(model, self.folder / "vgg16.onnx")
        self.network = (net.accuracy(self.path, self.test), *seen)
        print(f"network: {self.network[0]:.2%} after {seen} images of half and full size")

    def _trained(self) -> tuple[VGG16, tuple[int, int]]:
        """Train, or go on with it, or take what is there once the time is over."""
        torch.manual_seed(self.asked.seed)
        model = VGG16(hidden=None)
        training = net.Training(model, self.asked.seed)
        schedule = net.Schedule(seconds=60 * self.asked.minutes)
        path = self.folder / "vgg16.pt"
        if not training.resumed(path, schedule):
            training.run(net.Pictures.read(5), schedule, path)
        return model.eval(), training.seen

    def row(self, variant: Variant) -> Row:
        """Prune, repair and train on."""
        began, note = time.process_time(), ""
        path = self.folder / f"{variant.name.replace(' ', '-')}.onnx"
        figures = {"macs": 1.0, "params": 1.0}
        try:
            if variant == ORIGINAL:
                path = self.path
            else:
                report = onnxprune.prune(
                    self.path, path, data=self.data, labels="y", samples=ORDER,
                    repair=JUDGED[variant.mode], criterion=variant.criterion(self.asked.alpha),
                    round_to=1, floor=0.0, seed=self.asked.seed, work=self.folder / "work",
                    overwrite=True,
                )  # fmt: skip
                if JUDGED[variant.mode] != "none":
                    self._again(path, path.with_suffix(".cut.onnx"), repair="none")
                    path = path.with_suffix(".cut.onnx")
                figures = {
                    name: report.figures[name].after / report.figures[name].before
                    for name in figures
                }
        except BudgetError as error:
            if "removes nothing" not in str(error):
                raise
            path, note = self.path, "removes nothing"
        seconds = time.process_time() - began
        cut = path != self.path
        retrain = self.asked.retrain if variant.is_main else 0
        return Row(
            variant.name, self.asked.alpha, self.network, net.widths(path), **figures,
            seconds=seconds, pruned=net.accuracy(path, self.test),
            repaired=self._repaired(path) if cut else None,
            retrained=self._retrained(path, retrain) if retrain else None,
            images=len(self.test.x), retrain=retrain, note=note,
        )  # fmt: skip

    def _repaired(self, path: Path) -> float:
        """Return the accuracy of the same cut, refitted."""
        target = path.with_suffix(".repaired.onnx")
        self._again(path, target, repair="sequential")
        return net.accuracy(target, self.test)

    def _again(self, path: Path, target: Path, repair: str) -> None:
        """Make the cut of a file once more, with another repair."""
        onnxprune.prune(
            self.path, target, data=self.data, samples=REPAIR, repair=repair,
            plan=path.with_suffix(".plan.json"), seed=self.asked.seed, overwrite=True,
        )  # fmt: skip

    def _retrained(self, path: Path, images: int) -> float:
        """Return the accuracy after training on, as cut."""
        target = path.with_suffix(".retrained.onnx")
        net.retrained(path, target, net.Pictures.read(5), images, self.asked.seed)
        return net.accuracy(target, self.test)


def rows(asked: argparse.Namespace, held: dict[object, Row]) -> Iterator[Row]:
    """Run what is wanted and not held yet."""
    study = Study(asked)
    for variant in (ORIGINAL, *VARIANTS):
        if not wanted(variant, asked.variants):
            continue
        retrain = asked.retrain if variant.is_main else 0
        key = (variant.name, asked.alpha, len(study.test.x), retrain, study.network)
        if key not in held:
            yield study.row(variant)


def wanted(variant: Variant, asked: list[str]) -> bool:
    """Tell whether a variant was asked for: by "all", "main", or words that its name holds."""
    words = set(variant.name.split())
    return any(
        text == "all" or (text == "main" and variant.is_main) or words >= set(text.split())
        for text in asked
    )


def read(path: Path) -> dict[object, Row]:
    """Return the rows of earlier runs."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    made = [Row(**row | {name: tuple(row[name]) for name in ("network", "kept")}) for row in found]
    return {row.key: row for row in made}


def parsed() -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=os.environ.get("ONNXPRUNE_BENCH"),
                        help="where everything is kept; else $ONNXPRUNE_BENCH")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=40, help="of the first training")
    parser.add_argument("--retrain", type=int, default=50_000, help="images; 0: not at all")
    parser.add_argument("--alpha", type=float, help="order of the entropy; else that of the mode")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument(
        "--variants", default="all", type=lambda text: text.split(","),
        help='"all", "main", or words such as "paper both scree", apart by commas',
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true",
                        help="2,000 test images, alpha 2, main variants, little training on")  # fmt: skip
    parser.add_argument("--show", action="store_true", help="run nothing")
    asked = parser.parse_args()
    if asked.folder is None:
        parser.error("give --folder, or set ONNXPRUNE_BENCH")
    if asked.quick:
        asked.test, asked.alpha, asked.retrain = 2000, 2.0, min(asked.retrain, 10_000)
        asked.variants = ["main"] if asked.variants == ["all"] else asked.variants
    return asked


def main() -> int:
    """Measure what is missing, print all.

    Returns:
        0, also where there are no images; 2 for a mistake of the user's.
    """
    asked = parsed()
    asked.folder = Path(asked.folder)
    asked.folder.mkdir(parents=True, exist_ok=True)
    file = asked.folder / "rows.jsonl"
    held = read(file)
    if not asked.show:
        try:
            with file.open("a") as stream:
                for row in rows(asked, held):
                    held[row.key] = row
                    print(json.dumps(dataclasses.asdict(row)), file=stream, flush=True)
                    print(row, flush=True)
        except cifar.NoDataError as error:
            print(f"skipped: {error}")
            return 0
        except OnnxPruneError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(summary(list(held.values())), widths(list(held.values())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
