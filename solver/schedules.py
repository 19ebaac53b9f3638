"""Schedules: pure functions from the iteration to a factor of the base rate.

A schedule is called with the number of updates done, which is the index of the next one, and counts in
integers, so that a milestone at 2,500,000 of 5,000,000 falls exactly there. It is defined for every
t >= 0, past the end too, and costs the same for each. Where the rate falls at once is told by `drops`.

"Warm up for 2 of 10 from factor 0, then cosine to 0", by update, 10 being past the end:

| blend | t=0 | 1 | 2 | 3 | 6 | 9 | 10 |
|---|---|---|---|---|---|---|---|
| product | 0 | .488 | .905 | .794 | .345 | .024 | 0 |
| interpolate | 0 | .452 | .905 | .794 | .345 | .024 | 0 |
| either, rescaled | 0 | .500 | 1 | .962 | .500 | .038 | 0 |
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Schedule = Callable[[int], float]

WARMUP_METHODS = ("constant", "linear", "gradual")  # gradual is linear


def drops(schedule: Schedule, end: int) -> Iterable[int]:
    """Return the iterations before `end` where the factor falls at once, in increasing order.

    A schedule tells them by a method `drops(end)`; one without, as a user's function, has none.

    >>> list(drops(MultiStep((30, 60)), end=60)), list(drops(Cosine(60), end=60))
    ([30], [])
    """
    method: Callable[[int], Iterable[int]] | None = getattr(schedule, "drops", None)
    return method(end) if method else ()


@dataclass(frozen=True)
class MultiStep:
    """gamma ^ (number of milestones <= t).

    Raises:
        ValueError: the milestones are not in order.

    >>> schedule = MultiStep((6, 9), gamma=0.5)
    >>> [schedule(t) for t in (0, 5, 6, 9, 10, 1_000_000)]
    [1.0, 1.0, 0.5, 0.25, 0.25, 0.25]
    """

    milestones: tuple[int, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones must increase; got {tuple(self.milestones)}")

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return float(self.gamma ** bisect_right(self.milestones, t))

    def drops(self, end: int) -> Iterable[int]:
        """Return the milestones before `end`."""
        return dict.fromkeys(m for m in self.milestones if m < end) if self.gamma < 1 else ()


@dataclass(frozen=True)
class Cosine:
    """e + (1 - e)(1 + cos(pi t / N)) / 2 with e = end_factor, N = num_iters; e from N on.

    Half a wave of SGDR (Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983).

    Raises:
        ValueError: num_iters is below 1.

    >>> [round(Cosine(10)(t), 3) for t in (0, 5, 9, 10, 1_000_000)]
    [1.0, 0.5, 0.024, 0.0, 0.0]
    """

    num_iters: int
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        _check_at_least("num_iters", self.num_iters, 1)

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        wave = math.cos(math.pi * min(t, self.num_iters) / self.num_iters)
        return self.end_factor + (1 - self.end_factor) * (1 + wave) / 2


@dataclass(frozen=True)
class StepWithFixedGamma:
    """gamma ^ min(D, floor(t (D + 1) / N)): D = num_decays drops, evenly spread over N = num_iters.

    Raises:
        ValueError: num_iters is below 1 or num_decays below 0.

    >>> schedule = StepWithFixedGamma(10, num_decays=3, gamma=0.5)
    >>> [schedule(t) for t in (0, 2, 3, 5, 9, 10, 1_000_000)]
    [1.0, 1.0, 0.5, 0.25, 0.125, 0.125, 0.125]
    >>> list(schedule.drops(10))
    [3, 5, 8]
    """

    num_iters: int
    num_decays: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _check_at_least("num_iters", self.num_iters, 1)
        _check_at_least("num_decays", self.num_decays, 0)

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return float(self.gamma ** min(self.num_decays, t * (self.num_decays + 1) // self.num_iters))

    def drops(self, end: int) -> Iterable[int]:
        """Return the iterations where one more part of the run is over."""
        ends = (-(-i * self.num_iters // (self.num_decays + 1)) for i in range(1, self.num_decays + 1))
        return dict.fromkeys(t for t in ends if t < end) if self.gamma < 1 else ()


@dataclass(frozen=True)
class Step:
    """gamma ^ floor(t / step_size), for ever; torch's StepLR.

    Raises:
        ValueError: step_size is below 1.

    >>> [Step(30, gamma=0.5)(t) for t in (0, 29, 30, 60, 89, 90)]
    [1.0, 1.0, 0.5, 0.25, 0.25, 0.125]
    """

    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _check_at_least("step_size", self.step_size, 1)

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        try:
            return float(self.gamma ** (t // self.step_size))
        except OverflowError:  # gamma above 1, far past the end
            return math.inf

    def drops(self, end: int) -> Iterable[int]:
        """Return the multiples of step_size before `end`."""
        return range(self.step_size, end, self.step_size) if self.gamma < 1 else ()


@dataclass(frozen=True)
class Warmup:
    """w(t) = f + (1 - f) ramp(t) with f = factor, and exactly 1 from num_iters on.

    "constant" stays at f, "linear" (also written "gradual") is a straight line.

    Raises:
        ValueError: the method is unknown, the factor is not in [0, 1], or num_iters is negative.

    >>> [Warmup("linear", 0.5, 2)(t) for t in (0, 1, 2, 3)]
    [0.5, 0.75, 1.0, 1.0]
    >>> [Warmup("constant", 0.5, 2)(t) for t in (0, 1, 2, 3)]
    [0.5, 0.5, 1.0, 1.0]
    """

    method: str
    factor: float
    num_iters: int

    def __post_init__(self) -> None:
        if self.method not in WARMUP_METHODS:
            raise ValueError(f"no warm-up is called {self.method!r}; known: {', '.join(WARMUP_METHODS)}")
        if not 0 <= self.factor <= 1:
            raise ValueError(f"a warm-up factor must lie in [0, 1]; got {self.factor}")
        _check_at_least("the length of warm-up", self.num_iters, 0)

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return self.factor + (1 - self.factor) * self.ramp(t) if t < self.num_iters else 1.0

    def ramp(self, t: int) -> float:
        """Return the share of the way up that is done at iteration t < num_iters, from 0 to 1."""
        return 0.0 if self.method == "constant" else t / self.num_iters


@dataclass(frozen=True)
class Delayed:
    """schedule(t - start), and its first value until then.

    >>> [Delayed(Step(3, 0.5), start=2)(t) for t in (0, 2, 4, 5)]
    [1.0, 1.0, 1.0, 0.5]
    """

    schedule: Schedule
    start: int

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return self.schedule(max(t - self.start, 0))

    def drops(self, end: int) -> Iterable[int]:
        """Return the schedule's own, later."""
        return (self.start + t for t in drops(self.schedule, end - self.start))


@dataclass(frozen=True)
class Product:
    """w(t) schedule(t): the warm-up that WarmupMultiStepLR and WarmupCosineLR are known for.

    >>> schedule = Product(Warmup("linear", 0.5, 2), MultiStep((4,), 0.1))
    >>> [schedule(t) for t in (0, 1, 2, 3, 4, 1_000_000)]
    [0.5, 0.75, 1.0, 1.0, 0.1, 0.1]
    """

    warmup: Warmup
    schedule: Schedule

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return self.warmup(t) * self.schedule(t)

    def drops(self, end: int) -> Iterable[int]:
        """Return the schedule's own."""
        return drops(self.schedule, end)


@dataclass(frozen=True)
class Interpolate:
    """A ramp from f schedule(0) that ends on schedule(W) at iteration W; the schedule from there on.

    f and W are the warm-up's factor and length; "constant" holds f schedule(0). This is what detectron2
    builds from a config.

    >>> schedule = Interpolate(Warmup("linear", 0.5, 2), MultiStep((1, 4), 0.5))
    >>> [schedule(t) for t in (0, 1, 2, 3, 4, 1_000_000)]
    [0.5, 0.5, 0.5, 0.5, 0.25, 0.25]
    """

    warmup: Warmup
    schedule: Schedule

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        if t >= self.warmup.num_iters:
            return self.schedule(t)
        start, end = self.warmup.factor * self.schedule(0), self.schedule(self.warmup.num_iters)
        return start + (end - start) * self.warmup.ramp(t)

    def drops(self, end: int) -> Iterable[int]:
        """Return the schedule's own, without those that the ramp hides."""
        return (t for t in drops(self.schedule, end) if t > self.warmup.num_iters)


def _check_at_least(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise ValueError(f"{name} must be {minimum} or more; got {value}")
