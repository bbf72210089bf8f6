"""Samples as training reads them: in an order of each epoch's own, changed, some of them held out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..core.errors import DataError
from ..core.graph import Array
from ..core.samples import Samples, concatenate
from .augment import augmented, images
from .recipe import Recipe

TRUTH = "::truth"  # no tensor is called so
_TRAINED, _HELD = 0, 1  # first part of a batch's name


@dataclasses.dataclass(frozen=True)
class Batch:
    """Samples of one step.

    Attributes:
        arrays: by name, first axis samples; those of `TRUTH` are labels, shape (N, 2), with labels.
        share: of the first label; the rest is of the second, mixed in.
        again: name of these samples, if they come again exactly so; empty if they do not.
    """

    arrays: dict[str, Array]
    share: float = 1.0
    again: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(next(iter(self.arrays.values())))

    def part(self, rows: slice) -> Batch:
        """Return some of the samples."""
        arrays = {name: array[rows] for name, array in self.arrays.items()}
        again = self.again and (*self.again, rows.start, rows.stop)
        return dataclasses.replace(self, arrays=arrays, again=again)


class Batches:
    """All batches of a run: what is in one follows from the recipe and the number of the step.

    Attributes:
        size: samples a step.
        each: steps an epoch; samples beyond the last whole batch wait for another order.
        steps: of all epochs.
        held: samples that are not trained on.
        once: samples that the model takes at once: as many as its file says, if that is fixed.
    """

    def __init__(
        self, samples: Samples, recipe: Recipe, inputs: list[str], labels: str | None
    ) -> None:
        """Choose what is held out.

        Raises:
            DataError: if too few samples are left, or images are to be changed and there are none.
        """
        self._samples, self._recipe, self._labels = samples, recipe, labels
        self._chunk = samples.batch or 1  # samples that are only read together
        everything = np.random.default_rng([recipe.seed, 2]).permutation(
            samples.count // self._chunk
        )
        aside = recipe.aside(len(everything), self._chunk)
        self._held, self._trained = everything[:aside], np.sort(everything[aside:])
        if not len(self._trained) or (recipe.holdout and not aside):
            raise DataError(
                f"--holdout {recipe.holdout} of {samples.count} samples leaves {aside} to judge by and "
                f"{len(self._trained) * self._chunk} to train on: give more samples"
            )
        count = min(max(1, recipe.batch // self._chunk), len(self._trained))
        self.size, self.each = count * self._chunk, len(self._trained) // count
        self.steps, self.held = recipe.epochs * self.each, aside * self._chunk
        self.once = samples.batch or self.size
        self._images = images(recipe.augment, samples.read(0, self._chunk), inputs)

    def train(self, step: int) -> Batch:
        """Return the samples of a step."""
        epoch, place = self._place(step)
        order = np.random.default_rng([self._recipe.seed, epoch]).permutation(self._trained)
        count = self.size // self._chunk
        arrays = self._read(order[place * count : (place + 1) * count])
        rng = np.random.default_rng([self._recipe.seed, 1, epoch * self.each + place])
        arrays, mix = augmented(self._recipe.augment, arrays, self._images, rng)
        again = (_TRAINED, epoch, place) if self._recipe.repeat else ()
        return self._with_truth(arrays, mix.partner, mix.share, again)

    def _place(self, step: int) -> tuple[int, int]:
        """Return the epoch that a step's batch was drawn in, and its place there."""
        epoch, place = divmod(step, self.each)
        repeat = self._recipe.repeat
        if not repeat or epoch < repeat:
            return epoch, place
        order = np.random.default_rng([self._recipe.seed, 3, epoch]).permutation(self.each)
        return epoch % repeat, int(order[place])

    def judge(self) -> Iterator[Batch]:
        """Yield the samples that were held out, unchanged."""
        count = self.once // self._chunk
        for start in range(0, len(self._held), count):
            arrays = self._read(self._held[start : start + count])
            rows = np.arange(len(next(iter(arrays.values()))))
            yield self._with_truth(arrays, rows, 1.0, (_HELD, start))

    def typical(self, count: int) -> Iterator[Batch]:
        """Yield so many samples that are trained on, as the model takes them, unchanged, always the same.

        They come from all over the data, which may be in order of its classes.
        """
        each = self.once // self._chunk
        number = min(-(-count // self.once), len(self._trained) // each)
        places = np.linspace(0, len(self._trained) - 1, number * each).astype(np.int64)
        for first in range(number):
            yield Batch(self._read(self._trained[places[first::number]]))

    def _read(self, chunks: NDArray[np.int64]) -> dict[str, Array]:
        size, read = self._chunk, self._samples.read
        return concatenate(read(i * size, (i + 1) * size) for i in map(int, chunks))

    def _with_truth(
        self,
        arrays: dict[str, Array],
        partner: NDArray[np.int64],
        share: float,
        again: tuple[int, ...],
    ) -> Batch:
        if self._labels is None:
            return Batch(arrays, share, again)
        labels = arrays[self._labels].reshape(len(partner), -1)[:, 0]
        return Batch({**arrays, TRUTH: np.stack([labels, labels[partner]], 1)}, share, again)
