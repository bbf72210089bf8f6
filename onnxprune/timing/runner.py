"""Times the models of a folder in turns; the one file of onnxprune that runs on a target by itself.

    python run.py FOLDER

reads `FOLDER/job.json` and writes `FOLDER/result.json`. It needs Python 3.8, NumPy and onnxruntime, and
nothing of onnxprune: `bench` runs it in a child process here, and over SSH or from a bundle elsewhere.

Every cell of the job (some models, a batch size, a number of threads) is timed in several *lives*. In
each, its models are loaded anew, in another order, and run in turns. Within a life a busy machine slows
all alike; between lives the luck of how memory was laid out is drawn again, worth a percent or two.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import onnxruntime as ort

Job = Dict[str, Any]  # what `bench/job.py` writes

WARM_UP = 2  # runs of a fresh session that are not counted
TRACED = 50  # runs at most that are looked at node by node: each adds to the trace
PAGES = {"darwin": 1}  # ru_maxrss is in bytes there, in KiB elsewhere


def main(folder: Path) -> None:
    """Do the job of a folder; progress goes to stdout, a line of JSON each."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    models = range(len(job["models"]))
    tell = Progress(
        len(job["cells"]) * job["lives"] + (job["alone"] + job["profile"]) * len(models)
    )
    facts = []
    for number in models if job["alone"] else ():
        facts.append(alone(folder, number))
        tell()
    cells = []
    for cell in job["cells"]:
        lives = []
        for life in range(job["lives"]):
            lives.append(rounds(folder, job, cell, life))
            tell()
        cells.append({"times": [life["times"] for life in lives], "provider": lives[0]["provider"]})
    profiles = []
    for number in models if job["profile"] else ():
        profiles.append(profile(folder, job, number))
        tell()
    result = {
        "job": job,
        "machine": machine(),
        "models": facts,
        "cells": cells,
        "profiles": profiles,
    }
    partial = folder / "result.json.part"
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(folder / "result.json")


class Progress:
    """Says on stdout how many steps are done."""

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total

    def __call__(self) -> None:
        """Count one step."""
        self.done += 1
        sys.stdout.write(json.dumps({"done": self.done, "total": self.total}) + "\n")
        sys.stdout.flush()


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the models."""
    name = platform.processor() or platform.machine()
    known = Path("/proc/cpuinfo")
    if known.exists():
        lines = known.read_text(encoding="utf-8", errors="replace").splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": ort.__version__,
    }


def session(folder: Path, job: Job, number: int, cell: Job, tracing: str = "") -> Any:
    """Load a model; returns the session.

    Raises:
        RuntimeError: if the provider asked for does not run and a fall-back was not allowed.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")  # others run in turns
    if cell["threads"]:
        options.intra_op_num_threads = cell["threads"]
    if tracing:
        options.enable_profiling = True
        options.profile_file_prefix = tracing
    wanted = job["provider"]
    providers = [wanted] if wanted == "CPUExecutionProvider" else [wanted, "CPUExecutionProvider"]
    if wanted not in ort.get_available_providers():
        raise RuntimeError(
            f"no {wanted} here: this onnxruntime offers {ort.get_available_providers()}"
        )
    path = folder / job["models"][number]["file"]
    made = ort.InferenceSession(str(path), options, providers=providers)
    if made.get_providers()[0] != wanted and not job["fallback"]:
        raise RuntimeError(f"{wanted} does not run here, {made.get_providers()[0]} would instead")
    return made


def feeds_of(folder: Path, cell: Job, number: int) -> dict[str, Any]:
    """Return the inputs of one run of a model."""
    with np.load(
        folder / cell["feeds"][cell["models"].index(number)], allow_pickle=False
    ) as arrays:
        return {name: arrays[name] for name in arrays.files}


def runner(made: Any, feeds: dict[str, Any]) -> Callable[[], object]:
    """Return a function that runs once; on a GPU, inputs and outputs stay there."""
    if made.get_providers()[0] in ("CUDAExecutionProvider", "TensorrtExecutionProvider"):
        bound = made.io_binding()
        for name, array in feeds.items():
            bound.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
        for output in made.get_outputs():
            bound.bind_output(output.name, "cuda")

        def run() -> None:
            made.run_with_iobinding(bound)
            bound.synchronize_outputs()

        return run
    return lambda: made.run(None, feeds)


def rounds(folder: Path, job: Job, cell: Job, life: int) -> dict[str, Any]:
    """Load the models of a cell anew and run them in turns; milliseconds per round and model."""
    numbers = cell["models"]
    count = len(numbers)
    order = [(life + i) % count for i in range(count)]
    sessions = {place: session(folder, job, numbers[place], cell) for place in order}
    runs = [runner(sessions[i], feeds_of(folder, cell, numbers[i])) for i in range(count)]
    for _ in range(WARM_UP):
        for run in runs:
            run()
    times: list[list[float]] = []
    start = time.perf_counter()
    while len(times) < job["least"] or time.perf_counter() - start < job["seconds"]:
        row = [0.0] * count
        first = len(times) % count
        for place in [*order[first:], *order[:first]]:
            before = time.perf_counter()
            runs[place]()
            row[place] = 1e3 * (time.perf_counter() - before)
        times.append(row)
        if len(times) >= job["most"]:
            break
    return {"times": times, "provider": sessions[0].get_providers()[0]}


def first_cell(job: Job, number: int) -> Job:
    """Return the first cell that a model is in."""
    cells: list[Job] = job["cells"]
    return next(cell for cell in cells if number in cell["models"])


def alone(folder: Path, number: int) -> Any:
    """Load and run one model in a process of its own; milliseconds to load, bytes it takes."""
    asked = [sys.executable, __file__, str(folder), str(number)]
    found = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if found.returncode:
        last = found.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(last[-1] if last else f"a model ended its process: {found.returncode}")
    return json.loads(found.stdout)


def load_alone(folder: Path, number: int) -> dict[str, Any]:
    """Do in this process what `alone` asks of another."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    cell = first_cell(job, number)
    feeds = feeds_of(folder, cell, number)
    before, start = peak(), time.perf_counter()
    made = session(folder, job, number, cell)
    loaded = 1e3 * (time.perf_counter() - start)
    for _ in range(1 + WARM_UP):
        made.run(None, feeds)
    after = peak()
    taken = None if before is None or after is None else after - before
    return {"load": loaded, "memory": taken, "provider": made.get_providers()[0]}


def peak() -> int | None:
    """Return the most bytes this process ever held; None where the system does not say."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PAGES.get(sys.platform, 1024)


def profile(folder: Path, job: Job, number: int) -> list[dict[str, Any]]:
    """Return the nodes that really ran, with microseconds per run.

    That is the lower quartile: where others keep the machine busy, most runs of a large kernel are
    interrupted, while small ones are not, and the median would change their shares.
    """
    cell = first_cell(job, number)
    made = session(folder, job, number, cell, tracing=str(folder / f"trace{number}"))
    run = runner(made, feeds_of(folder, cell, number))
    count, start = 0, time.perf_counter()
    while count < WARM_UP + job["least"] or (
        count < TRACED and time.perf_counter() - start < job["seconds"]
    ):
        run()
        count += 1
    trace = Path(made.end_profiling())
    events = json.loads(trace.read_text(encoding="utf-8"))
    trace.unlink()
    nodes: dict[str, Any] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        name = event["name"][: -len("_kernel_time")]
        what = event.get("args", {})
        node = nodes.setdefault(name, {"op": what.get("op_name", ""), "times": []})
        node["times"].append(event["dur"])
        node["provider"] = what.get("provider", "")
    return [
        {
            "name": name,
            "op": n["op"],
            "provider": n["provider"],
            "us": float(np.quantile(n["times"][WARM_UP:], 0.25)),
        }
        for name, n in nodes.items()
    ]


if __name__ == "__main__":
    try:
        if len(sys.argv) > 2:
            sys.stdout.write(json.dumps(load_alone(Path(sys.argv[1]), int(sys.argv[2]))))
        else:
            main(Path(sys.argv[1]))
    except Exception as error:  # noqa: BLE001 - all that the caller shows is one line
        sys.stderr.write(" ".join(str(error).split()) + "\n")
        sys.exit(1)
