"""The command that sets weights to zero."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import api
from . import options as opt
from .show.screen import Screen
from .show.sparse_text import sparse_report

Sparsity = Annotated[
    str, typer.Option(help="Share of every row that becomes zero, or N:M: 0.5, 2:4, 4:8.")
]
Method = Annotated[
    str | None,
    typer.Option(help="magnitude, wanda (default with --data) or sparsegpt; NAME:SETTING=VALUE."),
]
Dense = Annotated[
    list[str] | None,
    typer.Option(
        "--keep", help="Weights that stay dense: a name or pattern; repeatable.", metavar="PATTERN"
    ),
]
SparseOutput = Annotated[
    Path | None, typer.Option("--output", "-o", help="Where to; default MODEL.sparse.onnx.")
]


def sparsify(
    model: opt.Model,
    output: SparseOutput = None,
    sparsity: Sparsity = "0.5",
    data: opt.DataText = None,
    preprocess: opt.Preprocess = None,
    labels: opt.Labels = None,
    samples: opt.Samples = 512,
    method: Method = None,
    keep: Dense = None,
    rows: opt.Rows = 32,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
    provider: opt.Provider = "cpu",
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Set weights of linear operators to zero, within rows or as N:M; tensors and structure stay."""
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        report = api.sparsify(
            model, output, sparsity=sparsity, data=data, preprocess=preprocess, labels=labels,
            samples=samples, method=method, keep=tuple(keep or ()), rows=rows, seed=seed,
            overwrite=overwrite, provider=provider, progress=screen.progress,
        )  # fmt: skip
        screen.show(report, sparse_report(report))
