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
    """

    samples: int
    accuracy: Accuracy | None = None
    reference: Accuracy | None = None
    agreement: float | None = None
    errors: dict[str, float] = dataclasses.field(default_factory=dict)

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
    hits, hits_reference, faces = _Hits(), _Hits(), interface or Interface()
    same = done = 0
    distances: dict[str, _Distance] = {}
    size = samples.batch or _batch_size(session, samples)
    for batch in samples.batches(size):
        count = min(size, samples.count - done)
        outputs = session.run(faces.feeds(batch))
        scores = _scores(outputs.values(), count)
        truth = None if labels is None else _labels(batch, labels, scores, outputs, faces)
        if truth is not None and scores is not None:
            hits.add(scores, truth)
        if reference is not None:
            expected = faces.outputs(reference.run(batch))
            other = _scores(expected.values(), count)
            if truth is not None and other is not None:
                hits_reference.add(other, truth)
            if scores is not None and other is not None:
                same += int((scores.argmax(1) == other.argmax(1)).sum())
            for name in outputs:
                distances.setdefault(name, _Distance()).add(outputs[name], expected[name])
        done += count
        progress("evaluating", done, samples.count)
    classed = reference is not None and scores is not None
    return Evaluation(
        samples=done,
        accuracy=hits.result(),
        reference=hits_reference.result(),
        agreement=same / done if classed else None,
        errors={name: distance.result() for name, distance in distances.items()},
    )


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

    def add(self, scores: Array, labels: Array) -> None:
        scores, labels = scores[labels >= 0], labels[labels >= 0]
        best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        self.samples += len(labels)
        self.first += int((best[:, 0] == labels).sum())
        self.five += int((best == labels[:, None]).any(axis=1).sum())
        self.classes = scores.shape[1]

    def result(self) -> Accuracy | None:
        if not self.samples:
            return None
        top5 = self.five / self.samples if self.classes >= _TOP5_FROM else None
        return Accuracy(self.first / self.samples, top5)


@dataclasses.dataclass
class _Distance:
    """Sums up how far one output is from the reference's."""

    difference: float = 0.0
    size: float = 0.0
    floating: bool = True

    def add(self, output: Any, reference: Any) -> None:
        value, expected = np.asarray(output), np.asarray(reference)
        self.floating = value.dtype.kind in "fV"  # V: bfloat16
        if value.shape != expected.shape:
            self.difference = float("inf")
        elif self.floating:
            self._add(value.astype(np.float64), expected.astype(np.float64))
        else:
            self.difference += float((value != expected).sum())
        self.size += float(value.size) if not self.floating else 0.0

    def _add(self, value: Array, expected: Array) -> None:
        finite = np.isfinite(expected)
        if (finite != np.isfinite(value)).any():
            self.difference = float("inf")
        self.difference += float(((value - expected)[finite] ** 2).sum())
        self.size += float((expected[finite] ** 2).sum())

    def result(self) -> float:
        if self.difference == 0:
            return 0.0
        ratio = self.difference / self.size if self.size else float("inf")
        return float(np.sqrt(ratio)) if self.floating else ratio
