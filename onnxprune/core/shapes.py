"""Shapes of every tensor in two instances of the graph, and the values that both agree on.

Symbolic dimensions are given different numbers in the two instances. What is computed from shapes
and comes out equal in both is a constant of the model and is frozen to its original value: after
pruning, `C // heads` or sqrt(head_dim) must not change (research: freeze first).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx.defs
from onnx import NodeProto, TensorProto, TypeProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from .errors import ModelError
from .graph import Array, Graph, bodies, captured_names, constant

log = logging.getLogger(__name__)

Shape = tuple[int, ...]
ShapeFunction = Callable[[NodeProto, Mapping[str, Shape]], Mapping[str, Shape]]

# Two numbers per unknown dimension: batch, sequence, then growing image sizes to try.
_BATCH, _SEQUENCE = (3, 2), (7, 11)
_IMAGES = ((64, 96), (128, 160), (224, 256), (320, 384), (640, 736))
_VALUE_LIMIT = 1 << 22  # elements; larger results are not folded
_VIEW_LIMIT = 1024  # elements; larger weights behind a view stay tied to their source
_NEVER_FOLDED = {
    "DequantizeLinear",
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}
_VIEWS = {"Transpose", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}


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
        names = {v.name for v in graph.inputs} | {o for node in graph.nodes for o in node.output}
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
    for first, second in _IMAGES:
        a = instantiate(graph, shape_functions, sizes=(_BATCH[0], _SEQUENCE[0], first))
        b = instantiate(graph, shape_functions, sizes=(_BATCH[1], _SEQUENCE[1], second))
        if a is not None and b is not None:
            counting = frozenset(_counting(a) & _counting(b))
            return Shapes(a.shapes, b.shapes, a.dtypes, _agreed(a, b), counting)
    raise ModelError(
        "shapes of the model become negative for every image size tried "
        f"({', '.join(str(s) for s, _ in _IMAGES)}): give the inputs fixed shapes"
    )


def input_shape(value: onnx.ValueInfoProto, sizes: tuple[int, int, int]) -> Shape | None:
    """Return a concrete shape of a graph input, or None if it has no rank."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    batch, sequence, image = sizes
    rank = len(tensor.shape.dim)
    shape = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            shape.append(int(dim.dim_value))
        else:
            shape.append(batch if axis == 0 else image if rank >= 4 else sequence)
    return tuple(shape)


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
    """
    state = Instance({}, {}, {})
    for name, weight in graph.weights.items():
        state.shapes[name], state.dtypes[name] = weight.shape, weight.proto.data_type
        state.values[name] = _LazyValue  # type: ignore[assignment]
    for value in graph.inputs:
        shape = (inputs or {}).get(value.name) or input_shape(value, sizes)
        state.dtypes[value.name] = value.type.tensor_type.elem_type
        if shape is not None:
            state.shapes[value.name] = tuple(shape)
    run = _Run(graph, state, shape_functions, fold=fold)
    for node in graph.nodes:
        if not run.visit(node):
            return None
    state.values = {k: v for k, v in state.values.items() if v is not _LazyValue}
    return state


_LazyValue = object()


class _Run:
    """The state of one pass of per-node inference."""

    def __init__(
        self,
        graph: Graph,
        state: Instance,
        shape_functions: Mapping[tuple[str, str], ShapeFunction],
        *,
        fold: bool,
    ) -> None:
        self.graph, self.state, self.functions, self.fold = graph, state, shape_functions, fold
        self.imports = list(graph.shell.opset_import)
        self.ir = graph.shell.ir_version

    def visit(self, node: NodeProto) -> bool:
        """Infer one node; False when a dimension is not positive."""
        if self.fold and self._evaluate(node):
            return True
        shapes = self._infer(node)
        for name, (shape, dtype) in shapes.items():
            if shape is not None and min(shape, default=1) < 0:
                return False
            if shape is not None:
                self.state.shapes[name] = shape
            self.state.dtypes[name] = dtype
        return True

    def _infer(self, node: NodeProto) -> dict[str, tuple[Shape | None, int]]:
        known = self.state.shapes
        domain = "" if node.domain == "ai.onnx" else node.domain
        special = self.functions.get((domain, node.op_type))
        if special is not None and all(i in known for i in node.input if i):
            typed, given = self.state.dtypes, special(node, known).items()
            first = typed.get(node.input[0], TensorProto.FLOAT)
            return {n: (tuple(s), typed.get(getattr(s, "like", ""), first)) for n, s in given}
        try:
            schema = onnx.defs.get_schema(node.op_type, self.graph.opsets.get(domain, 1), domain)
        except onnx.defs.SchemaError:
            return {}
        if not all(i in self.state.dtypes for i in node.input if i):
            return {}
        types = {i: self._type(i) for i in node.input if i}
        data = {
            i: numpy_helper.from_array(v, i)
            for i in node.input
            if (v := self._small(i)) is not None
        }
        try:
            found = shape_inference.infer_node_outputs(
                schema, node, types, data, None, self.imports, self.ir
            )
        except (shape_inference.InferenceError, RuntimeError, ValueError) as error:
            log.debug("no shape for %s '%s': %s", node.op_type, node.name, error)
            return {}
        return {name: _read_type(proto) for name, proto in found.items()}

    def _type(self, name: str) -> TypeProto:
        shape = self.state.shapes.get(name)
        return helper.make_tensor_type_proto(self.state.dtypes[name], shape)

    def _value(self, name: str) -> Array | None:
        value = self.state.values.get(name)
        return self.graph.weights[name].array if value is _LazyValue else value

    def _small(self, name: str) -> Array | None:
        """Value of an operand that may steer a shape: integers, few of them."""
        if name not in self.state.values:
            return None
        if int(np.prod(self.state.shapes.get(name, (0,)), dtype=np.int64)) > _VIEW_LIMIT:
            return None
        return self._value(name)

    def _evaluate(self, node: NodeProto) -> bool:
        """Fold the node if its result is known; Shape and Size need no value, only a shape."""
        if node.op_type in _NEVER_FOLDED or node.domain not in {"", "ai.onnx"} or any(bodies(node)):
            return False
        if node.op_type in {"Shape", "Size"} and node.input[0] in self.state.shapes:
            results = [self._shape_value(node)]
        elif all(i in self.state.values for i in node.input if i) and self._worth_folding(node):
            values = {i: self._value(i) for i in node.input if i}
            try:
                with np.errstate(all="ignore"):  # log(0) on the way to a masked entry is fine
                    found = ReferenceEvaluator(_as_function(node, self.imports)).run(None, values)
                results = [np.asarray(value) for value in found]
            except Exception as error:  # noqa: BLE001 - the reference backend raises anything: not folded
                log.debug("not folded: %s '%s': %s", node.op_type, node.name, error)
                return False
        else:
            return False
        for name, result in zip(node.output, results, strict=False):
            array = np.asarray(result)
            self.state.values[name], self.state.shapes[name] = array, array.shape
            self.state.dtypes[name] = helper.np_dtype_to_tensor_dtype(array.dtype)
        return True

    def _worth_folding(self, node: NodeProto) -> bool:
        sizes = [int(np.prod(self.state.shapes[i], dtype=np.int64)) for i in node.input if i]
        largest = max(sizes, default=0)
        return largest <= (_VIEW_LIMIT if node.op_type in _VIEWS else _VALUE_LIMIT)

    def _shape_value(self, node: NodeProto) -> Array:
        shape = self.state.shapes[node.input[0]]
        if node.op_type == "Size":
            return np.asarray(np.prod(shape, dtype=np.int64))
        limits = {a.name: a.i for a in node.attribute}
        return np.asarray(shape[limits.get("start", 0) : limits.get("end", len(shape))], np.int64)


def _as_function(node: NodeProto, imports: list[onnx.OperatorSetIdProto]) -> onnx.ModelProto:
    """Wrap a node in a model, so that it is evaluated under the file's opset."""
    inputs = [onnx.ValueInfoProto(name=n) for n in dict.fromkeys(node.input) if n]
    outputs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
    return helper.make_model(
        helper.make_graph([node], "fold", inputs, outputs), opset_imports=imports
    )


def _read_type(proto: TypeProto) -> tuple[Shape | None, int]:
    tensor = proto.tensor_type
    if not proto.HasField("tensor_type") or not tensor.HasField("shape"):
        return None, tensor.elem_type
    if not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None, tensor.elem_type
    return tuple(int(d.dim_value) for d in tensor.shape.dim), tensor.elem_type


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
    """Return `graph` with the nodes whose results are all frozen replaced by constants."""
    outputs = {v.name for v in graph.outputs}
    result = graph.copy()
    before = _reads(graph.nodes)
    result.nodes = [
        node
        for node in result.nodes
        if not all(n in shapes.frozen and n not in outputs for n in node.output if n)
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
