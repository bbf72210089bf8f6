"""Operators that are not carried to PyTorch, and why: what a user reads, and tests hold us to."""

from __future__ import annotations

from collections.abc import Mapping

MICROSOFT = "com.microsoft"

_FLOW = "control flow is not carried; export the model without branches and loops"
_SEQUENCE = "sequences are carried only to split and to join; export the model with tensors only"
_PACKED = "its weights are packed in a few bits each; retrain the float model instead"

REFUSED: Mapping[tuple[str, str], str] = {
    **{("", op_type): _FLOW for op_type in ("If", "Loop", "Scan")},
    **{
        ("", op_type): _SEQUENCE
        for op_type in (
            "Optional",
            "OptionalGetElement",
            "OptionalHasElement",
            "SequenceEmpty",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SequenceMap",
        )
    },
    (MICROSOFT, "MatMulNBits"): _PACKED,
}
