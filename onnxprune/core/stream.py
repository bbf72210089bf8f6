"""One pass of a model over samples, with inner tensors read on the way.

The model runs at full graph optimisation: what is read only keeps its tensor alive. Tensors that
convolutions read come after their activation, so the fusions before them stay; what is reduced by
nodes appended to the graph leaves as a few numbers per channel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from onnx import ModelProto, NodeProto, ValueInfoProto

from .graph import Array, Graph
from .patches import Keys, sample_keys
from .runtime import Session
from .samples import Progress, Samples

LABEL = "label::"


@dataclasses.dataclass(frozen=True)
class Probes:
    """What to read from a run.

    Attributes:
        outputs: tensors of the graph, its inputs included, or of `nodes`.
        nodes: appended to the graph, in order; new names; an equal name in another probe means the same node.
    """

    outputs: tuple[str, ...]
    nodes: tuple[NodeProto, ...] = ()


@dataclasses.dataclass(frozen=True)
class Step:
    """One run: its inputs, the probed tensors by name, the keys of its samples.

    What the data has beside model inputs (labels) is in `values` under `label_key` of its name.
    """

    feeds: Mapping[str, Array]
    values: Mapping[str, Array]
    keys: Keys


def label_key(name: str) -> str:
    """Return the name under which a run gives labels; no tensor has it."""
    return f"{LABEL}{name}"


def with_probes(graph: Graph, probes: Iterable[Probes]) -> ModelProto:
    """Return a model of `graph` that also gives what the probes read."""
    model = dataclasses.replace(graph, calls=()).to_model()  # calls would hide what is read
    given = {v.name for v in [*model.graph.output, *model.graph.input]}
    made: set[str] = set()
    for probe in probes:
        for node in probe.nodes:  # two probes may reduce the same tensor alike
            if node.output[0] not in made:
                made.add(node.output[0])
                model.graph.node.append(node)
        for name in probe.outputs:
            if name not in given:
                given.add(name)
                model.graph.output.append(ValueInfoProto(name=name))  # the type is inferred
    return model


def stream(
    graph: Graph,
    probes: Iterable[Probes],
    samples: Samples,
    *,
    batch: int,
    provider: str = "CPUExecutionProvider",
    seed: int = 0,
    progress: Progress | None = None,
    what: str = "samples",
) -> Iterator[Step]:
    """Run `graph` over all samples, in batches of `batch` (or of what the model takes).

    Args:
        graph: the model; not changed.
        probes: what to read.
        samples: of the graph's inputs.
        batch: samples per run.
        provider: onnxruntime execution provider.
        seed: of the sample keys.
        progress: called after each run, once its step was used.
        what: noun for `progress`.

    Raises:
        ModelError: if onnxruntime refuses the model or the samples.
    """
    wanted = list(probes)
    session = Session(lambda: with_probes(graph, wanted), provider=provider, plan_memory=False)
    names = list(dict.fromkeys(name for probe in wanted for name in probe.outputs))
    inner = [name for name in names if name not in session.inputs]
    done, step = 0, samples.batch or batch
    for read in samples.batches(step):
        feeds = {name: read[name] for name in session.inputs if name in read}
        count = min(step, samples.count - done)
        values = session.run(feeds, inner) if inner else {}
        values.update((name, feeds[name]) for name in names if name in feeds)
        values.update((label_key(name), read[name]) for name in samples.extra)
        yield Step(feeds, values, sample_keys(feeds, count, seed))
        done += count
        if progress is not None:
            progress(what, done, samples.count)
