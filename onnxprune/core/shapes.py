"""Shapes of every tensor in two instances of the graph, and the values that both agree on.

Symbolic dimensions are given different numbers in the two instances. What is computed from shapes
and comes out equal in both is a constant of the model and is frozen to its original value: after
pruning, `C // heads` or sqrt(head_dim) must not change (research: freeze first).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from onnx import NodeProto, TensorProto, helper

from .errors import ModelError
from .folding import VIEW_LIMIT, evaluated, may_fold, worth_folding
from .graph import Array, Graph, constant
from .inference import Inference, Typed
from .input_shapes import Shape, input_shapes
from .limits import check_shape, check_steps, largest_tensor
from .scopes import captured_names
from .typed_shape import TypedShape

log = logging.getLogger(__name__)


ShapeFunction = Callable[[NodeProto, Mapping[str, Shape]], Mapping[str, Shape]]

# Two numbers per unknown dimension: batch, then sequences and images to try; sound is a long sequence.
_GROWTH = 1 << 16  # bytes that a constant may always take in place of its computation
_BATCH, _SEQUENCE = (3, 2), (7, 11)
_IMAGES = ((64, 96), (128, 160), (224, 256), (320, 384), (640, 736))
_INTEGERS = {TensorProto.INT32, TensorProto.INT64}
_SCALES = 16  # floats that an op may read to learn a shape: more than a tensor has axes
_TRIED = (*((_SEQUENCE, image) for image in _IMAGES), ((1021, 1531), (64, 96)))


@dataclasses.dataclass
class Instance:
    """One concrete copy of the graph: shape, element type and, where known, value per tensor."""

    shapes: dict[str, Shape]
    dtypes: dict[str, int]
    values: dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What both instances say.

    Attributes:
        a, b: shapes, of tensors whose shape is known only.
        dtypes: element types.
        frozen: values that are the same in both instances.
        counting: tensors that hold 0, 1, 2, ... in both, as many as there are elements.
    """

    a: dict[str, Shape]
    b: dict[str, Shape]
    dtypes: dict[str, int]
    frozen: dict[str, Array]
    counting: frozenset[str]

    def known(self, name: str) -> bool:
        """Tell whether the tensor's shape is known in both instances."""
        return name in self.a and name in self.b

    def static(self, name: str, axis: int) -> bool:
        """Tell whether an axis has the same length in both instances."""
        return self.a[name][axis] == self.b[name][axis]

    def within(self, graph: Graph) -> Shapes:
        """Return what is said of the tensors of `graph`: this one with fewer nodes, other weights."""
        shapes = {name: weight.shape for name, weight in graph.weights.items()}
        dtypes = {name: weight.proto.data_type for name, weight in graph.weights.items()}
        names = {v.name for v in graph.shell.graph.input} | {
            o for node in graph.nodes for o in node.output
        }
        return dataclasses.replace(
            self,
            a=shapes | {n: shape for n, shape in self.a.items() if n in names},
            b=shapes | {n: shape for n, shape in self.b.items() if n in names},
            dtypes=dtypes | {n: dtype for n, dtype in self.dtypes.items() if n in names},
        )


def infer(graph: Graph, shape_functions: Mapping[tuple[str, str], ShapeFunction]) -> Shapes:
    """Run both instances over `graph`, growing unknown image sizes until every shape is positive.

    Args:
        graph: the model.
        shape_functions: (domain, op_type) -> shapes of outputs, for ops that onnx cannot infer.

    Raises:
        ModelError: if no size tried makes sense, e.g. a kernel larger than every image tried.
    """
    for sequence, image in _TRIED:
        a, b = (
            instantiate(graph, shape_functions, sizes=(_BATCH[i], sequence[i], image[i]))
            for i in (0, 1)
        )
        if a is not None and b is not None:
            counting = frozenset(_counting(a) & _counting(b))
            return Shapes(a.shapes, b.shapes, a.dtypes, _agreed(a, b), counting)
    raise ModelError(
        "shapes of the model become negative for every size tried "
        f"({', '.join(str(s) for s, _ in _IMAGES)}): give the inputs fixed shapes"
    )


def instantiate(
    graph: Graph,
    shape_functions: Mapping[tuple[str, str], ShapeFunction],
    *,
    sizes: tuple[int, int, int] = (1, 7, 64),
    inputs: Mapping[str, Shape] | None = None,
    fold: bool = True,
) -> Instance | None:
    """Give every unknown input dimension a number and infer all shapes, node by node.

    Args:
        graph: the model.
        shape_functions: shapes of outputs for ops that onnx cannot infer.
        sizes: numbers for an unknown batch, sequence and image dimension.
        inputs: concrete input shapes; they go before `sizes`.
        fold: evaluate what depends on shapes and constants only.

    Returns:
        The instance, or None when some dimension is not positive.

    Raises:
        ModelError: if a tensor would be absurdly large.
    """
    state = Instance({}, {}, {})
    for name, weight in graph.weights.items():
        state.shapes[name], state.dtypes[name] = weight.shape, weight.proto.data_type
        state.values[name] = _LazyValue  # type: ignore[assignment]
    for tensor in graph.defaults:
        state.shapes[tensor.name], state.dtypes[tensor.name] = tuple(tensor.dims), tensor.data_type
    drawn = input_shapes(graph.inputs, sizes)
    limit = largest_tensor(sum(weight.nbytes for weight in graph.weights.values()))
    for value in graph.inputs:
        shape = (inputs or {}).get(value.name) or drawn[value.name]
        state.dtypes[value.name] = value.type.tensor_type.elem_type
        if shape is not None:
            check_shape(value.name, shape, limit)
            state.shapes[value.name] = tuple(shape)
    run = _Run(graph, state, shape_functions, fold=fold, limit=limit)
    others = {v.name: v.type for v in graph.inputs if not v.type.HasField("tensor_type")}
    run.inference.others.update(others)
    for node in graph.nodes:
        if not run.visit(node):
            return None
    state.values = {k: v for k, v in state.values.items() if v is not _LazyValue}
    return state


_LazyValue = object()


def _kind(shape: Shape, typed: Mapping[str, int], otherwise: int) -> int:
    """Return the element type that a shape function speaks of."""
    if not isinstance(shape, TypedShape):
        return otherwise
    return typed.get(shape.like, otherwise) if shape.kind is None else shape.kind


class _Run:
    """The state of one pass of per-node inference."""

    def __init__(
        self,
        graph: Graph,
        state: Instance,
        shape_functions: Mapping[tuple[str, str], ShapeFunction],
        *,
        fold: bool,
        limit: int,
    ) -> None:
        self.graph, self.state, self.functions, self.fold = graph, state, shape_functions, fold
        self.limit = limit  # bytes of one tensor
        self.imports = list(graph.shell.opset_import)
        self.inference = Inference(graph.opsets, self.imports, graph.shell.ir_version)

    def visit(self, node: NodeProto) -> bool:
        """Infer one node; False when a dimension is not positive."""
        check_steps(node, self.state.shapes)
        shapes = self._infer(node)
        if any(shape is not None and min(shape, default=1) < 0 for shape, _ in shapes.values()):
            return False
        if self.fold and self._evaluate(node, [shape for shape, _ in shapes.values() if shape]):
            return True
        for name, (shape, dtype) in shapes.items():
            if shape is not None:
                check_shape(name, shape, self.limit)
                self.state.shapes[name] = shape
            self.state.dtypes[name] = dtype
        return True

    def _infer(self, node: NodeProto) -> dict[str, Typed]:
        known = self.state.shapes
        domain = "" if node.domain == "ai.onnx" else node.domain
        special = self.functions.get((domain, node.op_type))
        if special is not None and node.input and all(i in known for i in node.input if i):
            typed, given = self.state.dtypes, special(node, known).items()
            first = typed.get(node.input[0], TensorProto.FLOAT)
            return {n: (tuple(s), _kind(s, typed, first)) for n, s in given}
        read, dtypes = [name for name in node.input if name], self.state.dtypes
        if not all(name in dtypes for name in read):
            return {}
        operands = {name: (known.get(name), dtypes[name]) for name in read}
        values = {name: value for name in read if (value := self._small(name)) is not None}
        return self.inference.outputs(node, operands, values)

    def _value(self, name: str) -> Array | None:
        value = self.state.values.get(name)
        return self.graph.weights[name].array if value is _LazyValue else value

    def _small(self, name: str) -> Array | None:
        """Value of an operand that may steer a shape: integers, few of them; floats that scale."""
        if name not in self.state.values:
            return None
        if self.state.dtypes[name] == TensorProto.STRING:
            return None
        real = self.state.dtypes[name] not in _INTEGERS
        if math.prod(self.state.shapes.get(name, (0,))) > (_SCALES if real else VIEW_LIMIT):
            return None
        return self._value(name)

    def _evaluate(self, node: NodeProto, results: list[Shape]) -> bool:
        """Fold the node if its result is known; Shape and Size need no value, only a shape."""
        if not may_fold(node):
            return False
        found: list[Array] | None = None
        read = [name for name in node.input if name]
        if node.op_type in {"Shape", "Size"} and node.input[0] in self.state.shapes:
            found = [self._shape_value(node)]
        elif all(name in self.state.values for name in read) and worth_folding(
            node, [self.state.shapes[name] for name in read], results
        ):
            values = {name: value for name in read if (value := self._value(name)) is not None}
            found = evaluated(node, values, self.imports)
        if found is None:
            return False
        for name, array in zip(node.output, found, strict=False):
            self.state.values[name], self.state.shapes[name] = array, array.shape
            self.state.dtypes[name] = helper.np_dtype_to_tensor_dtype(array.dtype)
        return True

    def _shape_value(self, node: NodeProto) -> Array:
        shape = self.state.shapes[node.input[0]]
        if node.op_type == "Size":
            return np.asarray(math.prod(shape), np.int64)
        limits = {a.name: a.i for a in node.attribute}
        return np.asarray(shape[limits.get("start", 0) : limits.get("end", len(shape))], np.int64)


def _agreed(a: Instance, b: Instance) -> dict[str, Array]:
    """Return the computed values that are bit-equal in both instances."""
    agreed = {}
    for name, value in a.values.items():
        other = b.values.get(name)
        if other is not None and other.shape == value.shape and other.tobytes() == value.tobytes():
            agreed[name] = value
    return agreed


def _counting(instance: Instance) -> set[str]:
    """Return the computed tensors of integers that are 0, 1, 2, ... in order."""
    return {
        name
        for name, value in instance.values.items()
        if value.dtype.kind == "i" and (value.ravel() == np.arange(value.size)).all()
    }


def fold(graph: Graph, shapes: Shapes) -> Graph:
    """Return `graph` with the nodes whose results are all frozen replaced by constants.

    A node whose constant would make the file grow stays: a mask of ones is shorter as `Expand`.
    """
    outputs = graph.bound
    result = graph.copy()
    before = _reads(graph.nodes)
    replaced = {name: weight.nbytes for name, weight in graph.weights.items()}
    result.nodes = [
        node
        for node in result.nodes
        if not all(n in shapes.frozen and n not in outputs for n in node.output if n)
        or _grows(node, shapes.frozen, replaced)
    ]
    result.nodes = _still_read(result.nodes, before, outputs)
    after = _reads(result.nodes)
    made = {name for node in result.nodes for name in node.output}
    for name in sorted(after & shapes.frozen.keys() - made):
        if name not in result.weights:
            result.weights[name] = constant(name, shapes.frozen[name])
    for name in before - after - outputs:
        result.weights.pop(name, None)
    return result


def _grows(node: NodeProto, values: Mapping[str, Array], replaced: dict[str, int]) -> bool:
    """Tell whether a node's constants are larger than all that would go for them.

    `replaced` holds the bytes that stand for each tensor in the file now; entered for the results.
    """
    made = sum(values[name].nbytes for name in node.output if name)
    source = sum(replaced.get(name, 0) for name in dict.fromkeys(node.input)) + node.ByteSize()
    replaced.update(dict.fromkeys(node.output, source))
    return bool(made > max(_GROWTH, 2 * source))


def _still_read(nodes: list[NodeProto], before: set[str], outputs: set[str]) -> list[NodeProto]:
    """Drop nodes whose results were read before folding and no longer are (a Shape, mostly)."""
    kept, needed = [], set(outputs)
    for node in reversed(nodes):
        if any(name in needed or name not in before for name in node.output if name):
            kept.append(node)
            needed |= _reads([node])
    return kept[::-1]


def _reads(nodes: Iterable[NodeProto]) -> set[str]:
    return {name for node in nodes for name in [*node.input, *captured_names(node)]}
