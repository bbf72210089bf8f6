"""How many threads BLAS may use: one for small matrices, where sharing the work costs more than it.

Threads that wait for each other spin, beside onnxruntime's own: pruning ResNet-56 on 512 samples took
54 s of processor time with two BLAS threads and 13 s with one, on a busy two-core machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController

from .analysis import Analysis
from .declared import Linear

_WIDE = 1024  # columns from which one operator's products are worth several threads


@cache
def _controller() -> ThreadpoolController:
    """Look the loaded libraries up once: it takes milliseconds."""
    return ThreadpoolController()


@contextlib.contextmanager
def blas_threads(analysis: Analysis) -> Iterator[None]:
    """Keep BLAS to one thread inside, unless some linear operator of the model is wide."""
    weights = analysis.graph.weights
    widths = [_columns(weights[linear.weight].shape, linear) for linear in analysis.linears()]
    if max(widths, default=0) >= _WIDE:
        yield
        return
    with _controller().limit(limits=1, user_api="blas"):
        yield


def _columns(shape: tuple[int, ...], linear: Linear) -> int:
    """Columns of an operator's matrix: the inputs of one output."""
    return int(shape[linear.weight_in] * np.prod(linear.kernel, dtype=np.int64))
