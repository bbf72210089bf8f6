"""CMI as its formulas stand, nothing kept between steps: what `criteria_speed.py` compares with.

Written from the definitions (Vu-Van et al. 2024; Sanchez Giraldo et al. 2014) as the authors' code
proceeds: every candidate builds all Gram matrices of its set again and takes the eigenvalues of three
matrices with the solver for general matrices; every step computes the conditional information of the
rest from four more. No line of it is shared with the package.
"""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Floats = NDArray[np.float64]


@dataclasses.dataclass
class Direct:
    """One layer, to be ordered.

    Attributes:
        maps: shape (C, N, d).
        widths: kernel width of each map, shape (C,).
        labels: what is told about, shape (N, e): compared by distance with `label_width`; with width
            zero the kernel is 1 where two samples are equal, else 0.
        grams, solving: CPU seconds spent on Gram matrices, and on eigenvalues.
    """

    maps: Floats
    widths: Floats
    labels: Floats
    label_width: float
    alpha: float = 1.01
    grams: float = 0.0
    solving: float = 0.0

    def gram(self, values: Floats, width: float) -> Floats:
        """Return exp(-|x_i - x_j|^2 / (2 width^2))."""
        start = time.process_time()
        squared = cdist(values, values, "sqeuclidean")
        found = np.exp(-squared / (2 * width**2)) if width > 0 else (squared == 0).astype(float)
        self.grams += time.process_time() - start
        return np.asarray(found)

    def joint(self, members: list[int]) -> Floats:
        """Return the Hadamard product of the Gram matrices of some maps."""
        product = np.ones((len(self.labels), len(self.labels)))
        for member in members:
            product *= self.gram(self.maps[member], float(self.widths[member]))
        return product

    def entropy(self, gram: Floats) -> float:
        """Return 1 / (1 - a) ln sum |lambda|^a, lambda the eigenvalues of K / N, in nats."""
        start = time.process_time()
        values = np.abs(np.linalg.eigvals(gram / len(gram)))
        self.solving += time.process_time() - start
        return float(np.log((values**self.alpha).sum()) / (1 - self.alpha))

    def information(self, members: list[int]) -> float:
        """Return I(Y; S) = S(Y) + S(S) - S(Y, S)."""
        target = self.gram(self.labels, self.label_width)
        given = self.joint(members)
        return self.entropy(target) + self.entropy(given) - self.entropy(target * given)

    def conditional(self, rest: list[int], given: list[int]) -> float:
        """Return I(Y; R | S) = S(Y, S) + S(R, S) - S(Y, R, S) - S(S)."""
        y, s, r = self.gram(self.labels, self.label_width), self.joint(given), self.joint(rest)
        return self.entropy(y * s) + self.entropy(r * s) - self.entropy(y * r * s) - self.entropy(s)

    def order(self) -> tuple[list[int], list[float]]:
        """Return the maps, most informative first, and CMI after each step but the last."""
        taken: list[int] = []
        rest = list(range(len(self.maps)))
        curve = []
        while len(rest) > 1:
            found = [self.information([*taken, candidate]) for candidate in rest]
            taken.append(rest.pop(int(np.argmax(found))))
            curve.append(self.conditional(rest, taken))
        return taken + rest, curve
