"""Operators that are not carried to PyTorch, and why: what a user reads, and tests hold us to."""

from __future__ import annotations

from collections.abc import Mapping

MICROSOFT = "com.microsoft"

_FLOW = "control flow is not carried; export the model without branches and loops"
_SEQUENCE = "sequences are not carried; export the model with tensors only"
_INTEGER = "it computes with integers, which have no gradient; retrain the float model instead"

REFUSED: Mapping[tuple[str, str], str] = {
    **{("", op_type): _FLOW for op_type in ("If", "Loop", "Scan")},
    **{
        ("", op_type): _SEQUENCE
        for op_type in (
            "ConcatFromSequence",
            "Optional",
            "OptionalGetElement",
            "OptionalHasElement",
            "SequenceAt",
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SequenceMap",
            "SplitToSequence",
        )
    },
    **{
        ("", op_type): _INTEGER
        for op_type in ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")
    },
    **{
        (MICROSOFT, op_type): _INTEGER
        for op_type in (
            "DynamicQuantizeMatMul",
            "MatMulIntegerToFloat",
            "MatMulNBits",
            "QGemm",
            "QLinearAdd",
            "QLinearAveragePool",
            "QLinearConcat",
            "QLinearGlobalAveragePool",
            "QLinearLeakyRelu",
            "QLinearMul",
            "QLinearSigmoid",
        )
    },
}
