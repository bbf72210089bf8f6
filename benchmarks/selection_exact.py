"""How much more than the best selection loses, on networks where all combinations of widths can be tried.

    python benchmarks/selection_exact.py [--networks NAMES] [--seeds 6]

Scores are drawn (lognormal), widths are free, budgets 0.8, 0.6 and 0.4 of the MACs. These networks have one
to three groups, so that a single unit is much of the budget; with more groups a step is less.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.selection.common import cost_of
from tests.selection.test_exact import SHARES, excess

NETWORKS = "chain,residual,concat,depthwise,grouped,flatten,dense"


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default=NETWORKS)
    parser.add_argument("--seeds", type=int, default=6)
    asked = parser.parse_args()
    shown = Table("network", "groups", "selections", "exact", "median", "largest", box=MARKDOWN)
    for name in asked.networks.split(","):
        found = np.array(
            [excess(name, "macs", s, seed) for s in SHARES for seed in range(asked.seeds)]
        )
        groups = str(len(cost_of(name).analysis.groups))
        exact = f"{(found < 1e-9).mean():.0%}"
        shown.add_row(
            name, groups, str(len(found)), exact, f"{np.median(found):.1%}", f"{found.max():.1%}"
        )
    Console().print(shown)


if __name__ == "__main__":
    main()
