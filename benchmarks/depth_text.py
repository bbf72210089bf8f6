"""A published sentence encoder on SST-2: layers, heads and feed-forward widths, without training.

    python benchmarks/depth_text.py [--only PATTERN] [--samples 512] [--part test] [--judges N]
           [--rows FILE [--most N]] [--home FOLDER] [--quick]

The encoder (`benchmarks/text.py`) is cut in many ways on sentences of the training split, whose labels
are not read, padded to one length: by criterion and repair at half its multiply-accumulates, blocks
alone, blocks and widths together, and zeros in its weights, also after MPruner. Accuracy is on
sentences of `--part`, as cut and after the repair; MACs are exact, at 48 tokens; latency is
onnxruntime's of one sentence, in turns with the original; seconds are of the whole prune, proof,
comparison and timing included. `--rows` keeps what was measured, one JSON object a line: run again to
go on, with `--most` in parts of so many rows. `--home` keeps the exported network.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks import text
from onnxprune import prune, sparsify
from onnxprune.core.runtime import Session

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5)
METHODS = ("magnitude", "wanda", "sparsegpt")
MPRUNER = "mpruner:tau=93,threshold=0.1"  # at 98 no block is alike enough, at 90 all lose 16 %
HELD_OUT = 128  # sentences beside those to calibrate on, to compare with the original


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to make the network smaller.

    Attributes:
        name: of the way.
        part, judges: which sentences judged.
        samples: how many were calibrated on.
        macs: share that is left; of zeros in weights: the share of weights that are not zero.
        blocks: how many were left out.
        cut, repaired: accuracy before and after the repair, %; equal where there is none.
        speedup: of the latency of one sentence.
        seconds: that it took.
    """

    name: str
    part: str
    judges: int
    samples: int
    macs: float
    blocks: int
    cut: float
    repaired: float
    speedup: float
    seconds: float


def ways() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the options of every prune, by name."""
    yield "half: reconstruction, sequential", {"macs": 0.5}
    yield "half: the same, uniform", {"macs": 0.5, "scope": "uniform"}
    for ridge in (0.001, 0.1):
        yield f"half: the same, ridge {ridge}", {"macs": 0.5, "ridge": ridge}
    local = {"macs": 0.5, "criterion": "reconstruction:measured=false"}
    yield "half: reconstruction:measured=false, sequential", local
    for criterion in ("l2", "random"):
        yield f"half: {criterion}, sequential", {"macs": 0.5, "criterion": criterion}
    yield "half: reconstruction, least-squares", {"macs": 0.5, "repair": "least-squares"}
    for score in ("cosine", "output", "cka", "branch", "random"):
        for count in (2, 4, 6):
            yield f"blocks: {score} {count}", {"depth": score, "blocks": count}
    yield "blocks: mpruner, tau 93", {"depth": MPRUNER}
    for count in (2, 4):
        options = {"depth": "cka", "blocks": count, "macs": 0.5}
        yield f"half: cka {count}, reconstruction, sequential", options
    yield "half: cka, as many as lose least", {"depth": "cka", "macs": 0.5}


@dataclasses.dataclass(frozen=True)
class Bench:
    """The network, and what every row needs of it."""

    network: Path
    home: Path
    part: str
    samples: int
    judges: text.Sentences
    train: text.Sentences

    @classmethod
    def open(cls, home: Path, part: str, samples: int, most: int | None) -> Bench:
        """Export the network, if it is not there, and read the sentences."""
        path = text.network(home / "encoder.onnx")
        return cls(path, home, part, samples, text.sentences(part)[:most], text.sentences("train"))

    def accuracy(self, path: Path) -> float:
        """Return the share of sentences that a file answers rightly, %."""
        session, right = Session(path), 0
        for rows, fed in self.judges.batches():
            (logits,) = session.run(fed).values()
            right += int((logits.argmax(axis=1) == self.judges.labels[rows]).sum())
        return 100 * right / len(self.judges)

    def data(self, count: int) -> dict[str, Any]:
        """Return sentences of the training split, without labels."""
        fed = self.train[:count].fed
        return {name: fed[name] for name in text.Head.inputs}

    def pruned(self, name: str, options: Mapping[str, Any]) -> Row:
        """Prune once and measure."""
        begin, small, bare = time.perf_counter(), self.home / "small.onnx", self.home / "cut.onnx"
        data = self.data(self.samples + HELD_OUT)
        report = prune(self.network, small, data=data, samples=self.samples, **options)
        seconds = time.perf_counter() - begin
        prune(self.network, bare, plan=report.plan, repair="none", verify=False)
        macs = report.figures["macs"]
        return self._row(
            name, macs.after / macs.before, len(report.blocks), self.accuracy(bare),
            self.accuracy(small), report.latency.speedup, seconds,
        )  # fmt: skip

    @cached_property
    def shallow(self) -> Path:
        """The network after MPruner."""
        path = self.home / "shallow.onnx"
        if not path.is_file():
            data = self.data(self.samples + HELD_OUT)
            prune(self.network, path, data=data, samples=self.samples, depth=MPRUNER)
        return path

    def zeros(self, name: str, network: Path, method: str, sparsity: float) -> Row:
        """Set weights of a network to zero once and measure."""
        begin, sparse = time.perf_counter(), self.home / "sparse.onnx"
        report = sparsify(
            network, sparse, data=self.data(self.samples), sparsity=sparsity, method=method
        )
        seconds, found = time.perf_counter() - begin, self.accuracy(sparse)
        return self._row(name, report.after, 0, found, found, report.latency.speedup, seconds)

    def _row(self, name: str, *figures: Any) -> Row:
        return Row(name, self.part, len(self.judges), self.samples, *figures)


def measured(bench: Bench, pattern: str, known: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows that are not known yet."""
    done = {(row.name, row.part, row.judges, row.samples) for row in known}

    def wanted(name: str) -> bool:
        key = (name, bench.part, len(bench.judges), bench.samples)
        return key not in done and any(fnmatchcase(name, one) for one in pattern.split("|"))

    if wanted("original"):
        found = bench.accuracy(bench.network)
        yield bench._row("original", 1.0, 0, found, found, 1.0, 0.0)
    for name, options in ways():
        if wanted(name):
            yield bench.pruned(name, options)
    for first, method, sparsity in itertools.product(("", "mpruner, "), METHODS, SPARSITIES):
        name = f"zeros: {first}{method} {sparsity:.0%}"
        if wanted(name):
            network = bench.shallow if first else bench.network
            yield bench.zeros(name, network, method, sparsity)


def table(rows: Sequence[Row]) -> Table:
    """Return all rows."""
    shown = Table(
        "way",
        "on",
        "samples",
        "left",
        "blocks out",
        "as cut %",
        "repaired %",
        "speed-up",
        "s",
        box=MARKDOWN,
    )
    for r in rows:
        shown.add_row(
            r.name, f"{r.judges} of {r.part}", str(r.samples), f"{r.macs:.3f}", str(r.blocks),
            f"{r.cut:.2f}", f"{r.repaired:.2f}", f"{r.speedup:.2f}x", f"{r.seconds:.0f}",
        )  # fmt: skip
    return shown


def read(path: Path | None) -> list[Row]:
    """Read the rows measured so far."""
    if path is None or not path.is_file():
        return []
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--only",
        default="*",
        metavar="PATTERN",
        help="of names of rows, or several with | between them",
    )
    parser.add_argument("--samples", type=int, default=512, help="calibration sentences")
    parser.add_argument("--part", default="test", choices=("valid", "dev", "test"))
    parser.add_argument("--judges", type=int, help="so many sentences of it; all unless given")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--most", type=int, help="rows to measure in this run")
    parser.add_argument("--home", type=Path, help="where the exported network stays")
    parser.add_argument("--quick", action="store_true", help="few sentences")
    asked = parser.parse_args()
    if asked.quick:
        asked.samples, asked.judges = 64, 200
    rows = read(asked.rows)
    with tempfile.TemporaryDirectory() as folder:
        home = asked.home or Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        bench = Bench.open(home, asked.part, asked.samples, asked.judges)
        for row in itertools.islice(measured(bench, asked.only, rows), asked.most):
            rows.append(row)
            if asked.rows is not None:
                with asked.rows.open("a") as stream:
                    stream.write(json.dumps(dataclasses.asdict(row)) + "\n")
    Console(width=140).print(table(rows))


if __name__ == "__main__":
    main()
