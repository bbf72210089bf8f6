"""Networks of any depth and width that take no memory, for benchmarks of analysis and of huge files.

A stack of two equal layers is exported by torch.onnx.export (dynamo) with weights that are views of a
single zero; then its second layer is repeated in the file, as the exporter would have written it for
a deeper network (it takes minutes for 32 layers). Weights become references into an external file
that is all hole: it has its full size and takes no room on the disk.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx import ModelProto, NodeProto, TensorProto
from onnx_ir import serde
from torch import Tensor, nn

from tests.zoo import torchvision_models

_SCOPES = "pkg.torch.onnx.name_scopes"
OUTSIDE_FROM = 1024  # bytes: smaller tensors stay in the file
ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Stack:
    """A kind of network.

    Attributes:
        build: makes it with so many layers; the second is repeated for deeper ones.
        inputs: makes inputs of one run.
        dynamic: symbolic dimensions of each input.
        layer: name of the module that is the second layer.
    """

    build: Callable[[int], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    dynamic: tuple[dict[int, str], ...]
    layer: str


class Residual(nn.Module):
    """Residual blocks of two 3 x 3 convolutions between a stem and a classifier."""

    def __init__(self, width: int, depth: int) -> None:
        """Build `depth` blocks of `width` channels."""
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.layers = nn.ModuleList(_Block(width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (N, 3, H, W)."""
        x = self.stem(x).relu()
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.second(self.first(x).relu())).relu()


class _Logits(nn.Module):
    """A transformer of the library whose only output is one tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor) -> Tensor:
        output: Tensor = self.network(input_ids, use_cache=False)[0]
        return output


def residual(width: int) -> Stack:
    """Return a residual convolutional network."""
    return Stack(
        lambda depth: Residual(width, depth),
        lambda: (torch.zeros(2, 3, 32, 32),),
        ({0: "batch"},),
        "layers.1",
    )


def llama(hidden: int, inner: int, heads: int, kv_heads: int, words: int) -> Stack:
    """Return a Llama: grouped queries, rotary positions, RMS norms, gated feed-forward."""

    def build(depth: int) -> nn.Module:
        torchvision_models()  # transformers imports it
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            hidden_size=hidden, intermediate_size=inner, num_hidden_layers=depth,
            num_attention_heads=heads, num_key_value_heads=kv_heads, vocab_size=words,
            max_position_embeddings=8192, use_cache=False, attn_implementation="sdpa",
        )  # fmt: skip
        return _Logits(LlamaForCausalLM(config))

    return Stack(build, _tokens, ({0: "batch", 1: "sequence"},), "network.model.layers.1")


def bert() -> Stack:
    """Return BERT-base (768 wide, 12 heads)."""

    def build(layers: int) -> nn.Module:
        torchvision_models()  # transformers imports it
        from transformers import BertConfig, BertModel

        return _Logits(BertModel(BertConfig(num_hidden_layers=layers), add_pooling_layer=False))

    return Stack(build, _tokens, ({0: "batch", 1: "sequence"},), "network.encoder.layer.1")


def _tokens() -> tuple[Tensor, ...]:
    return (torch.zeros(2, 16, dtype=torch.int64),)


def weightless(stack: Stack, depth: int) -> nn.Module:
    """Build a network whose parameters are views of a single zero."""
    with torch.device("meta"):
        network = stack.build(depth).eval()
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
                module._parameters[name] = nn.Parameter(zeros, requires_grad=False)
        if any(buffer.is_meta for buffer in module._buffers.values() if buffer is not None):
            _fill(module)
    return network


def _fill(module: nn.Module) -> None:
    """Compute the buffers of a module (position tables), which its constructor would have made."""
    if hasattr(module, "config"):
        fresh: nn.Module = type(module)(module.config)
        module._buffers.update(fresh._buffers)
        return
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = (
                torch.arange(buffer.numel()).reshape(buffer.shape).to(buffer.dtype)
            )


def write(stack: Stack, paths: Mapping[int, Path]) -> None:
    """Write the network to a file for every number of layers, its weights to a hole beside it."""
    program = torch.onnx.export(
        weightless(stack, 2), stack.inputs(), dynamo=True, dynamic_shapes=stack.dynamic,
        opset_version=20, verbose=False,
    )  # fmt: skip
    assert program is not None
    _outside(program.model)
    exported = serde.serialize_model(program.model)
    for depth, path in paths.items():
        model = ModelProto()
        model.CopyFrom(exported)
        repeat_layer(model, stack.layer, depth - 2)
        data = path.with_name(f"{path.name}.data")
        size = _lay_out(model, data.name)
        with data.open("wb") as stream:
            stream.truncate(size)
        path.write_bytes(model.SerializeToString())


def _outside(model: ir.Model) -> None:
    """Let large initializers be references, so that their zeros are never written out."""
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > OUTSIDE_FROM:
            value.const_value = ir.ExternalTensor(
                "data", 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name
            )  # fmt: skip


def repeat_layer(model: ModelProto, scope: str, times: int) -> None:
    """Repeat the layer whose nodes came from module `scope` so many times more."""
    graph = model.graph
    places = [i for i, node in enumerate(graph.node) if _within(node, scope)]
    first, last = places[0], places[-1]
    body = [graph.node[i] for i in range(first, last + 1)]
    assert len(places) == len(body), "the layer's nodes are one run"
    entry, result = graph.node[first - 1].output[0], graph.node[last].output[0]
    own = {name for node in body for name in node.output}
    weights = {t.name: t for t in graph.initializer if _is_external(t)}
    private = weights.keys() & _reads(body) - _reads([*graph.node[:first], *graph.node[last + 1 :]])
    after = list(graph.node[last + 1 :])
    del graph.node[last + 1 :]
    current = result
    for copy in range(times):
        names = {name: f"{name}__{copy}" for name in own | private} | {entry: current}
        for node in body:
            twin = graph.node.add()
            twin.CopyFrom(node)
            twin.name = f"{node.name}__{copy}"
            twin.input[:] = [names.get(name, name) for name in node.input]
            twin.output[:] = [names[name] for name in node.output]
        for name in sorted(private):
            weight = graph.initializer.add()
            weight.CopyFrom(weights[name])
            weight.name = names[name]
        current = names[result]
    for node in after:
        node.input[:] = [current if name == result else name for name in node.input]
        graph.node.append(node)


def _lay_out(model: ModelProto, location: str) -> int:
    """Give every external weight a place of its own in one file; return the size of it."""
    end = 0
    for tensor in filter(_is_external, model.graph.initializer):
        entries = {entry.key: entry for entry in tensor.external_data}
        entries["location"].value, entries["offset"].value = location, str(end)
        end += -(-int(entries["length"].value) // ALIGNMENT) * ALIGNMENT
    return end


def _is_external(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL


def _within(node: NodeProto, scope: str) -> bool:
    """Tell whether the exporter noted that a node came from a module or what lies in it."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    module = str(ast.literal_eval(notes[_SCOPES])[-2]) if _SCOPES in notes else ""
    return f"{module}.".startswith(f"{scope}.")


def _reads(nodes: Any) -> set[str]:
    return {name for node in nodes for name in node.input if name}
