"""Reduction of the learning rate when a metric stops improving, without mutable state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .schedules import Group, check_at_least


@dataclass(frozen=True)
class Patience:
    """The state of a plateau: its memory of the metrics so far.

    Args:
        best: the best metric; None: there was no finite one.
        num_bad: metrics in a row that were not better.
        cooldown: metrics that are still not counted as bad.
        reductions: how often the learning rates were reduced.
    """

    best: float | None = None
    num_bad: int = 0
    cooldown: int = 0
    reductions: int = 0


@dataclass(frozen=True)
class Plateau:
    """The rule of torch's ReduceLROnPlateau.

    A metric is better if it improves on the best so far by `threshold` (relative or absolute); NaN is never
    better. After more than `patience` metrics in a row that are not better, learning rates are multiplied by
    `factor`, but not below `min_lr`, and the next `cooldown` metrics are not counted as bad.

    Args:
        mode: "min" or "max": whether a lower or a higher metric is better.
        factor: 0 or more and below 1.
        patience, cooldown: numbers of metrics.
        threshold, threshold_mode: 0 or more; "rel" is a fraction of the best metric, "abs" a difference.
        min_lr: learning rate; one for all groups, or a list with one per group.
        eps: 0 or more; reductions by less than this are skipped.

    Raises:
        ValueError: an argument is out of range.

    >>> plateau, state = Plateau(patience=1, factor=0.5), Patience()
    >>> for metric in (0.9, 0.8, 0.8, 0.8, 0.5):
    ...     state = plateau.after(state, metric)
    ...     print(state.best, state.num_bad, plateau.rate(Group(0.1), state.reductions))
    0.9 0 0.1
    0.8 0 0.1
    0.8 1 0.1
    0.8 0 0.05
    0.5 0 0.05
    """

    mode: str = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    cooldown: int = 0
    min_lr: float | Sequence[float] = 0.0
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ValueError(f"mode must be min or max; got {self.mode!r}")
        if self.threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold_mode must be rel or abs; got {self.threshold_mode!r}")
        if not 0 <= self.factor < 1:
            raise ValueError(f"factor must be 0 or more and below 1; got {self.factor}")
        check_at_least("patience", self.patience, 0)
        check_at_least("cooldown", self.cooldown, 0)
        check_at_least("threshold", self.threshold, 0)
        check_at_least("eps", self.eps, 0)

    def after(self, state: Patience, metric: float) -> Patience:
        """Return the state after `metric`."""
        if self._better(metric, state.best):
            state = replace(state, best=metric, num_bad=0)
        else:
            state = replace(state, num_bad=state.num_bad + 1)
        if state.cooldown:
            state = replace(state, cooldown=state.cooldown - 1, num_bad=0)
        if state.num_bad > self.patience:
            state = replace(state, num_bad=0, cooldown=self.cooldown, reductions=state.reductions + 1)
        return state

    def rate(self, group: Group, reductions: int) -> float:
        """Return the learning rate of a group after a number of reductions."""
        rate, lowest = group.lr, group.number("min_lr", self.min_lr)
        for _ in range(reductions):
            lower = max(rate * self.factor, lowest)
            if rate - lower <= self.eps:
                break  # all further reductions are skipped too
            rate = lower
        return rate

    def _better(self, metric: float, best: float | None) -> bool:
        if best is None:
            return math.isfinite(metric)
        sign = 1 if self.mode == "min" else -1
        relative = self.threshold_mode == "rel"
        bound = best * (1 - sign * self.threshold) if relative else best - sign * self.threshold
        return sign * metric < sign * bound and math.isfinite(metric)
