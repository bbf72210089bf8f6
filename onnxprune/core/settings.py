"""Reads small JSON and TOML files that a user writes by hand."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from .errors import DataError


def read_settings(path: Path) -> Mapping[str, object]:
    """Return the table of a .json or .toml file.

    Raises:
        DataError: if it cannot be read, or is no table.
    """
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:  # both decoders and the text decoder raise kinds of it
        raise DataError(
            f"{path} is not valid {path.suffix.lstrip('.').upper() or 'JSON'}: {error}"
        ) from error
    if not isinstance(table, dict):
        raise DataError(f"{path} holds {type(table).__name__}, expected a table of settings")
    return table
