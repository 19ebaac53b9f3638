"""The hooks of a default run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from torch import nn

from ..loop.hook import HookBase, next_multiple
from ..loop.precise_bn import norm_layers, update_from_training
from ..loop.trainer import Trainer

logger = logging.getLogger(__name__)


class PreciseBNHook(HookBase):
    """Gives BatchNorm layers the statistics of the present weights before each evaluation.

    They are those of the batches that training would take next, so they follow from iteration and config
    alone; and they stay, so that a checkpoint scores as its evaluation did.

    Args:
        period: that of the evaluation.
        models: the models that are evaluated.
        batches: training's batches from a given iteration, a stream of their own.
        num_iter: batches to use.
        run_of: returns what passes a batch through a model as training does; default: `model(*batch)`.
    """

    def __init__(
        self,
        period: int,
        models: Sequence[nn.Module],
        batches: Callable[[int], Generator[Any, None, None]],
        num_iter: int,
        run_of: Callable[[nn.Module], Callable[[Any], object] | None] = lambda model: None,
    ) -> None:
        self.period = period
        self.models = list(models)
        self.batches = batches
        self.num_iter = num_iter
        self.run_of = run_of

    def before_train(self, trainer: Trainer) -> None:
        """Say so where there is nothing to do."""
        self.models = [model for model in self.models if norm_layers(model)]
        if not self.models:
            logger.info("TEST.PRECISE_BN: the model has no BatchNorm layer that trains, nothing is to be done")

    def next_due(self, iteration: int) -> float:
        """Return the next multiple of the period."""
        return next_multiple(self.period, iteration)

    def after_step(self, trainer: Trainer) -> None:
        """Set the statistics where an evaluation is due."""
        if not self.models or not trainer.is_due(self.period):
            return
        with trainer.paused():
            for model in self.models:
                trainer.raise_if_interrupted()
                options = self.num_iter, trainer.accum_steps, trainer.device, self.run_of(model)
                update_from_training(model, self.batches(trainer.iteration), *options)


class EvaluationHook(HookBase):
    """Evaluates every `period` updates and after the last one; 0 is only after the last one.

    Args:
        period: in updates.
        evaluate: gets the trainer, and returns the scores by their names in the record, such as
            {"digits_test/loss": 0.25}. It may call `trainer.raise_if_interrupted` in between.
    """

    def __init__(self, period: int, evaluate: Callable[[Trainer], Mapping[str, float]]) -> None:
        self.period = period
        self.evaluate = evaluate

    def next_due(self, iteration: int) -> float:
        """Return the next multiple of the period."""
        return next_multiple(self.period, iteration)

    def after_step(self, trainer: Trainer) -> None:
        """Put the scores into this iteration's record."""
        if trainer.is_due(self.period):
            with trainer.paused():
                trainer.scalars.update(self.evaluate(trainer))
