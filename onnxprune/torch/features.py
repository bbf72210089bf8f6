"""Features: tensors where blocks end, which the student is to have as the teacher has them.

Of the teacher's channels those count that the plan kept: the pruned graph names its tensors as the
original does, so that nothing has to be projected (as FitNets do, Romero et al., arXiv 1412.6550).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, from_numpy, fx

from ..core.analysis import Ints, Mask
from ..core.contracts import SURGERIES
from ..core.graph import Graph
from ..discover import discover
from ..plan.file import read_plan
from ..plan.reapply import depth_of, mask_of
from ..structure.blocks import find_blocks
from ..structure.dependency import analyse


@dataclasses.dataclass(frozen=True)
class Feature:
    """A tensor that both models have under one name.

    Attributes:
        name: in both files.
        kept: positions of the teacher's axes that the student kept, by axis.
    """

    name: str
    kept: dict[int, Ints]

    def of(self, value: Tensor) -> Tensor:
        """Return what the student should have, of what the teacher has."""
        for axis, positions in self.kept.items():
            value = value.index_select(axis, from_numpy(positions).to(value.device))
        return value


def features(student: Graph, teacher: Graph, plan: Path) -> list[Feature]:
    """Return the ends of all blocks of the teacher that the student has, too.

    Raises:
        OnnxPruneError: if the plan cannot be read or does not fit.
    """
    discover()
    decided = read_plan(plan)
    depth = depth_of(analyse(teacher, decided.unlocked), decided)
    analysis = depth.analysis
    if decided.blocks:
        analysis = analyse(SURGERIES["blocks"](depth), decided.unlocked)
    mask = mask_of(analysis, decided)
    made = [{name for node in graph.nodes for name in node.output} for graph in (student, teacher)]
    names = dict.fromkeys(block.y for block in find_blocks(analysis))
    return [Feature(name, _kept(mask, name)) for name in names if name in made[0] & made[1]]


def _kept(mask: Mask, name: str) -> dict[int, Ints]:
    rank = len(mask.analysis.shapes.a.get(name, ()))
    gone = {axis: mask.gone_at(name, axis) for axis in range(rank)}
    return {axis: np.flatnonzero(~lost) for axis, lost in gone.items() if lost is not None}


def with_outputs(module: fx.GraphModule, names: Sequence[str]) -> fx.GraphModule:
    """Return a module with the same parameters that also gives tensors of the file, behind its outputs."""
    graph = copy.deepcopy(module.graph)
    nodes = {node.meta["tensor"]: node for node in graph.nodes if "tensor" in node.meta}
    output = graph.output_node()
    (results,) = output.args
    own = results if isinstance(results, tuple) else (results,)
    output.args = ((*own, *(nodes[name] for name in names)),)
    wider = fx.GraphModule(module, graph)
    wider.meta.update(module.meta)
    return wider
