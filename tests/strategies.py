"""Valid graphs, grown from the rules' own examples.

`Growth` expands one `Example` after the other on streams whose values it knows, so that every shape
is known and nothing overflows. Register a rule with an example, and it takes part: alone here, in
random company in `tests.property.growing`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx.defs
from onnx import (
    ModelProto,
    NodeProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from onnxprune.core.errors import ModelError
from onnxprune.core.rules import OP_RULES, Example
from onnxprune.core.runtime import Session
from onnxprune.discover import discover
from tests.expansion import Array, Expansion, Float, UnfitError

discover()

BATCH = 3  # of the values that shapes are read from; no example writes this length
_LARGEST_VALUE = 12288  # elements
_LARGEST_WEIGHT = 1 << 16  # elements
_LOUDEST = 1e3

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
        if self.rank not in RANKS:
            return {}
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
        expansion = Expansion(self, x, x2)
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
        expansion = Expansion(self, source, None)
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
