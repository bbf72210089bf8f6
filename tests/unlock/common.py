"""Unlocked interfaces: what their tests share."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto

from onnxprune.core.analysis import Analysis, Mask
from onnxprune.core.graph import Graph
from onnxprune.passes.surgery.channels import remove_channels
from onnxprune.proof.prove import prove
from onnxprune.structure.dependency import analyse
from onnxprune.structure.unlock import unlocks
from tests.handmade import handmade

MLP = """(float[N,12] x) => (float[N,7] logits) {
    h = Gemm(x, w1, b1)  a = Relu(h)  logits = Gemm(a, w2, b2) }"""


LAYERS: dict[str, Any] = {"w1": (12, 24), "b1": (24,), "w2": (24, 7), "b2": (7,)}


# One block of a language model; its last line is the head. Padding (id 1) is read from the ids.
TEXT = """(int64[N,S] ids, int64[N,S] kinds) => (float[N,S,40] logits) {
    i = Cast<to=6>(ids)  words = Gather(wte, i)  types = Gather(tte, kinds)
    one = Constant<value=int64 {1}>()  is_pad = Equal(ids, one)  pad = Cast<to=1>(is_pad)
    last = Constant<value=int64[1] {2}>()  pads = Unsqueeze(pad, last)
    s0 = Add(words, types)  s1 = Sub(s0, pads)  n1 = LayerNormalization(s1, g1, c1)
    q0 = MatMul(n1, wq)  k0 = MatMul(n1, wk)  v0 = MatMul(n1, wv)
    heads = Constant<value=int64[4] {0, 0, 4, 8}>()
    q1 = Reshape(q0, heads)  q = Transpose<perm=[0,2,1,3]>(q1)
    k1 = Reshape(k0, heads)  k = Transpose<perm=[0,2,3,1]>(k1)
    v1 = Reshape(v0, heads)  v = Transpose<perm=[0,2,1,3]>(v1)
    scores = MatMul(q, k)  p = Softmax(scores)  o1 = MatMul(p, v)
    o2 = Transpose<perm=[0,2,1,3]>(o1)  flat = Constant<value=int64[3] {0, 0, 32}>()
    o3 = Reshape(o2, flat)  o = MatMul(o3, wo)  s2 = Add(s1, o)
    h0 = MatMul(s2, wi)  h = Relu(h0)  f = MatMul(h, wf)  s3 = Add(s2, f)
    HEAD }"""


TIED = "t = Transpose<perm=[1,0]>(wte)  logits = MatMul(s3, t)"


BLOCK: dict[str, Any] = {
    "wte": (40, 32), "tte": (3, 32), "g1": (32,), "c1": (32,), "wq": (32, 32), "wk": (32, 32),
    "wv": (32, 32), "wo": (32, 32), "wi": (32, 48), "wf": (48, 32),
}  # fmt: skip


ROWS = [0, 1, 2, 5, 9, *range(20, 31)]


def mlp(text: str = MLP) -> ModelProto:
    return handmade(text, **LAYERS)


def language(head: str) -> ModelProto:
    weights = BLOCK | ({} if head == TIED else {"wh": (32, 40)})
    return handmade(TEXT.replace("HEAD", head), **weights)


def opened(model: ModelProto, *texts: str, **lists: Any) -> tuple[Graph, Analysis]:
    graph = Graph.from_model(model)
    return graph, analyse(graph, unlocks(texts, **lists))


def proved(graph: Graph, mask: Mask) -> Graph:
    pruned = remove_channels(mask)
    prove(graph, mask, pruned)
    return pruned


def shapes(graph: Graph) -> dict[str, list[int]]:
    values = [*graph.inputs, *graph.outputs]
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
