"""One row of the coverage table: a network, exported one way, pruned, proved, beside two peers.

A source of networks (`coverage_vision.py`, `coverage_text.py`, ...) yields `Subject`s; `rows`
measures them. Every step runs in a process of its own, forked, with limits of time and memory, so
that nothing that an exporter or a peer does ends the run.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import resource
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks import peers
from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import SURGERIES, silent
from onnxprune.core.cost import is_parameter
from onnxprune.core.errors import OnnxPruneError
from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session
from onnxprune.files.store import save
from onnxprune.measure.clock import Clock
from onnxprune.pipeline.decide import decide
from onnxprune.pipeline.request import PruneRequest
from onnxprune.pipeline.study import study
from onnxprune.proof.example import example
from onnxprune.proof.prove import Proof, prove
from onnxprune.selection.budget import Options
from onnxprune.selection.select import least

Row = dict[str, Any]
Batch = dict[str, np.ndarray[Any, Any]]

MEMORY = 12 << 30  # bytes of address space; a fork of a process with PyTorch begins at about 3 GB
_TOP = 3  # reasons listed


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network to be measured.

    Attributes:
        name: unique, starts with the source: "timm/convnext_atto".
        family: what counts as one family in the summary.
        exports: labels of the files that are made of it: "torchscript 13", "dynamo 20".
        write: writes the file of one label; what has been written is kept and used again.
        feeds: samples for the proof and for the result, given the graph of the file.
        module: builds the network in evaluation mode and example inputs (a tuple), for
            Torch-Pruning; None where there is none.
    """

    name: str
    family: str
    exports: tuple[str, ...]
    write: Callable[[str, Path], None]
    feeds: Callable[[Graph], list[Batch]]
    module: Callable[[], tuple[Any, tuple[Any, ...]]] | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """How everything is measured: the ratio, seconds allowed a step, where files are kept."""

    ratio: float
    seconds: float
    folder: Path
    with_peers: bool = True


def rows(subject: Subject, labels: list[str], settings: Settings, done: list[Row]) -> Iterator[Row]:
    """Measure chosen exports of a subject; what Torch-Pruning makes of it is known once it is done."""
    known = (row.get("torch-pruning") for row in done if row["name"] == subject.name)
    peer: Row | None = next(filter(None, known), None)
    for label in labels:
        row: Row = {"name": subject.name, "family": subject.family, "export": label}
        path = settings.folder / f"{subject.name} {label}.onnx".replace("/", "-").replace(" ", ".")
        start = time.perf_counter()
        if not path.exists():
            row |= contained(lambda p=path, k=label: _write(subject, k, p), settings.seconds)
        if not path.exists():
            yield row | {"status": "not exported", "seconds": time.perf_counter() - start}
            continue
        row |= contained(lambda p=path: ours(subject, p, settings.ratio), settings.seconds)
        late = row.get("error", "").startswith("not finished")
        row.setdefault("status", "not finished" if late else "broken")
        if settings.with_peers:
            row["onnxsim"] = contained(
                lambda p=path: onnxsim(subject, p, settings.ratio), settings.seconds
            )
            if peer is None and subject.module is not None:
                peer = contained(lambda: torch_pruning(subject, settings.ratio), settings.seconds)
            row["torch-pruning"] = peer
        yield row | {"seconds": time.perf_counter() - start}


def contained(work: Callable[[], Row], seconds: float, memory: int = MEMORY) -> Row:
    """Return what `work` returns in a forked process, or {"error": one line}."""
    context = multiprocessing.get_context("fork")
    ours_, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, work, memory))
    process.start()
    theirs.close()
    try:
        if not ours_.poll(seconds):
            return {"error": f"not finished after {seconds:.0f} s"}
        answer: Row = ours_.recv()
    except EOFError:
        process.join()
        return {"error": f"died with code {process.exitcode}"}
    finally:
        process.kill()
        process.join()
    return answer


def _answer(pipe: Connection, work: Callable[[], Row], memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        pipe.send(work())
    except BaseException as problem:  # noqa: BLE001 - whatever went wrong is the result
        where = traceback.extract_tb(problem.__traceback__)[-1]
        text = " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
        pipe.send({"error": f"{text} ({Path(where.filename).name}:{where.lineno})"})


def _write(subject: Subject, label: str, path: Path) -> Row:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.draft")
    start = time.perf_counter()
    subject.write(label, draft)
    draft.rename(path)
    return {"export seconds": time.perf_counter() - start}


def ours(subject: Subject, path: Path, ratio: float) -> Row:
    """Prune as `onnxprune prune --ratio R --criterion l1 --repair none --round-to 1`, and by lot.

    The status is "proved", "refused" (in one line, nothing written) or "broken": an output that does
    not load, run or pass its proof, or an error that is no answer.
    """
    clock = Clock(silent)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "pruned.onnx")
        request = PruneRequest(
            path, target, ratio=ratio, criterion="l1", repair="none", round_to=1
        )  # peers do not round widths either
        try:
            subject_ = study(request, clock)
        except OnnxPruneError as error:
            return {"status": "refused", "error": str(error)}
        analysis, cost = subject_.analysis, subject_.cost
        full = cost.lengths()
        floor = least(cost, Options(round_to=1, floor=0.0))
        row: Row = {
            "nodes": len(analysis.graph.nodes),
            "groups": len(analysis.groups),
            "units": sum(map(len, analysis.groups)),
            "params": cost.params(full),
            "removable": 1 - floor.params / cost.params(full),
            "frozen": frozen_reasons(analysis),
            "opaque": Counter(r.opaque for r in analysis.records if r.opaque).most_common(_TOP),
            "analysis seconds": clock.seconds["analyse"],
        }
        decision = decide(request, subject_, clock)
        left = cost.lengths(decision.mask.removed)
        row["kept"] = cost.params(left) / cost.params(full)
        row["macs"] = cost.macs(left) / max(cost.macs(full), 1.0)
        feeds = subject.feeds(subject_.graph)
        with clock("cut"):
            pruned = SURGERIES["channels"](decision.mask)
        try:
            with clock("prove"):
                proofs = [prove(subject_.graph, decision.mask, pruned, feeds)]
            proofs.append(_third(subject_.graph, analysis, feeds))
            save(pruned, target, original=path)
            loaded = Session(target)  # optimised, as it will be used
            finite = all(
                np.isfinite(value).all()
                for batch in feeds or [subject_.feeds]
                for value in loaded.run(batch).values()
                if np.asarray(value).dtype.kind == "f"
            )
        except OnnxPruneError as error:
            return row | {"status": "broken", "error": str(error)}
    return row | {
        "status": "proved" if finite else "broken",
        "gap": max(p.gap for p in proofs),
        "tolerance": max(p.tolerance for p in proofs),
        "moved": min(p.moved for p in proofs),
        "cut seconds": clock.seconds["cut"],
        "prove seconds": clock.seconds["prove"],
    }


def _third(graph: Graph, analysis: Analysis, feeds: list[Batch]) -> Proof:
    """Remove a random third of every group, and prove it."""
    rng = np.random.default_rng(0)
    chosen = [rng.choice(g.units, len(g) // 3, replace=False) for g in analysis.groups]
    mask = analysis.mask(np.concatenate(chosen))
    return prove(graph, mask, SURGERIES["channels"](mask), feeds)


def frozen_reasons(analysis: Analysis) -> list[tuple[str, float]]:
    """Return why linear operators keep outputs or inputs, with the share of parameters it holds."""
    graph, space, solution = analysis.graph, analysis.space, analysis.solution
    sizes = {n: float(np.prod(w.shape)) for n, w in graph.weights.items() if is_parameter(graph, n)}
    why = {(f.tensor, f.axis): f.reason for f in analysis.frozen}
    for linear in analysis.linears():
        axis = space.find(linear.weight, linear.weight_in)
        if axis is not None and space.sizes[axis] > 1 and solution.positions(axis) is None:
            reasons = [r for a, r in space.protected.items() if space.root(a) == space.root(axis)]
            why.setdefault((linear.weight, linear.weight_in), min(reasons))
    held: Counter[str] = Counter()
    for (tensor, _), reason in why.items():
        held[reason] += int(sizes.get(tensor, 0))
    total = sum(sizes.values())
    return [(reason, size / total) for reason, size in held.most_common(_TOP)]


def onnxsim(subject: Subject, path: Path, ratio: float) -> Row:
    """Let onnxsim simplify and prune the same file; what counts is whether the result runs."""
    before = _parameters(path.read_bytes())
    start = time.perf_counter()
    model = peers.onnxsim_structured(path, ratio)
    seconds = time.perf_counter() - start
    graph = Graph.from_model(onnx.load(path))
    batch = [*subject.feeds(graph), example(graph)][0]
    broken = peers.runs(model, batch)
    return {"kept": _parameters(model) / before, "error": broken, "seconds": seconds}


def _parameters(model: bytes) -> int:
    """Count floating-point elements of initializers and Constant nodes, scalars left out."""
    graph = onnx.load_from_string(model).graph
    tensors = [*graph.initializer]
    tensors += [
        a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    ]
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
    return sum(int(np.prod(t.dims)) for t in tensors if t.data_type in floats and t.dims)


def torch_pruning(subject: Subject, ratio: float) -> Row:
    """Let Torch-Pruning prune the module by L1 group magnitude; the last layer keeps its outputs."""
    import torch
    import torch_pruning as tp
    from torch import nn

    assert subject.module is not None
    network, example = subject.module()
    before = sum(p.numel() for p in network.parameters())
    with torch.no_grad():
        expected = network(*example)
    last = [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    start = time.perf_counter()
    pruner = tp.pruner.MagnitudePruner(
        network,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=ratio,
        ignored_layers=[last],
    )
    pruner.step()
    seconds = time.perf_counter() - start
    kept = sum(p.numel() for p in network.parameters()) / before
    with torch.no_grad():
        try:
            found = network(*example)
        except Exception as problem:  # noqa: BLE001 - any failure of the forward pass
            return {"kept": kept, "error": " ".join(f"{type(problem).__name__}: {problem}".split())}
    same = all(a.shape == b.shape for a, b in zip(_tensors(expected), _tensors(found), strict=True))
    return {
        "kept": kept,
        "error": "" if same else "the shapes of its outputs changed",
        "seconds": seconds,
    }


def _tensors(value: Any) -> list[Any]:
    """Flatten whatever a network returns to its tensors."""
    if hasattr(value, "shape"):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in _tensors(v)] if isinstance(value, (list, tuple)) else []
