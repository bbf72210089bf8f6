"""Valid graphs, grown from the rules' own examples.

`Growth` expands one `Example` after the other on streams whose values it knows, so that every shape
is known and nothing overflows. Register a rule with an example, and it takes part: alone here, in
random company in `tests.property.growing`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx.defs
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
Float = type[np.float32] | type[np.float16] | type[np.float64]

discover()

_PLACEHOLDER = re.compile(r"\{(\w+?)(?::([^{}]*))?\}")
_LENGTH = re.compile(r"(\d*)([CHW])(?:([/+-])(\d+))?")
_ATTRIBUTE = re.compile(r"=(\d*[CHW](?:[/+-]\d+)?)(?=[,>])")
BATCH = 3  # of the values that shapes are read from; no example writes this length
_LARGEST_VALUE = 12288  # elements
_LARGEST_WEIGHT = 1 << 16  # elements
_LOUDEST = 1e3

# How ONNX text spells the type that graphs compute in, where examples say float.
_SPELLED: dict[Float, tuple[int, str]] = {
    np.float32: (TensorProto.FLOAT, "float["),
    np.float16: (TensorProto.FLOAT16, "float16["),
    np.float64: (TensorProto.DOUBLE, "double["),
}

# Graph inputs by rank of the stream: name, shape (names are symbolic).
_SOURCES: dict[int, tuple[str, list[str | int]]] = {
    4: ("u", ["N", 3, 8, 8]),
    3: ("v", ["N", "T", 3]),
    2: ("w", ["N", 6]),
}
# What is symbolic, for the values that shapes are read from, and for others that must fit as well.
_SIZES, _OTHER_SIZES = {"N": BATCH, "T": 5}, {"N": 4, "T": 7}
RANKS = tuple(_SOURCES)  # of streams that examples read
# Linear operators from {x} to `out` channels, by rank.
_PRODUCERS = {
    4: "{y} = Conv({x}, {w:out,C,1,1}, {b:out})",
    3: "{t1} = MatMul({x}, {w:C,out})\n{y} = Add({t1}, {b:out})",
    2: "{y} = Gemm<transB=1>({x}, {w:out,C}, {b:out})",
}


# In place of a Conv, which onnxruntime has not for these types.
_POINTWISE = (
    "{t1} = Transpose<perm=[0,2,3,1]>({x})\n{t2} = MatMul({t1}, {w:C,out})\n"
    "{t3} = Add({t2}, {b:out})\n{y} = Transpose<perm=[0,3,1,2]>({t3})"
)

# A tensor whose every axis may shrink: a table of weights, times a number between -1 and 1 that
# depends on the input; and what reads each of its elements.
_TABLE = "{t1} = ReduceMax<keepdims=0>({x})\n{t2} = Tanh({t1})\n{y} = Mul({t2}, {b:shape})"
_TABLE_HEAD = "{t1} = Reshape({x}, {i:[1,-1]})\n{y} = MatMul({t1}, {w:size,2})"


class UnfitError(Exception):
    """An example does not fit a stream: a shape is refused, or values leave the sane range."""


@dataclass(frozen=True)
class Stream:
    """A tensor that further nodes may read, with a value of it, and one at other sizes if it varies."""

    name: str
    value: Array
    other: Array | None

    @property
    def form(self) -> tuple[tuple[int, ...], ...]:
        """What two streams have in common that can be added."""
        return self.shape, () if self.other is None else self.other.shape

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

    def lengths(self) -> dict[str, int]:
        """What the letters of an example's lengths stand for."""
        space = {"H": self.shape[2], "W": self.shape[3]} if self.rank == 4 else {}
        return {"C": self.channels, **space}


@dataclass(frozen=True)
class Step:
    """The nodes of an example that was grown, and the tensors that they make."""

    nodes: tuple[NodeProto, ...]
    made: frozenset[str]


class Growth:
    """A graph in the making; `streams` are the tensors that no node reads yet."""

    def __init__(
        self,
        seed: int | list[int],
        opset: int,
        dtype: Float = np.float32,
        *,
        shared: float = 0.0,
        fixed: bool = False,
    ) -> None:
        """Begin with nothing.

        Args:
            seed: of all weights and values.
            opset: of the whole graph.
            dtype: of all floats.
            shared: how often a weight of fitting shape is used again, in place of a new one.
            fixed: whether graph inputs have no symbolic dimension.
        """
        self.rng = np.random.default_rng(seed)
        self.opset, self.dtype, self.shared, self.fixed = opset, dtype, shared, fixed
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.sources: dict[int, Stream] = {}
        self.streams: list[Stream] = []
        self.steps: list[Step] = []
        self.values: dict[str, Array] = {}
        self.also: list[Stream] = []  # read by nodes, and graph outputs nevertheless

    def source(self, rank: int) -> Stream:
        """The graph input of that rank, made at first use."""
        if rank not in self.sources:
            name, shape = _SOURCES[rank]
            value, other = (
                self.rng.standard_normal(
                    [sizes[d] if isinstance(d, str) else d for d in shape]
                ).astype(self.dtype)
                for sizes in (_SIZES, _OTHER_SIZES)
            )
            self.sources[rank] = Stream(name, value, None if self.fixed else other)
        return self.sources[rank]

    def grows(self, stream: Stream) -> bool:
        """Whether examples may read it: floats, with the batch in front."""
        right = stream.value.dtype == self.dtype and stream.rank in RANKS
        return right and stream.shape[0] == BATCH

    def produce(self, source: Stream, channels: int, loudest: float = _LOUDEST) -> Stream:
        """A linear operator with bias, from `source` to so many channels."""
        plain = source.rank < 4 or self.dtype == np.float32
        text = (_PRODUCERS[source.rank] if plain else _POINTWISE).replace("out", str(channels))
        return self.grow(Example(text, source.rank), source, loudest=loudest)

    def table(self, shape: tuple[int, ...]) -> Stream:
        """A tensor of weights, times a number that depends on the input: every axis may shrink."""
        text = _TABLE.replace("shape", ",".join(map(str, shape)))
        source = next(iter(self.sources.values()), None) or self.source(4)
        made = self.grow(Example(text, source.rank), source)
        table = Stream(made.name, made.value, None)
        self.streams = [table if s is made else s for s in self.streams]
        return table

    def twin(self, stream: Stream) -> Stream:
        """A second stream of the same shape, from the graph input where that is possible."""
        if stream.other is None:
            return self.table(stream.shape)
        source = self.source(stream.rank)
        space = slice(0, 2) if stream.rank == 3 else slice(2, None)
        alike = all(a[space] == b[space] for a, b in zip(source.form, stream.form, strict=True))
        return self.produce(source if alike else stream, stream.channels)

    def grow(
        self, example: Example, x: Stream, x2: Stream | None = None, loudest: float = _LOUDEST
    ) -> Stream:
        """Append the nodes of `example` on `x`; returns what `{y}` is.

        Raises:
            UnfitError: if it does not fit; nothing of it was appended then.
        """
        if "{x2}" in example.text and x2 is None:
            x2 = self.twin(x)
        expansion = _Expansion(self, x, x2)
        nodes = expansion.nodes(example.text)
        inputs = [x] if x2 is None else [x, x2]
        made = self._append(nodes, expansion.weights, inputs, loudest)
        return made[f"y{expansion.suffix}"]

    def _append(
        self,
        nodes: list[NodeProto],
        weights: dict[str, Array],
        inputs: list[Stream],
        loudest: float,
    ) -> dict[str, Stream]:
        made = _evaluate(nodes, weights, inputs, self.opset, loudest)
        self.nodes += nodes
        self.weights |= weights
        self.values |= {s.name: s.value for s in [*inputs, *made.values()]}
        self.steps.append(Step(tuple(nodes), frozenset(made)))
        read = {name for node in nodes for name in node.input}
        self.streams = [s for s in [*self.streams, *made.values()] if s.name not in read]
        return made

    def holding(self, value: Array) -> Stream:
        """About these values, made of a table as in `table`: of its type, integers below 256 only.

        Raises:
            UnfitError: for other types.
        """
        text = "{t1} = ReduceMax<keepdims=0>({x})\n{t2} = Sigmoid({t1})\n"
        if value.dtype == self.dtype:
            text += "{y} = Mul({t2}, {given})"
        elif value.dtype == np.bool_:
            text += "{t3} = Mul({t2}, {given})\n{y} = Greater({t3}, {f:0.5})"
        elif value.dtype in (np.uint8, np.int8):
            code = helper.np_dtype_to_tensor_dtype(value.dtype)
            text += f"{{t3}} = Mul({{t2}}, {{given}})\n{{y}} = Cast<to={code}>({{t3}})"
        else:
            raise UnfitError(f"values of type {value.dtype}")
        source = self.source(4)
        expansion = _Expansion(self, source, None)
        nodes = expansion.nodes(text)
        scale = 2.0 if value.dtype == np.bool_ else 1.0
        weights = {f"given{expansion.suffix}": np.asarray(scale * value, self.dtype)}
        made = self._append(nodes, weights | expansion.weights, [source], np.inf)
        stream = Stream(f"y{expansion.suffix}", made[f"y{expansion.suffix}"].value, None)
        self.streams = [stream if s.name == stream.name else s for s in self.streams]
        return stream

    def model(self) -> ModelProto:
        """The graph, in which a head of its own reads every stream that nothing else reads."""
        outputs = [*(self._head(stream) for stream in list(self.streams)), *self.also]
        inputs = [
            _info(s, [*s.shape] if self.fixed else _SOURCES[rank][1])
            for rank, s in self.sources.items()
        ]
        infos = [_info(s, [None] * s.rank) for s in outputs]
        return _model(self.nodes, inputs, infos, self.weights, self.opset)

    def _head(self, stream: Stream) -> Stream:
        """Sum over the channels with fresh weights; other types and ranks become outputs as they are."""
        if stream.value.dtype != self.dtype:
            stream = self.grow(Example("{y} = Cast<to=1>({x})"), stream, loudest=np.inf)
        try:
            if stream.other is None and stream.value.size > 1:
                text = _TABLE_HEAD.replace("size", str(stream.value.size))
                return self.grow(Example(text), stream, loudest=np.inf)
            return self.produce(stream, 2, np.inf) if stream.rank in RANKS else stream
        except UnfitError:  # its channels vary
            return stream


def _info(stream: Stream, shape: list[str | int] | list[int] | list[None]) -> ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(stream.value.dtype)
    return helper.make_tensor_value_info(stream.name, dtype, shape)


class _Expansion:
    """The nodes and constants that one example becomes."""

    def __init__(self, growth: Growth, x: Stream, x2: Stream | None) -> None:
        self.growth, self.rng, self.suffix = growth, growth.rng, f"_{len(growth.steps)}"
        self.streams = {"x": x.name, "x2": "" if x2 is None else x2.name}
        self.lengths = x.lengths() if x.rank in RANKS else {}
        self.weights: dict[str, Array] = {}

    def nodes(self, text: str) -> list[NodeProto]:
        """Expand the text; `weights` is filled."""
        code, spelled = _SPELLED[self.growth.dtype]
        text = text.replace("Cast<to=1>", f"Cast<to={code}>").replace("float[", spelled)
        text = _ATTRIBUTE.sub(lambda m: f"={self._length(m[1])}", text)
        body = _PLACEHOLDER.sub(self._named, text)
        try:
            return list(parser.parse_graph(f"g () => () {{\n{body}\n}}").node)
        except parser.ParseError as error:  # no floating-point literals in half precision
            raise UnfitError(str(error)) from error

    def _named(self, match: re.Match[str]) -> str:
        key, written = match[1], match[2]
        if written is None:
            return self.streams.get(key) or f"{key}{self.suffix}"
        name = f"{key}{self.suffix}_{len(self.weights)}"
        value = self._constant(key, written)
        if self.growth.shared and self.rng.random() < self.growth.shared:
            alike = [n for n, w in self.growth.weights.items() if _alike(n, w, key, value)]
            if alike:
                chosen = alike[int(self.rng.integers(len(alike)))]
                self.weights[chosen] = self.growth.weights[chosen]
                return chosen
        self.weights[name] = value
        return name

    def _constant(self, key: str, written: str) -> Array:
        items = [item for item in written.strip("[]").split(",") if item]
        if key in {"i", "f", "u"}:
            dtype = {"i": np.int64, "f": self.growth.dtype, "u": np.uint8}[key]
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
        return np.asarray(noise, self.growth.dtype)

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


def _alike(name: str, weight: Array, key: str, value: Array) -> bool:
    """Whether a weight can stand for one of random values: same use and shape."""
    return key in "wbsv" and name.startswith(f"{key}_") and weight.shape == value.shape


def _is_there(node: NodeProto, opset: int) -> bool:
    """Whether onnx knows the operator at this opset, or we its shapes."""
    known = (node.domain, node.op_type) in OP_RULES.shape_functions
    return bool(node.domain) or known or onnx.defs.has(node.op_type, opset, "")


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
    if not all(_is_there(node, opset) for node in nodes):
        raise UnfitError(f"an operator that opset {opset} has not")  # onnxruntime may run it
    if sum(w.size for w in weights.values()) > _LARGEST_WEIGHT:
        raise UnfitError("a weight is too large")
    fixed = all(s.other is None for s in inputs)
    types = [_info(s, [*s.shape] if fixed else [None] * s.rank) for s in inputs]
    types = list({info.name: info for info in types}.values())
    names = [name for node in nodes for name in node.output if name]
    model = _model(nodes, types, [ValueInfoProto(name=name) for name in names], weights, opset)
    try:
        session = Session(model, optimise=False, threads=1)
        values = session.run({s.name: s.value for s in inputs})
        others = {s.name: s.value if s.other is None else s.other for s in inputs}
        others = {} if fixed else session.run(others)
    except ModelError as error:
        raise UnfitError(str(error)) from error
    arrays = {name: v for name, v in values.items() if isinstance(v, np.ndarray)}
    read = {name for node in nodes for name in node.input}
    for name, value in arrays.items():
        empty = min(value.shape, default=1) < 1 and name not in read
        if value.size > _LARGEST_VALUE or empty:
            raise UnfitError(f"'{name}' has shape {value.shape}")
        loud = value.dtype.kind == "f" and name not in read  # what is read may be no number
        if loudest < np.inf and loud and not np.abs(value).max(initial=0.0) < loudest:
            raise UnfitError(f"'{name}' is too large")
    return {name: Stream(name, value, others.get(name)) for name, value in arrays.items()}


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


def example_growth(
    example: Example, opset: int, *, seed: int = 0, channels: int = 8, table: bool = False
) -> Growth:
    """The example on a linear operator of the graph input, or on tables of weights; its step is last.

    Raises:
        UnfitError: if onnxruntime refuses it.
    """
    growth = Growth(seed, opset)
    x = growth.source(example.rank)
    if table:
        x = growth.table((*x.shape[:-1], channels) if x.rank < 4 else (BATCH, channels, 8, 8))
    else:
        x = growth.produce(x, channels)
    growth.grow(example, x)
    return growth


def isolated(growth: Growth, node: NodeProto, *, weights_too: bool) -> Growth:
    """The node by itself: operands made of tables, each of its own; its step is last.

    Args:
        growth: where the node is, with values of what it reads.
        node: one of its nodes.
        weights_too: whether random weights become computed operands as well.

    Raises:
        UnfitError: if there is no such graph.
    """
    alone = Growth([0, 5], growth.opset)
    copy, held, weights = NodeProto(), [], {}
    copy.CopyFrom(node)
    for slot, name in enumerate(node.input):
        value = growth.weights.get(name, growth.values.get(name))
        if value is None:
            continue
        drawn = name[0] in "wbsmvqzo" and name in growth.weights
        steers = value.size == 1 or value.dtype.kind == "i"  # lengths, indices, scalars
        if steers or (name in growth.weights and not (weights_too and drawn)):
            copy.input[slot] = f"{name}_{slot}"
            weights[copy.input[slot]] = value
        else:
            held.append(alone.holding(value))
            copy.input[slot] = held[-1].name
    for slot, name in enumerate(node.output):
        copy.output[slot] = name and f"{name}_alone"
    alone._append([copy], weights, held or [alone.source(4)], np.inf)
    return alone


def example_model(example: Example, opset: int, *, seed: int = 0, channels: int = 8) -> ModelProto:
    """Graph input, linear operator, the example, heads."""
    return example_growth(example, opset, seed=seed, channels=channels).model()


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
    """The model as ONNX text, without the values of its weights, for a failing case."""
    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.graph.initializer[:]
    shapes = (f"{t.name} {list(t.dims)}" for t in model.graph.initializer)
    return f"{printer.to_text(bare)}\n# weights: {', '.join(shapes)}"
