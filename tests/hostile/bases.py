"""Valid models to damage: small, of every structure that the code treats in its own way."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from tests.hostile.registry import Rng
from tests.networks import NETWORKS

Shape = tuple[int, ...]


def _model(text: str, *, opset: int = 17, ir: int = 8, **weights: Shape | np.ndarray) -> ModelProto:
    """Return a model from the text of its graph (or of graph and functions), with drawn weights."""
    rng = np.random.default_rng(0)
    domains = f'"" : {opset}' + (', "own" : 1' if "own." in text else "")
    model = parser.parse_model(f"<ir_version: {ir}, opset_import: [{domains}]>\n{text}")
    for name, given in weights.items():
        value = given
        if not isinstance(given, np.ndarray):
            value = (rng.standard_normal(given) / 3).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def _attention() -> ModelProto:
    return _model(
        """g (float[N,T,16] x) => (float[N,T,4] y) {
            q = MatMul(x, wq)
            k = MatMul(x, wk)
            v = MatMul(x, wv)
            s = Shape(x)
            n = Slice(s, zero, two)
            heads = Concat<axis=0>(n, split)
            q1 = Reshape(q, heads)
            q2 = Transpose<perm=[0,2,1,3]>(q1)
            k1 = Reshape(k, heads)
            k2 = Transpose<perm=[0,2,3,1]>(k1)
            v1 = Reshape(v, heads)
            v2 = Transpose<perm=[0,2,1,3]>(v1)
            a = MatMul(q2, k2)
            b = Softmax<axis=-1>(a)
            c = MatMul(b, v2)
            d = Transpose<perm=[0,2,1,3]>(c)
            flat = Concat<axis=0>(n, all)
            e = Reshape(d, flat)
            f = LayerNormalization(e, scale)
            y = MatMul(f, wo)
        }""",
        wq=(16, 8), wk=(16, 8), wv=(16, 8), wo=(8, 4), scale=np.ones(8, np.float32),
        zero=np.array([0]), two=np.array([2]), split=np.array([2, 4]), all=np.array([8]),
    )  # fmt: skip


def _quantised() -> ModelProto:
    return _model(
        """g (float[1,3,8,8] x) => (float[1,5,6,6] y) {
            xq = QuantizeLinear(x, s, z)
            xd = DequantizeLinear(xq, s, z)
            wd = DequantizeLinear<axis=0>(w1, s1, z1)
            a = Conv<pads=[1,1,1,1]>(xd, wd)
            b = Relu(a)
            c = DequantizeLinear<axis=0>(w2, s2, z2)
            y = Conv(b, c)
        }""",
        s=np.array(0.1, np.float32), z=np.array(0, np.int8),
        w1=np.arange(216, dtype=np.uint8).view(np.int8).reshape(8, 3, 3, 3),
        s1=np.full(8, 0.02, np.float32), z1=np.zeros(8, np.int8),
        w2=np.arange(360).astype(np.uint8).view(np.int8).reshape(5, 8, 3, 3),
        s2=np.full(5, 0.02, np.float32), z2=np.zeros(5, np.int8),
    )  # fmt: skip


def _branches() -> ModelProto:
    return _model(
        """g (float[N,6] x, bool c) => (float[N,4] y) {
            a = MatMul(x, w1)
            b = If(c) <then_branch = t () => (float[N,8] p) { p = Relu(a) },
                       else_branch = e () => (float[N,8] q) { q = Add(a, b1) }>
            d = MatMul(b, w2)
            f = Relu(d)
            y = MatMul(f, w3)
        }""",
        w1=(6, 8), b1=(8,), w2=(8, 12), w3=(12, 4),
    )  # fmt: skip


def _loop() -> ModelProto:
    return _model(
        """g (float[2,6] x) => (float[2,4] y) {
            a = Loop(n, go, x) <body = b (int64 i, bool on, float[2,6] s) => (bool co, float[2,6] so)
                { co = Identity(on)
                  so = Tanh(s) }>
            d = MatMul(a, w1)
            f = Relu(d)
            y = MatMul(f, w2)
        }""",
        w1=(6, 8), w2=(8, 4), n=np.array(3), go=np.array(True),
    )  # fmt: skip


def _function() -> ModelProto:
    return _model(
        """g (float[N,6] x) => (float[N,4] y) {
            a = MatMul(x, w1)
            b = own.twice(a)
            y = MatMul(b, w2)
        }
        <domain: "own", opset_import: ["" : 17]>
        twice (p) => (q) {
            q = Add(p, p)
        }""",
        w1=(6, 8), w2=(8, 4),
    )  # fmt: skip


def _recurrent() -> ModelProto:
    return _model(
        """g (float[T,N,6] x) => (float[T,1,N,4] y) {
            a = MatMul(x, w)
            y = LSTM<hidden_size=4>(a, wi, wh, b)
        }""",
        w=(6, 8), wi=(1, 16, 8), wh=(1, 16, 4), b=(1, 32),
    )  # fmt: skip


def _pyramid() -> ModelProto:
    """Sizes computed in the graph: Resize, Pad, ConvTranspose, Split, TopK, Expand."""
    return _model(
        """g (float[1,3,8,8] x) => (float[1,4,16,16] y, float[1,5] z) {
            a = Conv<pads=[1,1,1,1]>(x, w1)
            b = Resize<mode="nearest">(a, , scales)
            c = Pad(a, pads)
            d = ConvTranspose<strides=[2,2]>(a, w2)
            e, f = Split<axis=1>(b, parts)
            h = Concat<axis=1>(d, e)
            y = Conv(h, w3)
            p = GlobalMaxPool(c)
            q = Flatten(p)
            v, i = TopK(q, five)
            ex = Expand(v, shape)
            z = Add(ex, f0)
        }""",
        w1=(8, 3, 3, 3), w2=(8, 6, 2, 2), w3=(4, 10, 1, 1), scales=np.array([1, 1, 2, 2], np.float32),
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]), parts=np.array([4, 4]), five=np.array([5]),
        shape=np.array([1, 5]), f0=(1, 5),
    )  # fmt: skip


def _listed() -> ModelProto:
    """An old file: initializers are also inputs, shapes are attributes."""
    model = _model(
        """g (float[1,3,6,6] x) => (float[1,5] y) {
            a = Conv(x, w1, b1)
            b = Clip<min=0.0, max=6.0>(a)
            c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
            d = Reshape(c, shape)
            y = Gemm<transB=1>(d, w2, b2)
        }""",
        opset=9, ir=3, w1=(8, 3, 3, 3), b1=(8,), w2=(5, 32), b2=(5,), shape=np.array([1, 32]),
    )  # fmt: skip
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(value)
    return model


def _embedding() -> ModelProto:
    return _model(
        """g (int64[N,T] ids) => (float[N,T,10] y) {
            a = Gather<axis=0>(table, ids)
            b = MatMul(a, w1)
            c = Gelu_(b)
            y = MatMul(c, w2)
        }""".replace("Gelu_", "Sigmoid"),
        table=(10, 8), w1=(8, 16), w2=(16, 10),
    )  # fmt: skip


_MAKERS: dict[str, Callable[[], ModelProto]] = {
    **{name: network.model for name, network in NETWORKS.items()},
    "attention": _attention,
    "quantised": _quantised,
    "branches": _branches,
    "loop": _loop,
    "function": _function,
    "recurrent": _recurrent,
    "pyramid": _pyramid,
    "listed": _listed,
    "embedding": _embedding,
}
NAMES = tuple(_MAKERS)


@cache
def content(name: str) -> bytes:
    """Return a valid model as the bytes of its file."""
    made: bytes = _MAKERS[name]().SerializeToString()
    return made


def any_model(rng: Rng, *names: str) -> ModelProto:
    """Return one of the valid models, to be damaged."""
    model = ModelProto()
    model.ParseFromString(any_content(rng, *names))
    return model


def any_content(rng: Rng, *names: str) -> bytes:
    """Return the bytes of one of the valid models."""
    options = names or NAMES
    return content(options[int(rng.integers(len(options)))])


def weight(model: ModelProto, rng: Rng, *, floats: bool = False) -> TensorProto:
    """Return one initializer of a model."""
    tensors = [t for t in model.graph.initializer if not floats or t.data_type == TensorProto.FLOAT]
    tensor: TensorProto = tensors[int(rng.integers(len(tensors)))]
    return tensor
