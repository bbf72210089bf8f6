"""Checks of every tensor of a model message, before any memory is taken for its values.

A tensor says how large it is (dims, element type) and holds its bytes, or says where they lie: a
file beside the model, an offset and a length. All of it may be wrong, by accident or on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx.external_data_helper import load_external_data_for_tensor

from ..core.errors import ModelError
from ..core.graph import bits_of
from ..core.limits import LONGEST_RANK

_COMPLEX = {TensorProto.COMPLEX64, TensorProto.COMPLEX128}  # two numbers per element


def check_tensors(model: ModelProto, path: Path) -> None:
    """Check sizes and external files of all tensors in `model`, read from `path`.

    Weights that lie in external files stay there. External tensors elsewhere (attributes, bodies,
    functions; rare) are read into the message, so that nobody else has to know of them.

    Raises:
        ModelError: naming the first tensor that is wrong.
    """
    for tensor in model.graph.initializer:
        _check(tensor, path)
    for tensor in inner_tensors(model):
        _check(tensor, path)
        if tensor.data_location == TensorProto.EXTERNAL:
            load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def external_files(model: ModelProto, folder: Path) -> list[Path]:
    """Return the files that hold the weights of `model`, in order of first use."""
    names = [_entries(t).get("location", "") for t in model.graph.initializer if _is_external(t)]
    return [folder / name for name in dict.fromkeys(names)]


def inner_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor but the initializers of the main graph."""
    for sparse in model.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(list(model.graph.node))
    for function in model.functions:
        yield from _of_nodes(list(function.node))


def _of_nodes(nodes: list[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            for body in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _of_body(body)


def _of_body(body: GraphProto) -> Iterator[TensorProto]:
    yield from body.initializer
    for sparse in body.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(list(body.node))


def _is_external(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {item.key: item.value for item in tensor.external_data}


def _check(tensor: TensorProto, path: Path) -> None:
    """Compare what a tensor says of its size with the bytes it has."""
    where = f"'{path}': tensor '{tensor.name}'"
    known = set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
    if tensor.data_type not in known:
        raise ModelError(
            f"{where} has the unknown element type {tensor.data_type}: export it again"
        )
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"{where} has a negative size, {list(tensor.dims)}: export it again")
    if len(tensor.dims) > LONGEST_RANK or tensor.HasField("segment"):
        what = "is a segment" if tensor.HasField("segment") else f"has {len(tensor.dims)} axes"
        raise ModelError(f"{where} {what}, which nothing reads: export it again")
    if tensor.data_type == TensorProto.STRING:
        _check_text(tensor, where)
    count = math.prod(tensor.dims)  # Python integers: no overflow, however hostile the sizes
    if _is_external(tensor):
        _check_external(tensor, path, where, count)
        return
    if tensor.HasField("raw_data"):
        unit, expected, found = "bytes", _packed(count, tensor.data_type), len(tensor.raw_data)
    else:
        values = getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))
        unit, expected, found = "values", _stored(count, tensor.data_type), len(values)
    if found != expected:
        raise ModelError(
            f"{where} of shape {list(tensor.dims)} holds {found} {unit}, expected {expected}: "
            "the file is damaged, export or download it again"
        )


def _check_text(tensor: TensorProto, where: str) -> None:
    """Refuse strings that are no text: onnx cannot read them."""
    try:
        for text in tensor.string_data:
            text.decode()
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{where} holds strings that are no UTF-8 text: export it again"
        ) from error


def _packed(count: int, data_type: int) -> int:
    """Bytes of `count` elements as raw data."""
    return (count * bits_of(data_type) + 7) // 8


def _stored(count: int, data_type: int) -> int:
    """Entries of the typed field for `count` elements: types of two and four bits share one entry."""
    if data_type in _COMPLEX:
        return 2 * count
    bits = 8 if data_type == TensorProto.STRING else bits_of(data_type)
    return math.ceil(count * bits / 8) if bits in {2, 4} else count


def _check_external(tensor: TensorProto, path: Path, where: str, count: int) -> None:
    """Check that the bytes of an external tensor lie in a file inside the model's folder."""
    if tensor.data_type == TensorProto.STRING:
        raise ModelError(
            f"{where} holds strings in an external file, which ONNX forbids: export it again"
        )
    entries, needed = _entries(tensor), _packed(count, tensor.data_type)
    file = _inside(entries.get("location", ""), path.parent, where)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", needed))
    except ValueError as error:
        raise ModelError(
            f"{where} has an offset or length that is no number: export it again"
        ) from error
    if offset < 0 or length != needed:
        raise ModelError(
            f"{where} of shape {list(tensor.dims)} lies at offset {offset} with {length} bytes, "
            f"expected {needed} bytes: export the model again"
        )
    if (size := file.stat().st_size) < offset + needed:
        raise ModelError(
            f"{where} needs bytes {offset} to {offset + needed} of '{file}', which ends at {size}: "
            "the file is truncated, copy or download it again"
        )


def _inside(location: str, folder: Path, where: str) -> Path:
    """Return the external file, refusing every way out of the model's folder.

    Raises:
        ModelError: if it lies outside, is missing or is not a regular file.
    """
    windows, posix = PureWindowsPath(location), PurePosixPath(location)
    climbs = ".." in (*windows.parts, *posix.parts)
    if not location or windows.anchor or posix.is_absolute() or climbs:
        raise ModelError(
            f"{where} has its data in '{location}', expected a file inside the model's folder "
            f"'{folder}': put the data there and save the model with a relative location"
        )
    file = folder / location
    try:
        exists = file.exists()
    except OSError as error:  # too long, a ring of links, ...
        raise ModelError(
            f"{where} has its data in '{location:.200}': {error.strerror}; put the data beside the model"
        ) from error
    if not exists:
        raise ModelError(f"{where} has its data in '{file}', which is missing: copy it there, too")
    if file.is_symlink() or not file.resolve().is_relative_to(folder.resolve()):
        raise ModelError(
            f"{where} has its data in '{file}', a link to '{file.resolve()}', which onnx "
            "refuses: copy the data itself into the model's folder"
        )
    if not file.is_file():
        raise ModelError(f"{where} has its data in '{file}', which is not a regular file")
    return file
