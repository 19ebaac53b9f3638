"""The state of training: weights, their moving average, optimizer, schedule, loss scale."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from warmstart.solver import EMA

from ..distributed import comm
from .non_finite import non_finite_names
from .optimizer_state import load_optimizer_state
from .update import Update

logger = logging.getLogger(__name__)


class TrainingState:
    """The objects of a run whose states a checkpoint holds.

    Args:
        update: has the model, its optimizer, its schedule and the scaler of its losses.
        ema: a moving average of the model.
    """

    def __init__(self, update: Update, ema: EMA | None) -> None:
        self.model, self.optimizer, self.scheduler = update.model, update.optimizer, update.scheduler
        self.scaler, self.strategy = update.scaler, update.strategy
        self.update, self.ema = update, ema

    def check_finite(self, iteration: int) -> None:
        """Raise NonFiniteLossError if weights or buffers are infinite or NaN on any rank; waits for all ranks."""
        models = {"": self.model} if self.ema is None else {"": self.model, "average of ": self.ema.model}
        bad = [*dict.fromkeys(name for names in comm.gather(non_finite_names(models)) for name in names)]
        if bad:
            listed = ", ".join([*bad[:3], "..."] if len(bad) > 3 else bad)
            problem = f"iteration {iteration}: weights are infinite or NaN: {listed}"
            raise self.update.diagnosis.error(problem, self.update.rates)

    def state_dict(self) -> dict[str, Any]:
        """Return the states by their names in a checkpoint; null for what this run does not have."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; this run's hyper-parameters of the optimizer stay.

        Raises:
            KeyError: a part is missing.
            RuntimeError: the model's parameters are others.
            ValueError: the optimizer's parameters have other names.
        """
        self.model.load_state_dict(self.strategy.local_state(state["model"], self.model))
        self._load_average(state.get("ema"))
        if self.scaler is not None and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        load_optimizer_state(self.optimizer, state["optimizer"], self.scheduler)
        self.scheduler.load_state_dict(state["scheduler"])

    def _load_average(self, saved: Mapping[str, Any] | None) -> None:
        if self.ema is not None and saved is not None:
            self.ema.load_state_dict({**saved, "model": self.strategy.local_state(saved["model"], self.ema.model)})
        elif self.ema is not None:
            self.ema.restart(self.model)
            logger.info("the checkpoint has no moving average: SOLVER.EMA begins with its weights")
        elif saved is not None:
            logger.info("SOLVER.EMA is off: the checkpoint's moving average is ignored")
