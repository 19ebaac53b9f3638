"""Learning-rate schedules as pure functions of the iteration.

A schedule is called with an iteration t = 0, 1, 2, ... and returns the factor of the base rate that
update t uses. Schedules count in whole numbers, so a milestone at 2,500,000 of 5,000,000 falls exactly
there; they are frozen, comparable, and defined past the end of a run.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class MultiStep:
    """GAMMA ^ (number of milestones <= t).

    Args:
        milestones: iterations, increasing.
        gamma: factor of each drop.

    >>> schedule = MultiStep((60, 80), gamma=0.1)
    >>> [round(schedule(t), 6) for t in (0, 59, 60, 79, 80, 99, 10**9)]
    [1.0, 1.0, 0.1, 0.1, 0.01, 0.01, 0.01]
    """

    milestones: tuple[int, ...]
    gamma: float

    def __call__(self, t: int) -> float:
        """Return the factor at iteration `t`."""
        return float(self.gamma ** bisect_right(self.milestones, t))

    def drops(self, until: int) -> Sequence[int]:
        """Return the iterations before `until` at which the factor changes at once."""
        return [t for t in self.milestones if t < until]

    def rescaled(self, num_iters: int, to: int) -> MultiStep:
        """Return the schedule of `num_iters` iterations fitted into `to`: t/to passes what t/num_iters did.

        >>> MultiStep((60, 80), 0.1).rescaled(100, 90).milestones
        (54, 72)
        """
        return MultiStep(tuple(-(-m * to // num_iters) for m in self.milestones), self.gamma)


@dataclass(frozen=True)
class Cosine:
    """e + (1 - e)(1 + cos(pi t/N))/2 with e = `end`, N = `num_iters`; e from N on.

    Source: Loshchilov and Hutter, "SGDR", arXiv:1608.03983, without restarts.

    >>> schedule = Cosine(num_iters=10, end=0.0)
    >>> [round(schedule(t), 3) for t in (0, 2, 3, 6, 9, 10, 20)]
    [1.0, 0.905, 0.794, 0.345, 0.024, 0.0, 0.0]
    """

    num_iters: int
    end: float = 0.0

    def __call__(self, t: int) -> float:
        """Return the factor at iteration `t`."""
        cosine = math.cos(math.pi * min(t, self.num_iters) / self.num_iters)
        return self.end + (1 - self.end) * (1 + cosine) / 2


@dataclass(frozen=True)
class StepWithFixedGamma:
    """GAMMA ^ min(D, floor(t (D + 1)/N)): `num_decays` D drops, evenly spread over `num_iters` N.

    >>> schedule = StepWithFixedGamma(num_iters=120, num_decays=3, gamma=0.1)
    >>> [round(schedule(t), 6) for t in (0, 29, 30, 89, 90, 119, 120, 500)]
    [1.0, 1.0, 0.1, 0.01, 0.001, 0.001, 0.001, 0.001]
    """

    num_iters: int
    num_decays: int
    gamma: float

    def __call__(self, t: int) -> float:
        """Return the factor at iteration `t`."""
        return float(self.gamma ** min(self.num_decays, t * (self.num_decays + 1) // self.num_iters))

    def drops(self, until: int) -> Sequence[int]:
        """Return the iterations before `until` at which the factor changes at once."""
        parts = self.num_decays + 1
        return [t for k in range(1, parts) if (t := -(-k * self.num_iters // parts)) < until]


@dataclass(frozen=True)
class Step:
    """gamma ^ floor(t / step_size): torch's StepLR.

    >>> schedule = Step(step_size=30)
    >>> [round(schedule(t), 6) for t in (0, 29, 30, 59, 60)]
    [1.0, 1.0, 0.1, 0.1, 0.01]
    """

    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.step_size < 1:
            raise ValueError(f"step_size must be at least 1; got {self.step_size}")

    def __call__(self, t: int) -> float:
        """Return the factor at iteration `t`."""
        return float(self.gamma ** (t // self.step_size))

    def drops(self, until: int) -> Sequence[int]:
        """Return the iterations before `until` at which the factor changes at once."""
        return range(self.step_size, until, self.step_size)


@dataclass(frozen=True)
class Warmup:
    """w(t): from `factor` up to 1 over `num_iters` W iterations, 1 from W on.

    `constant` holds the factor f; `linear` is f + (1 - f) t/W, reaching 1 at t = W, the first iteration
    after warm-up. Source: Goyal et al., "Accurate, Large Minibatch SGD", arXiv:1706.02677.

    >>> warmup = Warmup("linear", factor=0.1, num_iters=3)
    >>> [round(warmup(t), 6) for t in (0, 1, 2, 3, 4)]
    [0.1, 0.4, 0.7, 1.0, 1.0]
    """

    method: str
    factor: float
    num_iters: int

    def __post_init__(self) -> None:
        if self.method not in ("constant", "linear"):
            raise ValueError(f"warm-up method must be constant or linear; got {self.method!r}")

    def __call__(self, t: int) -> float:
        """Return the factor at iteration `t`."""
        return self.ramp(t, self.factor, 1.0) if t < self.num_iters else 1.0

    def ramp(self, t: int, start: float, end: float) -> float:
        """Return the value at `t` < W on the way from `start` to `end`, which is reached at W."""
        return start if self.method == "constant" else start + (end - start) * t / self.num_iters


@dataclass(frozen=True)
class Product:
    """w(t) times the schedule at t: both run from iteration 0.

    >>> schedule = Product(Warmup("linear", 0.0, 2), Cosine(10))
    >>> [round(schedule(t), 3) for t in (0, 1, 2, 3, 9, 10, 20)]
    [0.0, 0.488, 0.905, 0.794, 0.024, 0.0, 0.0]
    """

    warmup: Warmup
    schedule: Schedule

    def __call__(self, t: int) -> float:
        """Return the factor at iteration `t`."""
        return self.warmup(t) * self.schedule(t)

    def drops(self, until: int) -> Sequence[int]:
        """Return the iterations before `until` at which the factor changes at once."""
        return drops(self.schedule, until)


@dataclass(frozen=True)
class Interpolated:
    """A ramp from f times the schedule's first value to its value at W, then the schedule: no jump at W.

    As detectron2 builds its schedules.

    >>> schedule = Interpolated(Warmup("linear", 0.001, 2), Cosine(10))
    >>> [round(schedule(t), 3) for t in (0, 1, 2, 3, 9, 10, 20)]
    [0.001, 0.453, 0.905, 0.794, 0.024, 0.0, 0.0]
    """

    warmup: Warmup
    schedule: Schedule

    def __call__(self, t: int) -> float:
        """Return the factor at iteration `t`."""
        if t >= self.warmup.num_iters:
            return self.schedule(t)
        start = self.warmup.factor * self.schedule(0)
        return self.warmup.ramp(t, start, self.schedule(self.warmup.num_iters))

    def drops(self, until: int) -> Sequence[int]:
        """Return the iterations before `until` at which the factor changes at once."""
        return [t for t in drops(self.schedule, until) if t > self.warmup.num_iters]


@dataclass(frozen=True)
class AfterWarmup:
    """A ramp up to the schedule's first value, then the schedule, counting from 0 when warm-up ends.

    As torch's SequentialLR([warm-up, schedule], [W]).

    >>> schedule = AfterWarmup(Warmup("linear", 0.5, 2), Cosine(8))
    >>> [round(schedule(t), 3) for t in (0, 1, 2, 3, 6, 9, 10, 20)]
    [0.5, 0.75, 1.0, 0.962, 0.5, 0.038, 0.0, 0.0]
    """

    warmup: Warmup
    schedule: Schedule

    def __call__(self, t: int) -> float:
        """Return the factor at iteration `t`."""
        start = self.warmup.num_iters
        return self.schedule(t - start) if t >= start else self.warmup(t) * self.schedule(0)

    def drops(self, until: int) -> Sequence[int]:
        """Return the iterations before `until` at which the factor changes at once."""
        start = self.warmup.num_iters
        return [start + t for t in drops(self.schedule, until - start)]


def drops(schedule: Schedule, until: int) -> Sequence[int]:
    """Return the iterations before `until` at which a schedule falls at once; () where it cannot say.

    >>> list(drops(Step(30), until=100)), drops(Cosine(100), until=100)
    ([30, 60, 90], ())
    """
    own = getattr(schedule, "drops", None)
    found: Sequence[int] = own(until) if own is not None else ()
    return found
