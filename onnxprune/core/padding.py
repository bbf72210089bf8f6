"""Which input tells the tokens of a tensor from padding.

Models of text are fed ids and a mask, both of shape (samples, tokens), that is zero where ids only fill
a sentence up. What such a model computes there reaches no answer, and is like nothing that it computes
elsewhere: statistics that a repair is fitted to should not hold it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .declared import Linear
from .graph import Array, Graph
from .scopes import captured_names


def padding_masks(graph: Graph) -> dict[str, str]:
    """Return the mask of every tensor that has one, by name.

    A mask is the only input whose name holds "mask" and whose axes, (samples, tokens), are those of
    all other inputs that lead to the tensor.
    """
    axes = {
        v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in graph.inputs
    }
    masks: dict[tuple[str | int, ...], list[str]] = {}
    for name, found in axes.items():
        if "mask" in name.lower() and len(found) == 2:
            masks.setdefault(found, []).append(name)
    if not masks:
        return {}
    fed = {n: {found[:2]} for n, found in axes.items() if "mask" not in n.lower()}
    for node in graph.nodes:
        leading = set().union(*(fed.get(n, ()) for n in [*node.input, *captured_names(node)]))
        fed.update(dict.fromkeys(node.output, leading))
    only = {name: next(iter(found)) for name, found in fed.items() if len(found) == 1}
    return {name: masks[a][0] for name, a in only.items() if len(masks.get(a, ())) == 1}


def tokens_of(linear: Linear, x_shape: tuple[int, ...], mask: Array | None) -> NDArray[np.bool_]:
    """Return which positions of a dense operator's input are no padding: bool, (samples, tokens).

    Empty where there is no mask, or the input is not of shape (samples, tokens, channels).
    """
    lead = tuple(n for i, n in enumerate(x_shape) if i != linear.x_axis % len(x_shape))
    if mask is None or linear.kernel or mask.shape != lead:
        return np.zeros((0, 0), np.bool_)
    return np.asarray(mask, np.bool_)
