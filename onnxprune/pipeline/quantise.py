"""Hands a pruned file over to onnxruntime's static quantiser, with the samples of the calibration.

Weights and activations become int8, weights per channel, as QuantizeLinear and DequantizeLinear pairs;
ranges are the extremes over the samples. What comes out is measured, not proved: rounding changes all.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnx import TensorProto

from ..core.contracts import Samples
from ..core.errors import ModelError, OnnxPruneError, first_line
from ..core.external import INLINE_LIMIT, weight_bytes
from ..core.graph import Array
from ..core.interface import Interface
from ..core.runtime import Session, quantiser
from ..files.staged import Staged
from ..files.store import digest
from ..measure import latency
from ..measure.clock import Clock
from ..measure.evaluate import Evaluation, evaluate
from ..measure.quantised import Quantised
from ..plan import Change, ModelId, PlannedInt8
from .request import PruneRequest
from .study import Subject

_AT_ONCE = 32  # samples


def refuse_quantising(request: PruneRequest, subject: Subject) -> None:
    """Say at once what cannot be handed over.

    Raises:
        OnnxPruneError: then.
    """
    if request.dry_run:
        raise OnnxPruneError("--then quantize needs the pruned file: leave out --dry-run")
    if subject.calibration is None:
        raise OnnxPruneError("--then quantize needs samples to find ranges on: give --data")
    kinds = {weight.proto.data_type for weight in subject.graph.weights.values()}
    if kinds & {TensorProto.FLOAT16, TensorProto.BFLOAT16}:
        raise ModelError(
            "--then quantize takes float32 models, and this one is of 16-bit floats: export it in float32"
        )
    if weight_bytes(subject.graph) > INLINE_LIMIT:
        raise ModelError("--then quantize holds models in memory, and this one is too large")


def quantised(
    request: PruneRequest, subject: Subject, interface: Interface, clock: Clock
) -> Quantised:
    """Quantise the file that was written, and measure what comes out against the original.

    Raises:
        ModelError: if onnxruntime cannot quantise it; the pruned file stays.
    """
    target = request.target.with_name(f"{request.target.stem}.int8.onnx")
    assert subject.calibration is not None  # refused before
    with clock("quantise"):
        content = _quantised(request.target, subject.calibration, interface)
        with Staged() as files, files.open(target.resolve()) as stream:
            stream.write(content)
    before = Session(subject.path, provider=request.provider)
    after = Session(target, provider=request.provider)
    found = None
    if subject.held_out is not None:
        with clock("compare"):
            found = evaluate(
                after, subject.held_out, labels=request.labels, reference=before,
                interface=interface, progress=request.progress,
            )  # fmt: skip
    with clock("latency"):
        feeds = interface.admissible(subject.feeds)
        times = latency.compare(
            before, after, feeds, feeds_after=interface.feeds(feeds), progress=request.progress
        )
    return Quantised(target, target.stat().st_size, found, times)


def planned(found: Quantised, subject: Subject) -> PlannedInt8:
    """Return what the plan says of it."""
    times, compared = found.latency, found.evaluation or Evaluation(0)
    accuracy, error = None, compared.error
    if compared.reference is not None and compared.accuracy is not None:
        accuracy = Change(compared.reference.top1, compared.accuracy.top1)
    return PlannedInt8(
        model=ModelId(found.output.name, digest(found.output)),
        bytes=Change(subject.size, found.bytes),
        milliseconds=Change(times.before.median, times.after.median),
        speedup=times.speedup,
        samples=compared.samples,
        accuracy=accuracy,
        agreement=compared.agreement,
        error=error if error is not None and math.isfinite(error) else None,
    )


def _quantised(path: Path, samples: Samples, interface: Interface) -> bytes:
    """Return the quantised file."""
    library: Any = quantiser()

    class Reader(library.CalibrationDataReader):  # type: ignore[misc]  # it ships no types
        """Batches, one by one; then None."""

        def __init__(self) -> None:
            names = set(Session(path).inputs)
            self.left: Iterator[dict[str, Array]] = (
                {name: a for name, a in interface.feeds(batch).items() if name in names}
                for batch in samples.batches(_AT_ONCE)
            )

        def get_next(self) -> dict[str, Array] | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder, _quiet():
        ready, made = Path(folder, "ready.onnx"), Path(folder, "made.onnx")
        try:
            library.shape_inference.quant_pre_process(path, ready, skip_symbolic_shape=True)
            library.quantize_static(ready, made, Reader(), per_channel=True)
        except Exception as error:
            raise ModelError(
                f"onnxruntime cannot quantise '{path}': {first_line(error)}"
            ) from error
        return made.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the hints of the library, which are for those who call it, to warnings."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
