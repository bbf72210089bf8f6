"""Runs a command in a child process: when native code crashes there, one line says so.

Models are read and run by onnx and onnxruntime, native code that a malformed file can crash: a
division by zero in a kernel ends the whole process. What can be foreseen is refused before; for the
rest, the command line is two processes, and the one that speaks last has never seen the model.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

_CRASHED = 2
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def supervised(work: Callable[[], int]) -> int:
    """Return the exit code of `work`, run in a child process on Linux.

    Elsewhere it runs here: Windows cannot fork, and on macOS the system's BLAS does not survive it.
    """
    if sys.platform != "linux":
        return work()
    sys.stdout.flush()
    sys.stderr.flush()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        _end_with(parent)
        _leave(work)
    code = _wait(child)
    if code >= 0:
        return code
    if -code in {signal.SIGINT, signal.SIGTERM}:  # as the user wished; shells count like this
        return 128 - code
    name = signal.Signals(-code).name
    why = (
        "it was ended from outside, most likely because memory ran out"
        if -code == signal.SIGKILL
        else "onnx or onnxruntime cannot handle it"
    )
    sys.stderr.write(
        f"onnxprune: '{' '.join(sys.argv[1:3])}' was stopped by {name} while at work on the model: "
        f"{why}; nothing was written, check that the file is valid\n"
    )
    return _CRASHED


def _end_with(parent: int) -> None:
    """Let this process be killed when its parent is, so that no work goes on that nobody sees."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # which ended before that was said
        os._exit(_CRASHED)


def _leave(work: Callable[[], int]) -> None:
    """Do the work and end the child, without what the parent does when it ends."""
    code = 1
    try:
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        code = 0
    finally:
        os._exit(code)


def _wait(child: int) -> int:
    """Wait for the child, whatever signal comes: it gets them, too; minus the signal if one ended it."""

    def forward(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells both
    terminate = signal.signal(signal.SIGTERM, forward)
    try:
        _, status = os.waitpid(child, 0)
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, terminate)
    return os.waitstatus_to_exitcode(status)
