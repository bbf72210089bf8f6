"""What a model is worth on samples: accuracy where there are labels, likeness to a reference else.

Everything is streamed over batches; no output is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..core.contracts import Progress, Samples, silent
from ..core.errors import DataError
from ..core.graph import Array
from ..core.interface import Interface
from ..core.runtime import Session

_TOP5_FROM = 20  # classes: with fewer, guessing alone is among the first five too often
_BATCH, _BATCH_BYTES = 64, 32 << 20  # samples per run, and what their inputs may take
_Outputs = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Share of samples classified right.

    Attributes:
        top1: the class of highest score is the label.
        top5: the label is among the five highest scores; None below 20 classes.
    """

    top1: float
    top5: float | None


@dataclasses.dataclass(frozen=True)
class Turned:
    """Answers that are not what they were.

    Attributes:
        samples: how many were compared.
        lost: as they should be for the reference, and no longer for the model.
        gained: the other way round.
    """

    samples: int
    lost: int
    gained: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model does on samples.

    Attributes:
        samples: how many were run.
        accuracy: of the model; None without labels.
        reference: accuracy of the reference on the same samples; None without labels or reference.
        agreement: share of samples with the same class as the reference; None without one, or when
            no output is one score per class.
        errors: per output |y - r|_2 / |r|_2 over all samples against the reference r; for outputs
            that are not floating point the share of values that differ; inf when shapes differ.
        spreads: per output the standard error of the square of that error, over samples (over runs
            where the first axis of an output is not the samples).
        right: answers against the labels, model and reference; None without either.
        same: answers against the reference's: what is lost differs; None without scores per class.
    """

    samples: int
    accuracy: Accuracy | None = None
    reference: Accuracy | None = None
    agreement: float | None = None
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    spreads: dict[str, float] = dataclasses.field(default_factory=dict)
    right: Turned | None = None
    same: Turned | None = None

    @property
    def error(self) -> float | None:
        """The largest error over all outputs; None without a reference."""
        return max(self.errors.values(), default=None)


def evaluate(
    session: Session,
    samples: Samples,
    *,
    labels: str | None = None,
    reference: Session | None = None,
    interface: Interface | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Run a model over samples, with the reference beside it if there is one.

    Args:
        session: the model.
        samples: of its inputs, and of the labels if `labels` names them.
        labels: key of the labels: integers, one per sample.
        reference: a model with the same inputs and outputs.
        interface: how the model counts inputs and outputs anew; samples, labels and reference speak
            as the original does. Samples of classes that went do not count for accuracy.
        progress: called after each batch.

    Raises:
        DataError: if there are no samples, the labels are missing or not one integer per sample, the
            model has no output of shape (samples, classes) to compare them with, or the reference
            has other inputs or outputs.
    """
    if samples.count == 0:
        raise DataError("there are no samples to evaluate on: give at least one")
    if reference is not None:
        _refuse_other_faces(session, reference)
    tally, faces, done = _Tally(), interface or Interface(), 0
    size = samples.batch or _batch_size(session, samples)
    for batch in samples.batches(size):
        count = min(size, samples.count - done)
        outputs = session.run(faces.feeds(batch))
        scores = _scores(outputs.values(), count)
        truth = None if labels is None else _labels(batch, labels, scores, outputs, faces)
        right = None if truth is None or scores is None else tally.model.add(scores, truth)
        if reference is not None:
            expected = faces.outputs(reference.run(batch))
            other = _scores(expected.values(), count)
            if right is not None and truth is not None and other is not None:
                tally.right.add(tally.reference.add(other, truth), right)
            if scores is not None and other is not None:
                same = scores.argmax(1) == other.argmax(1)
                tally.same.add(np.ones_like(same), same)
            for name in outputs:
                distance = tally.distances.setdefault(name, _Distance())
                distance.add(outputs[name], expected[name], count)
        done += count
        progress("evaluating", done, samples.count)
    return tally.result(done)


def _refuse_other_faces(session: Session, reference: Session) -> None:
    for kind in ("inputs", "outputs"):
        ours, theirs = getattr(session, kind), getattr(reference, kind)
        if set(ours) != set(theirs):
            raise DataError(
                f"the reference has {kind} {sorted(theirs)}, the model has {sorted(ours)}"
            )


def _batch_size(session: Session, samples: Samples) -> int:
    first = samples.read(0, samples.batch or 1)
    each = sum(first[n].nbytes for n in session.inputs if n in first) / (samples.batch or 1)
    return int(np.clip(_BATCH_BYTES / max(each, 1), 1, _BATCH))


def _scores(outputs: Iterable[Any], samples: int) -> Array | None:
    """Return the first output that is one score per class, as (samples, classes).

    Trailing axes of length one are dropped: (N, C, 1, 1) is what a convolutional head gives.
    """
    for output in outputs:
        array = np.asarray(output)
        while array.ndim > 2 and array.shape[-1] == 1:
            array = array[..., 0]
        if (
            array.ndim == 2
            and len(array) == samples
            and array.shape[1] > 1
            and array.dtype.kind == "f"
        ):
            return array
    return None


def _labels(
    batch: _Outputs, key: str, scores: Array | None, outputs: _Outputs, faces: Interface
) -> Array:
    """Return the labels of a batch as the model counts classes, -1 for one that went: int64, (N,)."""
    if key not in batch:
        keys = ", ".join(f"'{k}'" for k in batch)
        raise DataError(f"--labels '{key}': the data has no such key; it has {keys}")
    if scores is None:
        shapes = ", ".join(f"'{n}' {list(np.shape(v))}" for n, v in outputs.items())
        raise DataError(
            f"--labels needs an output of shape (samples, classes); the model has {shapes}"
        )
    labels = np.asarray(batch[key])
    if labels.dtype.kind not in "iub" or labels.size != len(scores):
        raise DataError(
            f"--labels '{key}': expected one integer per sample, shape [{len(scores)}], "
            f"found {labels.dtype} {list(labels.shape)}"
        )
    labels = labels.reshape(-1).astype(np.int64)
    new = faces.classes(scores.shape[1])
    strange = labels[(labels < 0) | (labels >= len(new))]
    if len(strange):
        raise DataError(f"--labels '{key}': {strange[0]} is none of the model's {len(new)} classes")
    renumbered: Array = new[labels]
    return renumbered


@dataclasses.dataclass
class _Hits:
    """Counts right answers."""

    samples: int = 0
    first: int = 0
    five: int = 0
    classes: int = 0

    def add(self, scores: Array, labels: Array) -> Array:
        """Count; return which answers are right, bool, one per label that is a class."""
        scores, labels = scores[labels >= 0], labels[labels >= 0]
        best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        right: Array = best[:, 0] == labels
        self.samples += len(labels)
        self.first += int(right.sum())
        self.five += int((best == labels[:, None]).any(axis=1).sum())
        self.classes = scores.shape[1]
        return right

    def result(self) -> Accuracy | None:
        if not self.samples:
            return None
        top5 = self.five / self.samples if self.classes >= _TOP5_FROM else None
        return Accuracy(self.first / self.samples, top5)


@dataclasses.dataclass
class _Pairs:
    """Counts answers that turned."""

    samples: int = 0
    lost: int = 0
    gained: int = 0

    def add(self, before: Array, after: Array) -> None:
        self.samples += len(before)
        self.lost += int((before & ~after).sum())
        self.gained += int((~before & after).sum())

    def result(self) -> Turned | None:
        return Turned(self.samples, self.lost, self.gained) if self.samples else None


@dataclasses.dataclass
class _Distance:
    """Sums up how far one output is from the reference's, and the spread of that over samples."""

    floating: bool = True
    broken: bool = False  # other shapes, or values that are not finite on one side only
    sums: Array = dataclasses.field(default_factory=lambda: np.zeros((2, 2)))
    totals: Array = dataclasses.field(default_factory=lambda: np.zeros(2))

    def add(self, output: Any, reference: Any, count: int) -> None:
        value, expected = np.asarray(output), np.asarray(reference)
        self.floating = value.dtype.kind in "fV"  # V: bfloat16
        if value.shape != expected.shape:
            self.broken = True
            return
        rows = count if value.ndim and len(value) == count else 1
        if self.floating:
            value, expected = value.astype(np.float64), expected.astype(np.float64)
            finite = np.isfinite(expected)
            self.broken |= bool((finite != np.isfinite(value)).any())
            difference = np.where(finite, value - expected, 0.0) ** 2
            sizes = np.where(finite, expected, 0.0) ** 2
        else:
            difference, sizes = (value != expected).astype(np.float64), np.ones(value.shape)
        pairs = np.stack([a.reshape(rows, -1).sum(axis=1) for a in (difference, sizes)])
        self.totals += pairs.sum(axis=1)
        self.sums += pairs @ pairs.T

    def result(self) -> tuple[float, float]:
        """Return the error, and the standard error of its square."""
        difference, size = self.totals
        if self.broken or (difference and not size):
            return float("inf"), float("inf")
        if difference == 0:
            return 0.0, 0.0
        ratio = float(difference / size)
        apart = np.array([1.0, -ratio])  # of each sample: what it adds beyond its share
        spread = float(np.sqrt(max(apart @ self.sums @ apart, 0.0)) / size)
        return (float(np.sqrt(ratio)), spread) if self.floating else (ratio, 2 * ratio * spread)


@dataclasses.dataclass
class _Tally:
    """Everything that is counted over batches."""

    model: _Hits = dataclasses.field(default_factory=_Hits)
    reference: _Hits = dataclasses.field(default_factory=_Hits)
    right: _Pairs = dataclasses.field(default_factory=_Pairs)
    same: _Pairs = dataclasses.field(default_factory=_Pairs)
    distances: dict[str, _Distance] = dataclasses.field(default_factory=dict)

    def result(self, samples: int) -> Evaluation:
        same = self.same.result()
        found = {name: distance.result() for name, distance in self.distances.items()}
        return Evaluation(
            samples=samples,
            accuracy=self.model.result(),
            reference=self.reference.result(),
            agreement=None if same is None else (same.samples - same.lost) / same.samples,
            errors={name: error for name, (error, _) in found.items()},
            spreads={name: spread for name, (_, spread) in found.items()},
            right=self.right.result(),
            same=same,
        )
