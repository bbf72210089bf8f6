"""Evaluates single nodes whose operands are known: shape arithmetic, tables of positions, masks."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from .graph import Array
from .scopes import bodies

log = logging.getLogger(__name__)

VIEW_LIMIT = 1024  # elements; larger weights behind a view stay tied to their source
_VALUE_LIMIT = 1 << 22  # elements, of operands and results; more is not folded
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
    # a contraction of small operands may be long work
    "Einsum",
}
_VIEWS = {"Transpose", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}
# loops over elements in Python, in onnx's reference
_SLOW = {
    "AffineGrid", "AveragePool", "CenterCropPad", "Col2Im", "Conv", "ConvInteger", "ConvTranspose",
    "DeformConv", "GridSample", "LRN", "LSTM", "GRU", "RNN", "LpPool", "MaxPool", "MaxRoiPool",
    "MaxUnpool", "NonMaxSuppression", "QLinearConv", "Resize", "RoiAlign", "Upsample",
}  # fmt: skip


def may_fold(node: NodeProto) -> bool:
    """Tell whether the node's result depends on its operands alone and is worth knowing."""
    return (
        node.op_type not in _NEVER_FOLDED
        and node.domain in {"", "ai.onnx"}
        and not any(bodies(node))
    )


def worth_folding(
    node: NodeProto, operands: Iterable[Sequence[int]], results: Iterable[Sequence[int]]
) -> bool:
    """Tell whether the shapes of operands and results (as far as known) are small enough."""
    read = max(map(math.prod, operands), default=0)
    made = max(map(math.prod, results), default=0)
    if node.op_type in _SLOW:
        return max(read, made) <= VIEW_LIMIT
    return read <= (VIEW_LIMIT if node.op_type in _VIEWS else _VALUE_LIMIT) and made <= _VALUE_LIMIT


def evaluated(
    node: NodeProto, values: Mapping[str, Array], imports: list[onnx.OperatorSetIdProto]
) -> list[Array] | None:
    """Return the node's results, None if onnx's reference cannot compute them."""
    inputs = [onnx.ValueInfoProto(name=n) for n in dict.fromkeys(node.input) if n]
    outputs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
    # in a model, so that it is evaluated under the file's opset
    model = helper.make_model(
        helper.make_graph([node], "fold", inputs, outputs), opset_imports=imports
    )
    try:
        with np.errstate(all="ignore"):  # log(0) on the way to a masked entry is fine
            found = ReferenceEvaluator(model).run(None, dict(values))
        if not all(isinstance(value, np.ndarray | np.generic) for value in found):
            return None  # a sequence, or nothing: no weight can hold it
        return [np.asarray(value) for value in found]
    except Exception as error:  # noqa: BLE001 - the reference backend raises anything: not folded
        log.debug("not folded: %s '%s': %s", node.op_type, node.name, error)
        return None
