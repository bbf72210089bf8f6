"""Settings of what is registered, as a user writes them: "cmi:alpha=2,cut=scree"."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, get_origin, get_type_hints

import pydantic

from .errors import OnnxPruneError
from .registry import Registry

T = TypeVar("T")


def configured(registry: Registry[T], text: str) -> tuple[str, T]:
    """Return the name and the entry that `text` speaks of, with its settings.

    Args:
        registry: of dataclasses, whose fields are their settings, and others, which have none.
        text: "name", or "name:setting=value,setting=value".

    Raises:
        OnnxPruneError: for an unknown name or setting, or a value that does not fit.
    """
    name, _, given = text.partition(":")
    entry = registry[name]
    key = registry.normalise(name)
    settings = written(given)
    if not settings:
        return key, entry
    return key, replaced(entry, settings, f"{registry.kind} '{key}'")


def written(text: str) -> dict[str, str]:
    """Return settings by name, of "setting=value,setting=value"."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    return {name.strip().replace("-", "_"): value.strip() for name, _, value in pairs}


def replaced(entry: T, settings: Mapping[str, str], what: str) -> T:
    """Return a copy of a dataclass with these settings, read as their types.

    Args:
        entry: the dataclass.
        settings: as text; the parts of a tuple joined by `+`.
        what: it is, for messages.

    Raises:
        OnnxPruneError: for an unknown setting, or a value that does not fit.
    """
    known: Mapping[str, Any] = {}
    if dataclasses.is_dataclass(entry):
        hints = get_type_hints(type(entry), include_extras=True)  # and their bounds
        known = {field.name: hints[field.name] for field in dataclasses.fields(entry) if field.init}
    values = {}
    for setting, value in settings.items():
        if setting not in known:
            near = difflib.get_close_matches(setting, known, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            names = ", ".join(known) or "none"
            raise OnnxPruneError(f"{what} has no setting '{setting}': {hint}known: {names}")
        try:
            wanted = known[setting]
            parts = value.split("+") if get_origin(wanted) is tuple else value
            values[setting] = pydantic.TypeAdapter(wanted).validate_python(parts)
        except pydantic.ValidationError as error:
            reason = error.errors()[0]["msg"].lower()
            raise OnnxPruneError(f"{what}, {setting}='{value}': {reason}") from error
    return dataclasses.replace(entry, **values)  # type: ignore[type-var]  # it is one: `known` is not empty


def settings_of(registered: object) -> Mapping[str, Any]:
    """Return the settings of what is registered: the fields of its dataclass."""
    if dataclasses.is_dataclass(registered) and not isinstance(registered, type):
        return dataclasses.asdict(registered)
    return {}
