"""`sparsify`: which weights become zero, what makes up for them, and that nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnxprune import OnnxPruneError, evaluate, prune, sparsify
from onnxprune.cli import main
from onnxprune.core.errors import InternalError
from onnxprune.core.graph import Graph
from onnxprune.core.sparsity import SPARSIFIERS, Layer, Pattern
from onnxprune.core.stats import SecondMoments
from onnxprune.discover import discover
from onnxprune.pipeline.sparse import check_only
from tests.handmade import handmade

discover()
METHODS = list(SPARSIFIERS)


def values(path: Path | str) -> dict[str, np.ndarray[Any, Any]]:
    """The initializers of a file."""
    return {w.name: numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer}


def layer(weight: object, norm: object = None, taps: int = 1) -> Layer:
    """One matrix (q, p), and what its columns read."""
    matrix = np.asarray(weight, np.float64)[None]
    return Layer(matrix, taps, None if norm is None else np.asarray(norm, np.float64)[None])


@pytest.mark.parametrize(
    ("text", "share", "blocks"),
    [
        ("0.5", 0.5, (0, 0)),
        ("30%", 0.3, (0, 0)),
        (0.25, 0.25, (0, 0)),
        ("2:4", 0, (2, 4)),
        ("4:8", 0, (4, 8)),
    ],
)
def test_reads_patterns(text: str | float, share: float, blocks: tuple[int, int]) -> None:
    pattern = Pattern.parse(text)
    assert (pattern.share, (pattern.kept, pattern.of)) == (share, blocks)
    assert Pattern.parse(str(pattern)) == pattern


@pytest.mark.parametrize("text", ["0", "1", "1.5", "100%", "4:4", "5:4", "0:4", "two", "", "-0.5"])
def test_refuses_what_is_no_pattern(text: str) -> None:
    with pytest.raises(OnnxPruneError, match="--sparsity"):
        Pattern.parse(text)


def test_magnitude_by_hand() -> None:
    new, zeros = SPARSIFIERS["magnitude"].apply(
        layer([[1, -4, 2, -3], [5, 0.5, -0.1, 6]]), Pattern(0.5)
    )
    assert new.tolist() == [[[0, -4, 0, -3], [5, 0, 0, 6]]]
    assert (zeros == (new == 0)).all()


def test_wanda_by_hand() -> None:
    """The paper's point: a small weight on a loud input stays, a large one on a quiet input goes."""
    task = layer([[1, -4, 2, -3], [5, 0.5, -0.1, 6]], [10, 0.1, 3, 1])
    new, _ = SPARSIFIERS["wanda"].apply(task, Pattern(0.5))
    assert new.tolist() == [[[1, 0, 2, 0], [5, 0, 0, 6]]]  # |W| |x|: 10 .4 6 3 and 50 .05 .3 6


def test_shares_are_rounded_down() -> None:
    _, zeros = SPARSIFIERS["magnitude"].apply(
        layer(np.arange(1.0, 28.0).reshape(3, 9)), Pattern(0.5)
    )
    assert zeros.sum(axis=-1).tolist() == [[4, 4, 4]]


def test_blocks_run_along_channels_at_one_tap() -> None:
    """Six channels of two taps, 2:4: channels 0-3 are a block at each tap, 4 and 5 stay dense."""
    weight = np.array([[1, 80, 2, 70, 3, 60, 4, 50, 0.1, 0.1, 0.1, 0.1]])  # (channel, tap)
    new, _ = SPARSIFIERS["magnitude"].apply(layer(weight, taps=2), Pattern(kept=2, of=4))
    assert new.tolist() == [[[0, 80, 0, 70, 3, 0, 4, 0, 0.1, 0.1, 0.1, 0.1]]]


def seen(x: np.ndarray[Any, Any]) -> SecondMoments:
    """Second moments of rows, (m, p)."""
    mean = x.mean(axis=0)
    return SecondMoments(len(x), mean[None], ((x - mean).T @ (x - mean) / len(x))[None])


def test_sparsegpt_makes_up_as_least_squares_does(rng: np.random.Generator) -> None:
    """With the first column gone, the others are those of a regression on the columns that stay."""
    x = rng.standard_normal((500, 4)) @ rng.standard_normal((4, 4)) + 1
    weight = np.array([[0.001, 3.0, -2.0, 4.0]])
    task = Layer(weight[None], 1, None, seen(x))
    method = type(SPARSIFIERS["sparsegpt"])(damping=1e-12)  # type: ignore[call-arg]
    new, zeros = method.apply(task, Pattern(0.25))
    assert zeros.tolist() == [[[True, False, False, False]]]
    best = np.linalg.lstsq(x[:, 1:], x @ weight[0], rcond=None)[0]
    np.testing.assert_allclose(new[0, 0, 1:], best, rtol=1e-8)  # float64


@pytest.mark.parametrize("text", ["0.5", "2:4", "4:8"])
def test_sparsegpt_loses_less_where_inputs_move_together(
    text: str, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((4000, 12)) @ rng.standard_normal((12, 160))
    x += 0.1 * rng.standard_normal(x.shape) + rng.standard_normal(160)
    weight = rng.standard_normal((32, 160))
    moments = seen(x)
    task = Layer(weight[None], 1, np.sqrt((x**2).mean(axis=0))[None], moments)
    lost = {}
    for name in METHODS:
        new, zeros = SPARSIFIERS[name].apply(task, Pattern.parse(text))
        assert (new[zeros] == 0).all()
        assert zeros.mean() == 0.5
        lost[name] = float(((x @ (new[0] - weight).T) ** 2).sum())
    assert lost["sparsegpt"] < 0.2 * lost["wanda"]  # measured: below 0.05


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("text", ["0.3", "2:4"])
def test_every_method_keeps_to_the_pattern(name: str, text: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((300, 30))
    weight = rng.standard_normal((2, 5, 30))  # two convolution groups of ten channels, three taps
    second = SecondMoments(300, np.zeros((2, 30)), np.stack([x.T @ x / 300] * 2))
    pattern = Pattern.parse(text)
    new, zeros = SPARSIFIERS[name].apply(Layer(weight, 3, np.ones((2, 30)), second), pattern)
    assert (new[zeros] == 0).all()
    assert (new[~zeros] != 0).all()
    if pattern.of:
        channels = zeros.reshape(2, 5, 10, 3)[:, :, :8].reshape(2, 5, 2, 4, 3)
        assert (channels.sum(axis=3) == 2).all()
        assert not zeros.reshape(2, 5, 10, 3)[:, :, 8:].any()
    elif name != "sparsegpt":  # which chooses among all rows
        assert (zeros.sum(axis=-1) == 9).all()
    assert zeros.sum() == (2 * 5 * 3 * 4 if pattern.of else 90)


NET = """(float[n, 8, 6, 6] x) => (float[n, 5] y) {
    a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(a)
    c = Conv<kernel_shape=[1,1], group=2>(r, w2, b2)
    s = Relu(c)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    g = Gemm<transB=1>(f, w3, b3)
    h = Relu(g)
    y = MatMul(h, w4)
}"""
SHAPES: dict[str, Any] = {
    "w1": (16, 8, 3, 3), "b1": (16,), "w2": (12, 8, 1, 1), "b2": (12,), "w3": (16, 12), "b3": (16,),
    "w4": (16, 5),
}  # fmt: skip


def network(opset: int = 18, dtype: type = np.float32) -> ModelProto:
    model = handmade(NET, opset=opset, **SHAPES)
    if dtype is not np.float32:
        for weight in model.graph.initializer:
            weight.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(weight).astype(dtype), weight.name)
            )
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = kind
    return model


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return rng.standard_normal((64, 8, 6, 6)).astype(np.float32)


@pytest.mark.parametrize("opset", [9, 13, 18, 21])
@pytest.mark.parametrize("name", METHODS)
def test_nothing_else_changes(
    name: str, opset: int, x: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    model = network(opset)
    onnx.save(model, tmp_path / "m.onnx")
    report = sparsify(tmp_path / "m.onnx", data={"x": x}, sparsity="2:4", method=name)
    assert report.output == tmp_path / "m.sparse.onnx"
    written = onnx.load(report.output)
    assert written.graph.node == model.graph.node
    before, after = values(tmp_path / "m.onnx"), values(report.output)
    for weight, old in before.items():
        new = after[weight]
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        if not weight.startswith("w"):
            assert new.tobytes() == old.tobytes()
            continue
        along = np.moveaxis(new, 0 if weight == "w4" else 1, -1)  # the axis that is summed over
        blocks = along[..., : along.shape[-1] // 4 * 4].reshape(-1, 4)
        assert ((blocks != 0).sum(axis=1) == 2).all()
        if name != "sparsegpt":
            assert (new[new != 0] == old[new != 0]).all()
    assert [layer.after for layer in report.layers] == [0.5] * 4
    assert (report.before, report.after) == (1.0, 0.5)


def test_half_precision(x: np.ndarray[Any, Any], tmp_path: Path) -> None:
    onnx.save(network(dtype=np.float16), tmp_path / "m.onnx")
    report = sparsify(
        tmp_path / "m.onnx", data={"x": x.astype(np.float16)}, sparsity=0.5, method="sparsegpt"
    )
    after = values(report.output)
    assert after["w1"].dtype == np.float16
    assert (after["w1"] == 0).mean() == 0.5


def test_zeros_are_the_only_difference(x: np.ndarray[Any, Any], tmp_path: Path) -> None:
    """The outputs are those of the original with these weights put in: bit by bit."""
    model = network()
    onnx.save(model, tmp_path / "m.onnx")
    report = sparsify(tmp_path / "m.onnx", data={"x": x}, sparsity=0.5)
    new = values(report.output)
    for weight in model.graph.initializer:
        weight.CopyFrom(numpy_helper.from_array(new[weight.name], weight.name))
    onnx.save(model, tmp_path / "by_hand.onnx")
    found = evaluate(tmp_path / "by_hand.onnx", {"x": x}, reference=report.output)
    assert found.error == 0.0
    assert (evaluate(report.output, {"x": x}, reference=tmp_path / "m.onnx").error or 0) > 0.05


TIED = """(float[n, 8] x) => (float[n, 8] y) {
    a = MatMul(x, w)
    r = Relu(a)
    b = MatMul(r, w)
    s = Relu(b)
    c = MatMul(s, v)
    y = MatMul(c, q)
}"""


@pytest.mark.parametrize("width", [8, 64])  # small weights are split up for analysis, large are not
def test_leaves_tied_weights_alone(width: int, rng: np.random.Generator, tmp_path: Path) -> None:
    text = TIED.replace("8]", f"{width}]")
    shape = (width, width)
    model = handmade(text, w=shape, v=shape, q=shape)
    onnx.save(model, tmp_path / "m.onnx")
    data = {"x": rng.standard_normal((40, width)).astype(np.float32)}
    report = sparsify(tmp_path / "m.onnx", data=data, sparsity=0.5, keep="q")
    reasons = {layer.name: layer.reason for layer in report.layers}
    assert reasons == {
        "w": "several operators read it: what one can spare, another may need",
        "v": None,
        "q": "kept",
    }
    before, after = values(tmp_path / "m.onnx"), values(report.output)
    assert before["w"].tobytes() == after["w"].tobytes()
    assert before["q"].tobytes() == after["q"].tobytes()
    assert (after["v"] == 0).mean() == 0.5


def test_weights_that_are_computed_stay(tmp_path: Path) -> None:
    model = handmade(
        """(float[n, 8] x) => (float[n, 4] y) {
            t = Transpose<perm=[1,0]>(w)
            a = MatMul(x, t)
            y = MatMul(a, v)
        }""",
        w=(8, 8), v=(8, 4),
    )  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    report = sparsify(tmp_path / "m.onnx", sparsity=0.5)
    assert report.method == "magnitude"
    reasons = [layer.reason or "" for layer in report.layers]
    assert [r.split(",")[0] for r in reasons] == ["it is no initializer of the file", ""]
    assert values(report.output)["w"].tobytes() == values(tmp_path / "m.onnx")["w"].tobytes()


def test_after_pruning(home: Path) -> None:
    small = home / "small.onnx"
    prune(home / "digits.onnx", small, data=home / "train.npz", macs=0.5)
    report = sparsify(small, data=home / "train.npz", sparsity="2:4", method="sparsegpt")
    assert report.after < 0.6
    found = evaluate(report.output, home / "test.npz", labels="labels", reference=small)
    assert found.accuracy is not None
    assert found.accuracy.top1 > 0.97  # 98.7 % measured


def test_notices_what_was_not_to_change() -> None:
    source = Graph.from_model(network())
    zeros = {"w1": np.zeros((16, 8, 3, 3), np.bool_)}
    zeros["w1"][0] = True
    broken = source.copy()
    broken.weights["w3"] = broken.weights["w3"].replace(broken.weights["w3"].array * 2)
    with pytest.raises(InternalError, match="'w3' was to stay"):
        check_only(source, broken, {})
    with pytest.raises(InternalError, match="'w1' does not have the zeros"):
        check_only(source, source, zeros)
    broken = source.copy()
    broken.nodes[0].op_type = "ConvTranspose"
    with pytest.raises(InternalError, match="operators"):
        check_only(source, broken, {})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--sparsity 2", "--sparsity 2: expected the share"),
        ("--method wanda", "method 'wanda' needs sample inputs"),
        ("--method wandda", "did you mean 'wanda'"),
        ("--method magnitude:x=1", "has no setting 'x'"),
        ("--keep nothing", "--keep 'nothing' matches no weight"),
        ("--keep w*", "no weight can be made sparse"),
        ("--labels y", "--labels 'y' needs --data"),
        ("--data x.npz --labels y", "the data has no such key"),
        ("--samples 0", "--samples 0"),
        ("-o m.onnx", "the output 'm.onnx' is the input"),
        ("-o no/folder.onnx", "there is no folder"),
    ],
)
def test_refuses(
    options: str, said: str, x: np.ndarray[Any, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "m.onnx")
    np.savez("x.npz", x=x)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code = main(["sparsify", "m.onnx", *options.split()])
    lines = capsys.readouterr().err.splitlines()
    assert (code, len(lines)) == (2, 1)
    assert said in lines[0]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_json_and_table(
    x: np.ndarray[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "m.onnx")
    np.savez("x.npz", x=x)
    assert main(["sparsify", "m.onnx", "--data", "x.npz", "--sparsity", "0.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "wanda"
    assert [layer["after"] for layer in found["layers"]] == [0.5] * 4
    assert main(["sparsify", "m.onnx", "--data", "x.npz", "--method", "sparsegpt:damping=0.1"]) == 0
    assert "weights that are not zero" in capsys.readouterr().out
