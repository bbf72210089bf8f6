"""Random graphs from the examples of all rules, proved; and mutants of all declarations, caught.

    python benchmarks/fuzz.py [--graphs 5000] [--seed 0] [--jobs 1] [--save FOLDER]
    python benchmarks/fuzz.py --mutants [RULE ...] [--jobs 1]

Graphs: number `seed`, `seed` + 1, ... are grown, each around an example of the next registered rule;
random units are removed, and the pruned model is compared with the masked original, until that many
graphs lost something. The report says in how many graphs each rule spoke for a node, and in how many
of these the node lost positions. What fails is made small and saved as a model with its units.

Mutants: everything that a rule says of the nodes of its examples is broken, one thing at a time. The
report says how many mutants the proof caught, how many are equivalent (`tests/property/equivalent.py`
tells why) and which survive.

Exit code 1: a graph failed, a rule never had its turn, a mutant survived, or an equivalent one did
not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

for _variable in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ONNXPRUNE_THREADS",
):
    os.environ.setdefault(_variable, "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402  # after threads
import onnx  # noqa: E402

from tests.property.equivalent import Verdict, judged  # noqa: E402
from tests.property.growing import RULES, rule_of  # noqa: E402
from tests.property.mutants import caught, mutants  # noqa: E402
from tests.property.turns import Turn, name_of, smallest, turn  # noqa: E402
from tests.strategies import text_of  # noqa: E402

T = TypeVar("T")
R = TypeVar("R")
_ROUND = 500  # graphs between two lines of progress


@contextmanager
def mapped(jobs: int) -> Iterator[Callable[[Callable[[T], R], Iterable[T]], Iterable[R]]]:
    """Give a map over processes, in order; the plain one for one job."""
    if jobs == 1:
        yield map
        return
    with get_context("spawn").Pool(jobs) as pool:
        yield lambda function, items: pool.imap(function, items, chunksize=4)


def fuzz(graphs: int, seed: int, jobs: int, save: Path) -> int:
    """Run until `graphs` graphs lost something, or as many again did not; return the exit code."""
    present: Counter[str] = Counter()
    cut: Counter[str] = Counter()
    failed: list[Turn] = []
    grown = lost = moved = 0
    gap, start = 0.0, time.perf_counter()
    with mapped(jobs) as over:
        while lost < graphs and grown < 2 * graphs:
            count = min(_ROUND, graphs - lost)
            for found in over(turn, range(seed + grown, seed + grown + count)):
                present.update(found.present)
                cut.update(found.cut)
                lost += bool(found.cut)
                moved += bool(found.cut) and found.moved > 0
                gap = max(gap, found.gap)
                if found.error or found.opaque:
                    failed.append(found)
                    print(f"seed {found.seed}: {found.error or found.opaque}", flush=True)
            grown += count
            seconds = time.perf_counter() - start
            print(f"{grown} graphs, {lost} lost something, {len(failed)} failed, {seconds:.0f} s",
                  flush=True)  # fmt: skip
    print(f"\n{moved} changed their outputs; largest gap of a proof {gap:.1e}\n")
    for found in failed:
        reproduce(found, save)
    never = print_turns(present, cut)
    if never:
        print(f"\nnever had their turn: {', '.join(never)}")
    return int(bool(failed or never or lost < graphs))


def print_turns(present: Counter[str], cut: Counter[str]) -> list[str]:
    """Print in how many graphs each rule was and lost positions; return those that never did."""
    names = sorted({name_of(rule) for rule in RULES})
    print(f"| rule ({len(names)}) | graphs | of these cut at its nodes |\n| :-- | --: | --: |")
    for name in names:
        print(f"| {name} | {present[name]} | {cut[name]} |")
    return [name for name in names if not cut[name]]


def reproduce(found: Turn, save: Path) -> None:
    """Print and save the smallest graph found that fails as this one did."""
    print(
        f"seed {found.seed}, around {name_of(rule_of(found.seed))}: {found.error or found.opaque}"
    )
    small = smallest(found.seed) if found.error else None
    if small is None:
        return
    save.mkdir(parents=True, exist_ok=True)
    onnx.save(small.model, save / f"{found.seed}.onnx")
    np.save(save / f"{found.seed}.units.npy", small.units)
    print(f"{small.error}\nunits {small.units.tolist()} of\n{text_of(small.model)}\n")


def judge(number: int) -> tuple[str, list[Verdict]]:
    """Try every mutant of a rule."""
    rule = RULES[number]
    return name_of(rule), [judged(m.key, caught(m)) for m in mutants(rule)]


def mutate(names: list[str], jobs: int) -> int:
    """Try every mutant of these rules, of all if none is named; return the exit code."""
    chosen = [i for i, rule in enumerate(RULES) if not names or name_of(rule) in names]
    counts: Counter[str] = Counter()
    bare, start = [], time.perf_counter()
    with mapped(jobs) as over:
        for name, verdicts in over(judge, chosen):
            counts.update(v.kind for v in verdicts)
            bare += [] if verdicts else [name]
            for verdict in verdicts:
                if verdict.wrong:
                    print(verdict, flush=True)
            print(
                f"{name}: {len(verdicts)} mutants, {time.perf_counter() - start:.0f} s", flush=True
            )
    print(f"\n{sum(counts.values())} mutants of {len(chosen)} rules: "
          + ", ".join(f"{n} {kind}" for kind, n in counts.most_common()))  # fmt: skip
    if bare:
        print(f"rules without a mutant: {', '.join(bare)}")
    return int(bool(bare or counts["survived"] or counts["caught, though listed as equivalent"]))


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("rules", nargs="*", metavar="RULE")
    parser.add_argument("--graphs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--save", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--mutants", action="store_true")
    asked = parser.parse_args()
    if asked.mutants:
        return mutate(asked.rules, asked.jobs)
    return fuzz(asked.graphs, asked.seed, asked.jobs, asked.save)


if __name__ == "__main__":
    sys.exit(main())
