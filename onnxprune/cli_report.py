"""Commands that show: what criteria say of a model, and one page of what was decided and why."""

from __future__ import annotations

from . import api
from . import options as opt
from .show.scores_text import scores_report
from .show.screen import Screen


def score(
    model: opt.Model,
    output: opt.ScoresOutput = None,
    criterion: opt.Criteria = None,
    data: opt.DataText = None,
    preprocess: opt.Preprocess = None,
    labels: opt.Labels = None,
    samples: opt.Samples = 512,
    unlock: opt.Unlock = None,
    rows: opt.Rows = 32,
    seed: opt.Seed = 0,
    work: opt.Work = None,
    provider: opt.Provider = "cpu",
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Score all units of a model by one or more criteria, from one calibration run; remove nothing."""
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        found = api.score(
            model, output, criterion=tuple(criterion or ()), data=data, preprocess=preprocess,
            labels=labels, samples=samples, unlock=tuple(unlock or ()), rows=rows, seed=seed,
            work=work, provider=provider, progress=screen.progress,
        )  # fmt: skip
        target = output or model.with_name(f"{model.stem}.scores.json")
        screen.show(found, scores_report(found, target, every=verbose > 0))


def report(
    files: opt.Documents,
    output: opt.PageOutput = None,
    md: opt.Markdown = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Write one page of plans, scores, frontiers and times: figures, proof, widths, curves, settings."""
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        screen.progress("report", 0, 0)
        written = api.report(*files, output=output, markdown=md)
        screen.show({"page": written}, f"wrote {written}")
