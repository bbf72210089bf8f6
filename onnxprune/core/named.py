"""Functions of the user, named as `module:function`."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import OnnxPruneError

FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def named_function(
    text: str, option: str, refuse: type[OnnxPruneError] = OnnxPruneError
) -> Callable[..., Any]:
    """Import a function; within `importable_here` modules of the current directory are found too.

    Args:
        text: `module:function`.
        option: that it was given with, for messages.
        refuse: kind of error.

    Raises:
        OnnxPruneError: of that kind, if there is none; names the nearest.
    """
    module_name, _, name = text.partition(":")
    if FORM.fullmatch(text) is None:
        raise refuse(f"{option} '{text}': expected module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise refuse(
            f"{option} '{text}': {error} (looked in {Path.cwd()} and what is installed)"
        ) from error
    except Exception as error:  # code of the user raises anything; its name and text tell
        raise refuse(
            f"{option} '{text}': importing failed: {type(error).__name__}: {error}"
        ) from error
    function: Callable[..., Any] | None = getattr(module, name, None)
    if callable(function):
        return function
    near = difflib.get_close_matches(
        name, [n for n in dir(module) if callable(getattr(module, n))], 1
    )
    hint = f": did you mean '{near[0]}'?" if near else ""
    raise refuse(f"{option} '{text}': '{module_name}' has no function '{name}'{hint}")


@contextmanager
def importable_here() -> Iterator[None]:
    """Let modules of the current directory be imported."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
