"""The evaluation of a run, and the BatchNorm statistics that it needs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from torch import nn

from warmstart.modeling import next_change

from ..loop.hook import HookBase
from ..loop.precise_bn import norm_layers, update_from_training
from ..loop.trainer import Trainer

logger = logging.getLogger(__name__)


class PreciseBNHook(HookBase):
    """Recomputes the statistics of BatchNorm layers for the current weights before each evaluation.

    They are computed from the batches that training would use next, so they depend on iteration and config
    alone; they are kept, so that a checkpoint has the scores of its evaluation.

    Args:
        period: of the evaluation, in updates.
        models: the models that are evaluated.
        batches: returns training's batches from a given iteration on, as a separate stream.
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
        """Log it if there is nothing to do, now or later."""
        if not any(norm_layers(model) or next_change(model, trainer.iteration) for model in self.models):
            logger.info("TEST.PRECISE_BN: the model has no BatchNorm layer that trains, nothing to do")

    def after_step(self, trainer: Trainer) -> None:
        """Set the statistics before the evaluation."""
        models = [model for model in self.models if norm_layers(model)]
        if not models:
            return
        with trainer.paused():
            for model in models:
                trainer.raise_if_interrupted()
                options = self.num_iter, trainer.update.accum_steps, trainer.device, self.run_of(model)
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

    def after_step(self, trainer: Trainer) -> None:
        """Put the scores into this iteration's record."""
        with trainer.paused():
            trainer.scalars.update(self.evaluate(trainer))
