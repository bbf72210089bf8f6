"""Where a job is done: in a child process here, or on another machine through a shell.

A target is a TOML file:

    shell = ["ssh", "user@device"]     # what a remote command is appended to, as one more argument
    python = "python3"                 # there, with NumPy and onnxruntime
    folder = "onnxprune-bench"         # there; made for the job and removed after it

Nothing but that shell is needed: the job travels as a tar stream through it.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pydantic

from ..core.errors import OnnxPruneError
from ..core.samples import Progress, silent

_README = """Times models on this machine: Python 3.8 or later with numpy and onnxruntime is all it needs.

    python run.py .

writes result.json; bring it back and read it with `onnxprune bench --result result.json`.
"""


class Target(pydantic.BaseModel):
    """Another machine (see above)."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    shell: tuple[str, ...] = pydantic.Field(min_length=1)
    python: str = "python3"
    folder: str = "onnxprune-bench"

    @classmethod
    def read(cls, path: Path) -> Target:
        """Read a target file.

        Raises:
            OnnxPruneError: in one line, if it is not one.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text()))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise OnnxPruneError(f"cannot read target '{path}': {error}") from error
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise OnnxPruneError(f"target '{path}', '{where}': {first['msg']}") from error


def run_here(folder: Path, progress: Progress = silent) -> bytes:
    """Do a job in a child process, where nothing else of ours is in memory; returns its result.

    Raises:
        OnnxPruneError: if it fails, with its own reason.
    """
    _command([sys.executable, str(folder / "run.py"), str(folder)], "the models", progress=progress)
    return (folder / "result.json").read_bytes()


def run_there(target: Target, folder: Path, progress: Progress = silent) -> bytes:
    """Do a job on another machine; returns its result.

    Raises:
        OnnxPruneError: if the machine cannot be reached, or the job fails there.
    """

    def pack(pipe: IO[bytes]) -> None:
        with tarfile.open(fileobj=pipe, mode="w|") as tar:
            tar.add(folder, ".")

    with _borrowed(target) as (ask, place):
        ask(f"tar -x -C {place}", "copying the models", feed=pack)
        ask(f"{target.python} {place}/run.py {place}", "the models", progress=progress)
        return ask(f"cat {place}/result.json", "reading back")


@contextmanager
def _borrowed(target: Target) -> Iterator[tuple[Callable[..., bytes], str]]:
    """Make a folder there, and remove it afterwards; gives a way to ask, and its name for a shell."""

    def ask(line: str, what: str, **options: Any) -> bytes:
        return _command([*target.shell, line], f"{what} on '{target.shell[-1]}'", **options)

    place = shlex.quote(f"{target.folder}-{uuid.uuid4().hex[:8]}")
    ask(f"mkdir -p {place}", "making a folder")
    try:
        yield ask, place
    finally:
        ask(f"rm -rf {place}", "tidying up")


def write_bundle(folder: Path, path: Path) -> None:
    """Pack a job, with how to run it."""
    (folder / "README.txt").write_text(_README)
    partial = path.with_name(path.name + ".part")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, Path(path.stem, file.relative_to(folder)))
    partial.replace(path)


def _command(
    command: list[str],
    what: str,
    *,
    progress: Progress | None = None,
    feed: Callable[[IO[bytes]], None] | None = None,
) -> bytes:
    """Run a command; returns what it printed, unless that was its progress.

    Raises:
        OnnxPruneError: with the last line of its errors, if it fails.
    """
    printed = b""
    with tempfile.TemporaryFile() as errors:
        given = subprocess.DEVNULL if feed is None else subprocess.PIPE
        try:
            process = subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=errors)
        except OSError as error:
            raise OnnxPruneError(f"cannot run '{command[0]}': {error.strerror}") from error
        with process, _ended(process):
            if feed is not None and process.stdin is not None:
                with suppress(BrokenPipeError), process.stdin as pipe:  # its errors say why
                    feed(pipe)
            for line in process.stdout or ():
                if progress is None:
                    printed += line
                else:
                    step = json.loads(line)
                    progress("bench", step["done"], step["total"])
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        raise OnnxPruneError(f"{what}: {said[-1] if said else f'ended with {process.returncode}'}")
    return printed


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the process with what we do meanwhile, if that is broken off."""
    try:
        yield
    except BaseException:
        process.kill()
        raise
