"""The command that trains: the original model teaches the pruned one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as opt
from .core.errors import needs_torch
from .show.screen import Screen

if TYPE_CHECKING:
    from .torch import Retrained

_LOSS, _STEPS, _MACHINE = "Loss", "Steps", "Machine"

Teacher = Annotated[Path, typer.Option(help="The original, with the same inputs and outputs.")]
Trained = Annotated[Path, typer.Option("--output", "-o", help="Where to.")]
Epochs = Annotated[int, typer.Option(help="Passes over the samples.", rich_help_panel=_STEPS)]
Batch = Annotated[int, typer.Option(help="Samples a step.", rich_help_panel=_STEPS)]
Optimizer = Annotated[str, typer.Option(help="sgd, adamw or foof.", rich_help_panel=_STEPS)]
Damping = Annotated[
    float,
    typer.Option(help="Of foof, in means of what it inverts.", rich_help_panel=_STEPS),
]
Rate = Annotated[
    float | None,
    typer.Option(
        help="Learning rate, which falls along a cosine.",
        show_default="by optimizer",
        rich_help_panel=_STEPS,
    ),
]
Warmup = Annotated[
    float, typer.Option(help="Share of the steps in which the rate rises.", rich_help_panel=_STEPS)
]
Decay = Annotated[
    float, typer.Option(help="Weight decay, not of biases and norms.", rich_help_panel=_STEPS)
]
Clip = Annotated[float, typer.Option(help="Largest norm of a gradient.", rich_help_panel=_STEPS)]
Average = Annotated[
    float,
    typer.Option(
        help="Keep a running average of the weights: how much of it stays in a step, such as 0.999.",
        rich_help_panel=_STEPS,
    ),
]
Unfold = Annotated[
    bool,
    typer.Option(
        "--unfold",
        help="BatchNormalization goes by each batch; what the exporter folded is put back for it.",
        rich_help_panel=_STEPS,
    ),
]
Temperature = Annotated[
    float, typer.Option(help="That logits are divided by.", rich_help_panel=_LOSS)
]
LabelWeight = Annotated[
    float, typer.Option(help="Share of the labels in the loss.", rich_help_panel=_LOSS)
]
Features = Annotated[
    float | None,
    typer.Option(
        help="Weight of the distance to the original where blocks end; needs the plan.",
        show_default="1000 with foof where the plan is at hand, else 0",
        rich_help_panel=_LOSS,
    ),
]
PlanOf = Annotated[
    Path | None,
    typer.Option("--plan", help="Of the prune; default MODEL.plan.json.", rich_help_panel=_LOSS),
]
OwnLoss = Annotated[
    str | None,
    typer.Option(
        "--loss",
        help="Your own in place of that of labels: called with outputs and batch, two mappings of "
        "tensors by name.",
        metavar="MODULE:FUNCTION",
        rich_help_panel=_LOSS,
    ),
]
Augment = Annotated[
    str | None,
    typer.Option(
        help="Change images at random, for both models: zoom,crop,flip,cutout,mixup.",
        metavar="NAMES",
        rich_help_panel=_STEPS,
    ),
]
Repeat = Annotated[
    int,
    typer.Option(
        help="Draw so many epochs only: the others repeat them, for which the teacher is not asked "
        "again. 0: each is drawn.",
        rich_help_panel=_STEPS,
    ),
]
Holdout = Annotated[
    float | None,
    typer.Option(
        help="Share of the samples to judge by; the weights that do best there are kept.",
        show_default="0.1, at most 1000 samples",
        rich_help_panel=_STEPS,
    ),
]
Patience = Annotated[
    int,
    typer.Option(help="Stop after so many epochs without progress there.", rich_help_panel=_STEPS),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=_MACHINE)]
TeacherProvider = Annotated[
    str,
    typer.Option("--provider", help="onnxruntime's, for the teacher.", rich_help_panel=_MACHINE),
]
Precision = Annotated[
    str, typer.Option(help="float32, or bfloat16 where possible.", rich_help_panel=_MACHINE)
]
TaughtBy = Annotated[
    str,
    typer.Option(
        help="What runs the teacher: onnxruntime, or pytorch on --device in --precision.",
        rich_help_panel=_MACHINE,
    ),
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile first: minutes, for GPUs.", rich_help_panel=_MACHINE),
]


def retrain(
    model: opt.Model,
    teacher: Teacher,
    data: opt.NeededData,
    output: Trained,
    labels: opt.Labels = None,
    preprocess: opt.Preprocess = None,
    epochs: Epochs = 5,
    batch: Batch = 128,
    optimizer: Optimizer = "foof",
    damping: Damping = 1.0,
    rate: Rate = None,
    warmup: Warmup = 0.05,
    decay: Decay = 5e-4,
    clip: Clip = 1.0,
    augment: Augment = None,
    repeat: Repeat = 0,
    average: Average = 0.0,
    unfold: Unfold = False,
    holdout: Holdout = None,
    patience: Patience = 0,
    temperature: Temperature = 4.0,
    label_weight: LabelWeight = 0.1,
    features: Features = None,
    plan: PlanOf = None,
    loss: OwnLoss = None,
    device: Device = "auto",
    provider: TeacherProvider = "cpu",
    precision: Precision = "float32",
    taught_by: TaughtBy = "onnxruntime",
    compile: Compile = False,
    seed: opt.Seed = 0,
    work: opt.Work = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Train a pruned model to say what the original says; labels are not needed. Resumes in --work.

    Several processes train together: accelerate launch --num_processes 2 -m onnxprune retrain ...
    """
    with needs_torch("retrain"):
        from .torch import Recipe
        from .torch import retrain as train

    recipe = Recipe(
        epochs=epochs, batch=batch, optimizer=optimizer, rate=rate, warmup=warmup,  # type: ignore[arg-type]
        damping=damping, decay=decay, clip=clip, augment=tuple(augment.split(",")) if augment else (),
        repeat=repeat, average=average, unfold=unfold, holdout=holdout, patience=patience,
        temperature=temperature, label_weight=label_weight, features=features, loss=loss,
        precision=precision, taught_by=taught_by, compile=compile, seed=seed,  # type: ignore[arg-type]
    )  # fmt: skip
    is_main = int(os.environ.get("RANK", "0")) == 0
    with Screen(as_json=json and is_main, quiet=quiet or not is_main, verbose=verbose) as screen:
        done = train(
            model, teacher, data, output, recipe=recipe, labels=labels, plan=plan,
            preprocess=preprocess, device=device, provider=provider, work=work,
            progress=screen.progress,
        )  # fmt: skip
        screen.show(done, _said(done, output))


def _said(done: Retrained, output: Path) -> str:
    """Return what became of a training, in one line."""
    text = f"wrote {output}: {done.steps} steps, {done.seconds:.0f} s"
    if done.losses:
        text += f", loss {done.losses[0]:.4g} in the first epoch, {done.losses[-1]:.4g} in the last"
    if done.agreement is not None:
        text += f"; {done.agreement:.1%} of the held-out samples agree with the original"
    if done.kept == 0:
        text += "; no epoch did better on held-out samples than the weights before training: these are kept"
    return text
