"""How far a student is from its teacher, and from the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import DataError, OnnxPruneError
from .batches import TRUTH
from .recipe import Recipe

Own = Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor]
_LEAST = 1e-12


class Loss:
    """(1 - w) teacher + w truth + f features, where w is the labels' weight and f that of features.

    `teacher` is the mean over the float outputs of temperature^2 times the Kullback-Leibler divergence
    where an output is one of classes (two axes), else of the squared error over the teacher's variance;
    `features` the mean of the latter over the ends of blocks.
    """

    def __init__(
        self,
        recipe: Recipe,
        outputs: Sequence[str],
        features: Sequence[str],
        typical: Mapping[str, Tensor],
        *,
        labelled: bool,
        own: Own | None,
    ) -> None:
        """Take the scale of every error from what the teacher says of some samples.

        Args:
            recipe: settings.
            outputs: of the student, in order.
            features: tensors that follow them.
            typical: outputs and features of the teacher.
            labelled: whether batches have labels.
            own: loss of the user's, of outputs and batch by name.

        Raises:
            OnnxPruneError: if nothing can be compared.
        """
        self.recipe, self.outputs, self.features = recipe, list(outputs), list(features)
        self.names = self.outputs + self.features
        self.own, self.labelled = own, labelled and own is None
        self.floats = [name for name in outputs if typical[name].is_floating_point()]
        self.classes = [n for n in self.floats if typical[n].ndim == 2 and typical[n].shape[1] > 1]
        compared = [*self.floats, *features]
        self.scales = {
            name: max(float(typical[name].var(correction=0)), _LEAST) for name in compared
        }
        if not self.floats:
            raise OnnxPruneError(f"no output is of floats: {self.outputs} cannot be taught")
        if self.labelled and not self.classes:
            shapes = ", ".join(f"'{n}' {list(typical[n].shape)}" for n in self.floats)
            raise OnnxPruneError(
                f"labels need an output of classes (two axes), found {shapes}: give a --loss of your own"
            )

    def __call__(
        self,
        found: Sequence[Tensor],
        theirs: Mapping[str, Tensor],
        batch: Mapping[str, Tensor],
        share: float,
    ) -> Tensor:
        """Return the loss of a batch; `found` are outputs, then features, of the student."""
        mine = {name: x.float() for name, x in zip(self.names, found, strict=True)}
        loss = torch.stack([self._taught(name, mine, theirs) for name in self.floats]).mean()
        weight = self.recipe.label_weight
        if self.own is not None:
            loss = (1 - weight) * loss + weight * self._users(mine, batch)
        elif self.labelled:
            loss = (1 - weight) * loss + weight * self._true(mine, batch, share)
        if self.features:
            errors = [self._error(name, mine, theirs) for name in self.features]
            loss = loss + self.recipe.features_if_any * torch.stack(errors).mean()
        return loss

    def _taught(self, name: str, mine: dict[str, Tensor], theirs: Mapping[str, Tensor]) -> Tensor:
        if name not in self.classes:
            return self._error(name, mine, theirs)
        x, y, heat = mine[name], theirs[name], self.recipe.temperature
        if bool((y >= 0).all()) and bool(((y.sum(1) - 1).abs() < 1e-3).all()):  # shares, no logits
            x, y = x.clamp(min=_LEAST).log(), y.clamp(min=_LEAST).log()
        log_x, log_y = (F.log_softmax(z / heat, 1) for z in (x, y))
        return heat**2 * F.kl_div(log_x, log_y, reduction="batchmean", log_target=True)

    def _error(self, name: str, mine: dict[str, Tensor], theirs: Mapping[str, Tensor]) -> Tensor:
        return F.mse_loss(_as_laid_out(mine[name]), _as_laid_out(theirs[name])) / self.scales[name]

    def _true(self, mine: dict[str, Tensor], batch: Mapping[str, Tensor], share: float) -> Tensor:
        """Cross-entropy with both labels of each sample."""
        scores, truth = mine[self.classes[0]], batch[TRUTH].long()
        count = scores.shape[1]
        if bool(((truth < 0) | (truth >= count)).any()):
            worst = int(truth.max() if int(truth.max()) >= count else truth.min())
            raise DataError(
                f"there is a label {worst}: output '{self.classes[0]}' has {count} classes"
            )
        own, other = (F.cross_entropy(scores, truth[:, i]) for i in (0, 1))
        return share * own + (1 - share) * other

    def _users(self, mine: dict[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        assert self.own is not None
        outputs = {name: mine[name] for name in self.outputs}
        try:
            loss: Any = self.own(outputs, dict(batch))
        except Exception as error:  # code of the user raises anything; its name and text tell
            raise OnnxPruneError(
                f"--loss '{self.recipe.loss}' failed: {type(error).__name__}: {error}; it is given "
                f"outputs {list(outputs)} and samples with {list(batch)}"
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise OnnxPruneError(
                f"--loss '{self.recipe.loss}' returned {type(loss).__name__}, expected one number as a "
                "tensor"
            )
        return loss.reshape(())


def _as_laid_out(x: Tensor) -> Tensor:
    """Return images with the axis of their channels where it is in memory: last.

    The gradient of `mse_loss` is always laid out like the shape; were that other than the images' own
    layout, all of the backward pass would mix the two, which is slow.
    """
    return x.movedim(1, -1) if x.ndim == 4 else x
