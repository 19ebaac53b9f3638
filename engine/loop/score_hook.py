"""The base of hooks that watch a score."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from warmstart.config import ConfigError, did_you_mean

from ..distributed import comm
from ..runtime.states import Kind, read_state
from .forward import METRIC
from .hook import HookBase
from .trainer import Trainer
from .update import RECORDS_OWN


def is_better(value: float, best: float | None, mode: str, min_delta: float = 0.0) -> bool:
    """Return whether a score is better than the best so far by more than `min_delta`.

    One that is not finite never is: infinity comes of an overflow, and nothing would be better than it again.

    Args:
        value: the score.
        best: None before the first.
        mode: "max" where higher is better, "min" where lower is.
        min_delta: at least 0.

    >>> is_better(0.5, None, "max"), is_better(0.5, 0.5, "max"), is_better(0.4, 0.5, "min")
    (True, False, True)
    >>> is_better(math.inf, None, "max"), is_better(0.625, 0.5, "max", min_delta=0.125)
    (False, False)
    """
    if best is None or not math.isfinite(value):
        return math.isfinite(value)
    return (value - best if mode == "max" else best - value) > min_delta


class ScoreHook(HookBase):
    """Watches one score of each evaluation and remembers the best; subclasses act on it.

    It comes after the record hook and reads the record, so that its messages come after the score.

    Args:
        period: of the evaluation, in updates.
        metric: the score's name in a record.
        mode: "max" or "min", which is better.
        min_delta: what a score must be better by, at least 0.
    """

    #: The entries of a saved state.
    _kinds: ClassVar[dict[str, Kind]] = {
        "metric": str,
        "mode": str,
        "best": (float, None),
        "best_iteration": int,
    }

    def __init__(self, period: int, metric: str, mode: str, min_delta: float = 0.0) -> None:
        self.period = period
        self.metric = metric
        self.mode = mode
        self.min_delta = min_delta
        self.best: float | None = None
        self.best_iteration = 0

    def after_step(self, trainer: Trainer) -> None:
        """Look at the score of this iteration's evaluation.

        Raises:
            ConfigError: the evaluation gave none of that name.
        """
        record = comm.broadcast_object(trainer.record)  # user-defined scores may differ
        if record.get("iteration") != trainer.iteration or self.metric not in record:
            raise unknown_score("TEST.BEST.METRIC", self.metric, _scores_of(trainer, record))
        value = record[self.metric]
        better = is_better(value, self.best, self.mode, self.min_delta)
        if better:
            self.best, self.best_iteration = value, trainer.iteration
        self.on_score(trainer, value, better)

    def on_score(self, trainer: Trainer, value: float, better: bool) -> None:
        """Act on a score that was or was not better than all before; `best` knows of it."""

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, its iteration, and of what they are."""
        return {
            "metric": self.metric,
            "mode": self.mode,
            "best": self.best,
            "best_iteration": self.best_iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; if it is of another score, start without a best one."""
        own = read_state(state, f"hooks.{self.name}", self._kinds)
        if (own["metric"], own["mode"]) == (self.metric, self.mode):
            self.restore(state)
        if self.best is not None and not math.isfinite(self.best):  # of an older version
            self.best, self.best_iteration = None, 0

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.best, self.best_iteration = state["best"], state["best_iteration"]


def _scores_of(trainer: Trainer, record: Mapping[str, float]) -> list[str]:
    """Return the names in a record of this iteration except losses and times."""
    if record.get("iteration") != trainer.iteration:
        return []
    return [name for name in record if name not in RECORDS_OWN and not name.startswith(("lr/", METRIC))]


def unknown_score(label: str, name: str, known: Collection[str]) -> ConfigError:
    """Return the error for a score that no evaluation gives; it lists those that there are."""
    hint = did_you_mean(name, known, show=str)
    listed = f"Known: {', '.join(known)}" if known else "There is no test set: name one in DATASETS.TEST"
    return ConfigError(f"{label}: no evaluation gives the score {name!r}{hint} {listed}")
