"""Zeros among weights, from a file and samples to a file of the same structure with those zeros.

    load -> analyse -> open data -> calibrate -> choose zeros -> check -> compare -> time both -> write

The tensors stay dense: a zero takes as much room as any number, and time only where a provider makes
something of it, which is why both files are timed. Nothing but the values of the weights that are
listed changes, and that is checked before writing.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from ..core.analysis import Analysis
from ..core.configured import configured, settings_of
from ..core.contracts import Progress, Samples, silent
from ..core.declared import Linear
from ..core.errors import DataError, InternalError, OnnxPruneError
from ..core.graph import Graph
from ..core.linear import weight_matrices, weight_tensor
from ..core.runtime import Session
from ..core.scopes import captured_names
from ..core.sparsity import SPARSIFIERS, Bools, Layer, Pattern, Sparsifier
from ..core.stats import Statistics
from ..discover import discover
from ..files.store import load, save
from ..measure import latency
from ..measure.clock import Clock
from ..measure.evaluate import Evaluation, evaluate
from ..proof.example import example
from ..proof.prove import check_model
from ..providers import provider_named
from ..show.sparse import SparseLayer, SparseReport, density
from ..structure.dependency import analyse
from .collect import collect
from .samples import Data, open_samples
from .study import refuse_output

_HELD_OUT = 512  # samples


@dataclasses.dataclass(frozen=True)
class SparsifyRequest:
    """One sparsification, as asked for.

    Attributes:
        model: the ONNX file.
        output: where the result goes; None: beside the input, as `<name>.sparse.onnx`.
        sparsity: share of every row that becomes zero ("0.5", "50%"), or N:M ("2:4").
        data: sample inputs, as in `prune`.
        preprocess: image preprocessing, as in `prune`.
        labels: key of the data's labels, for accuracy.
        samples: calibrate on at most so many; others are held out.
        method: who chooses the zeros, as "name" or "name:setting=value"; None: "wanda" with data, else
            "magnitude".
        keep: names or patterns of weights that stay dense.
        rows: output positions read per sample and operator, for second moments.
        seed: of everything that is drawn.
        overwrite: allow `output` to be `model`.
        provider: onnxruntime execution provider for calibration and latency.
        progress: called as work goes on.
    """

    model: Path | str
    output: Path | str | None = None
    _: dataclasses.KW_ONLY
    sparsity: str | float = 0.5
    data: Data | None = None
    preprocess: str | Mapping[str, Any] | None = None
    labels: str | None = None
    samples: int = 512
    method: str | None = None
    keep: tuple[str, ...] | str = ()
    rows: int = 32
    seed: int = 0
    overwrite: bool = False
    provider: str = "cpu"
    progress: Progress = dataclasses.field(default=silent, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what makes no sense, before any work.

        Raises:
            OnnxPruneError: for an unknown name, a number out of its range, or samples that are missing.
        """
        discover()
        object.__setattr__(self, "provider", provider_named(self.provider))
        for name, least in (("samples", 1), ("rows", 1), ("seed", 0)):
            if not getattr(self, name) >= least:
                raise OnnxPruneError(f"--{name} {getattr(self, name)}: expected at least {least}")
        name, method = self.chosen
        if method.needs and self.data is None:
            raise OnnxPruneError(
                f"method '{name}' needs sample inputs: give --data, or --method magnitude"
            )
        if self.labels is not None and self.data is None:
            raise DataError(f"--labels '{self.labels}' needs --data")
        _ = self.pattern

    @property
    def pattern(self) -> Pattern:
        """Where zeros go."""
        return Pattern.parse(self.sparsity)

    @property
    def chosen(self) -> tuple[str, Sparsifier]:
        """Name and object of the method."""
        return configured(
            SPARSIFIERS, self.method or ("magnitude" if self.data is None else "wanda")
        )

    @property
    def target(self) -> Path:
        """Where the result goes."""
        source = Path(self.model)
        beside = source.with_name(f"{source.stem}.sparse.onnx")
        return beside if self.output is None else Path(self.output)


def sparsify(request: SparsifyRequest) -> SparseReport:
    """Carry it out.

    Raises:
        OnnxPruneError: whatever the user can mend, in one line; then nothing was written.
    """
    clock, path = Clock(request.progress), Path(request.model)
    with clock("load"):
        source = load(path)
    refuse_output(path, request.target, overwrite=request.overwrite)
    with clock("analyse"):
        analysis = analyse(source)
    with clock("open data"):
        calibration, held_out = _split(request, source)
    name, method = request.chosen
    statistics = None
    if calibration is not None and method.needs:
        with clock("calibrate"):
            statistics = collect(
                analysis, calibration, method.needs, rows=request.rows, provider=request.provider,
                seed=request.seed, progress=request.progress,
            )  # fmt: skip
    with clock("sparsify"):
        result, zeros, layers = _zeroed(request, source, analysis, statistics)
    shares = density(layers)
    with clock("check"):
        check_only(source, result, zeros)
        check_model(result, like=source)
    feeds = example(analysis.graph, calibration)
    before = Session(path, provider=request.provider)
    after = Session(result, provider=request.provider)
    evaluation: Evaluation | None = None
    if held_out is not None:
        with clock("compare"):
            evaluation = evaluate(
                after, held_out, labels=request.labels, reference=before, progress=request.progress
            )
    with clock("latency"):
        times = latency.compare(before, after, feeds, progress=request.progress)
    with clock("write"):
        files = save(result, request.target, overwrite=request.overwrite, original=path)
    return SparseReport(
        model=path, output=files[-1], sparsity=str(request.pattern), method=name,
        settings=dict(settings_of(method)), layers=layers,
        before=shares[0], after=shares[1],
        calibration=calibration.count if calibration else 0,
        held_out=held_out.count if held_out else 0, evaluation=evaluation, latency=times,
        seconds=clock.seconds, notes=calibration.notes if calibration else (),
    )  # fmt: skip


def _split(request: SparsifyRequest, graph: Graph) -> tuple[Samples | None, Samples | None]:
    """Open the samples: calibration first, then what is held out."""
    if request.data is None:
        return None, None
    samples = open_samples(
        request.data, graph, limit=request.samples + _HELD_OUT, seed=request.seed,
        preprocess=request.preprocess,
    )  # fmt: skip
    if request.labels is not None and request.labels not in samples.extra:
        keys = ", ".join(f"'{key}'" for key in samples.extra) or "inputs of the model only"
        raise DataError(f"--labels '{request.labels}': the data has no such key; it has {keys}")
    step = samples.batch or 1
    held_out = min(_HELD_OUT, samples.count // 4) // step * step
    count = min(max(request.samples // step, 1) * step, samples.count - held_out)
    return samples.part(0, count), samples.part(count, count + held_out) if held_out else None


def _zeroed(
    request: SparsifyRequest,
    source: Graph,
    analysis: Analysis,
    statistics: Statistics | None,
) -> tuple[Graph, dict[str, Bools], tuple[SparseLayer, ...]]:
    """Return the file's graph with zeros, which they are of each weight, and all layers."""
    graph, pattern, method = source.copy(), request.pattern, request.chosen[1]
    refused, zeros = _refused(request, source, analysis), dict[str, Bools]()
    layers = []
    linears = {_name(analysis, linear): linear for linear in analysis.linears()}
    for number, (name, linear) in enumerate(linears.items()):
        request.progress("sparsify", number, len(linears))
        weight = analysis.graph.weights[linear.weight]
        layer, reason = None, refused.get(name)
        if reason is None:
            layer, reason = _seen(linear, analysis, method.needs, statistics)
        if layer is not None:
            matrices, chosen = method.apply(layer, pattern)
            if chosen.any():
                array = weight_tensor(matrices, linear, weight.array.dtype)
                graph.weights[name] = weight.replace(array)
                zeros[name] = weight_tensor(chosen, linear, np.dtype(np.bool_))
            else:
                reason = f"its rows have no place for {pattern}"
        before, after = (
            float((w.array != 0).mean()) for w in (weight, graph.weights.get(name, weight))
        )
        layers.append(SparseLayer(name, weight.shape, before, after, reason))
    if not zeros:
        reasons = "; ".join(f"'{layer.name}': {layer.reason}" for layer in layers[:3])
        raise OnnxPruneError(
            f"no weight can be made sparse: {reasons or 'there is no Conv, Gemm or MatMul'}"
        )
    return graph, zeros, tuple(layers)


def _name(analysis: Analysis, linear: Linear) -> str:
    """Return the name of an operator's weight in the file."""
    return analysis.graph.origin.get(linear.weight, linear.weight)


def _refused(request: SparsifyRequest, source: Graph, analysis: Analysis) -> dict[str, str]:
    """Say by weight of a linear operator why it stays dense; others are not in the result."""
    normal, found = analysis.graph, dict[str, str]()
    reads = Counter(
        normal.origin.get(name, name)
        for node in normal.nodes
        for name in (*node.input, *captured_names(node))
    )
    given = Counter(name for node in source.nodes for name in (*node.input, *captured_names(node)))
    names = {_name(analysis, linear): linear.weight for linear in analysis.linears()}
    for name, weight in names.items():
        if source.weights.get(name) is not normal.weights[weight]:
            found[name] = "it is no initializer of the file, but computed from some"
        elif max(reads[name], given[name]) > 1:
            found[name] = "several operators read it: what one can spare, another may need"
        elif name in source.bound:
            found[name] = "it is an output of the model, or trained by it"
        elif normal.weights[weight].array.dtype.kind not in "fV":  # V: bfloat16
            found[name] = "it holds integers"
    return found | dict.fromkeys(_kept(request, names), "kept")


def _kept(request: SparsifyRequest, names: Iterable[str]) -> set[str]:
    """Return the weights that the user wants dense.

    Raises:
        OnnxPruneError: if a pattern matches none.
    """
    patterns = (request.keep,) if isinstance(request.keep, str) else request.keep
    found: set[str] = set()
    for pattern in patterns:
        matches = {name for name in names if name == pattern or fnmatchcase(name, pattern)}
        if not matches:
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)
            hint = f"; the nearest name is '{near[0]}'" if near else ""
            raise OnnxPruneError(f"--keep '{pattern}' matches no weight of a linear operator{hint}")
        found |= matches
    return found


def _seen(
    linear: Linear, analysis: Analysis, needs: frozenset[str], statistics: Statistics | None
) -> tuple[Layer | None, str | None]:
    """Return an operator with what a method needs of it, or why that is not known."""
    array = np.asarray(analysis.graph.weights[linear.weight].array, np.float64)
    matrices, taps = weight_matrices(array, linear), int(np.prod(linear.kernel, dtype=np.int64))
    if not np.isfinite(matrices).all():
        return None, "it holds values that are not finite"
    norm = second = None
    if statistics is not None and "moments" in needs:
        moments = statistics.moments.get((linear.x, linear.x_axis))
        if moments is None:
            return None, f"calibration could not see '{linear.x}'"
        norm = np.repeat(np.sqrt(moments.square).reshape(linear.groups, -1), taps, axis=1)
    if statistics is not None and "second" in needs:
        second = statistics.second.get(linear.node)
        if second is None:
            return None, statistics.skipped.get(linear.node, "calibration could not see its input")
    return Layer(matrices, taps, norm, second), None


def check_only(source: Graph, result: Graph, zeros: Mapping[str, Bools]) -> None:
    """Refuse a result that differs from its source in more than zeros and the weights around them.

    Raises:
        InternalError: naming what does.
    """
    if [n.SerializeToString(deterministic=True) for n in source.nodes] != [
        n.SerializeToString(deterministic=True) for n in result.nodes
    ]:
        raise InternalError("the operators are not those of the original")
    if source.weights.keys() != result.weights.keys():
        raise InternalError("the weights are not those of the original")
    for name, before in source.weights.items():
        after = result.weights[name]
        if name not in zeros:
            if after is not before and not np.array_equal(before.array, after.array):
                raise InternalError(f"'{name}' was to stay as it is")
        elif after.array.shape != before.array.shape or after.array.dtype != before.array.dtype:
            raise InternalError(f"'{name}' has another shape or type")
        elif np.any(after.array[zeros[name]] != 0) or not np.isfinite(after.array).all():
            raise InternalError(f"'{name}' does not have the zeros that were chosen")
