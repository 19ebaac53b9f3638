"""Schedules: pure functions from the iteration to a factor of the base rate.

A schedule is called with the number of updates done, which is the index of the next one, and counts in
integers, so that a milestone at 2,500,000 of 5,000,000 falls exactly there. It is defined for every
t >= 0, past the end too, and costs the same for each. Where the rate falls at once is told by `drops`.
Here are those that go down once; cycles.py has those that come back, warmup.py what they are put
together with.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby, takewhile
from math import cos, pi
from types import MethodType
from typing import Any

Schedule = Callable[[int], float]

DECAY_METHODS: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
    "sqrt": lambda x: 1 - math.sqrt(x),
}


def drops(schedule: Schedule, end: int) -> Iterable[int]:
    """Return the iterations before `end` where the factor falls at once, in increasing order.

    A schedule tells them by a method `drops(end)`; one without, as a user's function, has none. There may be as
    many as iterations: take the first ones, and never all.

    >>> list(drops(MultiStep((30, 60)), end=60)), list(drops(Cosine(60), end=60))
    ([30], [])
    """
    method: Callable[[int], Iterable[int]] | None = getattr(schedule, "drops", None)
    return method(end) if method else ()


def once_each(ordered: Iterable[int], end: int) -> Iterable[int]:
    """Return the positive numbers below `end` of an increasing sequence, each once, one at a time.

    >>> list(once_each([0, 3, 3, 5, 8], end=8))
    [3, 5]
    """
    return (t for t, _ in groupby(takewhile(lambda t: t < end, ordered)) if t > 0)


def directly(schedule: Schedule) -> Schedule:
    """Return the function behind a schedule that is an object: Python calls it in two thirds of the time.

    >>> schedule = Cosine(10)
    >>> directly(schedule) == schedule.__call__, directly(math.exp) is math.exp
    (True, True)
    """
    method = getattr(schedule, "__call__", None)  # noqa: B004
    return method if isinstance(method, MethodType) else schedule


def power(base: float, exponent: int) -> float:
    """Return base ^ exponent as a float; infinity where a float holds no such number.

    >>> power(0.5, 2), power(2.0, 10**6), power(0.5, 10**6)
    (0.25, inf, 0.0)
    """
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def check_at_least(name: str, value: float, minimum: float) -> None:
    """Raise ValueError where `value` is below `minimum`, not finite, or more than a float holds."""
    if not minimum <= value < math.inf:
        raise ValueError(f"{name} must be {minimum} or more; got {value}")
    if value > sys.float_info.max:
        raise ValueError(f"{name} must be {minimum} or more, and below 1e308; got a number above that")


def check_within(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError where `value` is not in [low, high]."""
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}]; got {value}")


@dataclass(frozen=True)
class Group:
    """A parameter group, as far as its schedule depends on it.

    Args:
        lr: its base rate.
        index: its place in the optimizer, from 0.
        momentum: its momentum or first beta; None where it has neither.
        count: how many groups there are; None where that is not known.
    """

    lr: float
    index: int = 0
    momentum: float | None = None
    count: int | None = None

    def own(self, name: str, value: Any) -> Any:
        """Return this group's part of an argument that is one value for all, or a list with one a group.

        >>> Group(0.1, index=1, count=2).own("max_lr", [0.5, 0.25])
        0.25
        """
        if not isinstance(value, (list, tuple)):
            return value
        if len(value) != (self.count or len(value)) or self.index >= len(value):
            groups = self.count or self.index + 1
            raise ValueError(f"{name} has {len(value)} values for {groups} parameter groups; give one for each")
        return value[self.index]

    def number(self, name: str, value: Any) -> float:
        """Return `own`, as a float.

        Raises:
            ValueError: it is no number.
        """
        own = self.own(name, value)
        if isinstance(own, bool) or not isinstance(own, (int, float)):
            raise ValueError(f"{name} is a number, or a list with one for each parameter group; got {value!r}")
        check_at_least(name, own, 0)
        return float(own)

    def factor(self, rate: float) -> float:
        """Return an absolute rate as a multiple of the base rate."""
        return rate / self.lr if self.lr else 0.0


@dataclass(frozen=True)
class Level:
    """Always `value`.

    >>> [Level(0.5)(t) for t in (0, 1_000_000)]
    [0.5, 0.5]
    """

    value: float

    def __call__(self, t: int) -> float:
        """Return the value."""
        return self.value


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
        check_at_least("gamma", self.gamma, 0)
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones must increase; got {tuple(self.milestones)}")

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return power(self.gamma, bisect_right(self.milestones, t))

    def drops(self, end: int) -> Iterable[int]:
        """Return the milestones before `end`."""
        return once_each(self.milestones, end) if self.gamma < 1 else ()


@dataclass(frozen=True)
class Step:
    """gamma ^ floor(t / step_size), for ever.

    Raises:
        ValueError: step_size is below 1.

    >>> [Step(30, gamma=0.5)(t) for t in (0, 29, 30, 60, 89, 90)]
    [1.0, 1.0, 0.5, 0.25, 0.25, 0.125]
    """

    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_at_least("step_size", self.step_size, 1)
        check_at_least("gamma", self.gamma, 0)

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return power(self.gamma, t // self.step_size)

    def drops(self, end: int) -> Iterable[int]:
        """Return the multiples of step_size before `end`."""
        return range(self.step_size, end, self.step_size) if self.gamma < 1 else ()


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
        check_at_least("num_iters", self.num_iters, 1)
        check_at_least("num_decays", self.num_decays, 0)
        check_at_least("gamma", self.gamma, 0)

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return power(self.gamma, min(self.num_decays, t * (self.num_decays + 1) // self.num_iters))

    def drops(self, end: int) -> Iterable[int]:
        """Return the iterations where one more part of the run is over."""
        if self.gamma >= 1:
            return ()
        length, parts = self.num_iters, self.num_decays + 1
        if parts > length:  # some in each iteration
            return range(1, min(length + 1, end))
        return once_each((-(-i * length // parts) for i in range(1, parts)), end)


@dataclass(frozen=True)
class Exponential:
    """gamma ^ t, for ever.

    Raises:
        ValueError: gamma is negative.

    >>> [Exponential(0.5)(t) for t in (0, 1, 9, 10, 1_000_000)]
    [1.0, 0.5, 0.001953125, 0.0009765625, 0.0]
    """

    gamma: float

    def __post_init__(self) -> None:
        check_at_least("gamma", self.gamma, 0)

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return power(self.gamma, t)


@dataclass(frozen=True)
class Constant:
    """factor until num_iters, 1 from there on.

    Raises:
        ValueError: factor is not in [0, 1] or num_iters below 1.

    >>> [Constant(0.5, 10)(t) for t in (0, 9, 10, 1_000_000)]
    [0.5, 0.5, 1.0, 1.0]
    """

    factor: float
    num_iters: int

    def __post_init__(self) -> None:
        check_within("factor", self.factor, 0, 1)
        check_at_least("num_iters", self.num_iters, 1)

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return self.factor if t < self.num_iters else 1.0


@dataclass(frozen=True)
class Linear:
    """A straight line from `start` at 0 to `end` at num_iters; `end` from there on.

    Raises:
        ValueError: num_iters is below 1, or a factor is not in [0, 1].

    >>> [Linear(1.0, 0.5, 10)(t) for t in (0, 5, 9, 10, 1_000_000)]
    [1.0, 0.75, 0.55, 0.5, 0.5]
    """

    start: float
    end: float
    num_iters: int

    def __post_init__(self) -> None:
        check_within("start_factor", self.start, 0, 1)
        check_within("end_factor", self.end, 0, 1)
        check_at_least("num_iters", self.num_iters, 1)

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        if t >= self.num_iters:
            return self.end
        return self.start + (self.end - self.start) * t / self.num_iters


@dataclass(frozen=True)
class Poly:
    """(1 - t / N) ^ exponent with N = num_iters, but not below `floor`; `floor` from N on.

    The "poly" policy of DeepLab (Chen et al. 2017, https://arxiv.org/abs/1606.00915).

    Raises:
        ValueError: num_iters is below 1, exponent below 0, or floor not in [0, 1].

    >>> [round(Poly(10, 2.0, floor=0.1)(t), 3) for t in (0, 5, 6, 9, 10, 1_000_000)]
    [1.0, 0.25, 0.16, 0.1, 0.1, 0.1]
    """

    num_iters: int
    exponent: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("num_iters", self.num_iters, 1)
        check_at_least("power", self.exponent, 0)
        check_within("floor", self.floor, 0, 1)

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        left = max(self.num_iters - t, 0) / self.num_iters
        return max(float(left**self.exponent), self.floor)


@dataclass(frozen=True)
class Cosine:
    """e + (1 - e)(1 + cos(pi t / N)) / 2 with e = end_factor, N = num_iters; e from N on.

    Half a wave of SGDR (Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983).

    Raises:
        ValueError: num_iters is below 1, or end_factor negative.

    >>> [round(Cosine(10)(t), 3) for t in (0, 5, 9, 10, 1_000_000)]
    [1.0, 0.5, 0.024, 0.0, 0.0]
    """

    num_iters: int
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("num_iters", self.num_iters, 1)
        check_at_least("end_factor", self.end_factor, 0)

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        if t >= self.num_iters:
            return self.end_factor
        return self.end_factor + (1 - self.end_factor) * (1 + cos(pi * t / self.num_iters)) / 2


@dataclass(frozen=True)
class StableDecay:
    """1, then over the last D = decay_iters of N = num_iters down to e = end_factor; e from N on.

    With x = (t - (N - D)) / D the way down is 1 - x ("linear"), (1 + cos(pi x)) / 2 ("cosine") or
    1 - sqrt(x) ("sqrt"), scaled to end at e. Known as WSD, trapezoidal or flat-and-anneal (Haegele et al.
    2024, https://arxiv.org/abs/2405.18392).

    Raises:
        ValueError: num_iters is below 1, decay_iters not in [0, num_iters], end_factor negative, or the method
            is unknown.

    >>> schedule = StableDecay(10, decay_iters=4, method="linear", end_factor=0.2)
    >>> [round(schedule(t), 3) for t in (0, 6, 7, 9, 10, 1_000_000)]
    [1.0, 1.0, 0.8, 0.4, 0.2, 0.2]
    """

    num_iters: int
    decay_iters: int
    method: str = "linear"
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("num_iters", self.num_iters, 1)
        check_within("decay_iters", self.decay_iters, 0, self.num_iters)
        check_at_least("end_factor", self.end_factor, 0)
        if self.method not in DECAY_METHODS:
            raise ValueError(f"no decay is called {self.method!r}; known: {', '.join(DECAY_METHODS)}")

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        done = t - (self.num_iters - self.decay_iters)
        if done <= 0:
            return 1.0
        if t >= self.num_iters:
            return self.end_factor
        return self.end_factor + (1 - self.end_factor) * DECAY_METHODS[self.method](done / self.decay_iters)
