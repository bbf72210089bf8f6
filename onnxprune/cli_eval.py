"""The command that measures a model, and fails where it lost more than allowed."""

from __future__ import annotations

from typing import Annotated

import typer

from . import api
from . import options as opt
from .core.errors import LimitError
from .measure.evaluate import Evaluation
from .show import render
from .show.screen import Screen

_LIMIT = "Limit: exit code 2 beyond it"
Allowed = Annotated[
    str | None,
    typer.Option(
        "--max-drop", help="Lose at most this against --reference: 1%.", rich_help_panel=_LIMIT
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="Of accuracy (default with --labels), agreement (else) or error.",
        rich_help_panel=_LIMIT,
    ),
]
Confidence = Annotated[
    float,
    typer.Option(
        "--confidence",
        help="That other samples stay within, too; 0.5: as measured.",
        rich_help_panel=_LIMIT,
    ),
]


def evaluate(
    model: opt.Model,
    data: opt.NeededData,
    labels: opt.Labels = None,
    reference: opt.Reference = None,
    max_drop: Allowed = None,
    metric: Metric = None,
    confidence: Confidence = 0.5,
    preprocess: opt.Preprocess = None,
    samples: opt.MostSamples = None,
    seed: opt.Seed = 0,
    provider: opt.Provider = "cpu",
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Measure a model: accuracy with --labels, agreement and error against a --reference."""
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        try:
            found = api.evaluate(
                model, data, labels=labels, reference=reference, max_drop=max_drop, metric=metric,
                confidence=confidence, preprocess=preprocess, samples=samples, seed=seed,
                provider=provider, progress=screen.progress,
            )  # fmt: skip
        except LimitError as error:
            if isinstance(error.found, Evaluation):
                screen.show(error.found, render.evaluation_report(error.found))
            raise
        screen.show(found, render.evaluation_report(found))
