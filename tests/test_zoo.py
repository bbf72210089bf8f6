"""Every architecture of the zoo: what can be removed, and two removals that are proved.

Heavy architectures come in two of their four exports here (optimised without BatchNormalization,
and TorchScript with it); ONNXPRUNE_ZOO_ALL=1 takes all 54, as `benchmarks/zoo.py` does. Exports
take most of the time and are kept (see `zoo_dir`), so that a second run is fast.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from onnxprune.core.analysis import Analysis, Mask
from onnxprune.core.contracts import CRITERIA, SURGERIES, Evidence
from onnxprune.core.cost import CostModel
from onnxprune.core.graph import Graph
from onnxprune.core.rules import OP_RULES
from onnxprune.core.shapes import Instance, instantiate
from onnxprune.models.export import Exporter
from onnxprune.proof.prove import Proof, prove
from onnxprune.selection.budget import Budget, Options
from onnxprune.selection.select import select
from onnxprune.structure.dependency import analyse
from tests import zoo

# Groups and units of an architecture, the same in all of its exports, and its classifier's width
# (which stays). Counted by hand where that can be done: a LeNet-5 has the channels 6 + 16, which the
# classifier's flat input only repeats, and the widths 120 + 84; a ResNet-50 has 16 blocks with two
# inner widths each, four stages and a stem, 16 * 2 + 5 = 37 groups.
FOUND = {
    "mlp": (2, 128 + 64, 10),
    "lenet5": (4, 6 + 16 + 120 + 84, 10),
    "vgg16bn_cifar": (14, 4736, 10),
    "resnet20": (12, 3 * (16 + 32 + 64) + 16 + 16 + 32, 10),
    "unet": (12, 368, 2),
    "resnet18": (12, 2880, 1000),
    "resnet50": (37, 11_456, 1000),
    "mobilenet_v2": (25, 9128, 1000),
    "mobilenet_v3_small": (27, 4872, 1000),
    "efficientnet_b0": (40, 11_404, 1000),
    "densenet121": (120, 10_240, 1000),
    "inception_v3": (94, 17_216, 1000),
    "regnet_y_400mf": (69, 2579, 1000),
    "shufflenet_v2_x1_0": (90, 5630, 1000),
    "convnext_tiny": (22, 27_936, 1000),
}
HEAVY = {"vgg16bn_cifar", "resnet18", "resnet50", "inception_v3", "convnext_tiny"}
OTHER_VARIANTS = {("dynamo", True), ("torchscript", False)}
CASES = [
    case
    for case in zoo.CASES
    if os.environ.get("ONNXPRUNE_ZOO_ALL")
    or case[0] not in HEAVY
    or case[1:] not in OTHER_VARIANTS
    or not zoo.ARCHITECTURES[case[0]].batchnorm
]


@dataclass(frozen=True)
class Subject:
    """One export, analysed."""

    name: str
    graph: Graph
    analysis: Analysis

    def prove(self, mask: Mask) -> Proof:
        pruned = SURGERIES["channels"](mask)
        samples = {self.graph.inputs[0].name: zoo.samples(self.name)}
        return prove(self.graph, mask, pruned, [samples])


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def subject(request: pytest.FixtureRequest, zoo_dir: Path) -> Subject:
    name, exporter, keep_batchnorm = request.param
    path = zoo.exported(name, exporter, keep_batchnorm, zoo_dir)
    graph = Graph.from_model(onnx.load(path))
    return Subject(name, graph, analyse(graph))


def untouched(mask: Mask) -> float:
    """Number of float weights that keep all of their positions."""
    count = 0.0
    for name, weight in mask.analysis.graph.weights.items():
        if weight.proto.data_type == onnx.TensorProto.FLOAT and weight.shape:
            gone = [mask.gone_at(name, axis) for axis in range(len(weight.shape))]
            count += np.prod(
                [n if g is None else n - g.sum() for n, g in zip(weight.shape, gone, strict=True)]
            )
    return float(count)


def test_all_but_the_classifier_is_in_units(subject: Subject) -> None:
    analysis = subject.analysis
    groups, units, classes = FOUND[subject.name]

    assert [record.opaque for record in analysis.records if record.opaque] == []
    assert (len(analysis.groups), sum(map(len, analysis.groups))) == (groups, units)
    assert {f.reason.split(" '")[0] for f in analysis.frozen} <= {"graph output"}
    everything = analysis.mask(np.concatenate([group.units for group in analysis.groups]))
    scalars = 2 * len(analysis.graph.nodes)  # epsilons, bounds of clips and the like
    assert untouched(everything) <= classes + scalars


def test_a_random_third_of_every_group(subject: Subject, rng: np.random.Generator) -> None:
    analysis = subject.analysis
    thirds = [rng.choice(group.units, len(group) // 3, replace=False) for group in analysis.groups]

    proof = subject.prove(analysis.mask(np.concatenate(thirds)))  # raises unless it holds

    assert proof.runs >= 3  # the samples, and drawn inputs at other batch sizes
    assert proof.moved > 0.05


def test_half_of_the_units_by_their_weights(subject: Subject) -> None:
    analysis = subject.analysis
    cost = CostModel(analysis, _instance(analysis.graph))
    evidence = Evidence(analysis, None, seed=0)
    scores = [ranking.scores for ranking in CRITERIA["l2"].rank(evidence)]

    chosen = select(cost, scores, Budget.parse("ratio", 0.5), Options())
    proof = subject.prove(analysis.mask(chosen.units))

    share = chosen.after.params / chosen.before.params
    assert 0.15 < share < 0.42  # a quarter where inputs and outputs of every weight are halved
    assert proof.moved > 0.05


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_exports_are_kept_and_runnable(exporter: Exporter, zoo_dir: Path) -> None:
    path = zoo.exported("unet", exporter, True, zoo_dir)
    written = path.stat().st_mtime_ns

    assert zoo.exported("unet", exporter, True, zoo_dir).stat().st_mtime_ns == written
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"images": zoo.samples("unet")})
    assert np.asarray(result).std(0).mean() > 0.01


def test_torchvision_builds() -> None:
    network, batch = zoo.build("mobilenet_v3_small")

    assert network(batch).shape == (2, 1000)


def test_perturbation_leaves_nothing_neutral(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 20]>
        agraph (float[N, 2, H, W] x) => (float[N, 2, K, L] y)
        <float[2] scale = {1, 1}, float[2] bias = {0, 0}, float[2] mean = {0, 0},
         float[2] variance = {0, 1}, float[4] scales = {1, 1, 2, 2}, float exponent = {2}>
        {
            normal = BatchNormalization (x, scale, bias, mean, variance)
            wide = Resize <mode = "nearest"> (normal, , scales)
            y = Pow (wide, exponent)
        }
        """
    )
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(model, source)

    zoo.perturb(source, target)

    moved = {t.name: numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer}
    for name in ("scale", "bias", "mean", "variance"):
        assert len({*moved[name].tolist(), 0.0, 1.0}) == 4, name
    assert moved["variance"].min() > 0
    assert moved["scales"].tolist() == [1, 1, 2, 2]
    assert moved["exponent"] == 2


def _instance(graph: Graph) -> Instance:
    instance = instantiate(graph, OP_RULES.shape_functions)
    assert instance is not None
    return instance
