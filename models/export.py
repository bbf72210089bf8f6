"""PyTorch -> ONNX through either of PyTorch's exporters, with everything pinned.

What the exporters do when left alone, and what is done here instead (torch 2.13):

* Both fold BatchNormalization into the convolution before it, also after `module.train()`. To keep
  it, TorchScript must preserve the mode of training and not fold constants, and the dynamo
  exporter must not optimise: its graph is then raw, with ten nodes of shape arithmetic around each
  BatchNormalization. Folding constants afterwards, without the other rewrites, makes it neat.
* The default opset moves with the version of PyTorch, so it is always given.
* The dynamo exporter writes weights to a second file, and notes for every node in which file of
  the exporting machine it was written; both are turned off.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import onnxscript.optimizer
import torch
import torch.onnx
from torch import Tensor, nn

Exporter = Literal["dynamo", "torchscript"]

# The newest that both exporters write and all of the supported onnxruntime versions read.
OPSET = 20

# Symbolic axes: name of the tensor -> axis -> name of its length.
_Axes = dict[str, dict[int, str]]

# A protobuf message can not be larger than 2 GiB; above, weights go beside the file.
_SINGLE_FILE_BYTES = 1 << 30


def export(
    module: nn.Module,
    inputs: Sequence[Tensor],
    path: Path,
    *,
    exporter: Exporter = "dynamo",
    opset: int = OPSET,
    keep_batchnorm: bool = False,
    raw: bool = False,
    dynamic_batch: bool = True,
) -> Path:
    """Writes `module`, in evaluation mode, as one ONNX file.

    The inputs are named like the parameters of `module.forward`, the single output `output`.

    Args:
        module: what to write; its mode is restored afterwards.
        inputs: one example per parameter of `forward`, axis 0 the batch; at least two long when
            the batch is dynamic, since a length of one would be taken for a constant.
        path: where to write; folders are created.
        exporter: `dynamo` (torch.export) or `torchscript` (tracing, deprecated in PyTorch).
        opset: version of the default operator set; TorchScript writes at most 23.
        keep_batchnorm: keep BatchNormalization nodes instead of folding them into convolutions.
        raw: with the dynamo exporter and `keep_batchnorm`, leave the graph as `optimize=False`
            makes it.
        dynamic_batch: make axis 0 of every input symbolic, named `batch`.

    Returns:
        `path`.

    Raises:
        ValueError: if an input is given per no parameter, or a dynamic batch has length one.
    """
    names = list(inspect.signature(module.forward).parameters)[: len(inputs)]
    if len(names) != len(inputs):
        raise ValueError(f"{len(inputs)} inputs for the {len(names)} parameters of forward")
    if dynamic_batch and min(len(tensor) for tensor in inputs) < 2:
        raise ValueError("a dynamic batch needs examples of length two or more along axis 0")
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {name: {0: "batch"} for name in names} if dynamic_batch else None
    training = module.training
    module.eval()
    try:
        # What is silenced: TorchScript's own deprecation and its tracer's remarks on shapes that
        # become constants; torch.export's remarks on its own internals.
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            if exporter == "torchscript":
                _export_torchscript(module, tuple(inputs), path, names, opset, keep_batchnorm, axes)
            else:
                program = _export_dynamo(module, tuple(inputs), names, opset, keep_batchnorm, axes)
                if keep_batchnorm and not raw:
                    onnxscript.optimizer.fold_constants(program.model)
                    onnxscript.optimizer.remove_unused_nodes(program.model)
                size = sum(tensor.nbytes for tensor in module.state_dict().values())
                program.save(path, external_data=size > _SINGLE_FILE_BYTES)
    finally:
        module.train(training)
    return path


def _export_dynamo(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    names: list[str],
    opset: int,
    keep_batchnorm: bool,
    axes: _Axes | None,
) -> torch.onnx.ONNXProgram:
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        module,
        inputs,
        dynamo=True,
        verbose=False,
        input_names=names,
        output_names=["output"],
        opset_version=opset,
        optimize=not keep_batchnorm,
        dynamic_shapes=None if axes is None else tuple({0: batch} for _ in inputs),
    )
    assert program is not None  # it is None for TorchScript only
    for node in program.model.graph.all_nodes():
        # Holds paths and source lines of the exporting machine.
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    return program


def _export_torchscript(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    names: list[str],
    opset: int,
    keep_batchnorm: bool,
    axes: _Axes | None,
) -> None:
    mode = torch.onnx.TrainingMode
    torch.onnx.export(
        module,
        inputs,
        path,
        dynamo=False,
        input_names=names,
        output_names=["output"],
        opset_version=opset,
        training=mode.PRESERVE if keep_batchnorm else mode.EVAL,
        do_constant_folding=not keep_batchnorm,
        dynamic_axes=None if axes is None else axes | {"output": {0: "batch"}},
    )
