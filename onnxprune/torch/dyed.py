"""How a module's own parameters lie in the graph that PyTorch exports of it, element by element.

Exporters transpose, reshape, split and rename weights. So a copy of the module is exported whose values
are all different numbers, which no other constant has: wherever such a number turns up in the normal
form of the graph, it says which element of which parameter stands there. Nothing is folded on the way,
so that BatchNormalization stays.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..core.analysis import Analysis
from ..core.errors import ModelError, first_line
from ..core.graph import Array, Graph
from ..discover import discover
from ..structure.dependency import analyse

Ints = NDArray[np.int64]

_OPSET = 20
_DYES = {torch.float32: (1 << 20, 1 << 24), torch.float64: (1 << 40, 1 << 53)}  # exact integers


@dataclasses.dataclass(frozen=True)
class Dyed:
    """A module's graph, and where its parameters are in it.

    Attributes:
        analysis: of the graph.
        spans: parameter or buffer -> number of its first element; elements are numbered in a row.
        elements: weight of the graph that is made of parameters alone -> number of each element,
            int64, the weight's shape.
    """

    analysis: Analysis
    spans: dict[str, int]
    elements: dict[str, Ints]

    def values(self, module: nn.Module) -> dict[str, Array]:
        """Return what the module holds where its graph has `elements`."""
        state = module.state_dict()
        flat = [state[name].detach().cpu().double().numpy().ravel() for name in self.spans]
        row = np.concatenate(flat) if flat else np.empty(0)
        return {name: row[numbers] for name, numbers in self.elements.items()}


def dyed(module: nn.Module, inputs: Sequence[Tensor]) -> Dyed:
    """Export a module and find its parameters in the graph; the module stays as it is.

    Raises:
        ModelError: if PyTorch cannot export it.
    """
    discover()
    twin = copy.deepcopy(module).eval().cpu()
    state = {n: t for n, t in twin.state_dict(keep_vars=True).items() if t.is_floating_point()}
    sizes = {name: tensor.numel() for name, tensor in state.items()}
    spans = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    total = sum(sizes.values())
    dtype = next(d for d, (a, b) in _DYES.items() if total <= b - a)
    twin = twin.to(dtype)
    first = _DYES[dtype][0]
    with torch.no_grad():
        for name, tensor in twin.state_dict().items():
            if name in spans:
                numbers = torch.arange(tensor.numel(), dtype=dtype) + first + spans[name]
                tensor.copy_(numbers.reshape(tensor.shape))
    arguments = tuple(x.cpu().to(dtype) if x.is_floating_point() else x.cpu() for x in inputs)
    analysis = analyse(Graph.from_model(_exported(twin, arguments)))
    return Dyed(analysis, spans, dict(_elements(analysis.graph, first, first + total)))


def _elements(graph: Graph, first: int, last: int) -> Iterator[tuple[str, Ints]]:
    """Yield weights all of whose values are numbers of elements."""
    for name, weight in graph.weights.items():
        array = weight.array
        if array.dtype.kind == "f" and array.size and (array >= first).all():
            numbers = array.astype(np.int64)
            if (numbers == array).all() and (numbers < last).all():
                yield name, numbers - first


def _exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> onnx.ModelProto:
    """Return the graph of a module, by the tracing exporter, else by the other one."""
    mode = torch.onnx.TrainingMode.PRESERVE  # with it, and nothing folded, BatchNormalization stays
    with _quiet(), torch.no_grad():
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "dyed.onnx"
                torch.onnx.export(
                    module, inputs, file, dynamo=False, opset_version=_OPSET, training=mode,
                    do_constant_folding=False,
                )  # fmt: skip
                return onnx.load(file)
        except Exception as error:  # noqa: BLE001  # whatever the user's module raises, or what is below
            said = first_line(error)
        try:
            program = torch.onnx.export(
                module, inputs, dynamo=True, verbose=False, opset_version=_OPSET, optimize=False
            )
        except Exception as error:
            raise ModelError(
                f"PyTorch cannot export the module: {said}; nor by dynamo: {first_line(error)}"
            ) from error
    assert program is not None  # it is None for the tracing exporter only
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what exporters say of themselves; keep attention in parts that both can export."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(value=fast)
