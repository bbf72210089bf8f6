"""The only door to onnxruntime: sessions, providers, and messages when it is missing or doubled."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from .errors import ModelError, OnnxPruneError, UnknownOperatorError
from .external import weight_bytes, write_external
from .graph import Array, Graph, Weight
from .limits import largest_run, longest_loop
from .scopes import bodies
from .widening import holds_bfloat16, wide_feeds, widened

_INLINE_LIMIT = 1 << 24  # bytes; larger models go through a file: onnxruntime keeps a copy of bytes
_LIBRARIES = "ONNXPRUNE_CUSTOM_OPS"  # shared libraries with operators, separated as in PATH
_BFLOAT16, _MISSING = "tensor(bfloat16)", "Could not find an implementation"
_UNKNOWN = ("is not a registered function/op", "No Op registered for", "No opset import for domain")
STREAMED_FROM = 1 << 28  # bytes of weights from which graphs are mapped from a file and not packed
_MESSAGE_LIMIT = (1 << 31) - (1 << 26)  # bytes of weights; protobuf writes no message above 2 GiB


def installed_wheels() -> dict[str, str]:
    """Return the distributions that own the package `onnxruntime`, and their versions.

    There are many (onnxruntime, -gpu, -directml, -openvino, ...); more than one is a fault.
    """
    owners = importlib.metadata.packages_distributions().get("onnxruntime", [])
    return {name: importlib.metadata.version(name) for name in sorted(set(owners))}


def onnxruntime() -> ModuleType:
    """Import onnxruntime.

    Raises:
        OnnxPruneError: if no wheel is installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise OnnxPruneError(
            "onnxruntime is not installed: run `pip install onnxprune[cpu]`, "
            "or `onnxprune[gpu]` with CUDA (not both)"
        ) from error


def quantiser() -> ModuleType:
    """Import onnxruntime's quantiser."""
    onnxruntime()
    return importlib.import_module("onnxruntime.quantization")


class Session:
    """A loaded model.

    Attributes:
        provider: the one that really runs.
        widened: whether bfloat16 runs as float32, since the provider or NumPy has no such type.
    """

    def __init__(
        self,
        model: ModelProto | Graph | Callable[[], ModelProto] | Path | str,
        *,
        provider: str = "CPUExecutionProvider",
        optimise: bool = True,
        threads: int | None = None,
        alone: bool = False,
        plan_memory: bool = True,
    ) -> None:
        """Load a model.

        Args:
            model: path, graph, message, or what makes the message (it is then freed before
                loading). Graphs of any size: large weights are streamed to a temporary file, and
                mapped from there.
            provider: execution provider to ask for; the CPU provider is always the fall-back.
            optimise: onnxruntime's graph optimisation on or off.
            threads: intra-op threads; None lets onnxruntime decide (ONNXPRUNE_THREADS overrides).
            alone: refuse to load what the CPU provider would have to run instead of `provider`.
            plan_memory: reserve one block for all activations after the first run; off where many
                inner tensors are read: then the block comes on top of what is read.

        Raises:
            ModelError: if onnxruntime refuses the model; its own reason in one line.
        """
        ort = onnxruntime()
        providers = [provider] if alone else list(dict.fromkeys([provider, "CPUExecutionProvider"]))

        def load(given: ModelProto | Graph | Callable[[], ModelProto] | Path | str) -> Any:
            options = _options(ort, optimise, threads, plan_memory)
            if alone and provider != "CPUExecutionProvider":
                options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            with (
                _handed_over(given) as (payload, weights, loops),
                _bounded(ort, options, largest_run(weights)),
            ):
                if not optimise and weights > STREAMED_FROM:  # packed weights are copies in memory
                    options.add_session_config_entry("session.disable_prepacking", "1")
                self._patience = longest_loop(weights) if loops else None
                return ort.InferenceSession(payload, options, providers=providers)

        self.widened = False
        try:
            self._session = load(model)
            values = (*self._session.get_inputs(), *self._session.get_outputs())
            if any(value.type == _BFLOAT16 for value in values):  # NumPy has no such type
                self._session, self.widened = load(widened(_message(model))), True
        except OnnxPruneError:
            raise
        except Exception as error:
            reason = _reason(error)
            if _MISSING not in reason or not holds_bfloat16(message := _message(model)):
                raise _refusal(ort, reason) from error
            self._session, self.widened = load(widened(message)), True
        self.provider: str = self._session.get_providers()[0]
        self.inputs: list[str] = [i.name for i in self._session.get_inputs()]
        self._optional = [i.name for i in self._session.get_overridable_initializers()]
        self.outputs: list[str] = [o.name for o in self._session.get_outputs()]

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Run once; returns outputs by name.

        Raises:
            ModelError: if onnxruntime fails on these inputs.
        """
        names = list(outputs) if outputs is not None else self.outputs
        names_in = [name for name in (*self.inputs, *self._optional) if name in feeds]
        scalars = {name: np.asarray(feeds[name]) for name in names_in if np.isscalar(feeds[name])}
        wanted = {name: feeds[name] for name in names_in} | scalars  # NumPy's scalars are no arrays
        if self.widened:
            wanted = wide_feeds(wanted)
        try:
            with _in_time(self._patience) as options:
                values = self._session.run(names, wanted, options)
        except Exception as error:
            raise ModelError(f"onnxruntime cannot run the model: {_reason(error)}") from error
        return dict(zip(names, values, strict=True))


def _options(ort: ModuleType, optimise: bool, threads: int | None, plan_memory: bool) -> Any:
    """Return the options of a session (see `Session`)."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Several sessions live side by side (proof, latency of two files): worker threads that keep
    # spinning after a run slow the next session down, by a third on a ResNet-50 and two cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    options.enable_mem_pattern = plan_memory
    count = threads or int(os.environ.get("ONNXPRUNE_THREADS", "0"))
    if count:
        options.intra_op_num_threads = count
    for library in filter(None, os.environ.get(_LIBRARIES, "").split(os.pathsep)):
        try:
            options.register_custom_ops_library(library)
        except Exception as error:
            raise OnnxPruneError(
                f"{_LIBRARIES}: onnxruntime cannot take operators from '{library}': {_reason(error)}"
            ) from error
    return options


def _refusal(ort: ModuleType, reason: str) -> ModelError:
    """Say why onnxruntime does not load a model."""
    text = f"onnxruntime {ort.__version__} cannot load the model: {reason}"
    if not any(words in reason for words in _UNKNOWN):
        return ModelError(text)
    return UnknownOperatorError(
        f"{text}; name the library that has the operator in {_LIBRARIES}, or prune without proof "
        "(--no-verify)"
    )


def _reason(error: Exception) -> str:
    """Return what onnxruntime complains of, in one line; our own limits in our own words."""
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else type(error).__name__
    if "terminate flag" in said:
        return "its loops did not end in time: allow more with ONNXPRUNE_PATIENCE=<seconds>"
    if limit := re.search(
        r"Available memory of (\d+) is smaller than requested bytes of (\d+)", str(error)
    ):
        return f"it asks for {int(limit[2]) / 1e9:.3g} GB at once: allow more with ONNXPRUNE_MEMORY=<GB>"
    return said


@contextmanager
def _in_time(seconds: float | None) -> Iterator[Any]:
    """Give options of a run that ends it after so many seconds, where a node begins."""
    if seconds is None:
        yield None
        return
    options = onnxruntime().RunOptions()
    timer = threading.Timer(seconds, setattr, (options, "terminate", True))
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


@contextmanager
def _bounded(ort: ModuleType, options: Any, limit: int) -> Iterator[None]:
    """Let the session made inside take at most `limit` bytes on the host.

    An allocator is registered for all sessions, and the session keeps the one it finds.
    """
    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    options.add_session_config_entry("session.use_env_allocators", "1")
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"max_mem": limit}))
    try:
        yield
    finally:  # else the next one would find it, and it would outlive the session
        ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"max_mem": 1 << 20}))


def _message(model: ModelProto | Graph | Callable[[], ModelProto] | Path | str) -> ModelProto:
    """Return the whole message, weights inside."""
    if isinstance(model, (Path, str)):
        return onnx.load(model)
    if isinstance(model, Graph):
        return model.to_model()
    return model if isinstance(model, ModelProto) else model()


@contextmanager
def _handed_over(
    model: ModelProto | Graph | Callable[[], ModelProto] | Path | str,
) -> Iterator[tuple[bytes | str, int, bool]]:
    """Give the model as onnxruntime reads it, its bytes of weights, and whether it has loops.

    Small models are handed over as bytes, large ones as a file.
    """
    if isinstance(model, (Path, str)):
        size = Path(model).stat().st_size
        if size > _INLINE_LIMIT:  # the weights are in it
            yield str(model), size, False  # too large to look into: no hostile file, hardly
            return
        message = onnx.load(model, load_external_data=False)
        yield str(model), _weights(message), _loops(message)
        return
    if isinstance(model, Graph):
        if (size := weight_bytes(model)) > STREAMED_FROM:
            with _streamed(model, size) as path:
                yield str(path), size, _loops(model.shell, model.nodes)
            return
        model = model.to_model
    message = model if isinstance(model, ModelProto) else model()
    # not ByteSize, which writes the whole message to learn how long it is
    size, loops = _weights(message), _loops(message)
    if size <= _INLINE_LIMIT:
        yield message.SerializeToString(), size, loops
        return
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        path = Path(folder, "model.onnx")
        onnx.save(message, path, save_as_external_data=size > _MESSAGE_LIMIT)
        del message
        yield str(path), size, loops


@contextmanager
def _streamed(graph: Graph, size: int) -> Iterator[Path]:
    """Write a large model to a temporary folder; what is mapped from it outlives the folder."""
    with tempfile.TemporaryDirectory(prefix="onnxprune-", ignore_cleanup_errors=True) as folder:
        free = shutil.disk_usage(folder).free
        complaint = (
            f"running the model takes {size / 1e9:.1f} GB of temporary files, and '{folder}' has "
            f"{free / 1e9:.1f} GB left: set TMPDIR to a larger disk, or give --no-verify"
        )
        if free < size:
            raise OnnxPruneError(complaint)
        try:
            write_external(graph, Path(folder, "model.onnx"))
        except OSError as error:
            raise OnnxPruneError(complaint) from error
        yield Path(folder, "model.onnx")


def _weights(model: ModelProto) -> int:
    return sum(Weight(tensor).nbytes for tensor in model.graph.initializer)


def _loops(model: ModelProto, nodes: Sequence[NodeProto] = ()) -> bool:
    """Tell whether anything is repeated: then the file does not say how long a run is."""
    left = [*nodes, *model.graph.node, *(node for f in model.functions for node in f.node)]
    while left:
        node = left.pop()
        if node.op_type in {"Loop", "Scan"}:
            return True
        left.extend(inner for body in bodies(node) for inner in body.node)
    return False
