"""Mutants that no proof can catch, because they mean the same; and why.

An entry is (rules, how it is broken, what is broken) as patterns of file names, several separated by
"; ". An entry that matches a mutant which is caught is wrong, and so is one that matches none: both
fail the full run of `benchmarks/fuzz.py --mutants`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.property.mutants import Key

# Why, of what comes up again and again.
_FACTOR = (
    "a product is nothing where either factor is; both are told, as weights are scored by the one and "
    "activations gathered by the other"
)
_INTEGERS = "the activations are silenced, so that it does not matter what the integers are there"
_RANGE = "the range always holds 0, which is what a removed position counts as"
_SHAPE = "lengths come from Shape or a constant, whose positions stay"
_INDEX = "indices come from ops that hold them back, or are constants, whose positions stay"
_POLICY = "removal renormalises rightly; it stays because callers count on it, until it is unlocked"
_SINGLE = "its length is 1"
_ALIKE = "onnxruntime takes only zero points that are all the same"
_UNREAD = "its values are not read, so that it does not matter which positions go"

EQUIVALENT: dict[tuple[str, str, str], str] = {
    ("Attention; ConvTranspose; Einsum", "left out", "contract *"): _FACTOR,
    ("GRU; LSTM; RNN", "left out", "contract x0.2; contract x1.2"): _FACTOR,
    ("Gemm", "left out", "contract x0.0"): _FACTOR,
    ("MatMul", "left out", "contract x0.3; contract x1.1; contract x1.2"): _FACTOR,
    ("ConvInteger; MatMulInteger", "left out; without masked", "contract x1.*"): _INTEGERS,
    ("QLinearConv; QLinearMatMul", "left out; without masked", "contract x3.*"): _INTEGERS,
    ("com.microsoft.MatMulNBits", "left out; without masked", "contract x1.1"): _INTEGERS,
    ("com.microsoft.DynamicQuantizeMatMul", "left out; without masked", "contract x1.0"): _INTEGERS,
    ("com.microsoft.DynamicQuantizeMatMul", "left out; all left out", "contract x0.2"): _RANGE,
    ("com.microsoft.DynamicQuantizeMatMul", "summed", "renorm *"): _RANGE,
    ("DynamicQuantizeLinear", "summed", "renorm *"): _RANGE,
    ("ConstantOfShape", "left out", "protect x0.0"): _SHAPE,
    ("Expand", "left out", "protect x1.0"): _SHAPE,
    ("Resize", "left out", "protect x3.0"): _SHAPE,
    ("Gather; GatherND; ScatterND", "left out", "protect x1.*"): _INDEX,
    ("GatherElements; ScatterElements", "left out", "protect x1.3"): _INDEX,
    ("GlobalAveragePool; GlobalLpPool; GlobalMaxPool", "left out", "protect y0.*"): _SINGLE,
    ("RNN", "left out", "protect gates"): _SINGLE,
    ("RNN", "moved", "factor x1.*; factor x2.*; factor x3.0*"): _SINGLE,
    ("com.microsoft.QLinearGlobalAveragePool", "left out", "protect y0.*"): _SINGLE,
    ("LogSoftmax; Softmax", "left out", "protect *"): _POLICY,
    ("QLinearConv; QLinearMatMul", "moved", "couple x5.0 x3.*"): _ALIKE,
    ("EyeLike", "moved", "couple x0.*"): _UNREAD,
    ("Shape", "left out", "protect y0.0"): _SHAPE,
    (
        "Shape",
        "left out",
        "ShapeSource x0.0 x0.1",
    ): "a filled tensor reads it, and is mended itself",
    ("Size", "left out", "protect x0.0; protect x0.2; protect x0.3"): (
        "a size without a varying axis is a constant; the batch of a graph input stays, and a pooled axis"
    ),
    (
        "Slice",
        "left out",
        "protect x0.0; protect y0.0",
    ): "nothing else speaks of rows picked at run time",
    (
        "Tile",
        "left out",
        "protect y0.0",
    ): "its length varies with that of a graph input, which stays",
    ("Tile", "moved", "couple repeat y0.*"): "copies of one position are all alike",
    ("Tile", "moved", "LengthsOperand repeats repeat repeat"): (
        "one row twice as long is two rows, where the reader lays them flat"
    ),
    ("com.microsoft.FusedConv; com.microsoft.FusedMatMul", "left out", "contract *"): _FACTOR,
    (
        "com.microsoft.MultiHeadAttention",
        "left out",
        "contract x0.2; contract x1.2; contract x3.0",
    ): _FACTOR,
    (
        "com.microsoft.MatMulIntegerToFloat",
        "left out; without masked",
        "contract x1.0",
    ): _INTEGERS,
    ("com.microsoft.QGemm", "left out; without masked", "contract x3.*"): _INTEGERS,
    ("com.microsoft.QGemm", "moved", "couple x5.0 x3.0"): _ALIKE,
    ("com.microsoft.GroupQueryAttention", "left out", "protect x5.0"): _SHAPE,
    ("com.microsoft.RotaryEmbedding", "left out", "protect x1.0"): _INDEX,
    ("com.microsoft.GroupQueryAttention", "left out; all left out", "contract *"): (
        "only whole heads go, and what they make is silenced where it is read"
    ),
    ("DequantizeLinear", "left out", "couple x1.0 x1.0"): "an axis is told to be itself",
    ("com.microsoft.Attention", "moved", "couple x0.0 y0.0"): (
        "other couples say it too: off by one, all samples become one unit, which may not go"
    ),
    ("com.microsoft.Attention", "left out", "contract x0.2; contract x1.0; contract x2.0"): _FACTOR,
    (
        "com.microsoft.Attention; com.microsoft.MultiHeadAttention",
        "moved",
        "couple x2.0?part? keys; couple x3.0?part? keys; couple x1.2 keys",
    ): ("a bias of the keys shifts all scores of a query alike"),
    (
        "Range",
        "left out",
        "protect y0.0",
    ): "its length is computed at run time, and stays where it varies",
    (
        "com.microsoft.Attention; com.microsoft.MultiHeadAttention",
        "exchanged",
        "couple * queries",
    ): (
        "queries and keys have the same heads and dimensions, so that their positions are the same"
    ),
}


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: "caught", "equivalent", or what is wrong."""

    key: Key
    kind: str
    how: str

    @property
    def wrong(self) -> bool:
        """Whether somebody has to look."""
        return self.kind not in {"caught", "equivalent"}

    def __str__(self) -> str:
        return f"{' / '.join(self.key)}: {self.kind} {self.how}".rstrip()


def entry_of(key: Key) -> tuple[str, str, str] | None:
    """The first entry that matches a mutant."""
    return next((e for e in EQUIVALENT if all(map(_matches, key, e))), None)


def _matches(text: str, patterns: str) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns.split("; "))


def judged(key: Key, noticed: str | None) -> Verdict:
    """The verdict on a mutant that was noticed so, or not at all."""
    entry = entry_of(key)
    if noticed is None:
        return Verdict(
            key,
            "survived" if entry is None else "equivalent",
            EQUIVALENT.get(entry, "") if entry else "",
        )
    return Verdict(
        key, "caught" if entry is None else "caught, though listed as equivalent", noticed
    )
