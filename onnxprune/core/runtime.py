"""The only door to onnxruntime: sessions, providers, and messages when it is missing or doubled."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
from onnx import ModelProto

from .errors import ModelError, OnnxPruneError
from .graph import Array, Weight

_INLINE_LIMIT = 1 << 24  # bytes; larger models go through a file: onnxruntime keeps a copy of bytes
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


class Session:
    """A loaded model; `provider` is the one that really runs."""

    def __init__(
        self,
        model: ModelProto | Callable[[], ModelProto] | Path | str,
        *,
        provider: str = "CPUExecutionProvider",
        optimise: bool = True,
        threads: int | None = None,
        alone: bool = False,
        plan_memory: bool = True,
    ) -> None:
        """Load a model.

        Args:
            model: path, message, or what makes the message (it is then freed before loading).
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
        options = ort.SessionOptions()
        options.log_severity_level = 4
        # Several sessions live side by side (proof, latency of two files): worker threads that keep
        # spinning after a run slow the next session down, by a third on a ResNet-50 and two cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
        )
        options.enable_mem_pattern = plan_memory
        count = threads or int(os.environ.get("ONNXPRUNE_THREADS", "0"))
        if count:
            options.intra_op_num_threads = count
        providers = [provider] if alone else list(dict.fromkeys([provider, "CPUExecutionProvider"]))
        if alone and provider != "CPUExecutionProvider":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            with _handed_over(model) as payload:
                self._session = ort.InferenceSession(payload, options, providers=providers)
        except Exception as error:
            reason = (
                str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            )
            raise ModelError(
                f"onnxruntime {ort.__version__} cannot load the model: {reason}"
            ) from error
        self.provider: str = self._session.get_providers()[0]
        self.inputs: list[str] = [i.name for i in self._session.get_inputs()]
        self.outputs: list[str] = [o.name for o in self._session.get_outputs()]

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Run once; returns outputs by name.

        Raises:
            ModelError: if onnxruntime fails on these inputs.
        """
        names = list(outputs) if outputs is not None else self.outputs
        wanted = {name: feeds[name] for name in self.inputs if name in feeds}
        try:
            values = self._session.run(names, wanted)
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"onnxruntime cannot run the model: {reason}") from error
        return dict(zip(names, values, strict=True))


@contextmanager
def _handed_over(
    model: ModelProto | Callable[[], ModelProto] | Path | str,
) -> Iterator[bytes | str]:
    """Give the model as onnxruntime reads it: small ones as bytes, large ones as a file."""
    if isinstance(model, (Path, str)):
        yield str(model)
        return
    message = model if isinstance(model, ModelProto) else model()
    # not ByteSize, which writes the whole message to learn how long it is
    size = sum(Weight(tensor).nbytes for tensor in message.graph.initializer)
    if size <= _INLINE_LIMIT:
        yield message.SerializeToString()
        return
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        path = Path(folder, "model.onnx")
        onnx.save(message, path, save_as_external_data=size > _MESSAGE_LIMIT)
        del message
        yield str(path)
