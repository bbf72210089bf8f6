"""The proof: the pruned model equals the original with exactly the removed parts silenced.

Three files are compared on samples and at other sizes of every symbolic dimension: the original
against its own normal form (nothing masked), and the oracle (masked normal form) against the pruned
model, all in onnxruntime with graph optimisation off.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto, helper

from .core.analysis import Analysis, Mask
from .core.contracts import Batch
from .core.errors import ModelError, ProofError
from .core.graph import Array, Graph
from .core.runtime import Session
from .core.shapes import input_shape
from .oracle import masked_graph

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # relative to the largest output: float32 rounding through deep graphs
# Where values are rounded to integers inside the graph, another order of float sums moves some by a
# step. Integers are summed exactly: graphs of integer operators alone agree to the last bit.
QUANTISED_TOLERANCE = 2e-2
_ROUNDING = ("QuantizeLinear", "DynamicQuantize", "QLinear", "QGemm")
# an ill-conditioned model: the oracle itself moves when onnxruntime merely reorders its sums
NOISE_FACTOR, NOISE_CAP = 4.0, 1e-2
# outputs all below this are a sigmoid far out or the like, which amplifies rounding without bound
LEAST_SCALE = 1e-3
_OTHER_SIZES = ((2, 5, 64), (1, 9, 96))  # batch, sequence, image


@dataclasses.dataclass(frozen=True)
class Proof:
    """The result of comparing oracle and pruned model.

    Attributes:
        gap: largest |difference| over the largest |oracle| value, over all outputs and runs.
        tolerance: what it had to stay below.
        runs: number of input batches compared.
        moved: largest relative change of the outputs by the pruning itself (0 would prove little).
    """

    gap: float
    tolerance: float
    runs: int
    moved: float


def prove(original: Graph, mask: Mask, pruned: Graph, batches: Sequence[Batch] = ()) -> Proof:
    """Compare the pruned model with the oracle of `mask`.

    Args:
        original: the model as read from the file.
        mask: what was removed.
        pruned: the graph after surgery, before repair.
        batches: sample inputs; random inputs at other sizes are always added.

    Raises:
        ProofError: naming the first tensor that differs.
        ModelError: if the pruned model is not valid or does not run.
    """
    check_model(pruned.to_model(), like=original)
    limit = QUANTISED_TOLERANCE if is_quantised(original) else TOLERANCE
    # one model in memory at a time: four of a large one, and their sessions, would not fit
    runs = _outputs(original, [*batches, *other_sizes(original)], tolerant_from=len(batches))
    feeds = [f for f, _ in runs]
    drift = _gaps(runs, _outputs(mask.analysis.graph, feeds))
    if max(drift, default=0.0) > limit:
        raise ProofError(
            f"the normal form differs from the original by {max(drift):.1e}: this is a bug, please report"
        )
    oracle = masked_graph(mask)
    expected, found = _outputs(oracle, feeds), _outputs(pruned, feeds)
    gaps = _gaps(expected, found)
    if max(gaps, default=0.0) > limit:
        noise = max(_gaps(expected, _outputs(oracle, feeds, optimise=True)))
        limit = max(limit, min(NOISE_FACTOR * noise, NOISE_CAP))
    for here, batch in zip(gaps, feeds, strict=True):
        if here > limit:
            where = first_difference(oracle.to_model(), pruned.to_model(), mask, batch, limit)
            raise ProofError(
                f"the pruned model differs from the masked original by {here:.1e} (allowed {limit:.0e}), "
                f"first at tensor '{where}': nothing was written; please report it with the model"
            )
    if not runs:
        raise ProofError(
            "no input was found on which the original runs: give sample inputs with --data"
        )
    return Proof(max(gaps), limit, len(runs), max(_gaps(runs, found)))


_Runs = list[tuple[Batch, dict[str, Array]]]


def _outputs(
    graph: Graph,
    feeds: Sequence[Batch],
    *,
    tolerant_from: int | None = None,
    optimise: bool = False,
) -> _Runs:
    """Run a graph on all feeds; those from `tolerant_from` on are drawn and left out when it refuses."""
    session = Session(graph.to_model, optimise=optimise)
    runs = []
    for number, batch in enumerate(feeds):
        try:
            runs.append((batch, session.run(batch)))
        except ModelError as error:  # too small an image, an index out of range, ...
            if tolerant_from is None or number < tolerant_from:
                raise
            log.info("the original does not run on drawn inputs: %s", error)
    return runs


def _gaps(expected: _Runs, found: _Runs) -> list[float]:
    """Return the largest relative difference of each run."""
    return [_gap(a, b) for (_, a), (_, b) in zip(expected, found, strict=True)]


def _gap(expected: Mapping[str, Array], found: Mapping[str, Array]) -> float:
    """Largest difference relative to the largest value of each output; inf when shapes differ."""
    return max((relative_gap(expected[name], found[name]) for name in expected), default=0.0)


def relative_gap(expected: Array, found: Array) -> float:
    """Return max|found - expected| / max(max|expected|, 1e-3); what is not finite must agree."""
    a, b = np.asarray(expected), np.asarray(found)
    if a.shape != b.shape:
        return float("inf")
    if a.dtype.kind not in "fciub" and a.dtype.name not in {"bfloat16"}:
        return 0.0 if (a == b).all() else float("inf")
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a)
    if (finite != np.isfinite(b)).any():
        return float("inf")
    difference = np.abs(np.where(finite, b - np.where(finite, a, 0), 0)[finite]).max(initial=0.0)
    return float(difference / max(np.abs(a[finite]).max(initial=0.0), LEAST_SCALE))


def is_quantised(graph: Graph) -> bool:
    """Tell whether rounding to integers happens inside the graph."""
    return any(n.op_type.startswith(_ROUNDING) for n in graph.nodes)


def check_model(model: ModelProto, like: Graph | None = None) -> None:
    """Run onnx's full check with strict shape inference; what fails in `like` too is let through.

    Raises:
        ModelError: with onnx's own reason.
    """
    reason = _complaint(model)
    if reason is not None and (like is None or _complaint(like.to_model()) is None):
        raise ModelError(f"the model fails onnx's check: {reason}")


def _complaint(model: ModelProto) -> str | None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        return str(error).strip().splitlines()[0]
    return None


def other_sizes(graph: Graph, seed: int = 0) -> Iterator[dict[str, Array]]:
    """Yield random inputs, at two settings of the symbolic dimensions if there are any."""
    rng = np.random.default_rng(seed)
    shapes = [{v.name: input_shape(v, sizes) or () for v in graph.inputs} for sizes in _OTHER_SIZES]
    for shape in shapes if shapes[0] != shapes[1] else shapes[:1]:
        yield {v.name: random_input(graph, v, shape[v.name], rng) for v in graph.inputs}


def random_input(
    graph: Graph, value: onnx.ValueInfoProto, shape: Sequence[int], rng: np.random.Generator
) -> Array:
    """Draw one input: N(0, 1) for floats, valid indices for integers, fair coins for booleans."""
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if dtype.kind == "b":
        return np.asarray(rng.random(shape) < 0.5)
    if dtype.kind in "iu":
        tables = [
            graph.weights[n.input[0]].shape[0]
            for n in graph.nodes
            if n.op_type == "Gather" and n.input[1] == value.name and n.input[0] in graph.weights
        ]
        return np.asarray(rng.integers(0, min(tables, default=2), shape), dtype)
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


def first_difference(
    oracle: ModelProto, pruned: ModelProto, mask: Mask, feeds: Batch, limit: float
) -> str:
    """Name the first tensor, in the pruned model's order, that differs on its kept positions."""
    shared = {o for n in oracle.graph.node for o in n.output if o}
    names: list[str] = [o for n in pruned.graph.node for o in n.output if o in shared]
    expected, found = (
        _run_all(oracle, names, feeds, mask.analysis),
        _run_all(pruned, names, feeds, mask.analysis),
    )
    for name in names:
        value = expected[name]
        for number in range(np.ndim(value)):
            gone = mask.gone_at(name, number)
            if gone is not None and len(gone) == value.shape[number]:
                value = value.compress(~gone, axis=number)
        if relative_gap(value, found[name]) > limit:
            return str(name)
    return str(names[-1]) if names else "?"


def _run_all(
    model: ModelProto, names: Sequence[str], feeds: Batch, analysis: Analysis
) -> dict[str, Array]:
    wide = ModelProto()
    wide.CopyFrom(model)
    present = {o.name for o in wide.graph.output}
    for name in names:
        if name not in present and name in analysis.shapes.dtypes:
            wide.graph.output.append(
                helper.make_tensor_value_info(name, analysis.shapes.dtypes[name], None)
            )
    return Session(wide, optimise=False).run(
        feeds, [n for n in names if n in {o.name for o in wide.graph.output}]
    )
