"""Schedulers for fvcore's ParamSchedulers, which are functions of the completed fraction of the run, in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fvcore.common.param_scheduler import ParamScheduler
from torch.optim.optimizer import Optimizer

from .lr_scheduler import ScheduleLR
from .warmup import Warmup

# Just before the end, and outside the WHERE_EPSILON of 1e-6 that fvcore adds before it looks up a step.
_LAST = 1 - 2e-6


@dataclass(frozen=True)
class ShareOfRun:
    """multiplier(min(t, N) / N) with N = num_iters.

    If a multiplier raises at the end of the run, as half of fvcore's do, the value just before the end is kept.

    >>> from fvcore.common.param_scheduler import StepParamScheduler
    >>> schedule = ShareOfRun(StepParamScheduler(4, [1.0, 0.5]), 4)
    >>> [schedule(t) for t in (0, 1, 2, 3, 4, 1_000_000)]
    [1.0, 1.0, 0.5, 0.5, 0.5, 0.5]
    """

    multiplier: Callable[[float], float]
    num_iters: int

    def __post_init__(self) -> None:
        if self.num_iters < 1:
            raise ValueError(f"max_iter must be 1 or more; got {self.num_iters}")

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        where = min(t, self.num_iters) / self.num_iters
        try:
            return self.multiplier(where)
        except (IndexError, RuntimeError):
            if where < _LAST:
                raise
            return self.multiplier(_LAST)


class LRMultiplier(ScheduleLR):
    """Learning rate = base * multiplier(min(t, max_iter) / max_iter), for any ParamScheduler of fvcore.

    Args:
        optimizer: as for `ScheduleLR`.
        multiplier: from the completed fraction of the run, in [0, 1], to a factor.
        max_iter: length of the run in iterations.
        last_iter: -1 to start; k if updates 0 to k are completed.

    Raises:
        ValueError: max_iter is below 1.

    >>> import torch
    >>> from fvcore.common.param_scheduler import CosineParamScheduler
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> scheduler = LRMultiplier(optimizer, CosineParamScheduler(1.0, 0.5), max_iter=10)
    >>> [scheduler.lr_at(t)[0] for t in (0, 5, 10, 11)]
    [1.0, 0.75, 0.5, 0.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        multiplier: ParamScheduler,
        max_iter: int,
        last_iter: int = -1,
    ) -> None:
        super().__init__(optimizer, ShareOfRun(multiplier, max_iter), last_iter)


class WarmupParamScheduler(ParamScheduler):  # type: ignore[misc]  # fvcore ships no types
    """A ramp from warmup_factor * scheduler(0) to the scheduler's value at the end of warm-up, then the scheduler.

    Args:
        scheduler: the ParamScheduler after warm-up.
        warmup_factor: from 0 to 1.
        warmup_length: the length of warm-up as a fraction of the run, from 0 to below 1.
        warmup_method: a method of `Warmup`; "constant" stays at the start of the ramp.
        rescale_interval: whether the scheduler is rescaled to the part of the run after warm-up.

    Raises:
        ValueError: an argument is out of range.

    >>> from fvcore.common.param_scheduler import LinearParamScheduler
    >>> warmup = WarmupParamScheduler(LinearParamScheduler(1.0, 0.0), 0.5, 0.5)
    >>> [warmup(where) for where in (0.0, 0.25, 0.5, 1.0)]
    [0.5, 0.5, 0.5, 0.0]
    >>> warmup = WarmupParamScheduler(LinearParamScheduler(1.0, 0.0), 0.5, 0.5, rescale_interval=True)
    >>> [warmup(where) for where in (0.0, 0.25, 0.5, 1.0)]
    [0.5, 0.75, 1.0, 0.0]
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        if not 0 <= warmup_length < 1:
            raise ValueError(f"warmup_length is a fraction of the run, 0 or more and below 1; got {warmup_length}")
        self.warmup = Warmup(warmup_method, warmup_factor, 1)
        self.scheduler = scheduler
        self.length = warmup_length
        self.rescale = rescale_interval
        self.start = warmup_factor * scheduler(0.0)
        self.end = scheduler(self._inner(warmup_length))

    def __call__(self, where: float) -> float:
        """Return the factor at the completed fraction `where` of the run, in [0, 1]."""
        if where < self.length:
            return float(self.start + (self.end - self.start) * self.warmup.share(where / self.length))
        return float(self.scheduler(self._inner(where)))

    def _inner(self, where: float) -> float:
        return (where - self.length) / (1 - self.length) if self.rescale else where
