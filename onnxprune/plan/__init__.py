"""A prune written down: complete enough to repeat it, to re-apply it and to explain it."""

from .document import header, to_json
from .file import (
    Change,
    DataId,
    DepthRound,
    Edit,
    ModelId,
    Plan,
    PlannedBlock,
    PlannedDepth,
    PlannedFace,
    PlannedGroup,
    PlannedInt8,
    PlannedTensor,
    Settings,
    Step,
    read_plan,
    to_ranges,
    write_plan,
)
from .frontier import (
    Frontier,
    Point,
    PointTime,
    read_frontier,
    with_dominated,
    write_frontier,
)
from .reapply import depth_of, mask_by, mask_of, removed_units, verify_plan
from .record import faces_of, plan_of, versions
from .scores import RankedGroup, Scored, ScoredGroup, Scores, read_scores, write_scores

__all__ = [
    "Change", "DataId", "DepthRound", "Edit", "Frontier", "ModelId", "Plan", "PlannedBlock",
    "PlannedDepth", "PlannedFace", "PlannedGroup", "PlannedInt8", "PlannedTensor", "Point",
    "PointTime", "RankedGroup", "Scored", "ScoredGroup", "Scores", "Settings", "Step", "depth_of",
    "faces_of", "header", "mask_by", "mask_of", "plan_of", "read_frontier", "read_plan", "read_scores",
    "removed_units", "to_json", "to_ranges", "verify_plan", "versions", "with_dominated",
    "write_frontier", "write_plan", "write_scores",
]  # fmt: skip
