"""What a converted module costs beside the PyTorch module it was exported from.

    python benchmarks/converter_speed.py [resnet18] [bert-base] [--rounds 10] [--exports FOLDER]

Each network (random weights) is exported twice: as the exporter writes it by default, and with
BatchNormalization, or Attention as an operator. Steps of SGD on the same batch, forward and backward,
are taken in turns in one process on one thread; ratios are of the least times.

    conversion   s of the processor, from the model in memory to the module
    memory       peak while converting, beyond the model in memory, over the bytes of the parameters:
                 1 is the parameters alone, 2 one more copy of them
    step         ms of the processor, native and converted, and their ratio
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ONNXPRUNE_THREADS"):
    os.environ.setdefault(_variable, "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import onnx  # noqa: E402  # after the threads are set
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from onnxprune.models.export import export  # noqa: E402
from onnxprune.torch import from_onnx  # noqa: E402
from tests.zoo import torchvision_models  # noqa: E402

_TOKENS = 64


class Bert(nn.Module):
    """BERT-base: ids (N, 64) -> hidden states (N, 64, 768)."""

    def __init__(self) -> None:
        """Build with random weights, without dropout."""
        super().__init__()
        torchvision_models()  # which transformers imports as it is
        import transformers

        config = transformers.BertConfig(hidden_dropout_prob=0, attention_probs_dropout_prob=0)
        self.bert = transformers.BertModel(config, add_pooling_layer=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the last hidden states."""
        states: Tensor = self.bert(input_ids=ids).last_hidden_state
        return states


@dataclass(frozen=True)
class Subject:
    """A network, an input, and settings of the two exports."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    exports: dict[str, dict[str, Any]]


SUBJECTS = {
    "resnet18": Subject(
        lambda: torchvision_models().resnet18(weights=None),
        lambda: torch.randn(8, 3, 64, 64),
        {"folded": {}, "batchnorm": {"keep_batchnorm": True}},
    ),
    "bert-base": Subject(
        Bert,
        lambda: torch.randint(0, 30_000, (2, _TOKENS)),
        {"opset 20": {"opset": 20}, "opset 23": {"opset": 23}},
    ),
}


def stepper(module: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return a function that takes one step of SGD in training mode."""
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-6)
    module.train()

    def step() -> None:
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()

    return step


def least(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the least time of each in milliseconds, taken in turns, of the processor; the first warms up."""
    best = dict.fromkeys(steps, float("inf"))
    for turn in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if turn:
                best[name] = min(best[name], 1e3 * (time.process_time() - start))
    return best


def _resident(field: str) -> int:
    """Return bytes of this process: VmRSS now, or VmHWM at most since it was reset."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise LookupError(field)


def converted(path: Path) -> tuple[nn.Module, float, float]:
    """Return the module, the seconds that took, and the peak of memory over its parameters."""
    model = onnx.load(path)
    gc.collect()
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
    start = time.process_time()
    module = from_onnx(model)
    seconds = time.process_time() - start
    peak = _resident("VmHWM") - before
    size = sum(t.nbytes for t in [*module.parameters(), *module.buffers()])
    return module, seconds, peak / size


def main() -> None:
    """Read the command line, export, convert, take steps in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--exports", type=Path, default=Path("exports"))
    wanted = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    table = Table("network", "export", "conversion s", "memory", "native ms", "converted ms",
                  "ratio", box=None)  # fmt: skip
    for name in wanted.networks:
        subject = SUBJECTS[name]
        torch.manual_seed(0)
        native, x = subject.build(), subject.inputs()
        steps = {"native": stepper(native, x)}
        figures = {}
        for label, settings in subject.exports.items():
            path = wanted.exports / f"{name}.{label.replace(' ', '')}.onnx"
            if not path.exists():
                export(native, (x,), path, dynamic_batch=False, **settings)
            module, *figures[label] = converted(path)
            steps[label] = stepper(module, x)
        best = least(steps, wanted.rounds)
        for label, (seconds, memory) in figures.items():
            table.add_row(name, label, f"{seconds:.2f}", f"{memory:.2f}", f"{best['native']:.0f}",
                          f"{best[label]:.0f}", f"{best[label] / best['native']:.3f}")  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
