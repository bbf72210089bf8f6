"""Models larger than a message can be: weights go to a file beside it, as a stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from .graph import Graph
from .weights import Weight, bits_of

INLINE_LIMIT = 1_800_000_000  # bytes of weights above which they go to a file of their own
EXTERNAL_FROM = 1024  # bytes: smaller tensors stay inline, shape inference must see their values
ALIGNMENT = 64  # bytes: a cache line, and what vector loads of a memory-mapped file like


CHECKED_WHOLE = 16 << 20  # bytes of weights up to which checks are given their values, too


def weight_bytes(graph: Graph) -> int:
    """Return the bytes of all weights as stored."""
    return sum(weight.nbytes for weight in graph.weights.values())


def goes_outside(weight: Weight) -> bool:
    """Tell whether a weight can lie in an external file, and is worth it."""
    return weight.proto.data_type != TensorProto.STRING and weight.nbytes >= EXTERNAL_FROM


@dataclasses.dataclass(frozen=True)
class Stream:
    """Writes weights one after the other into the external file as the model is assembled."""

    stream: BinaryIO
    location: str

    def __call__(self, name: str, weight: Weight) -> TensorProto:
        """Write the values and return a message that refers to them."""
        if not goes_outside(weight):
            return weight.to_proto(name)
        self.stream.write(b"\0" * (-self.stream.tell() % ALIGNMENT))
        offset, length = self.stream.tell(), self._write(weight)
        proto = TensorProto(name=name, data_type=weight.proto.data_type, dims=weight.shape)
        if weight.proto.doc_string:
            proto.doc_string = weight.proto.doc_string
        proto.metadata_props.extend(weight.proto.metadata_props)
        proto.data_location = TensorProto.EXTERNAL
        for key, value in {"location": self.location, "offset": offset, "length": length}.items():
            proto.external_data.add(key=key, value=str(value))
        return proto

    def _write(self, weight: Weight) -> int:
        if bits_of(weight.proto.data_type) < 8:  # packed: several to a byte
            packed = numpy_helper.from_array(np.asarray(weight.array)).raw_data
            return self.stream.write(packed)
        return sum(map(self._write_array, weight.pieces()))

    def _write_array(self, array: np.ndarray) -> int:
        return self.stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def write_external(graph: Graph, path: Path) -> None:
    """Write a model to `path`, its weights to `<path>.data`; for files of ours that live shortly."""
    data = path.with_name(f"{path.name}.data")
    with data.open("wb") as stream:
        model = graph.to_model(Stream(stream, data.name))
    path.write_bytes(model.SerializeToString())


def hollow(graph: Graph) -> ModelProto:
    """Return the model with inputs in place of large weights: all that checks of it look at."""
    model = graph.to_model(_typed)
    empty = [t for t in model.graph.initializer if goes_outside(Weight(t))]
    kept = [t for t in model.graph.initializer if not goes_outside(Weight(t))]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    _add_inputs(model, empty)
    return model


def _typed(name: str, weight: Weight) -> TensorProto:
    if not goes_outside(weight):
        return weight.to_proto(name)
    return TensorProto(name=name, data_type=weight.proto.data_type, dims=weight.shape)


def _add_inputs(model: ModelProto, tensors: Iterable[TensorProto]) -> None:
    listed = {value.name for value in model.graph.input}
    for tensor in tensors:
        if tensor.name not in listed:
            model.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
