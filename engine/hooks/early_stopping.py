"""The hook that ends a run whose score gets no better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..loop.score_hook import ScoreHook
from ..loop.trainer import Trainer
from ..runtime.states import Kind


class EarlyStoppingHook(ScoreHook):
    """Ends the run after `patience` evaluations in a row in which the score was no better than before.

    Args:
        period: of the evaluation, in updates.
        metric: the score's name in a record.
        mode: "max" or "min", which is better.
        patience: at least 1.
        min_delta: what a score must be better by, at least 0.
    """

    _kinds: ClassVar[dict[str, Kind]] = ScoreHook._kinds | {"bad": int, "stopped": bool}

    def __init__(self, period: int, metric: str, mode: str, patience: int, min_delta: float = 0.0) -> None:
        super().__init__(period, metric, mode, min_delta)
        self.patience = patience
        self.bad = 0
        self._counted_at = 0  # the iteration of the last evaluation that counts
        self._stopped = False

    @property
    def is_out(self) -> bool:
        """Whether patience has run out, and the next update is the last."""
        return self.bad >= self.patience

    @property
    def has_stopped(self) -> bool:
        """Whether that last update is done too."""
        return self._stopped and self.is_out  # patience may have been raised since

    @property
    def reason(self) -> str:
        """Why the run ends."""
        since = f"the {self.bad} evaluations up to" if self.bad > 1 else "the evaluation after"
        when = f"in {since} iteration {self._counted_at}"
        if self.best is None:
            return f"{self.metric} was not finite {when}"
        by = f" by more than {self.min_delta:g}" if self.min_delta else ""
        best = f"{self.best:.4g} at iteration {self.best_iteration}"
        return f"{self.metric} has not improved{by} on {best}, {when}"

    def before_train(self, trainer: Trainer) -> None:
        """Stop again a run that had stopped, unless its patience was raised."""
        if self.has_stopped:
            trainer.request_stop(self.reason)
        self._stopped = self.has_stopped

    def before_step(self, trainer: Trainer) -> None:
        """Ask for the stop here, not in after_step: so a run that is killed and resumed asks for it again."""
        if self.is_out:
            trainer.request_stop(self.reason)

    def after_step(self, trainer: Trainer) -> None:
        """Count; the evaluation with which a stopped run ends is not counted."""
        if self.is_out:
            self._stopped = True
        else:
            super().after_step(trainer)

    def on_score(self, trainer: Trainer, value: float, better: bool) -> None:
        """Count the evaluations since the best one."""
        self.bad = 0 if better else self.bad + 1
        self._counted_at = trainer.iteration

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, the count since then, and whether the run was stopped."""
        own = {"bad": self.bad, "counted_at": self._counted_at, "stopped": self._stopped}
        return super().state_dict() | own

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        super().restore(state)
        self.bad, self._stopped = state["bad"], state["stopped"]
        # Older checkpoints do not say: evaluations come once a period.
        self._counted_at = state.get("counted_at", self.best_iteration + self.bad * self.period)
