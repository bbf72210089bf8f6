"""What interleaved times say: intervals that cover as often as they say, causes found where planted."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser

from onnxprune.core.graph import Graph
from onnxprune.timing.judge import judged
from onnxprune.timing.result import NodeTime
from onnxprune.timing.why import Profiled, by_kind, findings

LIVES, ROUNDS = 8, 40


def lives(rng: np.random.Generator, truth: float, luck: float) -> list[np.ndarray]:
    """Times of two models; noise in rounds hits both alike, and each loading has luck of its own."""
    result = []
    for _ in range(LIVES):
        both = np.exp(0.3 * rng.standard_normal((ROUNDS, 1)))
        own = np.exp(0.05 * rng.standard_normal((ROUNDS, 2)))
        drawn = np.exp(luck * rng.standard_normal((1, 2)))
        result.append(both * own * drawn * np.array([[1.0, 1 / truth]]))
    return result


@pytest.mark.parametrize("truth", [1.0, 1.02, 3.0])
def test_intervals_hold_the_truth_as_often_as_they_say(
    truth: float, rng: np.random.Generator
) -> None:
    drawn = 600
    found = [judged(lives(rng, truth, 0.02), 0.95)[1] for _ in range(drawn)]
    covered = sum(low <= truth <= high for low, high in (f.between for f in found)) / drawn
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / drawn)  # four standard errors


def test_a_copy_is_no_different_and_half_the_time_is_twice_as_fast() -> None:
    times = np.array([[4.0, 4.0, 2.0, 8.0]] * 6)
    found = judged([times, times * 1.5, times * 2], 0.99)
    assert [f.verdict for f in found] == ["no difference", "no difference", "faster", "slower"]
    assert [f.ratio for f in found] == pytest.approx([1, 1, 2, 0.5], abs=1e-12)
    assert found[2].between == pytest.approx((2, 2), abs=1e-12)
    assert found[0].median == pytest.approx(6, abs=1e-12)
    assert found[0].runs == 18


def test_one_life_says_nothing() -> None:
    found = judged([np.array([[4.0, 1.0]] * 9)], 0.9)
    assert found[1].verdict == "no difference"


def profiled(mid: int, times: dict[str, tuple[str, float]]) -> Profiled:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,16,8,8] x) => (float[1,16,8,8] y)
        { a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }"""
    )
    for name, shape in (("w1", (mid, 16, 1, 1)), ("w2", (16, mid, 1, 1))):
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    macs = dict.fromkeys("ay", 64.0 * 16 * mid)
    nodes = [NodeTime(n, op, "CPUExecutionProvider", us) for n, (op, us) in times.items()]
    return Profiled(Graph.from_model(model), macs, nodes)


def test_causes_are_found_where_they_are() -> None:
    before = profiled(32, {"b_nchwc": ("Conv", 100), "y_nchwc": ("Conv", 100)})
    exact = profiled(16, {"b_nchwc": ("Conv", 50), "y_nchwc": ("Conv", 50)})
    assert findings(before, exact) == []

    odd = profiled(
        17, {"a": ("FusedConv", 100), "y": ("FusedConv", 53), "r": ("ReorderOutput", 30)}
    )
    found = findings(before, odd)
    assert [f.cause.split(" ")[0] for f in found] == ["widths", "data"]
    assert found[0].nodes == ("a",)  # behind the Relu that was fused into it
    assert found[0].share == pytest.approx((100 - 100 * 17 / 32) / 183, abs=0.01)
    assert found[1].share == pytest.approx(30 / 183, abs=1e-9)

    bound = profiled(16, {"b_nchwc": ("Conv", 90), "y_nchwc": ("Conv", 50)})
    assert [(f.cause.split(" by ", 1)[1], f.nodes) for f in findings(before, bound)] == [
        ("memory or by its start", ("a",))
    ]


def test_kernels_are_summed_by_kind_the_slowest_first() -> None:
    first = profiled(32, {"b_nchwc": ("Conv", 1), "y": ("Conv", 2), "r": ("ReorderOutput", 9)})
    second = profiled(32, {"a": ("FusedConv", 5)})
    assert by_kind([first, second]) == {
        "ReorderOutput": [9, 0], "FusedConv": [0, 5], "Conv": [3, 0],
    }  # fmt: skip


def test_a_kernel_named_by_what_was_fused_behind_it_is_that_of_the_node_that_multiplies() -> None:
    """Also where weights are made by Constant nodes."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[1,1,8,8] x) => (float[1,1,8,8] y) <float[1,1,1,1] w = {1}> {
            scale = Constant <value_floats = [1.0]> ()
            a = Conv (x, w)
            b = BatchNormalization (a, scale, scale, scale, scale)
            y = Relu (b)
        }"""
    )
    kernel = NodeTime("y_nchwc", "Conv", "CPUExecutionProvider", 3.0)
    profile = Profiled(Graph.from_model(model), {"a": 1.0}, [kernel])
    assert [(name, time.us) for name, time in profile.kernels().items()] == [("a", 3.0)]
