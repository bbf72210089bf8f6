"""Selection: what their tests share."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from onnxprune.core.contracts import Floats
from onnxprune.core.cost import CostModel
from onnxprune.core.rules import OP_RULES
from onnxprune.core.shapes import instantiate
from onnxprune.structure.dependency import analyse
from tests.networks import NETWORKS, Network, bottlenecks

SMALL_RESNET = bottlenecks((2, 2, 1), (16, 24, 32), 32)


ALL = {**NETWORKS, "resnet": SMALL_RESNET}


FIGURES = {"macs": "macs", "params": "params", "size": "size", "ratio": "units"}


each_budget = pytest.mark.parametrize("option", list(FIGURES))


def costed(network: Network) -> CostModel:
    analysis = analyse(network.graph())
    instance = instantiate(analysis.graph, OP_RULES.shape_functions, sizes=(1, 1, 8))
    assert instance is not None
    return CostModel(analysis, instance)


@cache
def cost_of(network: str) -> CostModel:
    return costed(ALL[network])


def drawn(cost: CostModel, seed: int = 0) -> list[Floats]:
    rng = np.random.default_rng(seed)
    return [rng.lognormal(size=len(group)) for group in cost.analysis.groups]
