"""The command line: thin commands over the Python API; every docstring is the help text.

Exit codes: 0 done; 2 something the user can mend, said in one line on stderr; 1 a bug of ours, with
a traceback.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from . import api
from . import options as opt
from .cli_bench import bench
from .cli_eval import evaluate
from .cli_report import report, score
from .cli_retrain import retrain
from .cli_sparsify import sparsify
from .core.contracts import CRITERIA, REPAIRS, SOURCES
from .core.depth import DEPTH
from .core.errors import OnnxPruneError
from .core.registry import Registry
from .core.rules import OP_RULES
from .core.sparsity import SPARSIFIERS
from .demo import demo as run_demo
from .discover import discover
from .doctor import doctor as examine
from .doctor import render as doctor_report
from .show import render
from .show.frontier_text import frontier_report
from .show.overview_text import group_report, overview_report
from .show.screen import Screen
from .supervise import supervised

_DEPTH = "cka"  # what a bare --depth means

app = typer.Typer(
    name="onnxprune",
    help="Makes ONNX files smaller and faster by removing whole channels: decided, proved, repaired.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def inspect(
    model: opt.Model,
    keep: opt.Keep = None,
    floor: opt.Floor = 0.1,
    round_to: opt.RoundTo = 8,
    unlock: opt.Unlock = None,
    keep_rows: opt.KeepRows = None,
    keep_classes: opt.KeepClasses = None,
    keep_features: opt.KeepFeatures = None,
    blocks: opt.Blocks = False,
    group: opt.Group = None,
    html: opt.Html = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Say what can be removed from a model, what cannot and why, and the least reachable size."""
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        screen.progress("analyse", 0, 0)
        found = api.inspect(
            model, keep=tuple(keep or ()), floor=floor, round_to=round_to, unlock=tuple(unlock or ()),
            keep_rows=keep_rows, keep_classes=keep_classes, keep_features=keep_features,
            blocks=blocks, group=tuple(group or ()), html=html,
        )  # fmt: skip
        if found.chosen:
            groups = [found.groups[number] for number in found.chosen]
            screen.show(groups, group_report(groups))
        else:
            screen.show(found, overview_report(found))


@app.command()
def prune(
    model: opt.Model,
    output: opt.Output = None,
    macs: opt.Macs = None,
    params: opt.Params = None,
    size: opt.Size = None,
    ratio: opt.Ratio = None,
    latency: opt.Latency = None,
    device: opt.Device = None,
    threads: opt.Threads = 0,
    max_drop: opt.MaxDrop = None,
    metric: opt.Metric = None,
    by: opt.By = "macs",
    confidence: opt.Confidence = 0.95,
    trials: opt.Trials = 7,
    sweep: opt.Sweep = None,
    bench: opt.Bench = False,
    judge: opt.Judge = None,
    judge_samples: opt.JudgeSamples = None,
    drop_block: opt.DropBlock = None,
    depth: opt.Depth = None,
    blocks: opt.BlockCount = None,
    data: opt.DataText = None,
    preprocess: opt.Preprocess = None,
    labels: opt.Labels = None,
    samples: opt.Samples = 512,
    criterion: opt.Criterion = None,
    repair: opt.Repair = None,
    scope: opt.Scope = None,
    normalise: opt.Normalise = None,
    round_to: opt.MaybeRoundTo = None,
    keep: opt.Keep = None,
    floor: opt.Floor = 0.1,
    unlock: opt.Unlock = None,
    keep_rows: opt.KeepRows = None,
    keep_classes: opt.KeepClasses = None,
    keep_features: opt.KeepFeatures = None,
    ridge: opt.Ridge = None,
    rows: opt.Rows = 32,
    seed: opt.Seed = 0,
    plan: opt.Plan = None,
    rounds: opt.Rounds = 1, retrain: opt.Retrain = None, train: opt.Train = None,
    rewind: opt.Rewind = False, work: opt.Work = None,
    then: opt.Then = None,
    dry_run: opt.DryRun = False, no_verify: opt.NoVerify = False,
    overwrite: opt.Overwrite = False,
    provider: opt.Provider = "cpu",
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:  # fmt: skip
    """Remove channels until a model meets a budget (--sweep: several), or as many as lose little enough."""
    asked = _given(locals())
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        if sweep is not None:
            swept = api.sweep(**asked, verify=not no_verify, progress=screen.progress)
            screen.show(swept, frontier_report(swept))
        else:
            report = api.prune(**asked, verify=not no_verify, progress=screen.progress)
            screen.show(report, render.prune_report(report, every=verbose > 0))


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user said of the model, as the Python API takes it."""
    for_the_screen = {"json", "quiet", "verbose", "no_verify"}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in arguments.items()
        if value is not None and name not in for_the_screen
    }


@app.command()
def verify(
    model: opt.Model,
    plan: opt.NeededPlan,
    original: opt.Original = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Check that a file is valid, runs and is as its plan says; with --original, prove it again."""
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        screen.progress("verify", 0, 0)
        found = api.verify(model, plan, original=original)
        screen.show(found, render.verification_report(found))


@app.command(name="list")
def listing(
    what: opt.What, json: opt.Json = False, quiet: opt.Quiet = False, verbose: opt.Verbose = 0
) -> None:
    """List what is registered: ops with a rule, criteria, repairs, methods of sparsify, data sources."""
    discover()
    ops = {f"{r.op_type} ({r.domain or 'ai.onnx'} {r.since}+)": r.doc for r in OP_RULES.all()}
    registries: dict[str, Registry[Any]] = {
        "criteria": CRITERIA,
        "depth": DEPTH,
        "repairs": REPAIRS,
        "methods": SPARSIFIERS,
        "sources": SOURCES,
    }
    known = {"ops": ops, **{name: _docs(registry) for name, registry in registries.items()}}
    if what not in known:
        raise OnnxPruneError(f"cannot list '{what}': known: {', '.join(known)}")
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        screen.show(known[what], render.listing(what, known[what]))


def _docs(registry: Registry[Any]) -> Mapping[str, str]:
    """Return the first line of the module that each entry comes from."""
    modules = {name: sys.modules[type(entry).__module__] for name, entry in registry.items()}
    return {name: (module.__doc__ or "").split("\n")[0] for name, module in modules.items()}


@app.command()
def doctor(json: opt.Json = False, quiet: opt.Quiet = False, verbose: opt.Verbose = 0) -> None:
    """Say what is installed and which providers really run; exit code 2 if something is wrong."""
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        screen.progress("looking", 0, 0)
        found = examine()
        screen.show(found, doctor_report(found))
    if found.problems:
        raise OnnxPruneError(f"{len(found.problems)} found, the first: {found.problems[0]}")


app.command()(sparsify)
app.command(name="eval")(evaluate)
app.command()(bench)
app.command()(score)
app.command()(retrain)
app.command()(report)


@app.command()
def demo(
    folder: opt.Folder = Path("onnxprune-demo"),
    json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
) -> None:
    """Prune the digits network that ships with onnxprune, on real digits; nothing is downloaded."""
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        found = run_demo(folder, progress=screen.progress)
        screen.show(found, render.demo_report(found, every=verbose > 0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return the exit code."""
    try:
        code = app(args=_written_out(arguments), standalone_mode=False)
    except (OnnxPruneError, typer.TyperException) as error:
        text = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        return _say(text, 2)
    except MemoryError as error:
        return _say(f"memory ran out ({error}): nothing was written; free some, or ask for less", 2)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stderr.close()
        return 0
    except Exception:  # noqa: BLE001 - the last line of defence: it shows the traceback
        traceback.print_exc()
        return _say("this is a bug of onnxprune: please report it with the lines above", 1)
    return code if isinstance(code, int) else 0


def _written_out(arguments: Sequence[str] | None) -> list[str]:
    """Give a bare --depth its usual score."""
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    bare = [
        n for n, (word, after) in enumerate(zip(given, [*given[1:], "-"], strict=True))
        if word == "--depth" and after.startswith("-")
    ]  # fmt: skip
    for n in reversed(bare):
        given.insert(n + 1, _DEPTH)
    return given


def entry() -> int:
    """Run the command line of this process, guarded against crashes of native code."""
    return supervised(main)


def _say(text: str, code: int) -> int:
    """Print one line on stderr; what a terminal would obey is shown as an escape sequence."""
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    sys.stderr.write(f"onnxprune: {line}\n" if line else "")
    return code


if __name__ == "__main__":
    sys.exit(entry())
