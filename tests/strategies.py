"""Random valid graphs, grown from the rules' own examples.

`Growth` expands one `Example` after the other on streams whose values it knows, so that every shape
is known and nothing overflows. Register a rule with an example, and it takes part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from onnx import (
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
    parser,
    printer,
)

from onnxprune.core.analysis import Analysis, Mask
from onnxprune.core.errors import ModelError
from onnxprune.core.rules import OP_RULES, Example, OpRule
from onnxprune.core.runtime import Session
from onnxprune.discover import discover

Array = npt.NDArray[Any]
T = TypeVar("T")

discover()

_PLACEHOLDER = re.compile(r"\{(\w+?)(?::([^{}]*))?\}")
_LENGTH = re.compile(r"(\d*)([CHW])(?:([/+-])(\d+))?")
_ATTRIBUTE = re.compile(r"=(\d*[CHW](?:[/+-]\d+)?)(?=[,>])")
_BATCH = 3  # of the values that shapes are read from; no example writes this length
_LARGEST_VALUE = 12288  # elements
_LARGEST_WEIGHT = 1 << 16  # elements
_LOUDEST = 1e3
_DEEP = 0.8  # how often a random graph grows at a stream that nothing reads yet

# Graph inputs by rank of the stream: name, shape (names are symbolic), shape of its values.
_SOURCES: dict[int, tuple[str, list[str | int], tuple[int, ...]]] = {
    4: ("u", ["N", 3, 8, 8], (_BATCH, 3, 8, 8)),
    3: ("v", ["N", "T", 3], (_BATCH, 5, 3)),
    2: ("w", ["N", 6], (_BATCH, 6)),
}
# Linear operators from {x} to `out` channels, by rank.
_PRODUCERS = {
    4: "{y} = Conv({x}, {w:out,C,1,1}, {b:out})",
    3: "{t1} = MatMul({x}, {w:C,out})\n{y} = Add({t1}, {b:out})",
    2: "{y} = Gemm<transB=1>({x}, {w:out,C}, {b:out})",
}


class UnfitError(Exception):
    """An example does not fit a stream: a shape is refused, or values leave the sane range."""


@dataclass(frozen=True)
class Stream:
    """A tensor that further nodes may read, with a value of it."""

    name: str
    value: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return self.value.shape

    @property
    def rank(self) -> int:
        """Number of axes."""
        return self.value.ndim

    @property
    def channels(self) -> int:
        """Length of the channel axis: the last of three, else axis 1."""
        return self.shape[2] if self.rank == 3 else self.shape[1]

    @property
    def grows(self) -> bool:
        """Whether examples may read it: floats, with the batch in front."""
        return self.value.dtype == np.float32 and self.rank in _SOURCES and self.shape[0] == _BATCH

    def lengths(self) -> dict[str, int]:
        """What the letters of an example's lengths stand for."""
        space = {"H": self.shape[2], "W": self.shape[3]} if self.rank == 4 else {}
        return {"C": self.channels, **space}


class Growth:
    """A graph in the making; `streams` are the tensors that no node reads yet."""

    def __init__(self, seed: int | list[int], opset: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.sources: dict[int, Stream] = {}
        self.streams: list[Stream] = []
        self._count = 0

    def source(self, rank: int) -> Stream:
        """The graph input of that rank, made at first use."""
        if rank not in self.sources:
            name, _, shape = _SOURCES[rank]
            value = self.rng.standard_normal(shape).astype(np.float32)
            self.sources[rank] = Stream(name, value)
        return self.sources[rank]

    def produce(self, source: Stream, channels: int, loudest: float = _LOUDEST) -> Stream:
        """A linear operator with bias, from `source` to so many channels."""
        text = _PRODUCERS[source.rank].replace("out", str(channels))
        return self.grow(Example(text, source.rank), source, loudest=loudest)

    def twin(self, stream: Stream) -> Stream:
        """A second stream of the same shape, from the graph input where that is possible."""
        source = self.source(stream.rank)
        space = slice(1, 2) if stream.rank == 3 else slice(2, None)
        same_space = source.shape[space] == stream.shape[space]
        return self.produce(source if same_space else stream, stream.channels)

    def grow(
        self, example: Example, x: Stream, x2: Stream | None = None, loudest: float = _LOUDEST
    ) -> Stream:
        """Append the nodes of `example` on `x`; returns what `{y}` is.

        Raises:
            UnfitError: if it does not fit; nothing of it was appended then.
        """
        if "{x2}" in example.text and x2 is None:
            x2 = self.twin(x)
        expansion = _Expansion(self.rng, f"{self._count}", x, x2)
        nodes = expansion.nodes(example.text)
        inputs = [x] if x2 is None else [x, x2]
        made = _evaluate(nodes, expansion.weights, inputs, self.opset, loudest)
        self._count += 1
        self.nodes += nodes
        self.weights |= expansion.weights
        read = {name for node in nodes for name in node.input}
        self.streams = [s for s in [*self.streams, *made.values()] if s.name not in read]
        return made[f"y{expansion.suffix}"]

    def model(self) -> ModelProto:
        """The graph, in which a head of its own reads every stream that nothing else reads."""
        outputs = [self._head(stream) for stream in list(self.streams)]
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for rank, (name, shape, _) in _SOURCES.items()
            if rank in self.sources
        ]
        infos = [
            helper.make_tensor_value_info(s.name, TensorProto.FLOAT, [None] * s.rank)
            for s in outputs
        ]
        return _model(self.nodes, inputs, infos, self.weights, self.opset)

    def _head(self, stream: Stream) -> Stream:
        """Sum over the channels with fresh weights; other types and ranks become outputs as they are."""
        if stream.value.dtype != np.float32:
            stream = self.grow(Example("{y} = Cast<to=1>({x})"), stream, loudest=np.inf)
        return self.produce(stream, 2, np.inf) if stream.rank in _PRODUCERS else stream


class _Expansion:
    """The nodes and constants that one example becomes."""

    def __init__(self, rng: np.random.Generator, number: str, x: Stream, x2: Stream | None) -> None:
        self.rng, self.suffix = rng, f"_{number}"
        self.streams = {"x": x.name, "x2": "" if x2 is None else x2.name}
        self.lengths = x.lengths() if x.rank in _SOURCES else {}
        self.weights: dict[str, Array] = {}

    def nodes(self, text: str) -> list[NodeProto]:
        """Expand the text; `weights` is filled."""
        text = _ATTRIBUTE.sub(lambda m: f"={self._length(m[1])}", text)
        body = _PLACEHOLDER.sub(self._named, text)
        return list(parser.parse_graph(f"g () => () {{\n{body}\n}}").node)

    def _named(self, match: re.Match[str]) -> str:
        key, written = match[1], match[2]
        if written is None:
            return self.streams.get(key) or f"{key}{self.suffix}"
        name = f"{key}{self.suffix}_{len(self.weights)}"
        self.weights[name] = self._constant(key, written)
        return name

    def _constant(self, key: str, written: str) -> Array:
        items = [item for item in written.strip("[]").split(",") if item]
        if key in {"i", "f", "u"}:
            dtype = {"i": np.int64, "f": np.float32, "u": np.uint8}[key]
            values = [float(t) if key == "f" else self._length(t) for t in items]
            return np.array(values if written.startswith("[") else values[0], dtype)
        shape = tuple(self._length(item) for item in items)
        noise: Array = np.asarray(self.rng.standard_normal(shape))
        if key == "z":
            return np.asarray(np.clip(128 + 30 * noise, 0, 255), np.uint8)
        if key == "o":
            return np.full(shape, 128, np.uint8)
        if key == "k":
            return np.asarray(300 * noise, np.int32)
        if key in {"v", "q"}:
            noise = (0.5 + np.abs(noise)) * (1 if key == "v" else 0.02)
        if key == "s":
            noise = 1 + 0.4 * noise
        if key == "w":
            noise = noise / np.sqrt(max(1, noise.size // max(shape, default=1)))
        return np.asarray(noise, np.float32)

    def _length(self, text: str) -> int:
        match = _LENGTH.fullmatch(text.strip())
        if match is None:
            return int(text)
        times, letter, sign, number = match.groups()
        base = int(times or 1) * self.lengths[letter]
        if sign == "/" and base % int(number):
            raise UnfitError(f"{base} is no multiple of {number}")
        steps = {None: base, "/": base // int(number or 1), "+": base + int(number or 0)}
        return steps.get(sign, base - int(number or 0))


def _evaluate(
    nodes: list[NodeProto],
    weights: dict[str, Array],
    inputs: list[Stream],
    opset: int,
    loudest: float,
) -> dict[str, Stream]:
    """Values of all tensors that `nodes` make.

    Raises:
        UnfitError: if onnxruntime refuses, or a value is too large.
    """
    if sum(w.size for w in weights.values()) > _LARGEST_WEIGHT:
        raise UnfitError("a weight is too large")
    feeds = {s.name: s.value for s in inputs}
    types = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in feeds.items()
    ]
    names = [name for node in nodes for name in node.output if name]
    model = _model(nodes, types, [ValueInfoProto(name=name) for name in names], weights, opset)
    try:
        values = Session(model, optimise=False, threads=1).run(feeds)
    except ModelError as error:
        raise UnfitError(str(error)) from error
    for name, value in values.items():
        if value.size > _LARGEST_VALUE or min(value.shape, default=1) < 1:
            raise UnfitError(f"'{name}' has shape {value.shape}")
        if value.dtype.kind == "f" and not np.abs(value).max(initial=0.0) < loudest:
            raise UnfitError(f"'{name}' is too large")
    return {name: Stream(name, value) for name, value in values.items()}


def _model(
    nodes: list[NodeProto],
    inputs: list[ValueInfoProto],
    outputs: list[ValueInfoProto],
    weights: dict[str, Array],
    opset: int,
) -> ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "grown", inputs, outputs, initializers)
    domains = sorted({node.domain for node in nodes} - {""})
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    version = helper.find_min_ir_version_for(imports[:1])
    return helper.make_model(graph, opset_imports=imports, ir_version=version)


# A rule for some op types, under an example and an opset at which the example is valid.
CASES: list[tuple[OpRule, Example, int]] = [
    (rule, example, opset)
    for rule in OP_RULES.all()
    for example in rule.examples
    for opset in example.opsets
]


def example_model(example: Example, opset: int, *, seed: int = 0, channels: int = 8) -> ModelProto:
    """Graph input, linear operator, the example, heads."""
    growth = Growth(seed, opset)
    growth.grow(example, growth.produce(growth.source(example.rank), channels))
    return growth.model()


def random_model(seed: int, *, steps: int = 6) -> ModelProto:
    """A graph of about `steps` examples, drawn from all rules."""
    rng = np.random.default_rng([seed, 1])
    growth = Growth([seed, 2], int(rng.choice([18, 21])))
    for rank in rng.permutation([4, 4, 3, 2])[: rng.integers(1, 4)]:
        growth.produce(growth.source(int(rank)), int(rng.choice([4, 6, 8, 12])))
    pool = list(growth.streams)
    for _ in range(int(rng.integers(2, steps + 1))):
        stream = _choose(rng, [s for s in pool if s.grows], growth)
        pool.append(_grow_somehow(rng, growth, stream, pool))
    return growth.model()


def _choose(rng: np.random.Generator, pool: list[Stream], growth: Growth) -> Stream:
    """Mostly a stream that nothing reads yet, so that graphs become deep."""
    names = {s.name for s in growth.streams}
    fresh = [s for s in pool if s.name in names]
    return _one_of(rng, fresh if fresh and rng.random() < _DEEP else pool)


def _grow_somehow(
    rng: np.random.Generator, growth: Growth, stream: Stream, pool: list[Stream]
) -> Stream:
    """Append a random example that fits `stream`, or a linear operator; else `stream` stays."""
    mates = [s for s in pool if s.shape == stream.shape and s.grows and s is not stream]
    for _ in range(8):
        fitting = [e for e in _one_of(rng, FAMILIES) if _fits(e, stream, growth.opset)]
        if not fitting:
            continue
        example = _one_of(rng, fitting)
        mate = _one_of(rng, mates) if mates and "{x2}" in example.text else None
        try:
            return growth.grow(example, stream, mate)
        except UnfitError:
            continue
    return stream


def _fits(example: Example, stream: Stream, opset: int) -> bool:
    divides = stream.channels % example.multiple == 0
    return example.rank == stream.rank and divides and opset in example.opsets


def _one_of(rng: np.random.Generator, pool: Sequence[T]) -> T:
    return pool[int(rng.integers(len(pool)))]


def _families() -> list[list[Example]]:
    """The examples of each rule function: forty unary ops are one family."""
    families: dict[str, dict[Example, None]] = {}
    for rule in OP_RULES.all():
        families.setdefault(rule.function.__name__, {}).update(dict.fromkeys(rule.examples))
    return [list(family) for family in families.values() if family]


FAMILIES = _families()


def random_units(
    analysis: Analysis, rng: np.random.Generator, ratio: float
) -> npt.NDArray[np.int64]:
    """A random share of the units of every group, thinned until no axis is emptied."""
    chosen = [
        rng.choice(g.units, max(1, int(len(g) * ratio)), replace=False) for g in analysis.groups
    ]
    units = rng.permutation(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
    while analysis.mask(units).emptied():
        units = units[: -max(1, len(units) // 20)]
    return units


def random_mask(analysis: Analysis, rng: np.random.Generator, ratio: float) -> Mask:
    """The mask of `random_units`."""
    return analysis.mask(random_units(analysis, rng, ratio))


def text_of(model: ModelProto) -> str:
    """The model as ONNX text, for a failing case."""
    return printer.to_text(model)
