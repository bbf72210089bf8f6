"""What onnx infers of single nodes: shapes and element types of their outputs.

The layers of a network repeat: nodes that differ in nothing but names are asked about once.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import onnx.defs
from onnx import NodeProto, OperatorSetIdProto, TypeProto, helper, numpy_helper
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError, infer_node_outputs

from .graph import Array
from .input_shapes import Shape

log = logging.getLogger(__name__)

Typed = tuple[Shape | None, int]  # shape, None where unknown; element type


@dataclasses.dataclass
class Inference:
    """Asks onnx about nodes under the opsets of one model.

    `others` are the types of what is no tensor: sequences, optional values, maps.
    """

    opsets: Mapping[str, int]
    imports: Sequence[OperatorSetIdProto]
    ir_version: int
    others: dict[str, TypeProto] = dataclasses.field(default_factory=dict)
    _known: dict[tuple[object, ...], tuple[TypeProto | None, ...]] = dataclasses.field(
        default_factory=dict
    )

    def outputs(
        self, node: NodeProto, operands: Mapping[str, Typed], values: Mapping[str, Array]
    ) -> dict[str, Typed]:
        """Return what onnx says of a node's outputs; nothing if it does not know.

        Args:
            node: of the model.
            operands: shape and element type of every input.
            values: of inputs that may steer a shape.
        """
        domain = "" if node.domain == "ai.onnx" else node.domain
        key = (
            domain,
            node.op_type,
            tuple([a.SerializeToString() for a in node.attribute]),
            tuple([self._typed(name, operands) for name in node.input]),
            tuple([v.tobytes() if (v := values.get(n)) is not None else None for n in node.input]),
            tuple(map(bool, node.output)),
        )
        if key not in self._known:
            found = self._ask(node, domain, operands, values)
            self._known[key] = tuple(found.get(name) for name in node.output)
        answers = {
            n: t for n, t in zip(node.output, self._known[key], strict=True) if t is not None
        }
        self.others |= {n: t for n, t in answers.items() if not t.HasField("tensor_type")}
        return {name: _read_type(proto) for name, proto in answers.items()}

    def _typed(self, name: str, operands: Mapping[str, Typed]) -> Typed | bytes | None:
        if name in self.others:
            return bytes(self.others[name].SerializeToString())
        return operands.get(name)

    def _ask(
        self,
        node: NodeProto,
        domain: str,
        operands: Mapping[str, Typed],
        values: Mapping[str, Array],
    ) -> dict[str, TypeProto]:
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opsets.get(domain, 1), domain)
        except onnx.defs.SchemaError:
            return {}
        types = {
            name: self.others.get(name) or helper.make_tensor_type_proto(dtype, shape)
            for name, (shape, dtype) in operands.items()
        }
        data = {name: numpy_helper.from_array(value, name) for name, value in values.items()}
        try:
            found: dict[str, TypeProto] = infer_node_outputs(
                schema, node, types, data, None, list(self.imports), self.ir_version
            )
        except (InferenceError, ValidationError, RuntimeError, ValueError) as error:
            log.debug("no shape for %s '%s': %s", node.op_type, node.name, error)
            return {}
        return found


def _read_type(proto: TypeProto) -> Typed:
    tensor = proto.tensor_type
    if not proto.HasField("tensor_type") or not tensor.HasField("shape"):
        return None, tensor.elem_type
    if not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None, tensor.elem_type
    return tuple(int(d.dim_value) for d in tensor.shape.dim), tensor.elem_type
