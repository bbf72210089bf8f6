"""Random graphs in which every registered rule has its turn.

Graph number `seed` is grown around an example of rule number `seed` (modulo their count), on streams
of several kinds, and then at random: further examples, linear operators, axes permuted and regrouped,
residual sums, joins, weights used twice, inner tensors as outputs. The first steps of a seed are the
same however many follow, so that a failing graph can be made smaller by leaving out the last ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from onnxprune.core.analysis import Analysis
from onnxprune.core.errors import ModelError
from onnxprune.core.rules import OP_RULES, Example, OpRule
from onnxprune.core.runtime import Session
from tests.examples import random_units
from tests.expansion import Float, UnfitError
from tests.strategies import BATCH, RANKS, Growth, Stream

T = TypeVar("T")
Rng = np.random.Generator
Units = npt.NDArray[np.int64]

RULES = [rule for rule in OP_RULES.all() if rule.examples]
STEPS = 6  # of a graph besides its own example, at most
_TRIES = 8
_DEEP = 0.8  # how often a graph grows at a stream that nothing reads yet
_OPSETS = (9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24)
_ANY_OPSET = 0.2  # how often an example is tried at an opset that it does not name
_WIDTHS = (4, 6, 8, 12, 16)
_SHARED = 0.25  # how often a weight is one that is there
_FIXED = 0.15  # how often graph inputs have no symbolic dimension
_FLOATS: dict[Float, float] = {np.float32: 0.76, np.float16: 0.12, np.float64: 0.12}


def rule_of(seed: int) -> OpRule:
    """The rule that the graph of `seed` is grown around."""
    return RULES[seed % len(RULES)]


def random_model(seed: int, *, steps: int | None = None) -> ModelProto:
    """The graph of `seed`: its own example and up to `STEPS` (or `steps`) more.

    Raises:
        UnfitError: if onnxruntime takes not even the first step.
    """
    count = int(np.random.default_rng([seed, 4]).integers(1, STEPS + 1))
    for number in range(count if steps is None else steps, -1, -1):
        model = _grown(seed, number).model()
        try:
            Session(model, optimise=False, threads=1)
        except ModelError:  # it takes the parts, and cannot infer shapes of the whole
            continue
        return model
    raise UnfitError(f"seed {seed}")


def _grown(seed: int, steps: int) -> Growth:
    rng = np.random.default_rng([seed, 1])
    growth, pool = _begin(rng, seed)
    for _ in range(steps):
        stream = _step(rng, growth, pool)
        if stream is not None:
            pool.append(stream)
    return growth


def _begin(rng: Rng, seed: int) -> tuple[Growth, list[Stream]]:
    """Grow an example of the rule on a stream of some kind, in a type and at an opset that suit it.

    Kinds and examples take turns; after half of the tries that do not fit, the plainest.
    """
    rule, turn = rule_of(seed), seed // len(RULES)
    example = rule.examples[(turn + turn // len(_KINDS)) % len(rule.examples)]
    widths = [n for n in _WIDTHS if n % example.multiple == 0]
    count = int(rng.integers(0, 1 << 30))  # what follows depends on how often it did not fit
    for attempt in range(_TRIES):
        draw = np.random.default_rng([count, attempt])
        plain = attempt >= _TRIES // 2
        opset = _one_of(
            draw, _OPSETS if not plain and draw.random() < _ANY_OPSET else example.opsets
        )
        dtype = np.float32 if plain else _weighted(draw, _FLOATS)
        growth = Growth([seed, 2], opset, dtype, shared=_SHARED, fixed=draw.random() < _FIXED)
        begin = _plain if plain else _KINDS[turn % len(_KINDS)]
        try:
            stream = begin(draw, growth, example.rank, _one_of(draw, widths))
            return growth, [stream, growth.grow(example, stream)]
        except UnfitError:
            continue
    growth = Growth([seed, 2], example.opsets[0])
    stream = growth.produce(growth.source(example.rank), 8)
    return growth, [stream, growth.grow(example, stream, loudest=np.inf)]


# -- what an example stands on: streams of a rank and a number of channels ------------------------


def _plain(_: Rng, growth: Growth, rank: int, channels: int) -> Stream:
    """A linear operator of the graph input."""
    return growth.produce(growth.source(rank), channels)


def _table(rng: Rng, growth: Growth, rank: int, channels: int) -> Stream:
    """A tensor of weights: every axis may shrink."""
    return growth.table(_shape(rng, rank, channels))


def _spread(rng: Rng, growth: Growth, rank: int, channels: int) -> Stream:
    """The channels of a matrix, spread over all axes but the batch."""
    shape = _shape(rng, rank, channels)
    width = int(np.prod(shape[1:]))
    flat = growth.produce(growth.source(2), width)
    return growth.grow(_reshaped(shape), flat)


def _turned(rng: Rng, growth: Growth, rank: int, channels: int) -> Stream:
    """Channels on another axis than usual."""
    lengths = _shape(rng, rank, channels)
    turn = rng.permutation(rank - 1) + 1
    source = growth.source(rank)
    usual = 2 if rank == 3 else 1
    place = int(np.flatnonzero(turn == usual)[0]) + 1
    stream = growth.produce(source, lengths[place])
    return growth.grow(_transposed([0, *turn.tolist()]), stream)


_KINDS = (_plain, _table, _spread, _turned)


def _shape(rng: Rng, rank: int, channels: int) -> tuple[int, ...]:
    image = _one_of(rng, (4, 8))
    shapes = {4: (BATCH, channels, image, image), 3: (BATCH, 5, channels), 2: (BATCH, channels)}
    return shapes[rank]


def _reshaped(shape: Sequence[int]) -> Example:
    return Example(f"{{y}} = Reshape({{x}}, {{i:[{','.join(['0', *map(str, shape[1:])])}]}})")


def _transposed(perm: Sequence[int]) -> Example:
    return Example(f"{{y}} = Transpose<perm=[{','.join(map(str, perm))}]>({{x}})")


# -- steps ----------------------------------------------------------------------------------------


def _step(rng: Rng, growth: Growth, pool: list[Stream]) -> Stream | None:
    """Take one random step, or none where nothing fits."""
    readable = [s for s in pool if growth.grows(s)]
    if not readable:
        return None
    fresh = {s.name for s in growth.streams}
    deep = [s for s in readable if s.name in fresh]
    stream = _one_of(rng, deep if deep and rng.random() < _DEEP else readable)
    step = _weighted(rng, _STEPS)
    try:
        return step(rng, growth, stream, readable)
    except UnfitError:
        return None


def _example(rng: Rng, growth: Growth, stream: Stream, pool: list[Stream]) -> Stream | None:
    """A random example of a random family that fits."""
    mates = [s for s in pool if s.form == stream.form and s is not stream]
    for _ in range(_TRIES):
        example = _one_of(rng, _one_of(rng, FAMILIES))
        at_home = growth.opset in example.opsets or rng.random() < _ANY_OPSET
        divides = stream.rank == example.rank and stream.channels % example.multiple == 0
        if not (at_home and divides):
            continue
        mate = _one_of(rng, mates) if mates and "{x2}" in example.text else None
        try:
            return growth.grow(example, stream, mate)
        except UnfitError:
            continue
    return None


def _linear(rng: Rng, growth: Growth, stream: Stream, _: list[Stream]) -> Stream:
    return growth.produce(stream, _one_of(rng, _WIDTHS))


def _residual(_: Rng, growth: Growth, stream: Stream, __: list[Stream]) -> Stream:
    """The stream plus a linear operator of it."""
    branch = growth.produce(stream, stream.channels)
    return growth.grow(Example("{y} = Add({x}, {x2})"), stream, branch)


def _joined(rng: Rng, growth: Growth, stream: Stream, pool: list[Stream]) -> Stream:
    """The stream with another one: one after the other, or position by position."""
    mates = [s for s in pool if s.form == stream.form]
    axis = int(rng.integers(1, stream.rank))
    texts = (f"{{y}} = Concat<axis={axis}>({{x}}, {{x2}})", "{y} = Mul({x}, {x2})",
             "{y} = Add({x}, {x2})")  # fmt: skip
    return growth.grow(Example(_one_of(rng, texts)), stream, _one_of(rng, mates))


def _permuted(rng: Rng, growth: Growth, stream: Stream, _: list[Stream]) -> Stream:
    """Axes in another order, the batch in front."""
    return growth.grow(_transposed([0, *(rng.permutation(stream.rank - 1) + 1).tolist()]), stream)


def _regrouped(rng: Rng, growth: Growth, stream: Stream, _: list[Stream]) -> Stream:
    """The same elements under other axes, where only the batch may vary."""
    size = int(np.prod(stream.shape[1:]))
    shape = [BATCH]
    for __ in range(_one_of(rng, RANKS) - 2):
        divisors = [d for d in range(1, size + 1) if size % d == 0]
        shape.append(_one_of(rng, divisors))
        size //= shape[-1]
    return growth.grow(_reshaped([*shape, size]), stream)


def _shown(_: Rng, growth: Growth, stream: Stream, __: list[Stream]) -> None:
    """The stream is a graph output too."""
    if stream not in growth.also:
        growth.also.append(stream)


def _another(rng: Rng, growth: Growth, _: Stream, __: list[Stream]) -> Stream:
    """A new stream."""
    begin = _one_of(rng, _KINDS)
    return begin(rng, growth, _one_of(rng, RANKS), _one_of(rng, _WIDTHS))


_Step = Callable[[Rng, Growth, Stream, list[Stream]], Stream | None]
_STEPS: dict[_Step, float] = {
    _example: 0.5, _linear: 0.12, _residual: 0.08, _joined: 0.08, _permuted: 0.06,
    _regrouped: 0.08, _another: 0.05, _shown: 0.03,
}  # fmt: skip


def _families() -> list[list[Example]]:
    """The examples of each rule function: forty unary ops are one family."""
    families: dict[str, dict[Example, None]] = {}
    for rule in RULES:
        families.setdefault(rule.function.__name__, {}).update(dict.fromkeys(rule.examples))
    return [list(family) for family in families.values()]


FAMILIES = _families()


def _one_of(rng: Rng, pool: Sequence[T]) -> T:
    return pool[int(rng.integers(len(pool)))]


def _weighted(rng: Rng, weights: dict[T, float]) -> T:
    shares = np.array([*weights.values()])
    return [*weights][int(rng.choice(len(shares), p=shares / shares.sum()))]


# -- what is removed ------------------------------------------------------------------------------


def chosen_units(analysis: Analysis, seed: int) -> Units:
    """Units to remove: mostly a random third, else any share, one unit, or nearly all."""
    rng = np.random.default_rng([seed, 3])
    kind = rng.random()
    if not analysis.groups or kind < 0.4:
        return random_units(analysis, rng, 1 / 3)
    if kind < 0.5:
        return rng.choice(np.concatenate([g.units for g in analysis.groups]), 1)
    if kind < 0.7:
        return some_units(analysis, rng)
    return random_units(analysis, rng, 0.95 if kind < 0.85 else rng.uniform(0.1, 0.9))


def some_units(analysis: Analysis, rng: Rng) -> Units:
    """Any share of the units of every other group: what should go together would not by chance."""
    groups = [g for g in analysis.groups if rng.random() < 0.5] or analysis.groups[:1]
    chosen = [rng.choice(g.units, int(rng.integers(1, len(g) + 1)), replace=False) for g in groups]
    units = rng.permutation(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
    while analysis.mask(units).emptied():
        units = units[:-1]
    return units
