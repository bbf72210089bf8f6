"""Structured pruning of ONNX files: decided, proved, repaired.

import onnxprune as op

op.inspect("model.onnx")  # what can be removed, what cannot and why
report = op.prune("model.onnx", "small.onnx", data={"images": images}, macs=0.5)
op.evaluate("small.onnx", {"images": images}, reference="model.onnx")
op.verify("small.onnx", "small.plan.json", original="model.onnx")
"""

from .api import bench, evaluate, inspect, interface, prune, report, score, sparsify, sweep, verify
from .core.errors import (
    BudgetError,
    DataError,
    InternalError,
    LimitError,
    ModelError,
    OnnxPruneError,
    ProofError,
)

__all__ = [
    "BudgetError",
    "DataError",
    "InternalError",
    "LimitError",
    "ModelError",
    "OnnxPruneError",
    "ProofError",
    "bench",
    "evaluate",
    "inspect",
    "interface",
    "prune",
    "report",
    "score",
    "sparsify",
    "sweep",
    "verify",
]
