"""The proof: what it notices, what it names, what it lets through; and its oracle."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxprune.core.analysis import Mask
from onnxprune.core.errors import ModelError, ProofError
from onnxprune.core.graph import Graph, Weight, constant
from onnxprune.core.runtime import Session
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.oracle import masked_graph
from onnxprune.proof.prove import (
    QUANTISED_TOLERANCE,
    TOLERANCE,
    check_model,
    other_sizes,
    prove,
    random_input,
    relative_gap,
)
from onnxprune.structure.dependency import analyse
from tests.examples import random_mask
from tests.handmade import handmade, ints, proved


def chain() -> ModelProto:
    return handmade(
        """(float[N,3,8,8] u) => (float[N,2] y) {
            a = Conv<pads=[1,1,1,1]>(u, w1, b1)
            b = Relu(a)
            c = Conv<pads=[1,1,1,1]>(b, w2, b2)
            d = Sigmoid(c)
            e = GlobalAveragePool(d)
            f = Flatten(e)
            y = Gemm<transB=1>(f, w3, b3)
        }""",
        w1=(8, 3, 3, 3), b1=(8,), w2=(6, 8, 3, 3), b2=(6,), w3=(2, 6), b3=(2,),
    )  # fmt: skip


@pytest.fixture
def pruned() -> tuple[Graph, Mask, Graph]:
    graph = Graph.from_model(chain())
    mask = random_mask(analyse(graph), np.random.default_rng(0), 0.4)
    return graph, mask, remove_channels(mask)


def replaced(graph: Graph, **arrays: np.ndarray) -> Graph:
    result = graph.copy()
    for name, array in arrays.items():
        result.weights[name] = result.weights[name].replace(array)
    return result


def test_a_right_removal_is_proved(pruned: tuple[Graph, Mask, Graph]) -> None:
    proof = prove(*pruned)

    assert proof.gap < 1e-5
    assert proof.tolerance == TOLERANCE
    assert proof.runs == len(list(other_sizes(pruned[0])))
    assert proof.moved > 0.01


def test_samples_are_run_beside_drawn_inputs(pruned: tuple[Graph, Mask, Graph]) -> None:
    samples = {"u": np.random.default_rng(1).standard_normal((5, 3, 8, 8)).astype(np.float32)}

    assert prove(*pruned, [samples]).runs == prove(*pruned).runs + 1


def test_removing_nothing_moves_nothing() -> None:
    graph = Graph.from_model(chain())
    mask = analyse(graph).mask(np.zeros(0, np.int64))

    assert prove(graph, mask, remove_channels(mask)).moved == 0


@pytest.mark.parametrize(("weight", "tensor"), [("b1", "a"), ("w2", "c"), ("b3", "y")])
def test_a_changed_weight_is_noticed_and_named(
    pruned: tuple[Graph, Mask, Graph], weight: str, tensor: str
) -> None:
    graph, mask, result = pruned
    array = result.weights[weight].array.copy()
    array.flat[0] += 0.5

    with pytest.raises(ProofError, match=f"first at tensor '{tensor}'"):
        prove(graph, mask, replaced(result, **{weight: array}))


def test_channels_in_another_order_are_noticed(pruned: tuple[Graph, Mask, Graph]) -> None:
    graph, mask, result = pruned
    array = result.weights["w2"].array

    with pytest.raises(ProofError, match="differs from the masked original"):
        prove(graph, mask, replaced(result, w2=np.roll(array, 1, axis=1)))


def test_other_channels_than_the_mask_says_are_noticed(pruned: tuple[Graph, Mask, Graph]) -> None:
    graph, mask, _ = pruned
    analysis = mask.analysis
    other = random_mask(analysis, np.random.default_rng(5), 0.4)

    with pytest.raises(ProofError, match="differs from the masked original"):
        prove(graph, mask, remove_channels(other))


def test_an_invalid_result_is_refused(pruned: tuple[Graph, Mask, Graph]) -> None:
    graph, mask, result = pruned
    array = result.weights["w2"].array

    with pytest.raises(ModelError):
        prove(graph, mask, replaced(result, w2=array[:, 1:]))


def test_a_normal_form_that_is_another_model_is_our_bug(pruned: tuple[Graph, Mask, Graph]) -> None:
    graph, mask, result = pruned
    other = replaced(graph, b3=graph.weights["b3"].array + 1)

    with pytest.raises(ProofError, match="normal form differs"):
        prove(other, mask, result)


def test_a_model_that_runs_on_no_drawn_input_asks_for_samples() -> None:
    graph = Graph.from_model(
        handmade(
            """(float[N,3,8,8] u, int64[1] rows) => (float[A,B] y) {
                a = Conv(u, w1)
                b = Reshape(a, far)
                c = Gather<axis=0>(b, rows)
                y = Gather<axis=0>(table, rows)
            }""",
            w1=(6, 3, 1, 1), far=ints(7, 1, 1, -1), table=(4, 2),
        )
    )  # fmt: skip
    mask = analyse(graph).mask(np.zeros(0, np.int64))

    with pytest.raises(ProofError, match="give sample inputs with --data"):
        prove(graph, mask, remove_channels(mask))


# -- the oracle ---------------------------------------------------------------------------------


def test_the_oracle_keeps_weights_inputs_and_outputs(pruned: tuple[Graph, Mask, Graph]) -> None:
    graph, mask, _ = pruned
    oracle = masked_graph(mask)

    assert [v.name for v in oracle.inputs] == [v.name for v in graph.inputs]
    assert [v.SerializeToString() for v in oracle.outputs] == [
        v.SerializeToString() for v in graph.outputs
    ]
    unmasked = {n: w for n, w in oracle.weights.items() if n in graph.weights}
    assert all((w.array == graph.weights[n].array).all() for n, w in unmasked.items())


def test_the_oracle_of_nothing_is_the_model() -> None:
    graph = Graph.from_model(chain())
    oracle = masked_graph(analyse(graph).mask(np.zeros(0, np.int64)))

    assert [n.op_type for n in oracle.nodes] == [n.op_type for n in graph.nodes]


def test_silencing_a_producer_would_not_be_the_same(pruned: tuple[Graph, Mask, Graph]) -> None:
    """Relu(0 + b) is not zero: masks belong where channels are read."""
    graph, mask, _ = pruned
    gone = mask.gone_at("w1", 0)
    assert gone is not None
    silent = replaced(graph, w1=np.where(gone[:, None, None, None], 0, graph.weights["w1"].array))
    feeds = next(iter(other_sizes(graph)))
    expected = Session(masked_graph(mask).to_model(), optimise=False).run(feeds)["y"]
    found = Session(silent.to_model(), optimise=False).run(feeds)["y"]

    assert relative_gap(expected, found) > 0.01


def test_values_that_are_not_finite_do_not_leak_through_the_mask() -> None:
    """0 * inf is not 0: channels whose logarithm is not finite go, the others are compared."""
    scale = np.array([1, -1, 1, -1, 1, -1], np.float32).reshape(6, 1, 1)
    graph = Graph.from_model(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                a = Conv(u, w1, b1)
                p = Exp(a)
                s = Mul(p, scale)
                l = Log(s)
                y = Conv(l, w2)
            }""",
            w1=(6, 3, 1, 1), b1=(6,), w2=(2, 6, 1, 1), scale=scale,
        )
    )  # fmt: skip
    analysis = analyse(graph)
    mask = analysis.mask(analysis.groups[0].units[1::2])
    result = remove_channels(mask)
    feeds = next(iter(other_sizes(graph)))

    assert np.isnan(Session(graph.to_model(), optimise=False).run(feeds)["y"]).all()
    assert np.isfinite(Session(result.to_model(), optimise=False).run(feeds)["y"]).all()
    assert prove(graph, mask, result).gap < TOLERANCE


@pytest.mark.parametrize("opset", [8, 11, 13, 17, 18])
def test_sums_and_statistics_at_every_opset(opset: int) -> None:
    """Where is younger than opset 9, and axes became operands at 13 (ReduceSum) and 18 (ReduceMean)."""
    total = "ReduceSum<axes=[1]>(a)" if opset < 13 else "ReduceSum(a, axes)"
    mean = "ReduceMean<axes=[1]>(a)" if opset < 18 else "ReduceMean(a, axes)"
    norm = "LayerNormalization<axis=1>(m, gain)" if opset >= 17 else "Identity(m)"
    proved(
        handmade(
            f"""(float[N,3,4,4] u) => (float[N,2,4,4] y) {{
                a = Conv(u, w1, b1)
                s = {total}
                t = {mean}
                b = Mul(a, s)
                m = Add(b, t)
                n = {norm}
                y = Conv(n, w2)
            }}""",
            opset=opset, w1=(6, 3, 1, 1), b1=(6,), w2=(2, 6, 1, 1), gain=(6, 4, 4), axes=ints(1),
        )
    )  # fmt: skip


# -- inputs and tolerances ----------------------------------------------------------------------


def test_symbolic_dimensions_are_tried_at_other_sizes() -> None:
    graph = Graph.from_model(handmade("(float[N,3,H,W] u) => (float[N,3,H,W] y) { y = Relu(u) }"))

    shapes = [feeds["u"].shape for feeds in other_sizes(graph)]
    assert all(
        len(set(sizes)) > 1 for axis, sizes in enumerate(zip(*shapes, strict=True)) if axis != 1
    )


def test_a_model_of_fixed_size_is_run_once() -> None:
    graph = Graph.from_model(handmade("(float[1,3,4,4] u) => (float[1,3,4,4] y) { y = Relu(u) }"))

    assert [feeds["u"].shape for feeds in other_sizes(graph)] == [(1, 3, 4, 4)]


@pytest.mark.parametrize("shape", [(), (3, 2)])
@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "BOOL", "INT64", "INT32", "UINT8"])
def test_inputs_of_any_type_are_drawn(kind: str, shape: tuple[int, ...]) -> None:
    element = TensorProto.DataType.Value(kind)
    value = helper.make_tensor_value_info("x", element, shape)
    graph = Graph.from_model(handmade("(float[N,3] u) => (float[N,3] y) { y = Relu(u) }"))
    array = random_input(graph, value, shape, np.random.default_rng(0))

    assert isinstance(array, np.ndarray)
    assert array.shape == shape
    assert array.dtype == helper.tensor_dtype_to_np_dtype(element)


def test_indices_are_drawn_from_their_table() -> None:
    graph = Graph.from_model(
        handmade("(int64[N,9] u) => (float[N,9,4] y) { y = Gather(table, u) }", table=(50, 4))
    )
    drawn = next(iter(other_sizes(graph)))["u"]

    assert 2 < drawn.max() < 50
    assert drawn.min() >= 0


def test_quantised_graphs_may_differ_by_a_rounding_step() -> None:
    graph = Graph.from_model(
        handmade(
            """(float[N,3,8,8] u) => (float[N,2,8,8] y) {
                a = Conv(u, w1, b1)
                q = QuantizeLinear(a, step, zero)
                d = DequantizeLinear(q, step, zero)
                y = Conv(d, w2)
            }""",
            w1=(6, 3, 1, 1), b1=(6,), w2=(2, 6, 1, 1), step=np.array(0.05, np.float32),
            zero=np.array(128, np.uint8),
        )
    )  # fmt: skip
    mask = random_mask(analyse(graph), np.random.default_rng(0), 0.4)

    assert prove(graph, mask, remove_channels(mask)).tolerance == QUANTISED_TOLERANCE


def test_relative_gap() -> None:
    a = np.array([1.0, -4.0], np.float32)

    assert relative_gap(a, a) == 0
    assert relative_gap(a, np.array([1.0, -3.0])) == pytest.approx(0.25)
    assert relative_gap(a, a[:1]) == np.inf
    assert relative_gap(np.array([np.nan, 2.0]), np.array([np.nan, 2.0])) == 0
    assert relative_gap(np.array([np.nan, 2.0]), np.array([0.0, 2.0])) == np.inf
    assert relative_gap(np.array([1.0, 2.0]), np.array([np.inf, 2.0])) == np.inf
    assert relative_gap(np.array(["a"]), np.array(["a"])) == 0
    assert relative_gap(np.array(["a"]), np.array(["b"])) == np.inf
    assert relative_gap(np.zeros(0), np.zeros(0)) == 0


def test_what_was_wrong_before_is_let_through() -> None:
    """A file whose own shape notes are wrong may be pruned; a new fault may not appear."""
    wrong = chain()
    wrong.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 2]))

    with pytest.raises(ModelError, match="fails onnx's check"):
        check_model(wrong)
    with pytest.raises(ModelError, match="fails onnx's check"):
        check_model(wrong, like=Graph.from_model(chain()))
    check_model(wrong, like=Graph.from_model(wrong))


def test_weights_are_values_or_views_of_the_file() -> None:
    graph = Graph.from_model(chain())
    weight = graph.weights["b1"]

    assert isinstance(weight, Weight)
    assert dataclasses.replace(weight).to_proto("b1") is weight.proto
    assert (constant("b1", weight.array).array == weight.array).all()
