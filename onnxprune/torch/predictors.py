"""Small networks that tell how much of the targets a set of nodes explains: MIPP's estimator `mlp`.

Westphal et al. 2024 (arXiv 2411.00147, D.3.2) fit three MLPs with two hidden layers of 256, mask one
node after the other and train a little more. What they do not give is chosen here: Adam, batches of
256, ReLU, mean squared error. All networks train at once, as one batched product per layer.

Each network leaves out its share of the samples, so that every sample has a loss that was held out.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]

_CHUNK = 64  # networks of one input that train at once


@dataclasses.dataclass(frozen=True)
class Training:
    """How networks are trained; the defaults are the paper's.

    Attributes:
        networks: fitted at once, each without its share of the samples; two or more.
        hidden: width of both hidden layers.
        first: iterations of the first fit.
        again: iterations after a node was masked (the paper: 20 for VGG, else 150).
        ordering: iterations of the fit to a node alone.
        batch: samples per iteration.
        rate: of Adam.
        decay: of weights (AdamW).
    """

    networks: int = 3
    hidden: int = 256
    first: int = 1500
    again: int = 150
    ordering: int = 35
    batch: int = 256
    rate: float = 1e-3
    decay: float = 1e-2


class Perceptrons:
    """Networks that predict targets from nodes, which can be taken out of their inputs.

    Attributes:
        open: bool, shape (p,): nodes still in.
    """

    def __init__(self, x: Floats, y: Floats, training: Training, seed: int = 0) -> None:
        """Fit.

        Args:
            x: nodes, shape (n, p), centred, of unit variance; columns of zeros are out from the start.
            y: targets, shape (n, q), alike.
            training: how.
            seed: of weights, batches and shares.
        """
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.training, self.seed = training, seed
        self.open: NDArray[np.bool_] = np.asarray(x.any(axis=0))
        self.x = torch.tensor(x, dtype=torch.float32, device=self.device)
        self.y = torch.tensor(
            y[:, np.asarray(y.any(axis=0))], dtype=torch.float32, device=self.device
        )
        order = np.random.default_rng(seed).permutation(len(x))
        shares = [order[k :: training.networks] for k in range(training.networks)]
        self.held = self._rows(shares, max(map(len, shares)))
        rest = [np.setdiff1d(order, share) for share in shares]
        self.seen = self._rows(rest, max(map(len, rest)))
        self.now = self._fitted(x.shape[1], training.networks)
        self.now.train(self.x, self.y, self.seen, training.first, seed)
        self.trial: tuple[int, _Stack] | None = None

    def informativeness(self) -> Floats:
        """Return what each node alone tells: share of the targets' variance, held out, shape (p,)."""
        told, nodes = np.zeros(len(self.open)), np.flatnonzero(self.open)
        for start in range(0, len(nodes), _CHUNK):
            part = nodes[start : start + _CHUNK]
            alone = self._fitted(1, len(part))
            x = self.x[:, part].T[:, :, None]  # a network each: (k, n, 1)
            seen, held = (rows[:1].expand(len(part), -1) for rows in (self.seen, self.held))
            alone.train(x, self.y, seen, self.training.ordering, self.seed)
            told[part] = 1 - alone.losses(x, self.y, held).mean(dim=1).double().cpu().numpy()
        return told

    def held_out(self, without: int | None = None) -> Floats:
        """Return the held-out loss of every sample, shape (n,), perhaps without one more node.

        Without a node the networks train on for `again` iterations first, on the same batches
        whichever node it is.
        """
        networks = self.now
        if without is not None:
            networks = copy.deepcopy(self.now)
            networks.mask[without] = 0.0
            networks.train(self.x, self.y, self.seen, self.training.again, self.seed + 1)
            self.trial = without, networks
        losses = torch.empty(len(self.x), device=self.device)
        losses[self.held.flatten()] = networks.losses(self.x, self.y, self.held).flatten()
        return np.asarray(losses.double().cpu().numpy(), np.float64)

    def remove(self, node: int) -> None:
        """Take a node out for good; the networks go on as they were trained without it."""
        if self.trial is None or self.trial[0] != node:
            self.held_out(node)
        assert self.trial is not None
        self.now, self.trial = self.trial[1], None
        self.open[node] = False

    def _fitted(self, inputs: int, count: int) -> _Stack:
        """Return networks with weights as drawn."""
        generator = torch.Generator().manual_seed(self.seed)
        sizes = [inputs, self.training.hidden, self.training.hidden, self.y.shape[1]]
        return _Stack(sizes, count, self.training, generator, self.device)

    def _rows(self, parts: list[NDArray[np.int64]], length: int) -> Tensor:
        """Return sample numbers, one row per network, the shorter filled up with their first."""
        rows = [np.resize(part, length) for part in parts]
        return torch.tensor(np.stack(rows), device=self.device)


class _Stack:
    """Networks of one shape side by side, with the optimiser that trains them."""

    def __init__(
        self, sizes: list[int], count: int, training: Training, draw: torch.Generator,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.batch = training.batch
        self.mask = torch.ones(sizes[0], device=device)
        self.layers: list[tuple[Tensor, Tensor]] = []
        for fan, width in itertools.pairwise(sizes):
            weight, bias = (
                ((torch.rand(count, rows, width, generator=draw) * 2 - 1) / fan**0.5)
                .to(device)
                .requires_grad_()
                for rows in (fan, 1)
            )
            self.layers.append((weight, bias))
        self.optimiser = torch.optim.AdamW(
            itertools.chain.from_iterable(self.layers),
            lr=training.rate,
            weight_decay=training.decay,
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Predict: shape (k, m, p) to (k, m, q)."""
        x = x * self.mask
        for number, (weight, bias) in enumerate(self.layers):
            x = torch.baddbmm(bias, torch.relu(x) if number else x, weight)
        return x

    def train(self, x: Tensor, y: Tensor, rows: Tensor, iterations: int, seed: int) -> None:
        """Train on batches of each network's own rows, int64, shape (k, m)."""
        draw = torch.Generator().manual_seed(seed)
        with torch.enable_grad():
            for _ in range(iterations):
                chosen = torch.randint(rows.shape[1], (self.batch,), generator=draw)
                self.optimiser.zero_grad()
                picked = rows[:, chosen.to(rows.device)]
                # a network's gradient is that of its own mean loss, whatever stands beside it
                loss = self._squares(x, y, picked).mean(dim=1).sum()
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimiser.step()

    @torch.no_grad()
    def losses(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of each row: mean over targets, shape (k, m)."""
        return self._squares(x, y, rows)

    def _squares(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        read = x[rows] if x.ndim == 2 else x.gather(1, rows[:, :, None])
        return nn.functional.mse_loss(self(read), y[rows], reduction="none").mean(dim=2)
