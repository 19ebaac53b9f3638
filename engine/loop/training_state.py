"""The state of training: weights, their moving average, optimizer, schedule, loss scale."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn

from warmstart.solver import EMA

from ..distributed import comm
from ..distributed.fsdp import shard_like
from .non_finite import non_finite_names
from .optimizer_state import load_optimizer_state
from .update import Update

logger = logging.getLogger(__name__)


def load_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a model's state, full or sharded, all of it and in its own types.

    Raises:
        RuntimeError: it has other names or shapes.
        TypeError: a tensor is of another type, which torch would convert.
    """
    model.load_state_dict(_like(model, state))


def load_ema(ema: EMA, state: Mapping[str, Any]) -> None:
    """Load the state of a moving average; raises as `load_model` does."""
    ema.load_state_dict({**state, "model": _like(ema.model, state["model"])})


def _like(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state with its tensors sharded as those of the model are, on the same devices."""
    own = model.state_dict()
    for name, value in state.items():
        found, expected = getattr(value, "dtype", None), getattr(own.get(name), "dtype", None)
        if expected is not None and found is not None and found != expected:
            raise TypeError(f"{name} is of {found}, and the model's is of {expected}")
    like: dict[str, Any] = OrderedDict((name, shard_like(value, own.get(name))) for name, value in state.items())
    # The versions of its modules: without them torch takes a missing count of BatchNorm for an old file's, and is
    # silent.
    like._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]
    return like


class TrainingState:
    """The objects of a run whose states a checkpoint holds.

    Args:
        update: has the model, its optimizer, its schedule and the scaler of its losses.
        ema: a moving average of the model.
    """

    def __init__(self, update: Update, ema: EMA | None) -> None:
        self.model, self.optimizer, self.scheduler = update.model, update.optimizer, update.scheduler
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
            "scaler": None if self.update.scaler is None else self.update.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; this run's hyper-parameters of the optimizer stay.

        Raises:
            KeyError: a part is missing.
            RuntimeError, TypeError: the state is of another model.
            ValueError: the optimizer's parameters have other names.
        """
        load_model(self.model, state["model"])
        self._load_average(state.get("ema"))
        if self.update.scaler is not None and state.get("scaler"):
            self.update.scaler.load_state_dict(state["scaler"])
        load_optimizer_state(self.optimizer, state["optimizer"], self.scheduler)
        self.scheduler.load_state_dict(state["scheduler"])

    def _load_average(self, saved: Mapping[str, Any] | None) -> None:
        if self.ema is not None and saved is not None:
            load_ema(self.ema, saved)
        elif self.ema is not None:
            self.ema.restart(self.model)
            logger.info("the checkpoint has no moving average: SOLVER.EMA begins with its weights")
        elif saved is not None:
            logger.info("SOLVER.EMA is off: the checkpoint's moving average is ignored")
