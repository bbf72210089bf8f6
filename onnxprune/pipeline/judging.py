"""Compares what a search made with the original, on samples that nothing else has seen."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from ..core.configured import settings_of
from ..core.contracts import Samples
from ..core.graph import Array
from ..core.interface import Interface
from ..core.runtime import Session
from ..files.store import digest
from ..measure.drop import Limit
from ..measure.evaluate import Evaluation, Turned, evaluate
from ..measure.recorded import Recorded
from ..plan import versions
from .memory import content
from .request import PruneRequest
from .study import Subject

_EVEN = 0.5  # the confidence at which a drop is taken as it was measured
_HALF_PRECISION = {10: 2.0**-10, 16: 2.0**-7}  # ONNX element types of 16 bits: their epsilon
_SINGLE_PRECISION = 2.0**-23


def limit_of(request: PruneRequest, subject: Subject, share: float, judgements: int) -> Limit:
    """Return the limit on a drop of `share`, the confidence shared out among so many judgements."""
    level = 1 - (1 - request.confidence) / (judgements if request.confidence > _EVEN else 1)
    metric = request.metric or ("agreement" if request.labels is None else "accuracy")
    kinds = {weight.proto.data_type for weight in subject.graph.weights.values()}
    epsilon = max(_HALF_PRECISION.get(kind, _SINGLE_PRECISION) for kind in kinds)
    return Limit(share, metric, level, epsilon ** (2 / 3))


@dataclasses.dataclass
class Judge:
    """What compares models with the original, which runs once.

    Attributes:
        request, subject: what is searched.
        samples: that judge.
        limit: on the drop.
    """

    request: PruneRequest
    subject: Subject
    samples: Samples
    limit: Limit

    def try_metric(self) -> None:
        """Refuse a metric that the model or the samples do not have before anything takes time.

        Raises:
            DataError: if they do not.
        """
        first = self.samples.part(0, self.samples.batch or 1)
        self.limit.judge(self._compared(self._reference, first, None))

    def of_original(self) -> Evaluation:
        """Compare the original with itself."""
        return self._compared(self._reference, self.samples, None)

    def compared(self, session: Session, interface: Interface) -> Evaluation:
        """Compare a model, which counts its inputs and outputs so, with the original."""
        return self._compared(session, self.samples, interface)

    def _compared(
        self, session: Session, samples: Samples, interface: Interface | None
    ) -> Evaluation:
        return evaluate(
            session, samples, labels=self.request.labels, reference=self._reference,
            interface=interface, progress=self.request.progress,
        )  # fmt: skip

    def decided_by(self) -> dict[str, object]:
        """Return all that decides a judgement, but for what is removed; for `Memory`."""
        request, (repair, used) = self.request, self.request.repairing
        calibration, depth = self.subject.calibration, self.subject.depth
        return {
            "model": digest(self.subject.path), "labels": request.labels,
            "judged": content(self.samples), "versions": dict(versions()),
            "data": content(calibration) if calibration else "",
            "repair": repair, "settings": settings_of(used),
            "ridge": request.ridge, "rows": request.rows, "seed": request.seed,
            "blocks": [block.y for block in depth.blocks] if depth else [],
            "unlock": str(request.unlocked), "provider": request.provider,
        }  # fmt: skip

    @cached_property
    def _reference(self) -> Session:
        return Recorded(self.subject.path, provider=self.request.provider)


def packed(found: Evaluation) -> dict[str, Array]:
    """Return what a judgement needs, as arrays."""
    turned = {"right": found.right, "same": found.same}
    counts = {
        name: np.array([] if t is None else dataclasses.astuple(t), np.int64)
        for name, t in turned.items()
    }
    names = list(found.errors)
    return {
        "samples": np.array(found.samples),
        "names": np.array(names, np.str_),
        "errors": np.array([found.errors[n] for n in names], np.float64),
        "spreads": np.array([found.spreads[n] for n in names], np.float64),
        **counts,
    }


def unpacked(held: dict[str, Array]) -> Evaluation:
    """Undo `packed`."""
    names = held["names"].tolist()
    right, same = (Turned(*held[n].tolist()) if len(held[n]) else None for n in ("right", "same"))
    errors, spreads = (
        dict(zip(names, held[kind].tolist(), strict=True)) for kind in ("errors", "spreads")
    )
    return Evaluation(int(held["samples"]), errors=errors, spreads=spreads, right=right, same=same)
