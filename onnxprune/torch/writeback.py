"""PyTorch -> ONNX: what was trained goes back into the file it came from, all else stays as it is."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto, helper, numpy_helper
from torch import Tensor, fx

from ..core.errors import ModelError
from ..core.graph import Array, Graph
from .source import constants, source
from .types import to_array
from .unfold import folded


def to_onnx(module: fx.GraphModule, like: ModelProto | Graph | Path | str) -> ModelProto:
    """Return the model `like` with the parameters and running statistics of `module`.

    Values keep the element type of the file; what did not change is not written anew. Copies of a
    merged weight that were trained apart become initializers of their own.

    Args:
        module: of `from_onnx`, trained.
        like: the model it was made of, or one with the same initializers.

    Raises:
        ModelError: if an initializer is missing or has another shape; one line.
    """
    return written_back(module, like).to_model()


def written_back(module: fx.GraphModule, like: ModelProto | Graph | Path | str) -> Graph:
    """Return the graph of `to_onnx`, for files too large for one message."""
    graph = source(like)
    state = folded(module)
    held = dict(constants(graph))
    for path, name in module.meta["initializers"].items():
        array = _checked(name, state[path], held)
        if array.tobytes() == held[name].tobytes():
            continue
        if name in graph.weights:
            graph.weights[name] = graph.weights[name].replace(array)
        else:
            _rewrite(graph, name, array)
    return graph


def _checked(name: str, value: Tensor, held: dict[str, Array]) -> Array:
    """Return a trained value as the file stores it."""
    if name not in held:
        raise ModelError(
            f"the model has no initializer '{name}', which the module has: give the model that the "
            "module was made of"
        )
    array = to_array(value, held[name].dtype)
    if array.shape != held[name].shape:
        raise ModelError(
            f"initializer '{name}' has shape {list(held[name].shape)}, the module has "
            f"{list(array.shape)}: give the model that the module was made of"
        )
    return array


def _rewrite(graph: Graph, name: str, array: Array) -> None:
    """Change the value of a Constant node."""
    for node in graph.nodes:
        if node.op_type == "Constant" and node.output[0] == name:
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(array)))
