"""A trained module as PyTorch itself exports it, held against the file that its weights go back into.

`to_onnx` loses nothing and needs no exporter; this is for those who want what PyTorch writes today: a
newer opset, its operators, its metadata.
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from torch import fx

from ..core.errors import ModelError, ProofError, first_line
from ..core.graph import Array, Graph
from ..core.runtime import Session
from ..files.store import save
from ..proof.example import example
from ..structure.dependency import analyse
from .source import source
from .writeback import written_back

_EQUAL = 1e-4  # relative to the largest output, as `to_onnx` is held against the module
_OPSET = 20


def export(
    module: fx.GraphModule,
    like: ModelProto | Graph | Path | str,
    path: Path | str,
    *,
    opset: int = _OPSET,
) -> Path:
    """Write a module by `torch.onnx.export` (dynamo); inputs and outputs are named as in `like`.

    Args:
        module: of `from_onnx`, trained.
        like: the model it was made of.
        path: where to.
        opset: version of the operators.

    Returns:
        `path`.

    Raises:
        ModelError: if PyTorch cannot export the module; then nothing is written.
        ProofError: if what it exports differs from the written-back model, by sizes or by outputs.
    """
    graph, path = source(like), Path(path)
    back = written_back(module, graph)
    feeds = example(graph)
    inputs = tuple(torch.from_numpy(feeds[value.name]) for value in graph.inputs)
    free = [bool(v.type.tensor_type.shape.dim) for v in graph.inputs]
    batches = tuple({0: torch.export.Dim.AUTO} if is_free else None for is_free in free)
    training = module.training
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            program = torch.onnx.export(
                module.eval().cpu(), inputs, dynamo=True, verbose=False, opset_version=opset,
                input_names=[v.name for v in graph.inputs],
                output_names=[v.name for v in graph.outputs], dynamic_shapes=batches,
            )  # fmt: skip
    except Exception as error:
        raise ModelError(f"PyTorch cannot export the module: {first_line(error)}") from error
    finally:
        module.train(training)
    assert program is not None  # it is None for the tracing exporter only
    made = Graph.from_model(program.model_proto)
    _compare(made, back, feeds)
    save(made, path)
    return path


def _compare(made: Graph, back: Graph, feeds: dict[str, Array]) -> None:
    """Refuse an export that is another model than the one that was written back.

    Raises:
        ProofError: naming what differs.
    """
    ours, theirs = (_sizes(graph) for graph in (back, made))
    if ours != theirs:
        lost, more = sorted((ours - theirs).elements()), sorted((theirs - ours).elements())
        raise ProofError(
            f"PyTorch exports other weights: sizes {lost} are missing, {more} were not there"
        )
    sessions = [Session(graph, optimise=False) for graph in (back, made)]
    expected, found = (session.run(feeds) for session in sessions)
    for name, values in expected.items():
        if values.dtype.kind != "f":
            same = np.array_equal(values, found[name])
        else:
            same = bool(np.abs(values - found[name]).max() <= _EQUAL * np.abs(values).max())
        if not same:
            raise ProofError(f"PyTorch exports a model whose output '{name}' is another")


def _sizes(graph: Graph) -> Counter[tuple[int, ...]]:
    """Count the weights of linear operators by shape, as sorted: exporters transpose them."""
    analysis = analyse(graph)
    names = {linear.weight for linear in analysis.linears()}
    return Counter(tuple(sorted(analysis.graph.weights[name].shape)) for name in names)
