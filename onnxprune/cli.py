"""The command line: thin commands over the Python API; every docstring is the help text.

Exit codes: 0 done; 2 something the user can mend, said in one line on stderr; 1 a bug of ours, with
a traceback.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from . import api, render
from .core.contracts import CRITERIA, REPAIRS, SOURCES
from .core.errors import OnnxPruneError
from .core.registry import Registry
from .core.rules import OP_RULES
from .demo import demo as run_demo
from .discover import discover
from .doctor import doctor as examine
from .doctor import render as doctor_report
from .screen import Screen

app = typer.Typer(
    name="onnxprune",
    help="Makes ONNX files smaller and faster by removing whole channels: decided, proved, repaired.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[Path, typer.Argument(help="The ONNX file.", metavar="MODEL")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, and nothing else on stdout.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Say more; twice: per node.")
]
Provider = Annotated[str, typer.Option(help="onnxruntime execution provider: cpu, cuda, ...")]
DataText = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Samples: .npz or .npy files, a folder of images, module:function, or random.",
    ),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        help="For images: JSON text or a .json or .toml file with size, mean, std, layout, ..."
    ),
]
Labels = Annotated[
    str | None, typer.Option(help="Key of the labels in the data, for accuracy.", metavar="KEY")
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        help="Groups or weights that stay whole: a name or pattern (* ? [..]); repeatable.",
        metavar="PATTERN",
    ),
]
Floor = Annotated[float, typer.Option(help="Least share of every group's units that stays.")]
RoundTo = Annotated[int, typer.Option(help="Kept channels are a multiple of this, or all.")]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn.")]


def _budget(text: str) -> object:
    return typer.Option(help=text, rich_help_panel="Budget, exactly one")


@app.command()
def inspect(
    model: Model,
    keep: Keep = None,
    floor: Floor = 0.1,
    round_to: RoundTo = 8,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Say what can be removed from a model, what cannot and why, and the least reachable size."""
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        screen.progress("analyse", 0, 0)
        found = api.inspect(model, keep=tuple(keep or ()), floor=floor, round_to=round_to)
        screen.show(found, render.overview_report(found))


@app.command()
def prune(
    model: Model,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to; default MODEL.pruned.onnx.")
    ] = None,
    macs: Annotated[
        str | None, _budget("Share of the MACs that remains (0.5), or an amount (1.2G).")
    ] = None,
    params: Annotated[
        str | None, _budget("Share of the parameters that remains, or an amount (6.9M).")
    ] = None,
    size: Annotated[
        str | None, _budget("Size of the file (10MB), or the share that remains.")
    ] = None,
    ratio: Annotated[str | None, _budget("Share of the removable units to remove.")] = None,
    data: DataText = None,
    preprocess: Preprocess = None,
    labels: Labels = None,
    samples: Annotated[
        int, typer.Option(help="Calibrate on at most so many; others are held out.")
    ] = 512,
    criterion: Annotated[
        str | None, typer.Option(help="Default: reconstruction with --data, else l2.")
    ] = None,
    repair: Annotated[
        str | None, typer.Option(help="Default: sequential with --data, else none.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="Rank units within groups (uniform) or over all (global).")
    ] = None,
    normalise: Annotated[
        str | None, typer.Option(help="Scores per group: none, mean, sum, max, standard.")
    ] = None,
    round_to: RoundTo = 8,
    keep: Keep = None,
    floor: Floor = 0.1,
    ridge: Annotated[float, typer.Option(help="Damping of the least-squares repair.")] = 1e-3,
    rows: Annotated[int, typer.Option(help="Output positions read per sample and operator.")] = 32,
    seed: Seed = 0,
    plan: Annotated[
        Path | None, typer.Option(help="Re-apply this plan instead of a budget.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the plan only.")] = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Write without the proof.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Allow the output to be the input.")
    ] = False,
    provider: Provider = "cpu",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Remove channels from a model until it meets a budget; repair, prove and write it."""
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        report = api.prune(
            model, output, data=data, preprocess=preprocess, labels=labels, samples=samples,
            criterion=criterion, repair=repair, macs=macs, params=params, size=size, ratio=ratio,
            scope=scope, normalise=normalise,  # type: ignore[arg-type]  # checked by PruneRequest
            round_to=round_to, keep=tuple(keep or ()), floor=floor, ridge=ridge, rows=rows, seed=seed,
            plan=plan, dry_run=dry_run, verify=not no_verify, overwrite=overwrite, provider=provider,
            progress=screen.progress,
        )  # fmt: skip
        screen.show(report, render.prune_report(report, every=verbose > 0))


@app.command(name="eval")
def evaluate(
    model: Model,
    data: Annotated[str, typer.Option("--data", help="Samples, as in prune.")],
    labels: Labels = None,
    reference: Annotated[Path | None, typer.Option(help="Compare with this ONNX file.")] = None,
    preprocess: Preprocess = None,
    samples: Annotated[int | None, typer.Option(help="Use at most so many.")] = None,
    seed: Seed = 0,
    provider: Provider = "cpu",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Measure a model: accuracy with --labels, agreement and error against a --reference."""
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        found = api.evaluate(
            model, data, labels=labels, reference=reference, preprocess=preprocess, samples=samples,
            seed=seed, provider=provider, progress=screen.progress,
        )  # fmt: skip
        screen.show(found, render.evaluation_report(found))


@app.command()
def verify(
    model: Model,
    plan: Annotated[Path, typer.Option(help="The plan file.")],
    original: Annotated[
        Path | None, typer.Option(help="The model that was pruned: prove again.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Check that a file has the structure its plan says, is valid and runs; with --original, prove it."""
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        screen.progress("verify", 0, 0)
        found = api.verify(model, plan, original=original)
        screen.show(found, render.verification_report(found))


@app.command(name="list")
def listing(
    what: Annotated[str, typer.Argument(help="ops, criteria, repairs or sources.")],
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """List what is registered: ops with a rule, criteria, repairs, data sources."""
    discover()
    ops = {f"{r.op_type} ({r.domain or 'ai.onnx'} {r.since}+)": r.doc for r in OP_RULES.all()}
    known = {
        "ops": ops,
        "criteria": _docs(CRITERIA),
        "repairs": _docs(REPAIRS),
        "sources": _docs(SOURCES),
    }
    if what not in known:
        raise OnnxPruneError(f"cannot list '{what}': known: {', '.join(known)}")
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        screen.show(known[what], render.listing(what, known[what]))


def _docs(registry: Registry[Any]) -> Mapping[str, str]:
    """Return the first line of the module that each entry comes from."""
    modules = {name: sys.modules[type(entry).__module__] for name, entry in registry.items()}
    return {name: (module.__doc__ or "").split("\n")[0] for name, module in modules.items()}


@app.command()
def doctor(json: Json = False, quiet: Quiet = False, verbose: Verbose = 0) -> None:
    """Say what is installed, and which execution providers really run; exit code 2 if something is wrong."""
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        screen.progress("looking", 0, 0)
        found = examine()
        screen.show(found, doctor_report(found))
    if found.problems:
        raise OnnxPruneError(f"{len(found.problems)} found, the first: {found.problems[0]}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where to; made if need be.")] = Path(
        "onnxprune-demo"
    ),
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Prune the digits network that ships with onnxprune, on real digits; nothing is downloaded."""
    with Screen(as_json=json, quiet=quiet, verbose=verbose) as screen:
        found = run_demo(folder, progress=screen.progress)
        screen.show(found, render.demo_report(found, every=verbose > 0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return the exit code."""
    try:
        code = app(args=arguments, standalone_mode=False)
    except (OnnxPruneError, typer.TyperException) as error:
        text = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        return _say(text, 2)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stderr.close()
        return 0
    except Exception:  # noqa: BLE001 - the last line of defence: it shows the traceback
        traceback.print_exc()
        return _say("this is a bug of onnxprune: please report it with the lines above", 1)
    return code if isinstance(code, int) else 0


def _say(text: str, code: int) -> int:
    """Print one line on stderr."""
    line = " ".join(text.split())
    sys.stderr.write(f"onnxprune: {line}\n" if line else "")
    return code


if __name__ == "__main__":
    sys.exit(main())
