"""The options of the command line: what each is called, how it is read, and its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_BUDGET, _DATA, _CHOICE = "Budget, exactly one", "Samples", "How to choose and repair"

Model = Annotated[Path, typer.Argument(help="The ONNX file.", metavar="MODEL")]
Folder = Annotated[Path, typer.Argument(help="Where to; made if need be.")]
What = Annotated[
    str, typer.Argument(help="ops, criteria, repairs, methods (of sparsify) or sources.")
]

Group = Annotated[
    list[str] | None,
    typer.Option(
        help="Show all that goes with a group: its name, or a weight of it, or a pattern; repeatable.",
        metavar="NAME",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(help="Write one self-contained page: tables, and who feeds whom.", metavar="FILE"),
]
Blocks = Annotated[
    bool, typer.Option("--blocks", help="List the blocks that can be left out whole, too.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more.")]
Provider = Annotated[str, typer.Option(help="onnxruntime execution provider: cpu, cuda, ...")]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn.")]

Macs = Annotated[
    str | None,
    typer.Option(help="Share of the MACs that may remain, or 1.2G.", rich_help_panel=_BUDGET),
]
Params = Annotated[
    str | None,
    typer.Option(help="Share of the parameters that may remain, or 6.9M.", rich_help_panel=_BUDGET),
]
Size = Annotated[
    str | None,
    typer.Option(help="Size of the file, 10MB, or share that may remain.", rich_help_panel=_BUDGET),
]
Ratio = Annotated[
    str | None,
    typer.Option(help="Share of the removable units to remove.", rich_help_panel=_BUDGET),
]

Latency = Annotated[
    str | None,
    typer.Option(
        help="Share of the measured time that may remain, or 12ms; --target says where.",
        rich_help_panel=_BUDGET,
    ),
]
Device = Annotated[
    Path | None,
    typer.Option(
        "--target",
        help="TOML file: shell = ['ssh', 'user@device'], python, folder.",
        rich_help_panel=_BUDGET,
    ),
]
Threads = Annotated[
    int,
    typer.Option(help="Intra-op threads that --latency is measured with.", rich_help_panel=_BUDGET),
]

_SEARCH = "Search, in place of a budget"
MaxDrop = Annotated[
    str | None,
    typer.Option(
        help="Remove as much as loses at most this, such as 1%; 0: nothing but rounding may change.",
        rich_help_panel=_SEARCH,
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        help="The drop is of accuracy (default with --labels), agreement (else) or error.",
        rich_help_panel=_SEARCH,
    ),
]
Sweep = Annotated[
    str | None,
    typer.Option(
        help="Make several files: shares of --by that may remain, 0.8,0.6,0.4, or how many, 8.",
        rich_help_panel=_SEARCH,
    ),
]
Bench = Annotated[
    bool,
    typer.Option("--bench", help="Time all files of a sweep.", rich_help_panel=_SEARCH),
]
By = Annotated[
    str,
    typer.Option(
        help="Make least, or sweep over: macs, params or size; a sweep also latency.",
        rich_help_panel=_SEARCH,
    ),
]
Confidence = Annotated[
    float,
    typer.Option(
        help="How sure the true drop is within; 0.5: as measured.", rich_help_panel=_SEARCH
    ),
]
Trials = Annotated[
    int, typer.Option(help="Try at most so many compressions.", rich_help_panel=_SEARCH)
]
Judge = Annotated[
    str | None,
    typer.Option(
        help="Samples to compare on, best such as the model was not trained on; default: those of "
        "--data beyond --samples. With --depth and one budget, half of them judge which blocks go.",
        metavar="DATA",
        rich_help_panel=_DATA,
    ),
]
JudgeSamples = Annotated[
    int | None,
    typer.Option(
        help="Compare on at most so many; default 512, for --max-drop 4096.", rich_help_panel=_DATA
    ),
]

_DATA_HELP = "Inputs: .npz or .npy files, a folder of images, module:function, or random."
DataText = Annotated[str | None, typer.Option("--data", help=_DATA_HELP, rich_help_panel=_DATA)]
NeededData = Annotated[str, typer.Option("--data", help=_DATA_HELP, rich_help_panel=_DATA)]
Preprocess = Annotated[
    str | None,
    typer.Option(
        help="For images: JSON text, or a .json or .toml file, with size, mean, std, layout, ...",
        rich_help_panel=_DATA,
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(help="Labels in the data, for accuracy.", metavar="KEY", rich_help_panel=_DATA),
]
Samples = Annotated[
    int,
    typer.Option(help="Calibrate on at most so many; others are held out.", rich_help_panel=_DATA),
]
MostSamples = Annotated[
    int | None, typer.Option("--samples", help="Use at most so many.", rich_help_panel=_DATA)
]

Criterion = Annotated[
    str | None,
    typer.Option(
        help="What scores units: NAME or NAME:SETTING=VALUE,...; default reconstruction "
        "with --data, else l2.",
        rich_help_panel=_CHOICE,
    ),
]
Repair = Annotated[
    str | None,
    typer.Option(
        help="How the rest is refitted; default sequential with --data, else none.",
        rich_help_panel=_CHOICE,
    ),
]
Scope = Annotated[
    str | None,
    typer.Option(
        help="Rank units within each group (uniform) or over all (global).", rich_help_panel=_CHOICE
    ),
]
Normalise = Annotated[
    str | None,
    typer.Option(
        help="Scores relative to their group: none, mean, sum, max, standard.",
        rich_help_panel=_CHOICE,
    ),
]
RoundTo = Annotated[
    int,
    typer.Option(help="Kept channels are a multiple of this, or all.", rich_help_panel=_CHOICE),
]
MaybeRoundTo = Annotated[
    int | None,
    typer.Option(
        help="Kept channels are a multiple of this, or all; default 8, with --latency 16.",
        rich_help_panel=_CHOICE,
    ),
]
DropBlock = Annotated[
    list[str] | None,
    typer.Option(
        help="Blocks to leave out whole, before channels are chosen: a name that `inspect --blocks` "
        "lists, or a pattern; repeatable. Without a budget nothing else goes.",
        metavar="NAME",
        rich_help_panel=_CHOICE,
    ),
]
Depth = Annotated[
    str | None,
    typer.Option(
        help="Let a score choose the blocks to leave out: NAME or NAME:SETTING=VALUE,..., else `cka`; "
        "`mpruner` goes on while accuracy holds, the others rank: for --blocks, or for a budget "
        "that blocks and channels meet together.",
        rich_help_panel=_CHOICE,
    ),
]
BlockCount = Annotated[
    str | None,
    typer.Option(
        "--blocks",
        help="How many blocks go by --depth: 6, or a share such as 25%.",
        metavar="COUNT",
        rich_help_panel=_CHOICE,
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        help="Groups or weights that stay whole: a name or pattern; repeatable.",
        metavar="PATTERN",
        rich_help_panel=_CHOICE,
    ),
]
_UNLOCK = "Unlock what callers of the model see"
Unlock = Annotated[
    list[str] | None,
    typer.Option(
        help="Let it shrink: input:NAME, output:NAME or vocabulary:NAME, the axis as @AXIS behind "
        "it if it is not the usual one; repeatable.",
        metavar="KIND:NAME",
        rich_help_panel=_UNLOCK,
    ),
]
KeepRows = Annotated[
    str | None,
    typer.Option(
        help="Rows of the vocabulary that stay: 0-9,17 or a file that lists them.",
        metavar="LIST",
        rich_help_panel=_UNLOCK,
    ),
]
KeepClasses = Annotated[
    str | None,
    typer.Option(
        help="Positions of the output that stay; without it, scores decide.",
        metavar="LIST",
        rich_help_panel=_UNLOCK,
    ),
]
KeepFeatures = Annotated[
    str | None,
    typer.Option(
        help="Positions of the input that stay; without it, scores decide.",
        metavar="LIST",
        rich_help_panel=_UNLOCK,
    ),
]
Floor = Annotated[
    float,
    typer.Option(help="Least share of every group's units that stays.", rich_help_panel=_CHOICE),
]
Ridge = Annotated[
    float | None,
    typer.Option(
        help="Damping of the least-squares repair; chosen on held-out halves unless given.",
        rich_help_panel=_CHOICE,
    ),
]
Rows = Annotated[
    int,
    typer.Option(help="Output positions read per sample and operator.", rich_help_panel=_CHOICE),
]

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Where to; default MODEL.pruned.onnx.")
]
Plan = Annotated[Path | None, typer.Option(help="Re-apply this plan instead of a budget.")]
NeededPlan = Annotated[Path, typer.Option("--plan", help="The plan file.")]
Rounds = Annotated[
    int, typer.Option(help="Go to the budget in so many rounds, scored anew each time.")
]
Retrain = Annotated[
    str | None,
    typer.Option(
        help="Train in each round, by the original: epochs=2,augment=crop+flip,... (see retrain)."
    ),
]
Train = Annotated[str | None, typer.Option(help="Samples to train on, as --data; default: --data.")]
Rewind = Annotated[
    bool,
    typer.Option("--rewind", help="With --retrain: each round starts from the original weights."),
]
Work = Annotated[
    Path | None,
    typer.Option(
        help="Folder where a long criterion remembers what it has done: run again to go on."
    ),
]
Then = Annotated[
    str | None,
    typer.Option(help="Hand the result on: quantize, to int8 by onnxruntime, on the same samples."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Write the plan only.")]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Write without the proof.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Allow the output to be the input.")]
Reference = Annotated[Path | None, typer.Option(help="Compare with this ONNX file.")]
Original = Annotated[Path | None, typer.Option(help="The model that was pruned: prove again.")]

Criteria = Annotated[
    list[str] | None,
    typer.Option(
        "--criterion",
        help="What scores units: names as of `prune`, with commas between them; repeatable.",
        metavar="NAME,...",
        rich_help_panel=_CHOICE,
    ),
]
ScoresOutput = Annotated[
    Path | None, typer.Option("--output", "-o", help="Where to; default MODEL.scores.json.")
]
Documents = Annotated[
    list[Path],
    typer.Argument(
        help="Plans and frontiers of `prune`, scores of `score`, times of `bench -o`.",
        metavar="FILE...",
    ),
]
PageOutput = Annotated[
    Path | None, typer.Option("--output", "-o", help="The page; default report.html or report.md.")
]
Markdown = Annotated[
    bool, typer.Option("--md", help="Write the main tables as Markdown, for a pull request.")
]
