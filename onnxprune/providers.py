"""Names of onnxruntime's execution providers, as people write them."""

from __future__ import annotations

import difflib

from .core.errors import OnnxPruneError
from .core.runtime import onnxruntime

_SUFFIX = "ExecutionProvider"


def provider_named(text: str, *, here: bool = True) -> str:
    """Return the full name of a provider: "cuda" and "CUDAExecutionProvider" are the same.

    Args:
        text: the name.
        here: whether the installed onnxruntime must offer it, or any onnxruntime.

    Raises:
        OnnxPruneError: if the installed onnxruntime does not offer it; names the nearest and all.
    """
    ort = onnxruntime()
    names = ort.get_available_providers() if here else ort.get_all_providers()
    offered: dict[str, str] = {name.removesuffix(_SUFFIX).lower(): name for name in names}
    key = text.removesuffix(_SUFFIX).lower()
    if key not in offered:
        near = difflib.get_close_matches(key, offered, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise OnnxPruneError(
            f"this onnxruntime has no provider '{text}': {hint}it offers {', '.join(sorted(offered))}"
        )
    return offered[key]
