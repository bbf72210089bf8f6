"""Reads and writes model files: bad ones are refused in one line, the input is never harmed."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, TensorProto

from ..core.errors import ModelError, OnnxPruneError
from ..core.external import INLINE_LIMIT, Stream, goes_outside, weight_bytes
from ..core.graph import Graph
from ..core.runtime import Session, onnxruntime
from ..core.surgeon import Surgeon
from .staged import Staged
from .structure import check_structure
from .tensors import check_tensors, external_files

log = logging.getLogger(__name__)

MESSAGE_LIMIT = 2**31 - 1  # bytes: protobuf reads no larger message

_FOREIGN = {  # what people hand in instead, by (offset, first bytes)
    (0, b"version https://git-lfs"): "a git-lfs pointer: run `git lfs pull`",
    (0, b"PK\x03\x04"): "a zip archive: unpack it, or torch.onnx.export a PyTorch checkpoint",
    (0, b"\x80\x02"): "a Python pickle: export a PyTorch model with torch.onnx.export",
    (0, b"\x1f\x8b"): "a gzip archive: unpack it",
    (0, b"\x89HDF"): "an HDF5 file: convert a Keras model with tf2onnx",
    (0, b"<!DOCTYPE"): "a web page: download the file itself",
    (0, b"<html"): "a web page: download the file itself",
    (4, b"TFL3"): "a TFLite model: convert it with tf2onnx",
    (4, b"ORTM"): "a model in onnxruntime's own format: give the ONNX file it was made from",
}


def load(path: Path | str) -> Graph:
    """Read a model file; external weights stay memory-mapped.

    Raises:
        ModelError: in one line, if the file is missing, not an ONNX model, damaged, reaches outside
            its folder, or is too new for the installed onnxruntime.
    """
    path = Path(path)
    model = _parse(path)
    check_structure(model, path)
    check_tensors(model, path)
    _refuse_too_new(model, path)
    graph = Graph.from_model(model, path.parent)
    complaint = _complaint(path)
    if complaint is None:
        return graph
    try:
        Session(path, optimise=False)
    except ModelError as error:
        raise ModelError(
            f"'{path}' is no valid ONNX model, export it again: {complaint}"
        ) from error
    log.info("'%s' fails onnx's check but runs in onnxruntime: %s", path, complaint)
    return Surgeon(graph).finish()  # the order of nodes, the usual complaint, matters to everybody


def digest(path: Path | str) -> str:
    """Return the SHA-256 of a model file that `load` accepted, external files included."""
    path = Path(path)
    files = [path, *external_files(_parse(path), path.parent)]
    hashes = [_hash(file) for file in files]
    return hashes[0] if len(files) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _parse(path: Path) -> ModelProto:
    """Read the message, without external weights."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            what = "a folder" if path.is_dir() else "no regular file"
            raise ModelError(f"cannot read '{path}': it is {what}; give the path of an ONNX file")
        with path.open("rb") as stream:
            head, size = stream.read(64), os.fstat(stream.fileno()).st_size
    except OSError as error:
        reason = error.strerror or error
        raise ModelError(
            f"cannot read '{path}': {reason}; give the path of an ONNX file"
        ) from error
    if not size:
        raise ModelError(f"'{path}' is empty: export or download the model again")
    for (offset, signature), what in _FOREIGN.items():
        if head[offset:].startswith(signature):
            raise ModelError(f"'{path}' is not an ONNX file but {what}")
    if size > MESSAGE_LIMIT:
        raise ModelError(
            f"'{path}' has {size} bytes, an ONNX file at most {MESSAGE_LIMIT}: "
            "save it with its weights as external data"
        )
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise ModelError(
            f"'{path}' ({size} bytes) is not an ONNX file, or a truncated one: "
            "export or download it again"
        ) from error
    if not model.ir_version or not model.HasField("graph") or not model.graph.output:
        raise ModelError(
            f"'{path}' ({size} bytes) holds no ONNX model (no IR version, graph or graph output): "
            "not an ONNX file, or a truncated one; export or download it again"
        )
    return model


def _complaint(path: Path) -> str | None:
    """Return what onnx's checker has to say, in one line."""
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError) as error:
        return " ".join(str(error).split())[:300]
    return None


def _refuse_too_new(model: ModelProto, path: Path) -> None:
    """Ask onnxruntime itself: it tells its limits when an empty model of these versions fails."""
    probe = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    value = onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    probe.graph.CopyFrom(onnx.helper.make_graph([], "probe", [value], [value]))
    try:
        Session(probe)
    except ModelError as error:
        runtime = f"onnxruntime {onnxruntime().__version__}"
        if limit := re.search(r"max supported IR version: (\d+)", str(error)):
            what, largest = f"IR version {model.ir_version}", limit[1]
        elif limit := re.search(r"for domain (\S+) is till opset (\d+)", str(error)):
            versions = {o.domain or "ai.onnx": o.version for o in model.opset_import}
            what, largest = f"opset {versions.get(limit[1], '?')} of domain {limit[1]}", limit[2]
        else:
            raise ModelError(f"'{path}': {error}") from error
        raise ModelError(
            f"'{path}' has {what}, and {runtime} supports at most {largest}: "
            "export it with a lower version, or install a newer onnxruntime"
        ) from error


def save(
    graph: Graph,
    path: Path | str,
    *,
    overwrite: bool = False,
    original: Path | str | None = None,
    beside: Mapping[Path, bytes] | None = None,
) -> tuple[Path, ...]:
    """Write a model, whole or not at all.

    Models that came with external weights, or with more than 1.8 GB of them, get one external file
    `<name>.data`, written as a stream. An existing file at `path` is replaced, except the input. When
    the input is, its weights stay until the new model is there: the new file is `<name>.1.data` (and
    `<name>.data` the next time), so that one rename, of the model, switches from old to new.

    Args:
        graph: the model.
        path: where to.
        overwrite: allow `path` to be the input itself.
        original: the file the model was read from.
        beside: other files that appear with the model or not at all (its plan).

    Returns:
        The files written, the model last.

    Raises:
        OnnxPruneError: if it must not or cannot be written; then nothing has changed.
    """
    target = Path(path).resolve()  # write through a link, do not replace it
    external = _has_external_file(graph)
    in_place = original is not None and _same(target, Path(original))
    used, sources = target.with_name(f"{target.name}.data"), _sources(graph)
    spare = target.with_name(f"{target.name}.1.data")
    mapped = in_place and any(_same(used, file) for file in sources)
    data, stale = (spare, used) if mapped else (used, spare)
    if in_place and not overwrite:
        raise OnnxPruneError(
            f"the output '{path}' is the input: choose another path, or give --overwrite"
        )
    others = [file.resolve() for file in beside or ()]
    new = [*([data] if external else ()), *others, *([] if in_place else [target])]
    _spare(new, [*sources, *([] if original is None else [Path(original)])])
    with Staged() as staged:
        for other, content in (beside or {}).items():
            with staged.open(other.resolve()) as stream:
                stream.write(content)
        if external:
            with staged.open(data) as stream:
                model = graph.to_model(Stream(stream, data.name))
        else:
            model = graph.to_model()
        with staged.open(target) as stream:
            stream.write(_message(model, target))
    if in_place and any(_same(stale, file) for file in sources):
        stale.unlink()
    return tuple(staged.files)


def _message(model: ModelProto, path: Path) -> bytes:
    """Return the bytes of a message; weights of any size are outside by now.

    Raises:
        OnnxPruneError: if constants within nodes, or strings, are too large for it.
    """
    try:
        return bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise OnnxPruneError(
            f"cannot write '{path}': what has to be in the file itself (constants within nodes, "
            f"strings) is above the {MESSAGE_LIMIT} bytes of an ONNX file; nothing was written, "
            "export the model with its constants as initializers"
        ) from error


def _has_external_file(graph: Graph) -> bool:
    return (graph.external or weight_bytes(graph) > INLINE_LIMIT) and any(
        map(goes_outside, graph.weights.values())
    )


def _spare(outputs: list[Path], inputs: list[Path]) -> None:
    """Refuse to write over any file that the model was read from."""
    for output in outputs:
        if any(_same(output, file) for file in inputs):
            raise OnnxPruneError(
                f"'{output}' is part of the input: choose another name to write to"
            )


def _same(a: Path, b: Path) -> bool:
    """Tell whether two paths are one file, also through links."""
    return a == b.resolve() or (a.exists() and b.exists() and a.samefile(b))


def _sources(graph: Graph) -> list[Path]:
    """Return the external files that the weights were read from."""
    files: dict[Path, None] = {}
    for weight in graph.weights.values():
        if weight.folder is not None and weight.proto.data_location == TensorProto.EXTERNAL:
            entries = weight.proto.external_data
            names = [entry.value for entry in entries if entry.key == "location"]
            files |= {weight.folder / name: None for name in names}
    return list(files)
