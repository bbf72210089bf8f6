"""Before deciding: read the model, find what can be removed, open the samples, count the cost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from onnx import TensorProto

from ..core.analysis import Analysis, Mask
from ..core.contracts import SURGERIES, Samples
from ..core.cost import CostModel
from ..core.errors import DataError, OnnxPruneError
from ..core.graph import Array, Graph
from ..core.interface import interface_of
from ..core.listed import decided
from ..files.store import load
from ..measure.clock import Clock
from ..plan import PlannedDepth, read_plan
from ..proof.example import example, instance_of
from ..show.overview import nothing_prunable
from ..structure.dependency import analyse
from ..structure.unlock import Unlock
from .deepen import choose
from .depth import depth_mask
from .request import PruneRequest
from .samples import Data, open_samples

_CHECKED_AT_ONCE = 64  # samples
_HELD_OUT = 512  # samples: enough to see an agreement to half a percent
_JUDGES = 4096  # of a search: enough to show a drop of a tenth of a percent


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model at hand and the samples for it.

    Attributes:
        path: of the file.
        size: bytes on the disk, external weights included.
        source: as read from the file.
        depth: the blocks that are left out of it before channels are chosen; None: all stay.
        chosen: how those were chosen; None: by name, or as a plan says.
        whole: cost of all of it, at the shapes of `feeds`.
        graph: what channels are chosen from: without those blocks.
        analysis: of its normal form.
        cost: at the shapes of `feeds`.
        feeds: inputs of one run.
        calibration, held_out: disjoint samples; None without data, or with too few.
        judges: samples that judge which blocks go; None: a part of `calibration` does.
    """

    path: Path
    size: int
    source: Graph
    depth: Mask | None
    chosen: PlannedDepth | None
    whole: CostModel
    graph: Graph
    analysis: Analysis
    cost: CostModel
    feeds: dict[str, Array]
    calibration: Samples | None
    held_out: Samples | None
    judges: Samples | None = None


def study(request: PruneRequest, clock: Clock) -> Subject:
    """Read the model and the samples, and find what can be removed.

    Raises:
        ModelError: if the model cannot be read.
        DataError: if the samples do not fit it.
        OnnxPruneError: if nothing can be removed, with the reasons, or the output is no good path.
    """
    path = Path(request.model)
    with clock("load"):
        source = load(path)
    refuse_output(path, request.target, overwrite=request.overwrite or request.dry_run)
    with clock("analyse"):
        entire = analyse(source, _unlocked(request))
        depth, chosen = depth_mask(request, entire), None
    if not entire.groups and depth is None and request.depth is None:
        raise OnnxPruneError(nothing_prunable(entire))
    with clock("open data"):
        calibration, held_out = _split(request, source, entire)
        feeds = example(entire.graph, calibration)
        cost = CostModel(entire, instance_of(entire.graph, feeds))
    judges = None
    if held_out is not None and request.judge is not None and _judges_blocks(request):
        half = held_out.count // 2
        judges, held_out = held_out.part(0, half), held_out.part(half, held_out.count)
    subject = Subject(
        path, _size(path, source), source, None, None, cost, source, entire, cost, feeds, calibration,
        held_out, judges,
    )  # fmt: skip
    if request.depth is not None and not request.joint:
        depth, chosen = choose(request, entire, calibration, judges, clock)
    return without(request, subject, depth, chosen, clock)


def _judges_blocks(request: PruneRequest) -> bool:
    """Tell whether some of the held-out samples may: a search has all for itself."""
    return request.depth is not None and request.max_drop is None and request.sweep is None


def without(
    request: PruneRequest,
    subject: Subject,
    depth: Mask | None,
    chosen: PlannedDepth | None,
    clock: Clock,
) -> Subject:
    """Leave out blocks of a whole model.

    Args:
        request: with what may shrink of the interface.
        subject: nothing of it is left out yet.
        depth: the blocks; None: none goes.
        chosen: how they were.
        clock: times the step.
    """
    if depth is None or not depth.blocks:
        return dataclasses.replace(subject, chosen=chosen)
    with clock("analyse"):
        graph = SURGERIES["blocks"](depth)
        analysis = analyse(graph, _unlocked(request))
        cost = CostModel(analysis, instance_of(analysis.graph, subject.feeds))
    return dataclasses.replace(
        subject, depth=depth, chosen=chosen, graph=graph, analysis=analysis, cost=cost
    )


def _unlocked(request: PruneRequest) -> tuple[Unlock, ...]:
    """Return what may shrink of the interface: as asked for now, or as it was for the plan."""
    return request.unlocked if request.plan is None else read_plan(request.plan).unlocked


def _size(path: Path, graph: Graph) -> int:
    outside = [w for w in graph.weights.values() if w.proto.data_location == TensorProto.EXTERNAL]
    return path.stat().st_size + sum(weight.nbytes for weight in outside)


def refuse_output(source: Path, target: Path, *, overwrite: bool) -> None:
    """Say at once what writing would say at the end."""
    if target.exists() and target.samefile(source) and not overwrite:
        raise OnnxPruneError(
            f"the output '{target}' is the input: choose another path, or give --overwrite"
        )
    if not target.parent.is_dir():
        raise OnnxPruneError(
            f"cannot write '{target}': there is no folder '{target.parent}'; create it first"
        )


def _split(
    request: PruneRequest, graph: Graph, analysis: Analysis
) -> tuple[Samples | None, Samples | None]:
    """Open the samples and divide them: calibration first, then what is held out."""
    if request.data is None:
        if request.labels is not None:
            raise DataError(f"--labels '{request.labels}' needs --data")
        return None, None
    own = request.judge is None  # what is held out is of the same data
    spare = request.judge_samples or (_HELD_OUT if request.max_drop is None else _JUDGES)
    samples = _opened(request, graph, analysis, request.data, request.samples + own * spare)
    step = samples.batch or 1
    if request.judge is not None:
        judges = _opened(request, graph, analysis, request.judge, spare)
        _refuse_without_labels(request, judges)
        return samples.part(0, max(request.samples // step, 1) * step), judges
    _refuse_without_labels(request, samples)
    if request.max_drop is None and request.judge_samples is None:
        held_out = min(spare, samples.count // 4) // step * step
    else:  # whatever calibration leaves, at least half, is there to judge by
        left = samples.count - min(request.samples, samples.count // 2)
        held_out = min(spare, left) // step * step
    count = min(max(request.samples // step, 1) * step, samples.count - held_out)
    return samples.part(0, count), samples.part(count, count + held_out) if held_out else None


def _opened(
    request: PruneRequest, graph: Graph, analysis: Analysis, data: Data, limit: int
) -> Samples:
    samples = open_samples(
        data, graph, limit=limit, seed=request.seed, preprocess=request.preprocess
    )
    return _of_kept_ids(samples, analysis)


def _refuse_without_labels(request: PruneRequest, samples: Samples) -> None:
    if request.labels is not None and request.labels not in samples.extra:
        keys = ", ".join(f"'{key}'" for key in samples.extra) or "inputs of the model only"
        raise DataError(f"--labels '{request.labels}': the data has no such key; it has {keys}")


def _of_kept_ids(samples: Samples, analysis: Analysis) -> Samples:
    """Return samples that hold no ids of a vocabulary but those that are kept.

    Raises:
        DataError: if given ones do; drawn ones hold kept ids instead.
    """
    if not any(face.ids for face in analysis.faces):
        return samples
    interface, read = interface_of(analysis.mask(decided(analysis).units)), samples.read
    if samples.random:
        return dataclasses.replace(samples, read=lambda a, b: interface.admissible(read(a, b)))
    for batch in samples.batches(_CHECKED_AT_ONCE):
        interface.feeds(batch)
    return samples
