"""What the user unlocks of a model's interface, and the lists of what stays of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast, get_args

import numpy as np
from numpy.typing import NDArray

from ..core.errors import OnnxPruneError
from ..core.faces import FaceKind

Positions = str | Path | Sequence[int] | NDArray[np.integer]
_LIST = re.compile(r"[\s,]*\d+(\s*-\s*\d+)?([\s,]+\d+(\s*-\s*\d+)?)*[\s,]*")
_MOST_LISTED = 64 << 20  # bytes of a file that lists positions


@dataclasses.dataclass(frozen=True)
class Unlock:
    """A part of the interface that may shrink, as the user asked for it.

    Attributes:
        kind: "input", "output" or "vocabulary".
        name: of the graph input or output, or of the table; "@2" at its end names the axis.
        keep: the positions that stay, ascending; None: scores decide.
    """

    kind: FaceKind
    name: str
    keep: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, text: str, keep: tuple[int, ...] | None = None) -> Unlock:
        """Read `KIND:NAME` or `KIND:NAME@AXIS`.

        Raises:
            OnnxPruneError: if it is not of this form.
        """
        kind, colon, name = text.partition(":")
        if kind not in get_args(FaceKind) or not colon or not name:
            raise OnnxPruneError(
                f"--unlock '{text}': expected input:NAME, output:NAME or vocabulary:NAME, "
                "with @AXIS at the end if it is not the usual one"
            )
        return cls(cast(FaceKind, kind), name, keep)

    def __str__(self) -> str:
        """Write it as it is given on the command line."""
        return f"--unlock {self.kind}:{self.name}"


def unlocks(
    texts: Iterable[str],
    *,
    rows: Positions | None = None,
    classes: Positions | None = None,
    features: Positions | None = None,
) -> tuple[Unlock, ...]:
    """Read what the user unlocks, and the lists of what stays.

    Args:
        texts: of `--unlock`.
        rows: positions of a vocabulary to keep, as `read_positions` takes them.
        classes: positions of an output to keep.
        features: positions of an input to keep.

    Raises:
        OnnxPruneError: if a list has nothing that it speaks of, or a vocabulary has no list.
    """
    given = {"vocabulary": ("rows", rows), "output": ("classes", classes)}
    given["input"] = ("features", features)
    lists = {
        kind: None if value is None else read_positions(f"--keep-{name}", value)
        for kind, (name, value) in given.items()
    }
    found = tuple(
        dataclasses.replace(unlock, keep=lists[unlock.kind]) for unlock in map(Unlock.parse, texts)
    )
    for kind, (name, value) in given.items():
        if value is not None and not any(u.kind == kind for u in found):
            raise OnnxPruneError(f"--keep-{name} needs --unlock {kind}:NAME, to say of what")
    return found


def read_positions(option: str, value: Positions) -> tuple[int, ...]:
    """Read positions: "0-9,17", a file that holds such text, or integers.

    Raises:
        OnnxPruneError: if there are none, or it is something else.
    """
    if isinstance(value, Path) or (isinstance(value, str) and not _LIST.fullmatch(value)):
        text = _read(option, Path(value))
    elif isinstance(value, str):
        text = value
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "iu" or not array.size:
            raise OnnxPruneError(f"{option}: expected one integer or more, found {value!r}"[:200])
        return tuple(np.unique(array).tolist())
    if not _LIST.fullmatch(text):
        raise OnnxPruneError(
            f"{option}: expected positions such as 0-9,17 or a file that lists them, found "
            f"'{text.strip()[:40]}'"
        )
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:\s*-\s*(\d+))?", text):
        start, end = int(first), int(last or first)
        if end < start or end - start > _MOST_LISTED:
            raise OnnxPruneError(f"{option}: {first}-{last} is no range")
        found.update(range(start, end + 1))
    return tuple(sorted(found))


def _read(option: str, path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_LISTED:
            raise OnnxPruneError(f"{option}: '{path}' is too large for a list of positions")
        return path.read_text()
    except (OSError, ValueError) as error:
        raise OnnxPruneError(
            f"{option} '{path}': neither positions such as 0-9,17 nor a text file that lists them"
        ) from error
