"""The calibration run: once over the samples, folding what the criteria and the repair need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..core.alignment import Point
from ..core.analysis import Analysis
from ..core.contracts import COLLECTORS, Calibration, Fold, Progress, Samples, silent
from ..core.errors import DataError
from ..core.input_shapes import Shape
from ..core.rules import OP_RULES
from ..core.shapes import instantiate
from ..core.stats import Statistics
from ..core.stream import stream
from ..core.threads import blas_threads
from ..discover import discover

# What the probed tensors of one run may take together: they live until its end, and small runs
# are no slower (ResNet-50, moments: 1.3 of a bare run at this size, 1.7 at eight times it).
_PROBED_BYTES = 64 << 20
_LARGEST_BATCH = 64


def collect(
    analysis: Analysis,
    samples: Samples,
    needs: Iterable[str],
    *,
    rows: int = 32,
    widest: int = 6144,
    batch: int | None = None,
    points: tuple[Point, ...] = (),
    pairs: tuple[tuple[int, int], ...] = (),
    labels: str | None = None,
    provider: str = "CPUExecutionProvider",
    seed: int = 0,
    progress: Progress = silent,
) -> Statistics:
    """Run the model over all samples once and keep what `needs` names.

    Memory does not grow with the number of samples, and neither their order nor `batch` changes
    the result beyond rounding.

    Args:
        analysis: of the model.
        samples: of its inputs.
        needs: names in `COLLECTORS`: "moments", "second".
        rows: output positions per sample and operator, for second moments.
        widest: operators that read more values per output position get no second moments
            (p^2 numbers of 8 bytes are kept per operator; 6144 is 300 MB).
        batch: samples per run; None chooses by the size of what is read.
        points: compared for "cka" (in blocks of consecutive samples: their order counts there).
        pairs: of those, by number, for "shifts".
        labels: key of the data's labels, for "gradients" and the like.
        provider: onnxruntime execution provider.
        seed: of the output positions.
        progress: called after each run.

    Raises:
        DataError: if there are no samples, or the model overflows on them.
        ModelError: if onnxruntime refuses the model or the samples.
    """
    discover()
    if samples.count == 0:
        raise DataError("there are no samples to calibrate on: give at least one")
    count = samples.batch or 1
    shapes = _shapes(analysis, samples, count)
    settings = Calibration(shapes, count, rows, widest, points=points, pairs=pairs, labels=labels)
    folds = [COLLECTORS[name].start(analysis, settings) for name in sorted(set(needs))]
    size = batch or _batch(folds, settings, count)
    steps = stream(
        analysis.graph, [fold.probes for fold in folds], samples, batch=size, provider=provider,
        seed=seed, progress=progress, what="calibrating",
    )  # fmt: skip
    with blas_threads(analysis), np.errstate(all="ignore"):  # what is not finite is refused below
        for step in steps:
            for fold in folds:
                fold.add(step.values, step.keys)
        statistics = Statistics(samples.count, {}, {}, {}, random=samples.random)
        for fold in folds:
            statistics = fold.finish(statistics)
    _refuse_not_finite(analysis, statistics)
    return statistics


def _refuse_not_finite(analysis: Analysis, statistics: Statistics) -> None:
    """Refuse statistics of values that overflow: nothing can be scored or refitted by them."""
    nodes = analysis.graph.nodes
    sums = {name: m.square for (name, _), m in statistics.moments.items()}
    sums |= {nodes[number].input[0]: m.covariance for number, m in statistics.second.items()}
    for name, values in sums.items():
        if not np.isfinite(values).all():
            raise DataError(
                f"the values of '{name}' are not finite on the samples: mend the model's weights or "
                "the samples, or go without them (--criterion l2 --repair none)"
            )


def _shapes(analysis: Analysis, samples: Samples, count: int) -> Mapping[str, Shape]:
    """Return the shape of every tensor for a run over the first samples."""
    inputs = {name: array.shape for name, array in samples.read(0, count).items()}
    instance = instantiate(analysis.graph, OP_RULES.shape_functions, inputs=inputs)
    if instance is None:
        shapes = ", ".join(f"'{name}' {list(shape)}" for name, shape in inputs.items())
        raise DataError(f"the samples are too small for the model: {shapes}")
    return instance.shapes


def _batch(folds: list[Fold], settings: Calibration, count: int) -> int:
    """Choose how many samples a run takes, by the bytes of the tensors that are probed."""
    read = {n for fold in folds for node in fold.probes.nodes for n in node.input}
    read.update(name for fold in folds for name in fold.probes.outputs)
    names = read & settings.shapes.keys()
    each = sum(4 * int(np.prod(settings.shapes[name], dtype=np.int64)) for name in names) / count
    return int(np.clip(_PROBED_BYTES / max(each, 1), 1, _LARGEST_BATCH))
