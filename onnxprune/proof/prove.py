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
from onnx import ModelProto, TensorProto, helper

from ..core.analysis import Analysis, Mask
from ..core.contracts import Batch
from ..core.errors import ModelError, ProofError, first_line
from ..core.external import CHECKED_WHOLE, hollow, weight_bytes
from ..core.graph import Array, Graph
from ..core.input_shapes import input_shapes
from ..core.interface import Interface, interface_of
from ..core.runtime import Session
from ..core.scopes import Scope
from ..core.shapes import Shapes
from .branches import changed_bodies, describe, running
from .oracle import masked_graph

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # relative to the largest output: float32 rounding through deep graphs
# Half floats are rounded to 5e-4 at every operator, wherever onnxruntime sums in another order.
HALF_TOLERANCE = 1e-2
_HALVES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
# Where values are rounded to integers inside the graph, another order of float sums moves some by a
# step. Integers are summed exactly: graphs of integer operators alone agree to the last bit.
QUANTISED_TOLERANCE = 2e-2
_ROUNDING = ("QuantizeLinear", "DynamicQuantize", "QLinear", "QGemm")
# an ill-conditioned model: the oracle itself moves when onnxruntime merely reorders its sums
NOISE_FACTOR, NOISE_CAP = 4.0, 1e-2
# outputs all below this are a sigmoid far out or the like, which amplifies rounding without bound
LEAST_SCALE = 1e-3
_MOST_MOVED = 1e9  # also where outputs are not finite on one side only
_OTHER_SIZES = ((2, 5, 64), (1, 9, 96))  # batch, sequence, image
_LONG = ((2, 1021, 64), (1, 1531, 96))


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


def worst(steps: Sequence[Proof]) -> Proof:
    """Return the proof that came nearest to its tolerance, of those of steps one after the other."""
    return max(steps, key=lambda step: step.gap / step.tolerance)


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
    check_model(pruned, like=original)
    limit = _tolerance(original, mask.analysis.shapes)
    interface = interface_of(mask)
    drawn = [interface.admissible(batch) for batch in (*batches, *other_sizes(original))]
    # one model in memory at a time: four of a large one, and their sessions, would not fit
    runs = _outputs(original, drawn, tolerant_from=len(batches))
    if not runs:  # sound is too short to go through a network after five values
        longer = [interface.admissible(batch) for batch in other_sizes(original, _LONG)]
        runs = _outputs(original, longer, tolerant_from=0)
    feeds = [f for f, _ in runs]
    drift = _gaps(runs, _outputs(mask.analysis.graph, feeds))
    if max(drift, default=0.0) > limit:
        raise ProofError(
            f"the normal form differs from the original by {max(drift):.1e}: this is a bug, please report"
        )
    oracle = masked_graph(mask)
    fed = [interface.feeds(batch) for batch in feeds]  # callers count anew what was unlocked
    expected = [(f, interface.outputs(y)) for f, y in _outputs(oracle, feeds)]
    found = _outputs(pruned, fed)
    gaps = _gaps(expected, found)
    if max(gaps, default=0.0) > limit:
        again = _outputs(oracle, feeds, optimise=True)
        noise = max(_gaps(expected, [(f, interface.outputs(y)) for f, y in again]))
        limit = max(limit, min(NOISE_FACTOR * noise, NOISE_CAP))
    for here, batch in zip(gaps, feeds, strict=True):
        if here > limit:
            where = first_difference(oracle, pruned, mask, batch, limit)
            raise ProofError(
                f"the pruned model differs from the masked original by {here:.1e} (allowed {limit:.0e}), "
                f"first at tensor '{where}': nothing was written; please report it with the model"
            )
    if not runs:
        raise ProofError(
            "no input was found on which the original runs: give sample inputs with --data"
        )
    for scope in changed_bodies(mask):
        gaps.append(_body_gap(scope, oracle, pruned, feeds, interface))
        if gaps[-1] > limit:
            raise ProofError(
                f"the pruned model differs from the masked original by {gaps[-1]:.1e} "
                f"(allowed {limit:.0e}) in {describe(scope)}: nothing was written; "
                "please report it with the model"
            )
    seen = [(f, interface.outputs(y)) for f, y in runs]
    return Proof(max(gaps), limit, len(runs), min(max(_gaps(seen, found)), _MOST_MOVED))


def _body_gap(
    scope: Scope, oracle: Graph, pruned: Graph, feeds: Sequence[Batch], interface: Interface
) -> float:
    """Compare both models made to run one body; what the inputs choose may be another."""
    runs = _outputs(running(oracle, scope), feeds, tolerant_from=0)
    if not runs:
        raise ProofError(
            f"no input was found on which {describe(scope)} runs: give samples that need it with --data"
        )
    expected = [(f, interface.outputs(y)) for f, y in runs]
    found = _outputs(running(pruned, scope), [interface.feeds(batch) for batch, _ in runs])
    return max(_gaps(expected, found))


def _tolerance(graph: Graph, shapes: Shapes) -> float:
    """Return the largest relative difference that rounding explains."""
    halves = HALF_TOLERANCE if _HALVES.intersection(shapes.dtypes.values()) else TOLERANCE
    return max(halves, QUANTISED_TOLERANCE if is_quantised(graph) else TOLERANCE)


_Runs = list[tuple[Batch, dict[str, Array]]]


def _outputs(
    graph: Graph,
    feeds: Sequence[Batch],
    *,
    tolerant_from: int | None = None,
    optimise: bool = False,
) -> _Runs:
    """Run a graph on all feeds; those from `tolerant_from` on are drawn and left out when it refuses."""
    session = Session(graph, optimise=optimise)
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


def relative_gap(expected: object, found: object) -> float:
    """Return max|found - expected| / max(max|expected|, 1e-3); what is not finite must agree.

    Of sequences and maps the largest of their entries.
    """
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        if expected.keys() != found.keys():
            return float("inf")
        return relative_gap([*expected.values()], [found[key] for key in expected])
    if isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            return float("inf")
        return max(map(relative_gap, expected, found), default=0.0)
    if expected is None or found is None:
        return 0.0 if expected is found else float("inf")
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


def check_model(model: ModelProto | Graph, like: Graph | None = None) -> None:
    """Run onnx's full check with strict shape inference; what fails in `like` too is let through.

    Of large models, the weights are checked by type and shape only.

    Raises:
        ModelError: with onnx's own reason.
    """
    reason = _complaint(model)
    if reason is not None and (like is None or _complaint(like) is None):
        raise ModelError(f"the model fails onnx's check: {reason}")


def _complaint(model: ModelProto | Graph) -> str | None:
    if isinstance(model, Graph):
        model = hollow(model) if weight_bytes(model) > CHECKED_WHOLE else model.to_model()
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        return first_line(error)
    return None


def other_sizes(
    graph: Graph, sizes: Sequence[tuple[int, int, int]] = _OTHER_SIZES, seed: int = 0
) -> Iterator[dict[str, Array]]:
    """Yield random inputs, at two settings of the symbolic dimensions if there are any."""
    rng = np.random.default_rng(seed)
    shapes = [input_shapes(graph.inputs, each) for each in sizes]
    for shape in shapes if shapes[0] != shapes[1] else shapes[:1]:
        yield {v.name: random_input(graph, v, shape[v.name] or (), rng) for v in graph.inputs}


def random_input(
    graph: Graph, value: onnx.ValueInfoProto, shape: Sequence[int], rng: np.random.Generator
) -> Array:
    """Draw one input: N(0, 1) for floats, valid indices for integers, fair coins for booleans.

    Raises:
        ModelError: if it is no tensor.
    """
    if not value.type.HasField("tensor_type"):
        raise ModelError(
            f"input '{value.name}' is no tensor but a sequence, map or optional value: inputs cannot "
            "be drawn, so nothing can be proved; give --no-verify to prune all the same"
        )
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


def first_difference(oracle: Graph, pruned: Graph, mask: Mask, feeds: Batch, limit: float) -> str:
    """Name the first tensor, in the pruned model's order, that differs on its kept positions."""
    shared = {o for n in oracle.nodes for o in n.output if o}
    names: list[str] = [o for n in pruned.nodes for o in n.output if o in shared]
    expected, found = (
        _run_all(oracle, names, feeds, mask.analysis),
        _run_all(pruned, names, interface_of(mask).feeds(feeds), mask.analysis),
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
    graph: Graph, names: Sequence[str], feeds: Batch, analysis: Analysis
) -> dict[str, Array]:
    wide, shown = graph.copy(), {value.name for value in graph.outputs}
    for name in names:
        if name not in shown and name in analysis.shapes.dtypes:
            shown.add(name)
            wide.shell.graph.output.append(
                helper.make_tensor_value_info(name, analysis.shapes.dtypes[name], None)
            )
    return Session(wide, optimise=False).run(feeds, [n for n in names if n in shown])
