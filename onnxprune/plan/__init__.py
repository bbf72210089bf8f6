"""A prune written down: complete enough to repeat it, to re-apply it and to explain it."""

from .file import (
    Change,
    DataId,
    Edit,
    ModelId,
    Plan,
    PlannedBlock,
    PlannedFace,
    PlannedGroup,
    PlannedTensor,
    Settings,
    Step,
    read_plan,
    to_json,
    to_ranges,
    write_plan,
)
from .reapply import depth_of, mask_of, removed_units, verify_plan
from .record import faces_of, plan_of

__all__ = [
    "Change", "DataId", "Edit", "ModelId", "Plan", "PlannedBlock", "PlannedFace", "PlannedGroup",
    "PlannedTensor", "Settings", "Step", "depth_of", "faces_of", "mask_of", "plan_of", "read_plan",
    "removed_units", "to_json", "to_ranges", "verify_plan", "write_plan",
]  # fmt: skip
