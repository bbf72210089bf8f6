"""A typed name table that refuses duplicates and offers the nearest name on a miss."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from .errors import InternalError, OnnxPruneError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Maps normalised names to registered objects, in sorted order of names."""

    def __init__(self, kind: str) -> None:
        """Create an empty table; `kind` is the noun used in messages, e.g. ``"criterion"``."""
        self.kind = kind
        self._entries: dict[str, T] = {}

    @staticmethod
    def normalise(name: str) -> str:
        """Return the key of `name`: lower case, dashes for underscores."""
        return name.strip().lower().replace("_", "-")

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that enters an object under `name`.

        Raises:
            InternalError: if the normalised name is taken (one file imported under two names).
        """
        key = self.normalise(name)

        def enter(entry: T) -> T:
            if key in self._entries:
                raise InternalError(f"{self.kind} '{key}' is registered twice")
            self._entries[key] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        """Return the entry of `name`.

        Raises:
            OnnxPruneError: if unknown; names the nearest match and all that is known.
        """
        key = self.normalise(name)
        if key not in self._entries:
            near = difflib.get_close_matches(key, self._entries, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'? " if near else ""
            known = ", ".join(sorted(self._entries)) or "none"
            raise OnnxPruneError(f"unknown {self.kind} '{name}': {hint}known: {known}")
        return self._entries[key]

    def __contains__(self, name: object) -> bool:
        """Tell whether `name` is registered (after normalisation)."""
        return isinstance(name, str) and self.normalise(name) in self._entries

    def __iter__(self) -> Iterator[str]:
        """Iterate over names, sorted, so that every listing and test order is stable."""
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        """Return how many entries there are."""
        return len(self._entries)
