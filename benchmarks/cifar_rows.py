"""One row of the CIFAR benchmark: a pruned model, what it costs and what it is worth."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
from onnx import ModelProto

from benchmarks import cifar
from onnxprune.core.analysis import Analysis
from onnxprune.core.contracts import CRITERIA, Evidence, Progress, Samples, silent
from onnxprune.core.cost import CostModel
from onnxprune.core.graph import Graph
from onnxprune.core.runtime import Session
from onnxprune.measure import latency
from onnxprune.models.export import Exporter
from onnxprune.pipeline.collect import collect
from onnxprune.pipeline.damage import Damage
from onnxprune.proof.example import instance_of
from onnxprune.providers import provider_named
from onnxprune.structure.dependency import analyse

CALIBRATION, TEST = 512, 10_000
BATCH = 50  # test images per run: what stays in the caches is twice as fast as 250
BARS = {("56", 1.4): 93.0, ("56", 2.0): 91.0, ("56", 2.5): 88.8, ("20", 2.0): 84.5}  # %
OURS = ("reconstruction", "sequential")  # the default; the bars are for it, at --round-to 1


@dataclasses.dataclass(frozen=True)
class Row:
    """One pruned model.

    Attributes:
        network: depth of the ResNet.
        asked: how many times fewer MACs; 1 for the original.
        round_to: of the selection; 0 where a tool has no such option.
        tool, repair: criterion or peer, and how it was repaired.
        macs, params: shares of the original's that are left; None if there is no model.
        accuracy: on the test images, %.
        speedup: of the latency, and the median latency in milliseconds.
        note: an error, or why the budget was not met.
    """

    network: str
    asked: float
    round_to: int
    tool: str
    repair: str
    macs: float | None = None
    params: float | None = None
    accuracy: float | None = None
    speedup: float | None = None
    milliseconds: float | None = None
    note: str = ""

    @property
    def bar(self) -> float | None:
        """The accuracy that this row must reach, if any."""
        if (self.tool, self.repair) != OURS or self.round_to != 1:
            return None
        return BARS.get((self.network, self.asked))

    @property
    def met(self) -> bool:
        """Whether the bar is met; True without one."""
        return self.bar is None or self.accuracy is None or self.accuracy >= self.bar


@dataclasses.dataclass(frozen=True)
class Net:
    """One published network and what every row needs of it."""

    depth: str
    path: Path
    analysis: Analysis
    cost: CostModel
    evidence: Evidence
    samples: Samples
    test: cifar.Images

    @classmethod
    def open(
        cls, depth: str, exporter: Exporter, folder: Path, test: cifar.Images, progress: Progress
    ) -> Net:
        """Export, analyse and calibrate; the calibration images come without labels."""
        path = cifar.network(int(depth), folder, exporter)
        return cls.read(depth, path, cifar.images("train_1", CALIBRATION), test, progress)

    @classmethod
    def read(
        cls,
        name: str,
        path: Path,
        calibration: cifar.Images,
        test: cifar.Images,
        progress: Progress = silent,
        needs: frozenset[str] | None = None,
    ) -> Net:
        """Analyse and calibrate a network of one input; `needs` None: for all criteria."""
        analysis = analyse(Graph.from_model(onnx.load(path)))
        (value,) = analysis.graph.inputs
        fixed = value.type.tensor_type.shape.dim[0].dim_value or None  # None: symbolic
        samples = dataclasses.replace(calibration.samples(value.name), batch=fixed)
        cost = CostModel(analysis, instance_of(analysis.graph, samples.read(0, 1)))
        needs = needs or frozenset().union(*(c.needs for c in CRITERIA.values()))
        evidence = Evidence(analysis, collect(analysis, samples, needs, progress=progress))
        damage = Damage(evidence, samples, provider_named("cpu"))
        evidence = dataclasses.replace(evidence, damage=damage)
        return cls(name, path, analysis, cost, evidence, samples, test)

    def accuracy(self, model: ModelProto | Path) -> float:
        """Return the share of test images classified right, %."""
        session, right, step = Session(model), 0, self.samples.batch or BATCH
        for start in range(0, len(self.test.x), step):
            part = slice(start, start + step)
            (scores,) = session.run({session.inputs[0]: self.test.x[part]}).values()
            right += int((scores.argmax(axis=1) == self.test.y[part]).sum())
        return 100 * right / len(self.test.x)

    def timed(self, row: Row, model: ModelProto) -> Row:
        """Enter the latency of a model and its speed-up over the original."""
        before, after = (Session(m, threads=1) for m in (self.path, model))
        feeds = self.samples.read(0, 1)
        found = latency.compare(before, after, feeds, seconds=1.5)
        return dataclasses.replace(row, speedup=found.speedup, milliseconds=found.after.median)

    def figures(self, model: ModelProto) -> tuple[float, float]:
        """Return the shares of MACs and parameters that a peer's model keeps."""
        analysis = analyse(Graph.from_model(model))
        cost = CostModel(analysis, instance_of(analysis.graph, self.samples.read(0, 1)))
        now, before = cost.lengths(), self.cost.lengths()
        return (
            cost.macs(now) / self.cost.macs(before),
            cost.params(now) / self.cost.params(before),
        )
