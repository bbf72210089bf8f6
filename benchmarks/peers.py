"""What other tools make of the same model: onnxsim's structured pruning and Torch-Pruning.

Each is called as its own documentation does, and guarded: in a process of its own with a time
limit, and its error, if it has one, is a result like any other. Versions: `requirements.txt`.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

Result = TypeVar("Result")
Batch = Mapping[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Attempt(Generic[Result]):
    """What came of a call.

    Attributes:
        result: what it returned; None when it failed.
        error: why it failed, in one line; empty when it did not.
        seconds: how long it took, without starting the process.
    """

    result: Result | None
    error: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class TorchPruned:
    """What Torch-Pruning made of a module.

    Attributes:
        model: the pruned module, exported; bytes of an ONNX file.
        graph_seconds: for the dependency graph alone.
        groups: that it found; classifier left out.
        prune_seconds: for building the pruner, which builds the graph again, and its one step.
    """

    model: bytes
    graph_seconds: float
    groups: int
    prune_seconds: float


def guarded(
    function: Callable[..., Result], *arguments: object, timeout: float = 300
) -> Attempt[Result]:
    """Call `function` in a fresh process; it and its arguments must be picklable."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, arguments))
    start = time.perf_counter()
    process.start()
    theirs.close()
    try:
        if not ours.poll(timeout):
            return Attempt(None, f"not finished after {timeout:.0f} s", timeout)
        attempt: Attempt[Result] = ours.recv()
    except EOFError:
        process.join()
        return Attempt(None, f"died with code {process.exitcode}", time.perf_counter() - start)
    finally:
        process.kill()
        process.join()
    return attempt


def _answer(pipe: Connection, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    start = time.perf_counter()
    try:
        result, error = function(*arguments), ""
    except Exception as problem:  # noqa: BLE001 - whatever a peer raises is what we report
        result, error = None, " ".join(f"{type(problem).__name__}: {problem}".split())
    pipe.send(Attempt(result, error, time.perf_counter() - start))


def onnxsim_structured(
    path: Path, ratio: float, *, simplify: bool = True, scope: str = "uniform"
) -> bytes:
    """Call `apply_structured_pruning` (L2 norms) of onnxsim, after its `simplify` if asked."""
    import onnxsim

    model = onnx.load(path)
    if simplify:
        model, _ = onnxsim.simplify(model)
    pruned = onnxsim.apply_structured_pruning(model, ratio, global_sparsity=scope == "global")
    return bytes(pruned.SerializeToString())


def onnxsim_wanda(path: Path, ratio: float, batches: Iterable[Batch]) -> bytes:
    """Call `apply_structured_wanda_pruning` of onnxsim, calibrated on samples."""
    import onnxsim

    model, _ = onnxsim.simplify(onnx.load(path))
    data = [dict(batch) for batch in batches]
    pruned = onnxsim.apply_structured_wanda_pruning(model, data, sparsity=ratio)
    return bytes(pruned.SerializeToString())


def torch_pruning(
    build: Callable[[], tuple[nn.Module, Tensor]], ratio: float, *, export: bool = True
) -> TorchPruned:
    """Prune by Torch-Pruning's L2 group magnitude, uniformly; the last layer keeps its outputs.

    Args:
        build: makes the network in evaluation mode and example inputs.
        ratio: of the channels to remove.
        export: write the result as ONNX (TorchScript exporter), to count and run it.
    """
    import torch_pruning as tp

    from onnxprune.models.export import export as write

    network, example = build()
    start = time.perf_counter()
    graph = tp.DependencyGraph().build_dependency(network, example)
    graph_seconds = time.perf_counter() - start
    last = [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    groups = len(list(graph.get_all_groups(ignored_layers=[last])))
    start = time.perf_counter()
    pruner = tp.pruner.MagnitudePruner(
        network,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[last],
    )
    pruner.step()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        network(example)
    if not export:
        return TorchPruned(b"", graph_seconds, groups, seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = write(network, [example], Path(folder, "pruned.onnx"), exporter="torchscript")
        return TorchPruned(path.read_bytes(), graph_seconds, groups, seconds)


def runs(model: bytes, feeds: Batch) -> str:
    """Return why onnxruntime does not run a model on these inputs, in one line; empty if it does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = {value.name for value in session.get_inputs()}
        outputs = session.run(None, {k: v for k, v in feeds.items() if k in names})
    except Exception as problem:  # noqa: BLE001 - onnxruntime raises classes of its own
        return " ".join(f"{type(problem).__name__}: {problem}".split())
    return "" if all(np.isfinite(value).all() for value in outputs) else "outputs are not finite"
