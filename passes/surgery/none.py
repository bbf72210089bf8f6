"""No repair: the pruned graph as the surgery left it."""

from __future__ import annotations

from onnxprune.core.contracts import REPAIRS, RepairTask
from onnxprune.core.graph import Graph


class NoRepair:
    """Leaves every weight as it is."""

    needs: frozenset[str] = frozenset()
    needs_samples = False

    def apply(self, task: RepairTask) -> Graph:
        """Return the pruned graph unchanged."""
        return task.pruned


REPAIRS.register("none")(NoRepair())
