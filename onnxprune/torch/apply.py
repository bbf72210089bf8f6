"""A plan on the user's own module: its parameters are sliced, then it is trained as they like.

The plan speaks of weights of a file. In the module's own graph (`dyed`) they are found, one after the
other way: by the name that the exporter kept; by the module and the slot that read them, where it renamed
or transposed; by their values, where neither is left. What else goes, such as BatchNormalization that
the file has folded, the analysis of the module's graph says.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from ..core.analysis import Mask
from ..core.contracts import SURGERIES
from ..core.errors import OnnxPruneError, first_line
from ..core.graph import Array, Graph
from ..core.runtime import Session
from ..plan import Plan, mask_by, read_plan
from ..structure.sites import first_readers, made_by
from ..structure.sites import module as module_of
from .dyed import Dyed, dyed
from .resized import resize
from .source import source

Ints = NDArray[np.int64]

_ALIKE = 1e-5  # how far directions of equal weights may be apart
_EQUAL = 1e-4  # and outputs of module and graph, relative to the largest


def apply_plan(
    module: nn.Module,
    plan: Plan | Path | str,
    inputs: Sequence[Tensor],
    *,
    original: ModelProto | Graph | Path | str | None = None,
    sizes: Mapping[str, int] | None = None,
) -> nn.Module:
    """Return a copy of a module without what a plan removes.

    The copy is run and compared with the cut graph of the module before it is returned.

    Args:
        module: the one that the pruned file was exported from, or a newer checkpoint of it.
        plan: of `prune`; it leaves no blocks out and unlocks nothing.
        inputs: of one run of `forward`.
        original: the file that was pruned; needed where the exporter kept neither names nor modules,
            and the module then must still have the values of the file.
        sizes: attributes by path that `forward` reshapes by and that change: {"encoder.heads": 6}.

    Raises:
        OnnxPruneError: in one line: a weight is not found in the module, the plan does not fit, or
            the module does not run, or computes something else, once it is sliced.
    """
    decided = plan if isinstance(plan, Plan) else read_plan(plan)
    if decided.blocks or decided.interface:
        what = "leaves out blocks" if decided.blocks else "changes inputs or outputs"
        raise OnnxPruneError(
            f"the plan {what}: that a module cannot be sliced by; prune channels only"
        )
    own = dyed(module, inputs)
    mask = mask_by(own.analysis, decided, _found(own, decided, module, original))
    cut = SURGERIES["channels"](_valued(own, mask, module))
    sliced = copy.deepcopy(module).eval()
    resize(sliced, _kept(own, mask, module), _groups(own, cut))
    for path, value in (sizes or {}).items():
        holder, _, name = path.rpartition(".")
        if not isinstance(getattr(sliced.get_submodule(holder), name, None), int):
            raise OnnxPruneError(f"sizes: '{path}' is no whole number of the module")
        setattr(sliced.get_submodule(holder), name, value)
    _compare(sliced, cut, inputs)
    return sliced.train(module.training)


def _found(
    own: Dyed,
    plan: Plan,
    module: nn.Module,
    original: ModelProto | Graph | Path | str | None,
) -> dict[str, str]:
    """Map planned weights to weights of the module's graph.

    Raises:
        OnnxPruneError: naming the first weight of two axes or more that shrinks and is not found.
    """
    graph = own.analysis.graph
    places: dict[tuple[str | None, int, tuple[int, ...]], list[str]] = {}
    for name, (node, slot) in first_readers(graph).items():
        places.setdefault((module_of(node), slot, graph.weights[name].shape), []).append(name)
    values = own.values(module)
    held = {} if original is None else {n: w.array for n, w in source(original).weights.items()}
    found: dict[str, str] = {}
    for name, tensor in plan.tensors.items():
        if tensor.is_index or not any(kept is not None for kept in tensor.kept):
            continue
        slot = int(tensor.site.rpartition(":")[2])
        read = places.get((tensor.module, slot, tensor.shape), [])
        if name in own.elements and graph.weights[name].shape == tensor.shape:
            found[name] = name
        elif len(read) == 1 and tensor.module is not None and read[0] in own.elements:
            found[name] = read[0]
        elif same := _by_value(held.get(tensor.origin or name), values):
            found[name] = same
        elif len(tensor.shape) > 1:
            more = "" if original is not None else "; give the pruned file's original"
            raise OnnxPruneError(
                f"'{name}' of the plan, shape {list(tensor.shape)}, is not found in the module by name, "
                f"by module or by value: give the module that the file was exported from{more}"
            )
    return found


def _by_value(array: Array | None, values: Mapping[str, Array]) -> str | None:
    """Return the only weight that equals an array, but for a factor per output (a folded scale)."""
    if array is None or array.ndim < 2:
        return None
    alike = [n for n, v in values.items() if v.shape == array.shape and _parallel(v, array)]
    return alike[0] if len(alike) == 1 else None


def _parallel(mine: Array, theirs: Array) -> bool:
    """Tell whether weights point the same way: output by output along axis 0, or as they are."""
    if np.allclose(mine, theirs, rtol=_ALIKE, atol=_ALIKE * float(np.abs(theirs).max())):
        return True
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (mine, theirs))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return bool((np.abs((a * b).sum(axis=1)) >= (1 - _ALIKE) * lengths).all())


def _kept(own: Dyed, mask: Mask, module: nn.Module) -> dict[str, list[Ints]]:
    """Return the kept positions per axis of every parameter and buffer of the module.

    Raises:
        OnnxPruneError: if one is not in the graph as it is, or what is kept of it is no block.
    """
    state = module.state_dict()
    total = sum(state[name].numel() for name in own.spans)
    seen, stays = np.zeros((2, total), np.bool_)
    for name, numbers in own.elements.items():
        seen[numbers] = True
        axes = range(numbers.ndim)
        gone = [mask.gone_at(name, axis) for axis in axes]
        whole = [
            np.arange(n) if g is None else np.flatnonzero(~g)
            for n, g in zip(numbers.shape, gone, strict=True)
        ]
        stays[numbers[np.ix_(*whole)]] = True
    kept = {}
    for name, start in own.spans.items():
        shape = tuple(state[name].shape)
        part = slice(start, start + state[name].numel())
        if not seen[part].any():
            continue  # nothing of the graph depends on it
        left = stays[part].reshape(shape)
        rows = [
            np.flatnonzero(left.any(axis=tuple(set(range(len(shape))) - {a})))
            for a in range(len(shape))
        ]
        if not seen[part].all() or left.sum() != np.prod([len(r) for r in rows]):
            raise OnnxPruneError(
                f"parameter '{name}' cannot be sliced: what the plan keeps of it is no block of rows and "
                "columns; leave its group out with --keep"
            )
        kept[name] = rows
    return kept


def _valued(own: Dyed, mask: Mask, module: nn.Module) -> Mask:
    """Return a mask with the values of the module in its graph."""
    graph = own.analysis.graph.copy()
    for name, values in own.values(module).items():
        weight = graph.weights[name]
        graph.weights[name] = weight.replace(values.astype(weight.array.dtype))
    return dataclasses.replace(mask, analysis=dataclasses.replace(own.analysis, graph=graph))


def _groups(own: Dyed, cut: Graph) -> dict[str, int]:
    """Return the convolution groups that are left, by the parameter that is the weight."""
    before = {made_by(n): n for n in own.analysis.graph.nodes}
    found = {}
    for node in cut.nodes:
        attributes = {a.name: a.i for a in node.attribute}
        old = before.get(made_by(node))
        if old is None or "group" not in attributes or old.input[1] not in own.elements:
            continue
        number = int(own.elements[old.input[1]].flat[0])
        name = max(
            (n for n, start in own.spans.items() if start <= number), key=own.spans.__getitem__
        )
        found[name] = attributes["group"]
    return found


@torch.no_grad()
def _compare(sliced: nn.Module, cut: Graph, inputs: Sequence[Tensor]) -> None:
    """Refuse a module that does not compute what its graph computes once that is cut.

    Raises:
        OnnxPruneError: saying what to do.
    """
    twin = copy.deepcopy(sliced).cpu()
    exact = any(w.array.dtype == np.float64 for w in cut.weights.values())  # as it was exported
    twin = twin.double() if exact else twin
    given = [x.cpu().double() if exact and x.is_floating_point() else x.cpu() for x in inputs]
    mend = (
        "if `forward` reshapes by attributes of its own, give their new values with sizes, or leave "
        "such groups out with --keep"
    )
    try:
        outputs = twin(*given)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise OnnxPruneError(
            f"the sliced module does not run: {first_line(error)}; {mend}"
        ) from error
    several = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    feeds = {v.name: x.numpy() for v, x in zip(cut.inputs, given, strict=True)}
    session = Session(cut, optimise=False)
    expected = session.run(feeds)
    for number, (mine, name) in enumerate(zip(several, session.outputs, strict=True), 1):
        theirs = expected[name]
        same = tuple(mine.shape) == theirs.shape
        if not same or np.abs(mine.numpy() - theirs).max() > _EQUAL * np.abs(theirs).max():
            raise OnnxPruneError(
                f"the sliced module runs, but output {number} is not what the plan leaves of it; {mend}"
            )
