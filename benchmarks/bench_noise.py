"""Does `bench` see a difference where there is none?

    python benchmarks/bench_noise.py [--runs 100] [--load 1]

A file is compared with a copy of itself while other processes keep the machine busy. At a confidence
of 99 %, one run in a hundred may err; the bar is five.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import onnxprune
from benchmarks.cifar import NoDataError, network
from onnxprune.timing.run import BenchReport

BAR = 0.95


def busy() -> None:
    """Keep a core and the memory busy, in bursts of its own length."""
    rng = np.random.default_rng()
    while True:
        a = rng.standard_normal((512, 512))
        until = time.perf_counter() + rng.exponential(0.05)
        while time.perf_counter() < until:
            a = np.tanh(a @ a / 512)
        time.sleep(rng.exponential(0.02))


@contextlib.contextmanager
def load(processes: int) -> Iterator[None]:
    """Have so many processes work beside."""
    workers = [multiprocessing.Process(target=busy, daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.terminate()


def main() -> int:
    """Compare a file with its copy, many times; exit code 1 if the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--load", type=int, default=1, help="processes that work beside")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, load(asked.load):
        try:
            path = network(20, Path(folder))
        except NoDataError as error:
            sys.exit(str(error))
        copy = Path(folder, "copy.onnx")
        shutil.copyfile(path, copy)
        found = []
        for _ in range(asked.runs):
            report = onnxprune.bench(path, copy, threads=[1], seconds=asked.seconds, profile=False)
            assert isinstance(report, BenchReport)
            found.append(report.cells[0].models[1])
    right = sum(timed.verdict == "no difference" for timed in found) / len(found)
    off = np.abs(np.log([timed.ratio for timed in found]))
    widths = [high / low - 1 for low, high in (timed.between for timed in found)]
    table = Table("", "found", title=f"a file against its copy, {asked.load} processes beside")
    table.add_row("runs", str(len(found)))
    table.add_row("said 'no difference'", f"{100 * right:.0f} % (bar {100 * BAR:.0f} %)")
    table.add_row("ratio off by, median", f"{100 * np.expm1(np.median(off)):.2f} %")
    table.add_row("ratio off by, most", f"{100 * np.expm1(off.max()):.2f} %")
    table.add_row("width of the interval, median", f"{100 * np.median(widths):.1f} %")
    Console().print(table)
    return 0 if right >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
