"""Transformers as deep as the real ones and as narrow as one likes, exported on demand and kept on disk.

Depth, order of the layers, masks and tables are those of the published network; widths and
vocabularies are small, weights random and then perturbed (see `tests.perturbation`). Nothing is
downloaded. ViT and Swin are torchvision's, the others those of the library transformers.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onnxprune.models.export import Exporter
from tests.perturbation import perturb
from tests.zoo import torchvision_models

VOCABULARY = 100
Axes = Mapping[int, str]
_OPSETS = {"dynamo": 20, "torchscript": 17}


@dataclass(frozen=True)
class Input:
    """A graph input: an example, and its symbolic axes."""

    example: Tensor
    axes: Axes


@dataclass(frozen=True)
class Deep:
    """A network.

    Attributes:
        factory: takes the width of the stream, a multiple of 24.
        inputs: by name, in the order of `forward`.
        config: which published network has this depth.
        library: whose classes it is made of.
    """

    factory: Callable[[int], nn.Module]
    inputs: Callable[[], dict[str, Input]]
    config: str
    library: str = "transformers"


class Face(nn.Module):
    """A model of transformers as a function of tensors, named in order, with one result."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], pick: str) -> None:
        super().__init__()
        self.model, self.names, self.pick = model, names, pick

    def forward(self, *tensors: Tensor) -> Tensor:
        options = {} if self.pick == "last_hidden_state" else {"use_cache": False}
        found = self.model(**dict(zip(self.names, tensors, strict=True)), **options)
        result: Tensor = found[self.pick]
        return result


def _vision(name: str, **settings: Any) -> nn.Module:
    torchvision_models()
    module = importlib.import_module(f"torchvision.models.{name}")
    kind = {"vision_transformer": "VisionTransformer", "swin_transformer": "SwinTransformer"}[name]
    network: nn.Module = getattr(module, kind)(num_classes=5, **settings)
    return network


def _language(
    name: str, inputs: Callable[[], dict[str, Input]], pick: str, **settings: Any
) -> nn.Module:
    torchvision_models()  # which transformers imports, without looking whether it can be
    transformers = importlib.import_module("transformers")
    kind = getattr(transformers, name)
    config = kind.config_class(vocab_size=VOCABULARY, pad_token_id=0, eos_token_id=2, **settings)
    config._attn_implementation = "eager"
    return Face(kind(config).eval(), tuple(inputs()), pick)


def _ids(length: int, name: str) -> Input:
    return Input(torch.randint(3, VOCABULARY, (2, length)), {0: "batch", 1: name})


def _image(size: int) -> dict[str, Input]:
    return {"x": Input(torch.randn(2, 3, size, size), {0: "batch"})}


def _text() -> dict[str, Input]:
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[0, -2:] = 0
    return {
        "input_ids": _ids(12, "length"),
        "attention_mask": Input(mask, {0: "batch", 1: "length"}),
    }


def _pair() -> dict[str, Input]:
    return _text() | {"decoder_input_ids": _ids(9, "target")}


def _vit(width: int) -> nn.Module:
    return _vision(
        "vision_transformer", image_size=64, patch_size=16, num_layers=12, num_heads=3,
        hidden_dim=width, mlp_dim=4 * width,
    )  # fmt: skip


def _swin(width: int) -> nn.Module:
    return _vision(
        "swin_transformer", patch_size=[4, 4], embed_dim=width, depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24], window_size=[7, 7],
    )  # fmt: skip


def _bert(width: int) -> nn.Module:
    return _language(
        "BertForSequenceClassification", _text, "logits", hidden_size=width, num_hidden_layers=12,
        num_attention_heads=3, intermediate_size=4 * width, max_position_embeddings=80,
    )  # fmt: skip


def _gpt2(width: int) -> nn.Module:
    return _language(
        "GPT2LMHeadModel", _text, "logits", n_embd=width, n_layer=12, n_head=3, n_positions=80,
        bos_token_id=2,
    )  # fmt: skip


def _llama(width: int) -> nn.Module:
    return _language(
        "LlamaForCausalLM", _text, "logits", hidden_size=width, num_hidden_layers=16,
        num_attention_heads=6, num_key_value_heads=3, intermediate_size=3 * width,
        max_position_embeddings=80, bos_token_id=1,
    )  # fmt: skip


_T5: dict[str, Any] = {"d_kv": 8, "num_layers": 6, "num_heads": 3, "decoder_start_token_id": 0}


def _t5_encoder(width: int) -> nn.Module:
    settings = _T5 | {"d_model": width, "d_ff": 4 * width}
    return _language("T5EncoderModel", _text, "last_hidden_state", **settings)


def _t5(width: int) -> nn.Module:
    settings = _T5 | {"d_model": width, "d_ff": 4 * width}
    return _language("T5ForConditionalGeneration", _pair, "logits", **settings)


DEEP: dict[str, Deep] = {
    "vit": Deep(_vit, functools.partial(_image, 64), "ViT-B: 12 layers", "torchvision"),
    "swin": Deep(_swin, functools.partial(_image, 64), "Swin-T: 2, 2, 6, 2 layers", "torchvision"),
    "bert": Deep(_bert, _text, "BERT-base: 12 layers, post-norm"),
    "gpt2": Deep(_gpt2, _text, "GPT-2: 12 layers"),
    "llama": Deep(_llama, _text, "Llama 3.2 1B: 16 layers"),
    "t5_encoder": Deep(_t5_encoder, _text, "T5-small: 6 layers"),
    "t5": Deep(_t5, _pair, "T5-small: 6 layers of the encoder, 6 of the decoder"),
}


def exported_deep(name: str, exporter: Exporter, folder: Path, *, width: int = 24) -> Path:
    """Return the perturbed ONNX file of a network; exported once.

    Args:
        name: key of `DEEP`.
        exporter: which of PyTorch's exporters.
        folder: where files are kept.
        width: of the stream, a multiple of 24.
    """
    path = folder / f"{name}.{width}.{exporter}.{torch.__version__}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")  # others never read half a file
        with torch.random.fork_rng():
            torch.manual_seed(0)
            _export(DEEP[name], exporter, draft, width)
        perturb(draft, draft).rename(path)
    return path


def _export(network: Deep, exporter: Exporter, path: Path, width: int) -> None:
    module, inputs = network.factory(width).eval(), network.inputs()
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1 and "norm" not in name.lower():
            # what a fresh network adds to its stream is too small to be seen at its end
            nn.init.normal_(parameter, std=1.0 / parameter[0].numel() ** 0.5)
    examples = tuple(given.example for given in inputs.values())
    names = list(inputs)
    logging.disable(logging.WARNING)
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            if exporter == "torchscript":
                torch.onnx.export(
                    module, examples, path, dynamo=False, opset_version=_OPSETS[exporter],
                    input_names=names, output_names=["output"],
                    dynamic_axes={name: dict(given.axes) for name, given in inputs.items()},
                )  # fmt: skip
            else:
                axes = tuple(dict.fromkeys(g.axes, torch.export.Dim.AUTO) for g in inputs.values())
                open_ended = "tensors" in inspect.signature(module.forward).parameters
                torch.onnx.export(
                    module, examples, path, dynamo=True, verbose=False, external_data=False,
                    opset_version=_OPSETS[exporter], input_names=names,
                    dynamic_shapes=(axes,) if open_ended else axes,
                )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
