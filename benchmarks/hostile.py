"""Thousands of malformed and hostile files through the command line: one line each, or a proof.

    OMP_NUM_THREADS=1 python benchmarks/hostile.py 10000          # all; about an hour on one core
    OMP_NUM_THREADS=1 python benchmarks/hostile.py 1 --first 4711 -v  # one, and what was said

Every file goes through `inspect` and `prune --ratio 0.5` (kinds that damage samples or plans choose
their own commands), each in a process of its own. It must end with code 0 and a proved model, or with
code 2 and exactly one line, within 10 s of processor time and 2 GB. Complaints
are listed; with `-v` the line that each command said, too. The latency measurement at the end of a
prune is shortened.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ONNXPRUNE_THREADS"):
    os.environ.setdefault(_variable, "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.hostile import DECK, Case, lay_out  # noqa: E402  # after the threads are set
from tests.hostile.attempt import Outcome, attempt, clear, complaint, prepare  # noqa: E402

_NEWS = 100  # files between two lines of progress


def numbers(first: int, count: int, kind: str | None, each: int | None) -> Iterator[int]:
    """Yield the numbers of the files asked for."""
    seen: collections.Counter[str] = collections.Counter()
    for number in range(first, first + count):
        name = DECK[number % len(DECK)]
        seen[name] += 1
        if kind in {None, name} and (each is None or seen[name] <= each):
            yield number


def attempts(chosen: Iterable[int]) -> Iterator[tuple[Case, Outcome]]:
    """Lay out file after file, and run its commands."""
    for number in chosen:
        folder = Path(tempfile.mkdtemp(prefix="hostile-")).resolve()
        case = lay_out(number, folder)
        for words in case.commands:
            yield case, attempt(words, folder)
        clear(folder)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kind", help="only this kind of damage")
    parser.add_argument("--each", type=int, help="at most so many of every kind")
    parser.add_argument("-v", "--verbose", action="store_true")
    asked = parser.parse_args()
    prepare()
    start = time.perf_counter()
    chosen = list(numbers(asked.first, asked.count, asked.kind, asked.each))
    codes: collections.Counter[str] = collections.Counter()
    kinds: collections.Counter[str] = collections.Counter()
    bad, slowest, longest, largest = 0, 0.0, 0.0, 0.0
    for case, outcome in attempts(chosen):
        wrong = complaint(outcome)
        crashed = "was stopped by" in outcome.err
        codes["wrong" if wrong else "crash caught" if crashed else f"exit {outcome.code}"] += 1
        kinds[case.kind] += 1
        bad += wrong is not None
        slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.memory)
        longest = max(longest, outcome.waited)
        if case.number % _NEWS == 0:
            print(f"{case.number}: {dict(codes)}", file=sys.stderr, flush=True)
        if wrong or asked.verbose or crashed:
            last = outcome.err.strip().splitlines()[-1:] or [""]
            figures = f"{outcome.seconds:.1f} s, {outcome.memory:.0f} MB"
            print(
                f"{case.number} {case.kind} {outcome.words[0]} ({figures}): {wrong} | {last[0][:400]}",
                flush=True,
            )
    print(f"{len(chosen)} files, {sum(codes.values())} commands of {len(kinds)} kinds of damage")
    print(", ".join(f"{what}: {count}" for what, count in sorted(codes.items())))
    print(
        f"slowest {slowest:.1f} s of processor time ({longest:.1f} s by the clock), "
        f"largest {largest:.0f} MB above the idle process"
    )
    print(f"{time.perf_counter() - start:.0f} s in all")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
