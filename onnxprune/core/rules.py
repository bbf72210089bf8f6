"""The op registry: which rule speaks for a node.

A rule is one function per op. It serves analysis, surgery, proof and cost at once, because it says
what operands *mean*; it never branches on the opset (`attr_or_input` hides the difference).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

from onnx import NodeProto

from .errors import InternalError
from .node import NodeView, RuleError, TensorAxes
from .shapes import ShapeFunction

__all__ = [
    "OP_RULES",
    "Example",
    "NodeView",
    "OpRule",
    "RuleError",
    "RuleTable",
    "TensorAxes",
    "op",
]

RuleFunction = Callable[[NodeView], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A use of an op on a stream `{x}`, from which tests grow random graphs.

    `text` holds one ONNX text node a line. `{x}` is the incoming stream and `{y}` the outgoing one,
    `{x2}` a second stream of the same shape, `{t1}`, `{t2}` inner tensors (streams too where no line
    reads them). Constants have random values: `{w:...}` a float weight, `{b:...}` a bias, `{s:...}` a
    scale near 1, `{m:...}` a mean, `{v:...}` a variance, `{q:...}` a quantisation step, `{z:...}`
    uint8 values, `{o:...}` their zero points (all 128), `{k:...}` an int32 bias; or the written ones:
    `{f:[...]}` float, `{i:[...]}` int64, `{u:[...]}` uint8 (`{i:2}` is a scalar). Lengths are numbers
    or multiples of those of x: `C` (channels: axis 1, or the last axis of `rank` 3), `H`, `W`, as in
    `2C`, `C/4`, `C-2`; `=C` is an attribute's. `rank`: 4 (N, C, H, W), 3 (N, L, C) or 2 (N, C).
    """

    text: str
    rank: int = 4
    multiple: int = 1  # channels of x must be a multiple of this
    opsets: tuple[int, ...] = (18, 21)  # where the text is valid


@dataclasses.dataclass(frozen=True, slots=True)
class OpRule:
    """A registered rule: for `op_type` of `domain` from opset `since` on."""

    op_type: str
    domain: str
    since: int
    function: RuleFunction
    examples: tuple[Example, ...]

    @property
    def doc(self) -> str:
        """First line of the rule's docstring: its meaning in one line."""
        return (self.function.__doc__ or "").strip().splitlines()[0]


class RuleTable:
    """Rules by (domain, op_type), newest applicable first."""

    def __init__(self) -> None:
        """Create an empty table."""
        self._rules: dict[tuple[str, str], list[OpRule]] = {}
        self.shape_functions: dict[tuple[str, str], ShapeFunction] = {}

    def register(
        self, *op_types: str, domain: str = "", since: int = 1, examples: Sequence[Example] = ()
    ) -> Callable[[RuleFunction], RuleFunction]:
        """Return a decorator that enters a rule for some op types.

        Raises:
            InternalError: if a rule for the same op, domain and opset exists.
        """

        def enter(function: RuleFunction) -> RuleFunction:
            for op_type in op_types:
                used = tuple(
                    e for e in examples if re.search(rf"= (?:[\w.]+\.)?{op_type}[<(]", e.text)
                )
                rules = self._rules.setdefault((domain, op_type), [])
                if any(r.since == since for r in rules):
                    raise InternalError(
                        f"op rule '{domain}:{op_type}' since {since} is registered twice"
                    )
                rules.append(OpRule(op_type, domain, since, function, used))
                rules.sort(key=lambda r: -r.since)
            return function

        return enter

    def shape(self, op_type: str, domain: str = "") -> Callable[[ShapeFunction], ShapeFunction]:
        """Return a decorator that enters output shapes for an op onnx cannot infer."""

        def enter(function: ShapeFunction) -> ShapeFunction:
            self.shape_functions[(domain, op_type)] = function
            return function

        return enter

    def find(self, node: NodeProto, opsets: dict[str, int]) -> OpRule | None:
        """Return the rule that speaks for `node` under the file's opsets, or None."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = opsets.get(domain, 1)
        rules = self._rules.get((domain, node.op_type), [])
        return next((r for r in rules if r.since <= version), None)

    def all(self) -> list[OpRule]:
        """Return every rule, sorted by domain, op type and opset."""
        rules = [r for group in self._rules.values() for r in group]
        return sorted(rules, key=lambda r: (r.domain, r.op_type, r.since))


OP_RULES = RuleTable()
op = OP_RULES.register
