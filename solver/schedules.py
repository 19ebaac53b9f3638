"""Schedules: pure functions from the iteration to a factor of the base learning rate.

A schedule is called with the number of completed updates, which is the index of the next one. It counts in
integers, so that a milestone at 2,500,000 of 5,000,000 is met exactly. It is defined for every t >= 0, also after
the end of the run, and evaluated in O(1). `drops` returns the iterations at which the factor drops abruptly.

This module has the interface and the schedules that change in steps; decays.py has smooth decays, cycles.py
periodic schedules, warmup.py warm-up, and compose.py the ways to combine schedules.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby, takewhile
from types import MethodType
from typing import Any

Schedule = Callable[[int], float]


def drops(schedule: Schedule, end: int) -> Iterable[int]:
    """Return the iterations before `end` at which the factor drops abruptly, in increasing order.

    They come from the schedule's method `drops(end)`; a schedule without one, such as a plain function, has none.
    There may be as many as there are iterations: iterate lazily, and stop after the first ones.

    >>> list(drops(MultiStep((30, 60)), end=60)), list(drops(Level(1.0), end=60))
    ([30], [])
    """
    method: Callable[[int], Iterable[int]] | None = getattr(schedule, "drops", None)
    return method(end) if method else ()


def once_each(ordered: Iterable[int], end: int) -> Iterable[int]:
    """Yield the positive numbers below `end` of an increasing sequence, without duplicates.

    >>> list(once_each([0, 3, 3, 5, 8], end=8))
    [3, 5]
    """
    return (t for t, _ in groupby(takewhile(lambda t: t < end, ordered)) if t > 0)


def directly(schedule: Schedule) -> Schedule:
    """Return the bound `__call__` of a schedule that is an object: calling it takes two thirds of the time.

    >>> schedule = Level(0.5)
    >>> directly(schedule) == schedule.__call__, directly(math.exp) is math.exp
    (True, True)
    """
    method = getattr(schedule, "__call__", None)  # noqa: B004
    return method if isinstance(method, MethodType) else schedule


def power(base: float, exponent: int) -> float:
    """Return base ^ exponent as a float; infinity if it overflows.

    >>> power(0.5, 2), power(2.0, 10**6), power(0.5, 10**6)
    (0.25, inf, 0.0)
    """
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def check_at_least(name: str, value: float, minimum: float) -> None:
    """Raise ValueError if `value` is below `minimum`, not finite, or too large for a float."""
    if not minimum <= value < math.inf:
        raise ValueError(f"{name} must be {minimum} or more; got {value}")
    if value > sys.float_info.max:
        raise ValueError(f"{name} must be {minimum} or more, and below 1e308; got a number above that")


def check_within(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError if `value` is not in [low, high]."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low}, {high}]; got {value}")


@dataclass(frozen=True)
class Group:
    """The properties of a parameter group that its schedule may depend on.

    Args:
        lr: the base learning rate.
        index: the position in the optimizer, from 0.
        momentum: the momentum or first beta; None if the group has neither.
        count: the number of groups; None if it is not known.
    """

    lr: float
    index: int = 0
    momentum: float | None = None
    count: int | None = None

    def own(self, name: str, value: Any) -> Any:
        """Return this group's value of an argument that is one value for all groups, or a list with one per group.

        Raises:
            ValueError: the list does not have one value per group.

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
        """Return the result of `own` as a float.

        Raises:
            ValueError: it is not a number of at least 0.
        """
        own = self.own(name, value)
        if isinstance(own, bool) or not isinstance(own, (int, float)):
            raise ValueError(f"{name} is a number, or a list with one for each parameter group; got {value!r}")
        check_at_least(name, own, 0)
        return float(own)

    def factor(self, rate: float) -> float:
        """Return a learning rate as a multiple of the base learning rate; 0 if that is 0."""
        return rate / self.lr if self.lr else 0.0


@dataclass(frozen=True)
class Level:
    """A constant `value`.

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

    Args:
        milestones: iterations, in increasing order.
        gamma: the factor at each milestone, at least 0.

    Raises:
        ValueError: the milestones are not in increasing order, or gamma is negative.

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
    """gamma ^ floor(t / step_size), without an end.

    Raises:
        ValueError: step_size is below 1, or gamma is negative.

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
    """gamma ^ min(D, floor(t (D + 1) / N)): D = num_decays drops, evenly spread over N = num_iters iterations.

    Raises:
        ValueError: num_iters is below 1, or num_decays or gamma is negative.

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
        """Return the iterations at which the number of drops increases."""
        if self.gamma >= 1:
            return ()
        length, parts = self.num_iters, self.num_decays + 1
        if parts > length:  # at least one drop in each iteration
            return range(1, min(length + 1, end))
        return once_each((-(-i * length // parts) for i in range(1, parts)), end)


@dataclass(frozen=True)
class Constant:
    """factor before iteration num_iters, 1 from there on.

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
