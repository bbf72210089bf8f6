"""What detectors found, read from their raw outputs."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from benchmarks.files_samples import Array, fitted


def faces_found(found: list[Array]) -> str:
    """Read UltraFace: count boxes above 0.7 after suppression of overlaps above 0.3."""
    scores, boxes = found[0][0, :, 1], found[1][0]
    left = [int(i) for i in scores.argsort()[::-1] if scores[i] > 0.7]
    kept: list[int] = []
    while left:
        kept.append(left[0])
        left = [i for i in left[1:] if overlap(boxes[kept[-1]], boxes[i]) < 0.3]
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
    text = np.squeeze(found[0]) > 0.3
    marks, count = ndimage.label(text)
    sizes = ndimage.sum_labels(text, marks, range(1, count + 1))
    return (
        f"{int((np.asarray(sizes) >= 16).sum())} regions, {100 * text.mean():.1f} % of the pixels"
    )
