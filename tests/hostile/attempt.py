"""Runs commands on a hostile file, each in a process of its own, and judges how they end."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from onnxprune.cli import entry
from onnxprune.core.runtime import onnxruntime
from onnxprune.discover import discover
from onnxprune.measure import latency

SECONDS = 10.0  # of processor time: others may be at work on the machine
_KILLED_AFTER = 6 * SECONDS  # of wall time
MEMORY = 2048.0  # MB above what the process takes before it sees a file
_SAFETY = 8 << 30  # bytes: where a runaway is stopped, for the sake of the machine
_TIMING = 0.05  # seconds of the latency measurement, else 2


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one command ended.

    Attributes:
        code: exit code; minus the signal that ended it.
        out, err: what it printed.
        seconds: processor time.
        waited: wall time, seconds.
        memory: MB of its largest resident size, above that of the process it was forked from.
        written: a pruned model appeared.
    """

    words: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float
    waited: float
    memory: float
    written: bool


def prepare() -> None:
    """Import everything once, so that each command starts from here."""
    discover()
    onnxruntime()
    latency.compare.__kwdefaults__["seconds"] = _TIMING  # type: ignore[index]  # has defaults


def attempt(words: Sequence[str], folder: Path) -> Outcome:
    """Run one command line in `folder`; what waits for nothing is killed in the end."""
    base = _private_bytes()
    streams = [folder / ".stdout", folder / ".stderr"]
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        _run(words, folder, streams)
    status, usage = _wait(child, start + _KILLED_AFTER)
    waited, took = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    out, err = (stream.read_text(errors="replace") for stream in streams)
    target = folder / "out.onnx"
    written = target.is_file()
    target.unlink(missing_ok=True)
    peak = usage.ru_maxrss * 1024 - base
    code = os.waitstatus_to_exitcode(status)
    return Outcome(tuple(words), code, out, err, took, waited, max(peak, 0) / 2**20, written)


def _private_bytes() -> int:
    """Resident bytes that a forked process begins with: those of no file."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * resource.getpagesize()


def _run(words: Sequence[str], folder: Path, streams: Sequence[Path]) -> None:
    """Be the command; never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        limit = _SAFETY
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number, stream in enumerate(streams, start=1):
            os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8")
        sys.stderr = os.fdopen(2, "w", encoding="utf-8")
        sys.argv = ["onnxprune", *words]
        code = entry()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - the outcome is read from the exit code and the streams
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _wait(child: int, end: float) -> tuple[int, resource.struct_rusage]:
    pause = 0.002
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return status, usage
        if time.perf_counter() > end:
            os.killpg(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return status, usage
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def complaint(outcome: Outcome) -> str | None:
    """Return what is wrong with an outcome: not one line and 2, nor 0 and a proof; slow; large."""
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    if outcome.seconds > SECONDS or outcome.waited > _KILLED_AFTER:
        return f"took {outcome.seconds:.1f} s, and {outcome.waited:.1f} s by the clock"
    if outcome.memory > MEMORY:
        return f"took {outcome.memory:.0f} MB"
    if outcome.code == 0:
        return _unproved(outcome)
    if outcome.code != 2:
        return f"ended with {outcome.code}: {' / '.join(lines[-4:-1]) or 'nothing said'}"
    said = [line for line in lines if line.startswith("onnxprune: ")]
    if len(lines) != 1 or len(said) != 1:
        return f"said {len(lines)} lines"
    if outcome.out.strip():
        return "printed a result and failed"
    if outcome.written:
        return "failed and wrote a model"
    if len(lines[0]) > 1500 or not lines[0].isprintable():
        return "said too much, or what a terminal does not show"
    return None


def _unproved(outcome: Outcome) -> str | None:
    if "Traceback" in outcome.err:
        return "succeeded with a traceback"
    if not outcome.out.strip():
        return "succeeded and said nothing"
    if outcome.words[0] == "prune":
        proof = json.loads(outcome.out)["proof"]
        if not outcome.written or not proof or not proof["gap"] <= proof["tolerance"]:
            return "succeeded without a proof or a file"
    return None


def clear(folder: Path) -> None:
    """Remove a folder of hostile files."""
    shutil.rmtree(folder)
