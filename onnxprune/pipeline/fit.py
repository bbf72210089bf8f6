"""How long a model takes by its widths: fitted to cut copies of it, timed on the target, or remembered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..core.cost import Products
from ..core.errors import BudgetError
from ..core.external import INLINE_LIMIT, weight_bytes
from ..core.graph import Array
from ..core.runtime import onnxruntime
from ..files.store import digest
from ..latency.copies import Copy, Setting, drawn, observed, raced
from ..latency.model import LatencyModel, fitted
from ..measure.clock import Clock
from ..proof.example import instance_of
from ..timing.target import Target
from .memory import Memory
from .request import PruneRequest
from .study import Subject

COPIES = 16  # cut copies that the fit is made from
_SECONDS = 3.0  # for what is written
_FORMAT = 3  # raise it when what is remembered changes its meaning


@dataclasses.dataclass(frozen=True)
class Fit:
    """A model of the time.

    Attributes:
        model: of what remains without the blocks that were left out.
        whole: milliseconds of one run of the original.
    """

    model: LatencyModel
    whole: float


def fit(request: PruneRequest, subject: Subject, clock: Clock) -> Fit:
    """Time cut copies on the request's target, and fit.

    Raises:
        BudgetError: if the model is too large to be timed in copies.
        OnnxPruneError: if the target does not run it.
    """
    if weight_bytes(subject.graph) > INLINE_LIMIT:
        raise BudgetError("--latency times copies of the model, and this one is too large for that")
    with clock("time copies"):
        model = _fitted(request, subject)
        left = measured(request, subject, Copy(subject.graph, subject.feeds))
    return Fit(model, model.milliseconds / left)


def measured(request: PruneRequest, subject: Subject, cut: Copy) -> float:
    """Return the time of a cut model as a share of the original's, timed in turns with it."""
    if cut.graph is subject.source:
        return 1.0
    longer = dataclasses.replace(_setting(request), seconds=_SECONDS)
    return raced(Copy(subject.source, subject.feeds), cut, longer, request.progress)[0]


def _setting(request: PruneRequest) -> Setting:
    target = None if request.device is None else Target.read(Path(request.device))
    return Setting(request.provider, request.threads, target=target)


def _fitted(request: PruneRequest, subject: Subject) -> LatencyModel:
    """Time cut copies and fit, or remember it."""

    def make() -> dict[str, Array]:
        masks = drawn(subject.analysis, request.options, COPIES, request.seed)
        setting = _setting(request)
        copies, milliseconds = observed(
            subject.graph, subject.cost, subject.feeds, masks, setting, request.progress
        )
        instance = instance_of(subject.analysis.graph, subject.feeds)
        step = request.options.round_to
        found = fitted(subject.cost, instance, copies, milliseconds, step)
        return {
            **vars(found.products),
            "times": np.array([found.milliseconds, found.error]),
        }  # fmt: skip

    held = _memo(request, subject, make)
    milliseconds, error = held["times"].tolist()
    products = Products(held["rows"], held["constants"], held["owners"], held["blocks"])
    return LatencyModel(products, milliseconds, error)


def _memo(
    request: PruneRequest, subject: Subject, make: Callable[[], dict[str, Array]]
) -> dict[str, Array]:
    """Remember a fit with --work, by all that decides it."""
    if request.work is None:
        return make()
    device = "" if request.device is None else Path(request.device).read_text()
    decided_by = {
        "latency": _FORMAT, "model": digest(subject.path), "provider": request.provider,
        "threads": request.threads, "device": device, "onnxruntime": onnxruntime().__version__,
        "inputs": {name: np.shape(array) for name, array in subject.feeds.items()},
        "options": dataclasses.asdict(request.options), "copies": COPIES, "seed": request.seed,
        "unlock": str(request.unlocked),
        "blocks": [block.y for block in subject.depth.blocks] if subject.depth else [],
    }  # fmt: skip
    return Memory(Path(request.work), decided_by)("latency", make)
