"""Families of transformers for text, sound, images and several of these, as tiny random networks.

Each is built from its configuration class (nothing is downloaded), small enough to export in
seconds, and large enough to have several heads, layers and widths of its own. Vocabularies are
small, since the values of an input choose their rows, which therefore stay. Heads of tasks are
chosen so that hidden widths end inside the model, as they do in use.

    write(FAMILIES["bert"], "dynamo 20", folder / "bert.onnx")
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tests import text_families as tables
from tests.perturbation import perturb
from tests.zoo import torchvision_models

torchvision_models()  # which transformers imports as it is

_ATTENTION = 23  # the opset from which on it is an operator
_VOCABULARY, _HIDDEN, _WIDE = 120, 64, 160
_BATCH, _LENGTH, _PAST = 2, 12, 5

_WORDS: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_STACK: dict[str, Any] = {
    "hidden_size": _HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": _WIDE,
}
_COMMON = _WORDS | _STACK | {"max_position_embeddings": 80}
_VISION = _STACK | {"image_size": 32, "patch_size": 8}
_SIDES = ("encoder", "decoder")
_SEQ2SEQ: dict[str, Any] = {
    **_WORDS,
    **{f"{side}_layers": 2 for side in _SIDES},
    **{f"{side}_attention_heads": 4 for side in _SIDES},
    **{f"{side}_ffn_dim": _WIDE for side in _SIDES},
    "d_model": _HIDDEN,
    "max_position_embeddings": 80,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
_resnet: Any = transformers.ResNetConfig
_DETR = {k: v for k, v in _SEQ2SEQ.items() if k.startswith(_SIDES) and "token" not in k} | {
    "d_model": _HIDDEN,
    "num_queries": 6,
    "num_labels": 5,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": _resnet(
        embedding_size=16, hidden_sizes=[24, 32], depths=[1, 1], layer_type="basic",
        out_features=["stage2"],
    ),
}  # fmt: skip
_WAVE = _COMMON | {
    "conv_dim": (32, 32, 48),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "num_labels": 5,
}
_BASES: dict[str, dict[str, Any]] = {
    "none": {},
    "words": _WORDS,
    "common": _COMMON,
    "shared": _COMMON | {"num_key_value_heads": 2},  # keys and values serve two query heads
    "gpt": _WORDS | {"n_positions": 80, "n_embd": _HIDDEN, "n_layer": 2, "n_head": 4},
    "seq2seq": _SEQ2SEQ,
    "wave": _WAVE,
    "vision": _VISION,
    "detr": _DETR,
    "towers": {"text_config": _COMMON | {"projection_size": _HIDDEN}, "vision_config": _VISION},
}

Axes = Mapping[int, str]
_BATCHES: Axes = {0: "batch"}
_TEXT: Axes = {0: "batch", 1: "length"}
_TARGET: Axes = {0: "batch", 1: "target"}


@dataclasses.dataclass(frozen=True)
class Input:
    """One graph input: an example, and its symbolic axes."""

    example: Tensor
    axes: Axes = dataclasses.field(default_factory=lambda: _BATCHES)


@dataclasses.dataclass(frozen=True)
class Family:
    """A tiny network of one architecture.

    Attributes:
        name: of the architecture.
        model: the class of transformers.
        settings: of its configuration.
        kind: of its inputs, see `inputs`.
    """

    name: str
    model: str
    settings: Mapping[str, Any]
    kind: str

    def build(self, attention: str = "eager") -> nn.Module:
        """Return the module in evaluation mode; attention is spelt out ("eager") or one call ("sdpa")."""
        model: Any = getattr(transformers, self.model)
        config = model.config_class(**self.settings)
        config._attn_implementation = attention if model._supports_sdpa else "eager"
        config._experts_implementation = "batched_mm"
        torch.manual_seed(0)
        network = model(config).eval()
        face = Cached if self.kind.startswith("cache") else Face
        return face(network, tuple(inputs(self.kind))).eval()


class Face(nn.Module):
    """A model of transformers as a function of tensors: named inputs in, chosen results out."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        """Wrap `model`, whose arguments have these names."""
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Call the model and pick its results."""
        found = self.model(**dict(zip(self.names, tensors, strict=True)), return_dict=True)
        picks = ("logits", "pred_boxes", "logits_per_image")
        return tuple(found[pick] for pick in picks if found.get(pick) is not None)


class Cached(nn.Module):
    """A decoder as a function of tokens and the keys and values so far, of two layers."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        """Wrap a model of two layers, whose inputs have these names."""
        super().__init__()
        self.model, self.names = model, names

    def forward(
        self, ids: Tensor, mask: Tensor, k0: Tensor, v0: Tensor, k1: Tensor, v1: Tensor
    ) -> tuple[Tensor, ...]:
        """Return logits and the keys and values, longer by `ids`."""
        cache = transformers.DynamicCache()
        for layer, (keys, values) in enumerate(((k0, v0), (k1, v1))):
            cache.update(keys, values, layer)
        found = self.model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True
        )
        layers = found.past_key_values.layers
        return found.logits, *(t for layer in layers for t in (layer.keys, layer.values))


def inputs(kind: str) -> dict[str, Input]:
    """Draw inputs: two samples, of twelve tokens where there are any."""
    axes = {"fixed": _BATCHES, "latent": _BATCHES, "static": {}}.get(kind, _TEXT)
    ids, mask = Input(_tokens(_LENGTH), axes), Input(_seen(_LENGTH), axes)
    pixels = {"pixel_values": Input(torch.randn(_BATCH, 3, 32, 32))}
    target = {"decoder_input_ids": Input(_tokens(9), _TARGET)}
    if kind.startswith("cache"):
        return {"input_ids": ids} | _past(int(kind.removeprefix("cache")))
    return {
        "ids": lambda: {"input_ids": ids},
        "text": lambda: {"input_ids": ids, "attention_mask": mask},
        "fixed": lambda: {"input_ids": ids, "attention_mask": mask},
        "static": lambda: {"input_ids": ids, "attention_mask": mask},
        "latent": lambda: {"inputs": ids, "attention_mask": mask},
        "boxes": lambda: {"input_ids": ids, "bbox": _boxes(), "attention_mask": mask},
        "pair": lambda: {"input_ids": ids, "attention_mask": mask, **target},
        "speech": lambda: {
            "input_features": Input(torch.randn(_BATCH, 20, 64)),
            **target,
            "decoder_attention_mask": Input(_seen(9), _TARGET),
        },
        "wave": lambda: {"input_values": Input(torch.randn(_BATCH, 800))},
        "spectrum": lambda: {"input_values": Input(torch.randn(_BATCH, 32, 32))},
        "image": lambda: pixels,
        "photo": lambda: {"pixel_values": Input(torch.randn(_BATCH, 3, 64, 64))},
        "both": lambda: {"input_ids": ids, **pixels, "attention_mask": mask},
    }[kind]()


def _tokens(length: int) -> Tensor:
    return torch.randint(3, _VOCABULARY, (_BATCH, length))


def _seen(length: int) -> Tensor:
    mask = torch.ones(_BATCH, length, dtype=torch.int64)
    mask[0, -2:] = 0
    return mask


def _boxes() -> Input:
    return Input(torch.randint(0, 30, (_BATCH, _LENGTH, 4)).sort(-1).values, _TEXT)


def _past(heads: int) -> dict[str, Input]:
    names = [f"past.{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    shape, axes = (_BATCH, heads, _PAST, _HIDDEN // 4), {0: "batch", 2: "past"}
    mask = Input(_seen(_LENGTH + _PAST), {0: "batch", 1: "total"})
    return {"attention_mask": mask} | {n: Input(torch.randn(shape), axes) for n in names}


def _read(table: str) -> Iterator[Family]:
    """Read families, one a line."""
    for entry in filter(None, map(str.strip, table.splitlines())):
        name, model, base, kind, *rest = entry.split()
        settings = dict(_BASES[base])
        for setting in rest:
            key, _, value = setting.partition("=")
            if value:
                settings[key] = ast.literal_eval(value)
            else:
                del settings[key.removeprefix("-")]
        yield Family(name, model, settings, kind)


FAMILIES: dict[str, Family] = {
    family.name: family
    for table in (tables.ENCODERS, tables.DECODERS, tables.PAIRS, tables.SOUND, tables.IMAGES)
    for family in _read(table)
}


def examples(family: Family) -> dict[str, Input]:
    """Draw the inputs that the network is exported with."""
    torch.manual_seed(1)
    return inputs(family.kind)


def write(family: Family, label: str, path: Path) -> None:
    """Write a family's network as one ONNX file, with weights that are not neutral.

    Args:
        family: what to build.
        label: exporter and opset: "dynamo 20" or "torchscript 17".
        path: where to write.
    """
    exporter, opset = label.split()
    given, fused = examples(family), exporter == "dynamo" and int(opset) >= _ATTENTION
    network = family.build("sdpa" if fused else "eager")
    logging.disable(logging.WARNING)
    try:
        with (
            torch.no_grad(),
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),  # a failing TorchScript prints its graph,
            contextlib.redirect_stderr(io.StringIO()),
        ):
            _WRITERS[exporter](network, given, int(opset), path)
    finally:
        logging.disable(logging.NOTSET)
    perturb(path, path)


def _torchscript(network: nn.Module, given: dict[str, Input], opset: int, path: Path) -> None:
    examples = tuple(x.example for x in given.values())
    torch.onnx.export(
        network,
        examples,
        path,
        dynamo=False,
        opset_version=opset,
        input_names=list(given),
        output_names=[f"output{i}" for i in range(len(network(*examples)))],
        dynamic_axes={name: dict(x.axes) for name, x in given.items()},
    )


def _dynamo(network: nn.Module, given: dict[str, Input], opset: int, path: Path) -> None:
    axes = tuple(dict.fromkeys(x.axes, torch.export.Dim.AUTO) for x in given.values())
    program = torch.onnx.export(
        network,
        tuple(x.example for x in given.values()),
        dynamo=True,
        verbose=False,
        opset_version=opset,
        input_names=list(given),
        dynamic_shapes=(axes,) if isinstance(network, Face) else axes,  # Face takes *tensors
    )
    assert program is not None  # it is None for TorchScript only
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # holds source lines of the exporting machine
    program.save(path, external_data=False)


_WRITERS = {"torchscript": _torchscript, "dynamo": _dynamo}
