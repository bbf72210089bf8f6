"""What detectors found, read from their raw outputs."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image
from scipy import ndimage

from benchmarks.files_samples import Array, fitted


@dataclasses.dataclass(frozen=True)
class Objects:
    """Objects in one picture, best first.

    Attributes:
        boxes: corners (x1, y1, x2, y2), shape (N, 4).
        classes: shape (N,).
    """

    boxes: Array
    classes: Array


def suppressed(boxes: Array, scores: Array, least: float, most: float) -> list[int]:
    """Return the boxes that score above `least`, without those that overlap a better one by `most`."""
    left = [int(i) for i in scores.argsort()[::-1] if scores[i] > least]
    kept: list[int] = []
    while left:
        kept.append(left[0])
        left = [i for i in left[1:] if overlap(boxes[kept[-1]], boxes[i]) < most]
    return kept


def alike(a: Objects, b: Objects, least: float = 0.5) -> int:
    """Return how many objects two detectors share: same class, boxes that overlap by `least`."""
    left, shared = list(range(len(b.classes))), 0
    for box, kind in zip(a.boxes, a.classes, strict=True):
        rivals = [i for i in left if b.classes[i] == kind]
        best = max(rivals, key=lambda i: overlap(box, b.boxes[i]), default=None)
        if best is not None and overlap(box, b.boxes[best]) >= least:
            left.remove(best)
            shared += 1
    return shared


def yolox(found: list[Array], size: int = 416, least: float = 0.3) -> Objects:
    """Read YOLOX: cells of 8, 16 and 32 pixels give offsets, logarithms of sizes, object, classes."""
    rows, grids = found[0][0], [(size // stride, stride) for stride in (8, 16, 32)]
    places = np.concatenate([np.indices((n, n))[::-1].reshape(2, -1).T for n, _ in grids])
    strides = np.concatenate([np.full((n * n, 1), stride) for n, stride in grids])
    centres, sides = (rows[:, :2] + places) * strides, np.exp(rows[:, 2:4]) * strides
    return _objects(centres, sides, rows[:, 5:], rows[:, 4] * rows[:, 5:].max(1), least)


def fastest(found: list[Array], least: float = 0.65) -> Objects:
    """Read FastestDet: each cell gives object, offsets (tanh), sizes (sigmoid), classes."""
    cells = found[0][0].reshape(85, -1).T
    places = np.indices(found[0].shape[2:])[::-1].reshape(2, -1).T
    centres = (places + np.tanh(cells[:, 1:3])) / found[0].shape[2]
    sides = 1 / (1 + np.exp(-cells[:, 3:5]))
    scores = cells[:, 0] ** 0.6 * cells[:, 5:].max(1) ** 0.4
    return _objects(centres, sides, cells[:, 5:], scores, least)


def texts(found: list[Array]) -> Objects:
    """Read PP-OCR: boxes around the connected regions that `regions_found` counts."""
    marks, sizes = _regions(found)
    places = [p for p, size in zip(ndimage.find_objects(marks), sizes, strict=True) if size >= 16]
    corners = [(x.start, y.start, x.stop, y.stop) for y, x in places]
    return Objects(np.array(corners).reshape(-1, 4), np.zeros(len(corners)))


def _regions(found: list[Array]) -> tuple[Array, Array]:
    """Return numbered regions of text above 0.3, and how many pixels each has."""
    marks, count = ndimage.label(np.squeeze(found[0]) > 0.3)
    return marks, np.asarray(ndimage.sum_labels(marks > 0, marks, range(1, count + 1)))


def _objects(centres: Array, sides: Array, classes: Array, scores: Array, least: float) -> Objects:
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    kept = suppressed(boxes, scores, least, most=0.45)
    return Objects(boxes[kept], classes.argmax(1)[kept])


def faces_found(found: list[Array]) -> str:
    """Read UltraFace: count boxes above 0.7 after suppression of overlaps above 0.3."""
    scores, boxes = found[0][0, :, 1], found[1][0]
    kept = suppressed(boxes, scores, least=0.7, most=0.3)
    return f"{len(kept)} faces, {int((scores > 0.7).sum())} anchors, best {scores.max():.4f}"


def overlap(a: Array, b: Array) -> float:
    """Return intersection over union of two boxes (x1, y1, x2, y2)."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inner = float(np.prod(np.maximum(high - low, 0)))
    return inner / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - inner)


def cells_found(found: list[Array]) -> str:
    """Read YuNet: cells whose sqrt(class * object) is above 0.6."""
    scores = np.sqrt(np.concatenate([(found[i] * found[i + 3]).ravel() for i in range(3)]))
    return f"{int((scores > 0.6).sum())} cells, best {scores.max():.3f}"


def boxed(image: Image.Image, size: int = 416) -> Array:
    """Letter-box an image for YOLOX: top left, grey 114 around, BGR."""
    scale = size / max(image.size)
    small = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (size, size), (114, 114, 114))
    canvas.paste(small)
    return fitted(canvas, size, size, bgr=True)


def objects_found(found: list[Array]) -> str:
    """Read YOLOX: the best score, and the classes above 0.4."""
    scores = found[0][0, :, 4:5] * found[0][0, :, 5:]
    classes = sorted({int(c) for c in np.nonzero(scores > 0.4)[1]})
    return f"{scores.max():.3f} classes {classes}"


def best_object(found: list[Array]) -> str:
    """Read FastestDet: score obj^0.6 class^0.4 of the best cell, and its class."""
    cells = found[0][0]
    scores = cells[0] ** 0.6 * cells[5:].max(axis=0) ** 0.4
    place = np.unravel_index(scores.argmax(), scores.shape)
    return f"{scores.max():.3f} class {int(cells[5:, *place].argmax())}"


def regions_found(found: list[Array]) -> str:
    """Read PP-OCR: connected regions of text above 0.3, of at least 16 pixels."""
    marks, sizes = _regions(found)
    return f"{int((sizes >= 16).sum())} regions, {100 * (marks > 0).mean():.1f} % of the pixels"
