"""The command that times files side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import api
from . import options as opt
from .core.errors import OnnxPruneError
from .plan.document import write_document
from .show.screen import Screen
from .show.timing import bench_report
from .timing.run import BenchReport

_BENCH = "How to measure"
Compared = Annotated[
    list[Path], typer.Argument(help="ONNX files with the same inputs.", metavar="MODEL...")
]
Batches = Annotated[
    str, typer.Option(help="Samples in a run: 1, or 1,8,32.", rich_help_panel=_BENCH)
]
ThreadCounts = Annotated[
    str,
    typer.Option(help="Intra-op threads: 1,2; 0: as onnxruntime chooses.", rich_help_panel=_BENCH),
]
AllowFallback = Annotated[
    bool,
    typer.Option(
        "--allow-fallback",
        help="Let the CPU run where the provider does not.",
        rich_help_panel=_BENCH,
    ),
]
Seconds = Annotated[
    float,
    typer.Option(help="Time spent on each batch size and thread count.", rich_help_panel=_BENCH),
]
Lives = Annotated[
    int, typer.Option(help="Times that the models are loaded anew.", rich_help_panel=_BENCH)
]
Sure = Annotated[
    float, typer.Option("--confidence", help="Of the intervals.", rich_help_panel=_BENCH)
]
NoProfile = Annotated[
    bool, typer.Option("--no-profile", help="Do not look at single nodes.", rich_help_panel=_BENCH)
]
_ELSEWHERE = "On another machine"
BundleFile = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        help="Write a .zip that measures wherever onnxruntime is; measure nothing here.",
        rich_help_panel=_ELSEWHERE,
    ),
]
ResultFile = Annotated[
    Path | None,
    typer.Option(
        "--result",
        help="The result.json that a bundle wrote; measure nothing here.",
        rich_help_panel=_ELSEWHERE,
    ),
]

TargetFile = Annotated[
    Path | None,
    typer.Option(
        "--target",
        help="TOML file: shell = ['ssh', 'user@device'], python, folder.",
        rich_help_panel=_ELSEWHERE,
    ),
]


BenchOutput = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write what was found for `report`.", metavar="FILE"),
]


def bench(
    models: Compared,
    output: BenchOutput = None,
    data: opt.DataText = None,
    preprocess: opt.Preprocess = None,
    batch: Batches = "1",
    threads: ThreadCounts = "0",
    provider: opt.Provider = "cpu",
    allow_fallback: AllowFallback = False,
    seconds: Seconds = 4.0,
    lives: Lives = 8,
    confidence: Sure = 0.99,
    no_profile: NoProfile = False,
    target: TargetFile = None,
    bundle: BundleFile = None,
    result: ResultFile = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Time models side by side, here or on another machine, and say what holds the time up."""
    if output is not None and bundle is not None:
        raise OnnxPruneError("--bundle measures nothing here: leave out --output")
    if output is not None and not output.parent.is_dir():
        raise OnnxPruneError(f"cannot write '{output}': there is no folder '{output.parent}'")
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        found = api.bench(
            *models, data=data, preprocess=preprocess, batches=batch, threads=threads, provider=provider,
            fallback=allow_fallback, seconds=seconds, lives=lives, confidence=confidence,
            profile=not no_profile, target=target, bundle=bundle, result=result,
            progress=screen.progress,
        )  # fmt: skip
        if output is not None and isinstance(found, BenchReport):
            write_document(found, output)
        screen.show(
            found, bench_report(found) if isinstance(found, BenchReport) else f"wrote {found}"
        )
