"""Einsum: the equation itself says which axes are the same and which are summed over."""

from __future__ import annotations

from onnxprune.core.positions import Axis
from onnxprune.core.rules import Example, NodeView, RuleError, op


@op(
    "Einsum",
    examples=[
        Example('{y} = Einsum<equation="nlc,cd->nld">({x}, {w:C,10})', rank=3),
        Example('{y} = Einsum<equation="nchw,dc->ndhw">({x}, {w:6,C})'),
        Example(
            '{t1} = Einsum<equation="nic,njc->nij">({x}, {x2})\n'
            '{y} = Einsum<equation="nij,njc->nic">({t1}, {x})',
            rank=3,
        ),
        Example('{y} = Einsum<equation="nlc->nl c">({x})'.replace("l c", "lc"), rank=3),
    ],
)
def einsum(n: NodeView) -> None:
    """Equal letters are the same positions; letters without a place in the result are summed over."""
    equation = n.attr("equation").decode().replace(" ", "")
    left, _, right = equation.partition("->")
    if "." in equation or "->" not in equation:
        raise RuleError(f"equation '{equation}' has an ellipsis or no result")
    letters: dict[str, Axis] = dict(zip(right, n.y(), strict=True))
    for slot, term in enumerate(left.split(",")):
        for number, (letter, axis) in enumerate(zip(term, n.x(slot), strict=True)):
            other = letters.setdefault(letter, axis)
            if other is not axis:  # not its first place
                if n.pair(other) == n.pair(axis):
                    n.couple(other, axis)
                else:
                    n.protect([other, axis], "broadcast in an Einsum")
            if letter not in right:
                n.contract(slot, number)
    n.macs(*letters.values())
