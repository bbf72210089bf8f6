"""Documents: dataclasses as JSON files that can be compared with `diff`, and are read with suspicion.

A file is deterministic (sorted keys, nine significant digits, one entry per line), and it is read as
if a stranger had written it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..core.errors import OnnxPruneError
from ..files.staged import Staged

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_SIZE_LIMIT = 256 << 20  # bytes: those of the largest models with all scores stay far below
_DIGITS = 9  # what is beyond depends on the number of threads that summed


@dataclasses.dataclass(frozen=True)
class Header:
    """What tells documents apart, before anything else of them is believed."""

    format: int
    kind: str = "plan"  # plans say nothing of it


_HEADER = TypeAdapter(Header)


def header(path: Path | str, what: str) -> Header:
    """Read what a document says of itself.

    Raises:
        OnnxPruneError: if it is missing, or no document of ours.
    """
    return _validated(path, _HEADER, what, _text(path, what))


def read_document(path: Path | str, adapter: TypeAdapter[T], what: str, version: int) -> T:
    """Read a document of one kind: `what` is its name in messages, and its `kind`.

    Raises:
        OnnxPruneError: in one line, if it is missing, something else, or of another format.
    """
    text = _text(path, what)
    found = _validated(path, _HEADER, what, text)
    if found.kind != what:
        raise OnnxPruneError(
            f"'{path}' is no {what} of onnxprune: it says that it is {found.kind!r}"
        )
    if found.format != version:
        raise OnnxPruneError(
            f"the {what} '{path}' has format {found.format}, this onnxprune reads {version}: "
            "install the onnxprune that wrote it"
        )
    return _validated(path, adapter, what, text)


def write_document(document: DataclassInstance, path: Path | str) -> None:
    """Write a document, whole or not at all.

    Raises:
        OnnxPruneError: if it cannot be written.
    """
    with Staged() as staged, staged.open(Path(path).resolve()) as stream:
        stream.write(to_json(document).encode())


def to_json(document: DataclassInstance) -> str:
    """Return the text of its file: the same document always gives the same bytes."""
    value = _stable(dataclasses.asdict(document))
    return (
        "{\n" + ",\n".join(f"{_line(key)}: {_block(value[key])}" for key in sorted(value)) + "\n}\n"
    )


def _text(path: Path | str, what: str) -> bytes:
    try:
        with Path(path).open("rb") as stream:
            text = stream.read(_SIZE_LIMIT + 1)
    except OSError as error:
        raise OnnxPruneError(
            f"cannot read the {what} '{path}': {error.strerror or error}"
        ) from error
    if len(text) > _SIZE_LIMIT:
        raise OnnxPruneError(
            f"'{path}' has over {_SIZE_LIMIT} bytes: that is no {what} of onnxprune"
        )
    return text


def _validated(path: Path | str, adapter: TypeAdapter[T], what: str, text: bytes) -> T:
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise OnnxPruneError(
            f"'{path}' is not a {what} of onnxprune: {where}: {first['msg']}"[:400]
        ) from error


def _block(value: Any) -> str:
    """One entry per line, so that documents can be compared line by line."""
    if isinstance(value, dict) and value:
        return "{\n" + ",\n".join(f" {_line(k)}: {_line(value[k])}" for k in sorted(value)) + "\n}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f" {_line(v)}" for v in value) + "\n]"
    return _line(value)


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _stable(value: Any) -> Any:
    """Return plain JSON values with floats rounded to what is reproducible."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _stable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_stable(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # counts stay exact
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{_DIGITS}g}")
    return str(value) if isinstance(value, Path) else value
