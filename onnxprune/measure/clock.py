"""Times the steps of a pipeline and says which one is under way."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..core.contracts import Progress

log = logging.getLogger(__name__)


class Clock:
    """A stopwatch per step.

    Attributes:
        seconds: wall time by step, in the order the steps began.
    """

    def __init__(self, progress: Progress) -> None:
        """Announce steps to `progress`."""
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Time what runs inside."""
        self.progress(step, 0, 0)
        start = time.perf_counter()
        yield
        took = time.perf_counter() - start
        self.seconds[step] = self.seconds.get(step, 0.0) + took
        log.info("%s: %.2f s", step, took)
