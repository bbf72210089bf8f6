"""Fits columns of data to the inputs of a model: names, shapes, element types, counts, batches.

The first axis of a column is the samples. A column of the input's own rank is fed in slices. A column
with one axis more holds, per sample, the whole input of one run: models whose inputs have no batch
axis are fed so, one sample a run. A column of rank 0 is the same in every run.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Mapping

import numpy as np

from onnxprune.core.contracts import InputSpec, Samples, SourceRequest
from onnxprune.core.errors import DataError, InternalError
from onnxprune.core.graph import Array

from ._columns import Column, Ints

_DIGEST_SAMPLES, _DIGEST_VALUES = 16, 1024  # how much of the data its digest depends on


@dataclasses.dataclass(frozen=True)
class _Feed:
    """A column that feeds an input.

    `whole`: each of its samples is the whole input of a run.
    """

    spec: InputSpec
    key: str
    column: Column
    whole: bool

    @property
    def constant(self) -> bool:
        """Whether it is the same in every run."""
        return not self.column.shape


def fit(
    columns: Mapping[str, Column],
    request: SourceRequest,
    where: str,
    *,
    random: bool = False,
    notes: tuple[str, ...] = (),
) -> Samples:
    """Return samples of the model's inputs from columns; columns that feed none are extra.

    Args:
        columns: by name.
        request: what the model takes.
        where: what to call the data in messages.
        random: whether the data is random.
        notes: what was already noted.

    Raises:
        DataError: naming the first thing that does not fit, and what to do.
    """
    if request.preprocess is not None:
        raise DataError(
            f"{where}: preprocessing applies to folders of images only, leave --preprocess out"
        )
    matched = _match(columns, request.inputs, where)
    feeds = [
        _feed(spec, matched[spec.name], columns[matched[spec.name]], where)
        for spec in request.inputs
    ]
    total, batch = _count(feeds, where), _batch(feeds, where)
    count = total if request.limit is None else min(total, request.limit)
    kept = count // (batch or 1) * (batch or 1)
    if kept == 0:
        raise DataError(
            f"{where}: the model takes {batch} samples a run, the data has {total}: give more"
        )
    rng = np.random.default_rng(request.seed)
    index = np.arange(total) if request.limit is None else rng.permutation(total)
    extra = {
        name: column for name, column in columns.items()
        if name not in matched.values() and column.shape[:1] == (total,)
    }  # fmt: skip
    said = [*notes, *(note for feed in feeds for note in _notes(feed))]
    if kept < count:
        said.append(f"{count - kept} of {count} samples left out: the model takes {batch} a run")
    reader = _Reader(feeds, extra, index[:kept], where)
    return Samples(
        kept, reader.read, tuple(extra), random, reader.digest(batch or 1), batch, tuple(said)
    )


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads, converts and checks a range of samples."""

    feeds: list[_Feed]
    extra: Mapping[str, Column]
    index: Ints
    where: str

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """Return the samples of a range, as the model takes them."""
        index = self.index[start:stop]
        batch = {feed.spec.name: self._input(feed, index) for feed in self.feeds}
        return batch | {name: column.rows(index) for name, column in self.extra.items()}

    def _input(self, feed: _Feed, index: Ints) -> Array:
        if feed.whole and len(index) != 1:
            raise InternalError(f"'{feed.key}' holds whole runs: read one, not {len(index)}")
        where = f"{self.where}: array '{feed.key}'"
        values = _converted(feed.column.rows(index), feed.spec, where)
        if _is_float(values.dtype) and not (fine := np.isfinite(values)).all():
            bad = (
                0
                if feed.constant
                else index[np.flatnonzero(~fine.reshape(len(index), -1).all(1))[0]]
            )
            raise DataError(
                f"{where} holds NaN, infinity or too large a value in sample {bad}: mend or remove it"
            )
        return values[0] if feed.whole else values

    def digest(self, batch: int) -> str:
        """Return a hash of names, shapes, element types and values spread over the data."""
        state = hashlib.blake2b(digest_size=16)
        for feed in self.feeds:
            said = feed.spec.name, feed.column.shape[1:], str(feed.column.dtype), len(self.index)
            state.update(repr(said).encode())
        step = max(1, len(self.index) // batch // _DIGEST_SAMPLES)
        for number in range(0, len(self.index) // batch, step):
            index = self.index[number * batch : (number + 1) * batch]
            for feed in self.feeds:
                values = self._input(feed, index).ravel()
                spread = values[:: max(1, values.size // _DIGEST_VALUES)]
                state.update(np.ascontiguousarray(spread).tobytes())
        return state.hexdigest()


def _match(
    columns: Mapping[str, Column], inputs: tuple[InputSpec, ...], where: str
) -> dict[str, str]:
    """Return which column feeds each input."""
    found = {spec.name: spec.name for spec in inputs if spec.name in columns}
    missing = [spec for spec in inputs if spec.name not in found]
    if not missing:
        return found
    if len(inputs) == 1:
        fitting = [name for name, column in columns.items() if fits(column, inputs[0])]
        if len(fitting) == 1:
            return {inputs[0].name: fitting[0]}
        if not fitting and columns:  # what is wrong with the likeliest is said later
            likely = max(columns, key=lambda name: len(columns[name].shape))
            return {inputs[0].name: likely}
        if len(fitting) > 1:
            names = " and ".join(f"'{name}'" for name in fitting)
            raise DataError(
                f"{where}: {names} both fit input '{inputs[0].name}': give one of them that name"
            )
    has = ", ".join(f"'{name}'" for name in columns) or "nothing"
    near = difflib.get_close_matches(
        missing[0].name, [n for n in columns if n not in found], 1, 0.5
    )
    hint = f"; rename '{near[0]}'?" if near else ""
    raise DataError(f"{where}: no array for input '{missing[0].name}': found {has}{hint}")


def fits(column: Column, spec: InputSpec) -> bool:
    """Tell whether a column could feed an input: rank, fixed axes and kind of number."""
    try:
        _feed(spec, spec.name, column, "")
    except DataError:
        return False
    return True


def _feed(spec: InputSpec, key: str, column: Column, where: str) -> _Feed:
    """Check one column against its input."""
    label = f"{where}: array '{key}'"
    _check_type(column.dtype, spec, label)
    if spec.shape is None or not column.shape:
        if spec.shape:
            raise DataError(f"{label} is a single number, input '{spec.name}' takes {_shape(spec)}")
        return _Feed(spec, key, column, whole=False)
    whole = len(column.shape) == len(spec.shape) + 1
    expected = spec.shape if whole else spec.shape[1:]
    if not whole and len(column.shape) != len(spec.shape):
        raise DataError(
            f"{label} has {len(column.shape)} axes {list(column.shape)}, input '{spec.name}' takes "
            f"{len(spec.shape)}: {_shape(spec)}, samples first{_rank_hint(column.shape, spec.shape)}"
        )
    for axis, (size, given) in enumerate(zip(expected, column.shape[1:], strict=True), start=1):
        if size is not None and size != given:
            raise DataError(
                f"{label} has shape {list(column.shape)}: axis {axis} should be {size} for input "
                f"'{spec.name}' {_shape(spec)}, found {given}{_layout_hint(column.shape[1:], expected)}"
            )
    return _Feed(spec, key, column, whole)


def _shape(spec: InputSpec) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in spec.shape or ()) + "]"


def _rank_hint(found: tuple[int, ...], expected: tuple[int | None, ...]) -> str:
    """Say so if only an axis of length 1 is missing."""
    if _agree(found, expected[1:]):
        return "; a single sample needs a first axis too (np.expand_dims)"
    for axis, size in enumerate(expected[1:], start=1):
        if size == 1 and _agree(found[1:], (*expected[1:axis], *expected[axis + 1 :])):
            return f"; insert axis {axis} (np.expand_dims)"
    return ""


def _layout_hint(found: tuple[int, ...], expected: tuple[int | None, ...]) -> str:
    """Say so if only the place of the channels is wrong."""
    if _agree((found[-1], *found[:-1]), expected):
        return "; move the last axis to place 1 (channels first)"
    if _agree((*found[1:], found[0]), expected):
        return "; move axis 1 to the end (channels last)"
    return ""


def _agree(found: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(found) == len(expected) and all(
        size is None or size == given for size, given in zip(expected, found, strict=True)
    )


def _count(feeds: list[_Feed], where: str) -> int:
    """Return the number of samples that all columns have."""
    counts = {feed.key: feed.column.shape[0] for feed in feeds if not feed.constant}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"'{key}' {count}" for key, count in counts.items())
        raise DataError(f"{where}: arrays differ in their number of samples: {found}")
    total = next(iter(counts.values()), 1)
    if total == 0:
        raise DataError(f"{where}: no samples: array '{next(iter(counts))}' is empty")
    return total


def _batch(feeds: list[_Feed], where: str) -> int | None:
    """Return how many samples a run takes; None if any number."""
    fixed: dict[int, str] = {}
    for feed in feeds:
        if feed.whole:
            fixed.setdefault(1, feed.spec.name)
        elif feed.spec.shape and not feed.constant and feed.spec.shape[0] is not None:
            fixed.setdefault(feed.spec.shape[0], feed.spec.name)
    if len(fixed) > 1:
        (one, first), (other, second), *_ = fixed.items()
        raise DataError(
            f"{where}: input '{first}' takes {one} samples a run and '{second}' {other}: if the first axis "
            f"of '{second if other > one else first}' is no batch, give it one whole input per sample, "
            "with one axis more"
        )
    return next(iter(fixed), None)


def _is_float(dtype: np.dtype[np.generic]) -> bool:
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def _check_type(found: np.dtype[np.generic], spec: InputSpec, label: str) -> None:
    """Refuse what would change the meaning of the numbers: fractions to integers, numbers to truth."""
    allowed = {"f": "fbiu", "i": "iub", "u": "iub", "b": "b"}
    kind = "f" if _is_float(spec.dtype) else spec.dtype.kind
    if ("f" if _is_float(found) else found.kind) not in allowed.get(kind, ""):
        raise DataError(
            f"{label} is {found}, input '{spec.name}' takes {spec.dtype}: convert it first"
        )


def _notes(feed: _Feed) -> list[str]:
    """Say what was assumed about a column."""
    said = []
    if feed.key != feed.spec.name:
        said.append(f"array '{feed.key}' feeds input '{feed.spec.name}'")
    if _is_float(feed.spec.dtype) and feed.column.dtype.kind in "iu":
        said.append(
            f"array '{feed.key}' is {feed.column.dtype}: its values are fed as they are, not scaled"
        )
    return said


def _converted(values: Array, spec: InputSpec, where: str) -> Array:
    """Cast to the input's type; integers must keep their values and lie inside the model's tables."""
    if spec.dtype.kind not in "iu" or not values.size:
        with np.errstate(over="ignore"):  # what overflows is found as an infinity
            return values.astype(spec.dtype, copy=False)
    least, most = int(values.min()), int(values.max())
    limits = np.iinfo(spec.dtype.name)
    if least < limits.min or most > limits.max:
        raise DataError(
            f"{where} holds {least} to {most}, too large for {spec.dtype} of input '{spec.name}'"
        )
    if spec.below is not None and (most >= spec.below or least < -spec.below):
        raise DataError(
            f"{where} holds {least} to {most}, input '{spec.name}' takes indices below {spec.below}"
        )
    return values.astype(spec.dtype, copy=False)
