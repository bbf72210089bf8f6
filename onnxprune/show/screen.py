"""Where a command speaks: results to stdout, progress and messages to stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .report import plain

_LOGGER = logging.getLogger("onnxprune")
_WIDTH = 120  # columns when the output is no terminal
_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


class Screen:
    """One command's voice; progress shows on a terminal only, and leaves nothing behind."""

    def __init__(self, *, as_json: bool, quiet: bool, verbose: int) -> None:
        """Choose how loud to be.

        Args:
            as_json: print results as JSON, and nothing else on stdout.
            quiet: print errors only (and the JSON, if asked for).
            verbose: 1 adds a line per step on stderr and all groups, 2 a line per node.
        """
        self.as_json, self.quiet, self.verbose = as_json, quiet, verbose
        self._log = logging.StreamHandler(sys.stderr)
        self._log.setLevel(logging.ERROR if quiet else _LEVELS[min(verbose, len(_LEVELS) - 1)])
        console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True,
            disable=quiet or not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        """Start to show progress and log lines."""
        _LOGGER.addHandler(self._log)
        _LOGGER.setLevel(self._log.level)
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the progress line away and stop listening."""
        self._bar.stop()
        _LOGGER.removeHandler(self._log)

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how far a step is; `total` 0 when unknown."""
        self._bar.update(self._task, description=what, completed=done, total=total or None)

    def show(self, result: object, table: RenderableType) -> None:
        """Print a result: as JSON, or as a table, or not at all."""
        self._bar.stop()
        if self.as_json:
            sys.stdout.write(json.dumps(plain(result), indent=2, ensure_ascii=False) + "\n")
        elif not self.quiet:
            plain_pipe = not sys.stdout.isatty() and "COLUMNS" not in os.environ
            console = Console(highlight=False, width=_WIDTH if plain_pipe else None)
            console.print(table)
