"""How long CMI and MIPP take, beside CMI as its formulas stand.

    python benchmarks/criteria_speed.py [--parts robust,paper,ordering,terc,mipp] [--quick] [--json FILE]

One thread. Times are CPU seconds of the process, which other work on the machine does not lengthen
much, and seconds on the clock, which it does; bars are on the larger. With --json a part that is in
the file already is not run again.

- robust, paper: orders of 32 maps (16 x 16, as in the ResNets for CIFAR) by `criteria_speed_direct.py`
  and by ours, alpha 1.01, N = 256, the same kernels; ours includes making the kernels. "robust": median
  widths, classes; "paper": its fixed width, one-hot labels. Ours at 32 maps: the median of five
  runs. To 512 maps: the direct procedure by the power of C that fits its times at 8, 16, 24 and 32
  maps (the true one rises towards 3), ours measured.
- ordering: 512 maps, alpha 2 and alpha 1.01 with the default shortlist.
- terc: 512 nodes, 512 targets, 5,000 rows: 400 removals of the cheapest, and TERC's own walk.
- mipp: all groups of the published ResNet-56 from images to rankings; all groups of ResNet-50 (random
  weights) from drawn summaries of 512 and 5,000 samples.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ONNXPRUNE_THREADS"):
    os.environ.setdefault(_variable, "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.criteria_speed_direct import Direct  # noqa: E402
from onnxprune.passes.criteria import _renyi as renyi  # noqa: E402
from onnxprune.passes.criteria._ordering import Ordering, ordered  # noqa: E402
from onnxprune.passes.criteria._target import Target, above  # noqa: E402
from onnxprune.passes.criteria._terc import Ridge  # noqa: E402
from onnxprune.passes.criteria._terc_walk import judged  # noqa: E402

Floats = NDArray[np.float64]
Row = dict[str, Any]
SAMPLES, CLASSES, POSITIONS, ALPHA = 256, 10, 256, 1.01
SHORTLISTS = (0, 8, 3)  # 0: all candidates, exact


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what `work` gives, CPU seconds and seconds on the clock."""
    clock, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.process_time() - cpu, time.perf_counter() - clock


def repeated(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return as `timed`, for work of less than a second: the medians of five runs."""
    runs = [timed(work) for _ in range(5)]
    cpu, clock = (float(np.median([run[place] for run in runs])) for place in (1, 2))
    return runs[0][0], cpu, clock


def row(what: str, cpu: float, clock: float, bar: float | None, **more: Any) -> Row:
    """Return one line; `bar` is the most seconds allowed."""
    met = None if bar is None else max(cpu, clock) < bar
    return {"what": what, "cpu s": cpu, "clock s": clock, "bar": bar, "met": met, **more}


def maps(count: int, scale: float = 1.0) -> tuple[Floats, NDArray[np.int64]]:
    """Return drawn maps (C, N, d), of which the classes show through more or less, and the classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, SAMPLES)
    centres = rng.standard_normal((count, CLASSES, POSITIONS)) * rng.uniform(0, 1, (count, 1, 1))
    noise = rng.standard_normal((count, SAMPLES, POSITIONS))
    return scale * np.maximum(centres[:, labels] + noise, 0), labels


def kernels(found: Floats, paper: bool) -> tuple[NDArray[np.float32], Floats]:
    """Return log kernels (C, T), and their widths."""
    logs = np.empty((len(found), SAMPLES * (SAMPLES - 1) // 2), np.float32)
    widths = np.full(len(found), renyi.silverman(SAMPLES, POSITIONS))
    for number, values in enumerate(found):
        squared = renyi.squared_distances(values)
        if not paper:
            widths[number] = renyi.median_width(squared) * np.sqrt(len(found))
        logs[number] = -above(squared) / (2 * widths[number] ** 2)
    return logs, widths


def target(labels: NDArray[np.int64], paper: bool) -> Target:
    """Return classes: as such, or as one-hot codes under a Gaussian kernel."""
    if paper:
        log = -above(renyi.squared_distances(np.eye(CLASSES)[labels]))
        return Target(log / (2 * renyi.silverman(SAMPLES, CLASSES) ** 2), SAMPLES)
    with np.errstate(divide="ignore"):
        log = np.log(above(renyi.indicator(labels)))
    return Target(log, SAMPLES, tuple(np.flatnonzero(labels == c) for c in range(CLASSES)))


def ours(found: Floats, labels: NDArray[np.int64], paper: bool, **settings: Any) -> Ordering:
    """Order maps, from their values."""
    return ordered(kernels(found, paper)[0], target(labels, paper), **settings)


def robust(quick: bool) -> list[Row]:
    """Compare with the direct procedure at several sizes, and say what it would take at 512 maps."""
    counts = (4, 6, 8) if quick else (8, 16, 24, 32)
    rows, times = [], []
    for count in counts:
        found = compared(count, paper=False, shortlists=SHORTLISTS if count == counts[-1] else ())
        times.append(found[0]["cpu s"])
        rows += found
    return rows + extrapolated(counts, times, 64 if quick else 512)


def paper(quick: bool) -> list[Row]:
    """Compare with the direct procedure under the paper's kernels."""
    return compared(8 if quick else 32, paper=True, shortlists=SHORTLISTS)


def compared(count: int, *, paper: bool, shortlists: tuple[int, ...]) -> list[Row]:
    """Order the same maps by the direct procedure and by ours."""
    # the paper's width is fixed: larger maps than these fill the kernels at once
    found, labels = maps(count, 0.1 if paper else 1.0)
    code, width = np.eye(CLASSES)[labels], renyi.silverman(SAMPLES, CLASSES) if paper else 0.0
    slow = Direct(found, kernels(found, paper)[1], code, width, ALPHA)
    (order, curve), cpu, clock = timed(slow.order)
    rows = [
        row(f"direct, {count} maps", cpu, clock, None, grams=slow.grams, eigenvalues=slow.solving)
    ]
    for shortlist in shortlists:
        quickly, fast, clock = repeated(
            lambda s=shortlist: ours(found, labels, paper, alpha=ALPHA, shortlist=s)
        )
        rows.append(
            row(f"ours, {count} maps, shortlist {shortlist or 'all'}", fast, clock, None,
                times=cpu / fast, least=100, met=bool(cpu / fast >= 100),
                same=f"{int((quickly.order == order).sum())} of {count}",
                apart=float(np.abs(quickly.cmi[:-1] - curve).max()))
        )  # fmt: skip
    return rows


def extrapolated(counts: tuple[int, ...], times: list[float], count: int) -> list[Row]:
    """Compare with ours at `count` maps, where the direct procedure is not run."""
    power, factor = np.polyfit(np.log(counts), np.log(times), 1)
    slow = float(np.exp(factor) * count**power)
    found, labels = maps(count)
    _, fast, clock = timed(lambda: ours(found, labels, paper=False, alpha=ALPHA))
    return [
        row(f"direct, {count} maps: C^{power:.2f}", slow, slow, None),
        row(f"ours, {count} maps, shortlist 8", fast, clock, None, times=slow / fast,
            least=1000, met=bool(slow / fast >= 1000)),
    ]  # fmt: skip


def ordering(quick: bool) -> list[Row]:
    """Time whole orders of a wide layer, kernels made already."""
    count = 64 if quick else 512
    found, labels = maps(count)
    logs, about = kernels(found, paper=False)[0], target(labels, paper=False)
    rows = []
    for alpha, bar in ((2.0, 15.0), (ALPHA, 180.0)):
        _, cpu, clock = timed(lambda a=alpha: ordered(logs, about, alpha=a))
        rows.append(row(f"{count} maps, alpha {alpha:g}", cpu, clock, bar))
    return rows


def terc(quick: bool) -> list[Row]:
    """Time ridge-TERC."""
    wide, length, removals = (64, 500, 50) if quick else (512, 5000, 400)
    rng = np.random.default_rng(0)
    causes = rng.standard_normal((length, wide // 4))
    x = causes @ rng.standard_normal((wide // 4, wide)) + rng.standard_normal((length, wide)) / 2
    x = np.maximum(x, 0)
    y = x @ rng.standard_normal((wide, wide)) / 20 + 0.3 * rng.standard_normal((length, wide))
    y = np.maximum(y, 0)

    def cheapest() -> None:
        ridge = Ridge(x, y, by_sample=False)
        for _ in range(removals):
            ridge.remove(int(np.argmin(ridge.rises())))

    _, cpu, clock = timed(cheapest)
    rows = [row(f"{removals} cheapest of {wide} nodes", cpu, clock, 3.0)]
    found, cpu, clock = timed(lambda: judged(x, y, tolerance=0.3))
    gone = int((~found.keep).sum())
    rows.append(row(f"TERC: {wide} nodes tested, {gone} removed", cpu, clock, 3.0))
    return rows


def mipp(quick: bool) -> list[Row]:
    """Time MIPP over whole networks."""
    from benchmarks.criteria_speed_mipp import resnet50, resnet56

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for samples in (64,) if quick else (512, 2048):
            work = resnet56(Path(folder), samples)
            _, cpu, clock = timed(work)
            rows.append(row(f"ResNet-56, {samples} images", cpu, clock, 120.0))
        for samples in (64,) if quick else (512, 5000):
            work = resnet50(Path(folder), samples)
            rankings, cpu, clock = timed(work)
            units = sum(len(ranking.scores) for ranking in rankings)
            rows.append(row(f"ResNet-50, {samples} rows, {units:,} units", cpu, clock, 600.0))
    return rows


PARTS = {"robust": robust, "paper": paper, "ordering": ordering, "terc": terc, "mipp": mipp}


def show(part: str, rows: list[Row]) -> None:
    """Print the lines of a part."""
    columns = list(dict.fromkeys(name for found in rows for name in found))
    table = Table(*columns, title=part)
    for found in rows:
        table.add_row(*(_text(found.get(name)) for name in columns))
    Console(width=160).print(table)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "met" if value else "not met"
    if isinstance(value, float):
        return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:,.2f}"
    return "" if value is None else str(value)


def main() -> None:
    """Run the parts that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs")
    parser.add_argument("--json", type=Path, help="where figures are kept")
    given = parser.parse_args()
    kept: dict[str, Any] = {}
    if given.json and given.json.exists():
        kept = json.loads(given.json.read_text())
    for part in given.parts.split(","):
        if part not in PARTS:
            parser.error(f"--parts: no part '{part}': known: {', '.join(PARTS)}")
        if part not in kept:
            before = os.getloadavg()[0]
            rows = PARTS[part](given.quick)
            if given.quick:  # bars are for full sizes
                rows = [{**found, "bar": None, "met": None} for found in rows]
            kept[part] = {"rows": rows, "load": [before, os.getloadavg()[0]]}
            if given.json:
                given.json.write_text(json.dumps(kept, indent=1))
        low, high = kept[part]["load"]
        show(f"{part} (load average {low:.1f} to {high:.1f})", kept[part]["rows"])


if __name__ == "__main__":
    main()
