"""The hook that lets frozen parameters train when their time has come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from warmstart.modeling import hold_modules, next_change, set_frozen
from warmstart.solver import begin_to_train

from ..loop.hook import HookBase
from ..loop.trainer import Trainer

logger = logging.getLogger(__name__)


def unfreeze(model: nn.Module, optimizer: Optimizer, iteration: int) -> int:
    """Train and freeze parameters as MODEL.FREEZE says for the update after `iteration` others.

    Returns:
        How many values begin to train.
    """
    begun = set_frozen(model, iteration)
    begin_to_train(optimizer, begun)
    return sum(parameter.numel() for parameter in begun)


class UnfreezingHook(HookBase):
    """Lets parameters train from the UNTIL of their entry in MODEL.FREEZE on.

    What is frozen is a function of the iteration, so the hook has no state.

    Args:
        averaged: the model's moving average, whose modules are in the modes of the model's.
        losses: returns what computes losses once further parameters train; None: what did before still does.
    """

    def __init__(
        self,
        averaged: nn.Module | None = None,
        losses: Callable[[], Callable[[Any], Mapping[str, Tensor]]] | None = None,
    ) -> None:
        self._averaged, self._losses = averaged, losses
        self._next: int | None = None

    def before_train(self, trainer: Trainer) -> None:
        """Continue with what trained in the last update: an evaluation may still be due before the next one."""
        self._set(trainer, trainer.iteration - 1)

    def before_step(self, trainer: Trainer) -> None:
        """Let parameters train that begin with this update."""
        if trainer.iteration == self._next:
            begun = self._set(trainer, trainer.iteration)
            logger.info("iteration %d: %s more values train (MODEL.FREEZE)", trainer.iteration, f"{begun:,}")

    def _set(self, trainer: Trainer, iteration: int) -> int:
        begun = unfreeze(trainer.model, trainer.optimizer, iteration)
        if self._averaged is not None:
            hold_modules(self._averaged, iteration)
        if begun and self._losses is not None:
            trainer.update.compute_losses = self._losses()
        self._next = next_change(trainer.model, iteration)
        return begun
