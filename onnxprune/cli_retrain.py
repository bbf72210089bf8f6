"""The command that trains: the original model teaches the pruned one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from . import options as opt
from .core.errors import OnnxPruneError
from .show.screen import Screen

Teacher = Annotated[Path, typer.Option(help="The original, with the same inputs and outputs.")]
Trained = Annotated[Path, typer.Option("--output", "-o", help="Where to.")]
Epochs = Annotated[int, typer.Option(help="Passes over the samples.")]
Batch = Annotated[int, typer.Option(help="Samples a step.")]
Optimizer = Annotated[str, typer.Option(help="sgd or adamw.")]
Rate = Annotated[float, typer.Option(help="Learning rate, which falls along a cosine.")]
Warmup = Annotated[float, typer.Option(help="Share of the steps in which the rate rises.")]
Decay = Annotated[float, typer.Option(help="Weight decay, not of biases and norms.")]
Temperature = Annotated[float, typer.Option(help="That logits are divided by.")]
LabelWeight = Annotated[float, typer.Option(help="Share of the labels in the loss.")]
Clip = Annotated[float, typer.Option(help="Largest norm of a gradient.")]


def retrain(
    model: opt.Model,
    teacher: Teacher,
    data: opt.NeededData,
    output: Trained,
    labels: opt.Labels = None,
    preprocess: opt.Preprocess = None,
    epochs: Epochs = 5,
    batch: Batch = 128,
    optimizer: Optimizer = "sgd",
    rate: Rate = 0.01,
    warmup: Warmup = 0.05,
    decay: Decay = 5e-4,
    temperature: Temperature = 4.0,
    label_weight: LabelWeight = 0.1,
    clip: Clip = 5.0,
    seed: opt.Seed = 0,
    work: opt.Work = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Train a pruned model to say what the original says; labels are not needed. Resumes in --work."""
    if find_spec("torch") is None:
        raise OnnxPruneError('retrain needs PyTorch: pip install "onnxprune[torch]"')
    from .torch import Recipe
    from .torch import retrain as train

    recipe = Recipe(
        epochs=epochs, batch=batch, optimizer=optimizer, rate=rate, warmup=warmup,  # type: ignore[arg-type]
        decay=decay, temperature=temperature, label_weight=label_weight, clip=clip, seed=seed,
    )  # fmt: skip
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        done = train(
            model, teacher, data, output, recipe=recipe, labels=labels, preprocess=preprocess,
            work=work, progress=screen.progress,
        )  # fmt: skip
        text = f"wrote {output}: {done.steps} steps in {done.seconds:.0f} s"
        if done.losses:
            text += (
                f", loss {done.losses[0]:.4g} in the first epoch, {done.losses[-1]:.4g} in the last"
            )
        screen.show(done, text)
