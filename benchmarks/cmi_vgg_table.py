"""Tables of `cmi_vgg.py`, with what the paper reports beside, and what they are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.box import MARKDOWN
from rich.table import Table

from onnxprune.models.vgg import STAGES

FILTERS = sum(map(sum, STAGES))  # 4,224
# Of the paper's network (94.00 %), after 100 epochs of retraining.
PAPER = {
    "both compact scree": "36.15 % removed, -0.32 %",
    "forward compact scree": "26.70 % removed",
    "permutation": "9.99 % accuracy",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of one variant.

    Attributes:
        variant: its name.
        alpha: order of the entropy asked for; None: that of the mode.
        network: accuracy before, and images seen in training, of half and of full size.
        kept: filters left per convolution.
        macs, params: shares left.
        seconds: processor time of the whole prune, proof included.
        pruned, repaired, retrained: accuracy on test images; None where not measured.
        images: test images.
        retrain: images of the training on.
        note: why nothing was removed.
    """

    variant: str
    alpha: float | None
    network: tuple[float, int, int]
    kept: tuple[int, ...]
    macs: float
    params: float
    seconds: float
    pruned: float
    repaired: float | None
    retrained: float | None
    images: int
    retrain: int
    note: str = ""

    @property
    def key(self) -> tuple[str, float | None, int, int, tuple[float, int, int]]:
        """What one run is known by."""
        return self.variant, self.alpha, self.images, self.retrain, self.network


def removed(row: Row) -> float:
    """Return the share of all filters that is gone: the paper's measure."""
    return 1 - sum(row.kept) / FILTERS


def summary(rows: Sequence[Row]) -> Table:
    """Return one line per run."""
    table = Table("variant", "alpha", "filters removed", "MACs left", "parameters left",
                  "accuracy as cut", "repaired", "trained on (images)", "CPU s", "the paper",
                  box=MARKDOWN, title=_title(rows))  # fmt: skip
    for row in rows:
        on = "" if row.retrained is None else f"{row.retrained:.2%} ({row.retrain:,})"
        table.add_row(
            row.variant, f"{row.alpha:g}" if row.alpha else "", row.note or f"{removed(row):.2%}",
            f"{row.macs:.1%}", f"{row.params:.1%}", f"{row.pruned:.2%}",
            "" if row.repaired is None else f"{row.repaired:.2%}", on,
            f"{row.seconds:.0f}" if row.seconds >= 1 else "", paper(row.variant),
        )  # fmt: skip
    return table


def widths(rows: Sequence[Row]) -> Table:
    """Return the filters kept per convolution."""
    numbers = [str(width) for stage in STAGES for width in stage]
    table = Table("filters kept, of", *numbers, box=MARKDOWN)
    for row in rows:
        table.add_row(row.variant, *map(str, row.kept))
    return table


def paper(variant: str) -> str:
    """Return what the paper reports of a variant, in its own mode."""
    if not variant.startswith("paper"):
        return ""
    return next((text for name, text in PAPER.items() if name in variant), "")


def _title(rows: Sequence[Row]) -> str:
    networks = {(row.network, row.images) for row in rows}
    return "; ".join(
        f"network: {accuracy:.2%} on {images:,} test images, "
        f"trained on {halves:,} of half and {wholes:,} of full size"
        for (accuracy, halves, wholes), images in sorted(networks)
    )
