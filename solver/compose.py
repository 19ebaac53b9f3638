"""Schedules made of other schedules: delayed, one after the other, multiplied, counted in epochs."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from .schedules import Schedule, directly, drops, once_each


@dataclass(frozen=True)
class Delayed:
    """schedule(t - start), and schedule(0) before iteration start.

    >>> from .schedules import Step
    >>> [Delayed(Step(3, 0.5), start=2)(t) for t in (0, 2, 4, 5)]
    [1.0, 1.0, 1.0, 0.5]
    """

    schedule: Schedule
    start: int
    _direct: Schedule = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_direct", directly(self.schedule))

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return self._direct(t - self.start if t > self.start else 0)

    def drops(self, end: int) -> Iterable[int]:
        """Return the drops of the schedule, shifted by start."""
        return (self.start + t for t in drops(self.schedule, end - self.start))


@dataclass(frozen=True)
class Sequential:
    """schedules[0] until ends[0], then schedules[1] until ends[1], ...; the last one has no end.

    Each schedule counts from its own start.

    Raises:
        ValueError: `ends` is not one shorter than `schedules`, or does not increase.

    >>> from .schedules import Constant, Step
    >>> schedule = Sequential((Constant(0.5, 100), Step(3, 0.1)), (4,))
    >>> [schedule(t) for t in (0, 3, 4, 6, 7)]
    [0.5, 0.5, 1.0, 1.0, 0.1]
    >>> list(schedule.drops(11))
    [7, 10]
    """

    schedules: tuple[Schedule, ...]
    ends: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.ends) != len(self.schedules) - 1:
            raise ValueError(
                f"{len(self.schedules)} schedules need {len(self.schedules) - 1} ends; got {self.ends}"
            )
        if list(self.ends) != sorted(set(self.ends)) or min(self.ends, default=1) < 1:
            raise ValueError(f"each schedule must end after the one before; they end at {self.ends}")

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        phase = bisect_right(self.ends, t)
        return self.schedules[phase](t - self.ends[phase - 1] if phase else t)

    def drops(self, end: int) -> Iterable[int]:
        """Return the drops of each schedule, and the boundaries at which the factor drops."""
        for schedule, start, stop in zip(self.schedules, (0, *self.ends), (*self.ends, end), strict=True):
            yield from (start + t for t in drops(schedule, min(stop, end) - start))
            # The boundary, if the next schedule starts below the value with which this one would continue.
            if stop < end and self(stop) < schedule(stop - start) * (1 - 1e-9):
                yield stop


@dataclass(frozen=True)
class Multiplied:
    """The product schedules[0](t) schedules[1](t) ...

    >>> from .schedules import Constant, Step
    >>> schedule = Multiplied((Constant(0.5, 2), Step(3, 0.1)))
    >>> [round(schedule(t), 3) for t in (0, 1, 2, 3, 6)], list(schedule.drops(7))
    ([0.5, 0.5, 1.0, 0.1, 0.01], [3, 6])
    """

    schedules: tuple[Schedule, ...]

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return math.prod(schedule(t) for schedule in self.schedules)

    def drops(self, end: int) -> Iterable[int]:
        """Return the drops of all schedules."""
        return once_each(heapq.merge(*(drops(schedule, end) for schedule in self.schedules)), end)


@dataclass(frozen=True)
class PerEpoch:
    """schedule(number of completed epochs), as in a loop that steps its scheduler once per epoch.

    An epoch may have a fractional number of iterations: if it has 2.5, the first one is complete after 3.

    >>> from .schedules import Step
    >>> [PerEpoch(Step(1, 0.5), Fraction(5, 2))(t) for t in (0, 2, 3, 4, 5, 7, 8)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125]
    """

    schedule: Schedule
    iters_per_epoch: Fraction

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return self.schedule(t * self.iters_per_epoch.denominator // self.iters_per_epoch.numerator)

    def drops(self, end: int) -> Iterable[int]:
        """Return the drops of the schedule, converted to iterations."""
        epochs = math.ceil(end / self.iters_per_epoch)
        return once_each((math.ceil(epoch * self.iters_per_epoch) for epoch in drops(self.schedule, epochs)), end)


@dataclass(frozen=True)
class HeldInEpoch:
    """schedule(first iteration of the epoch that contains t).

    >>> [HeldInEpoch(lambda t: 1 - t / 10, Fraction(5, 2))(t) for t in (0, 2, 3, 4, 5, 7, 8)]
    [1.0, 1.0, 0.7, 0.7, 0.5, 0.5, 0.19999999999999996]
    """

    schedule: Schedule
    iters_per_epoch: Fraction

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return self.schedule(self._start(self._epoch(t)))

    def drops(self, end: int) -> Iterable[int]:
        """Return the drops of the schedule, each moved to the next start of an epoch."""
        return once_each(map(self._start_from, drops(self.schedule, end)), end)

    def _start_from(self, t: int) -> int:
        """Return the first start of an epoch at or after t."""
        epoch = self._epoch(t)
        return self._start(epoch) if self._start(epoch) >= t else self._start(epoch + 1)

    # In integers: division and rounding of fractions gives the same numbers and takes ten times as long.
    def _epoch(self, t: int) -> int:
        return t * self.iters_per_epoch.denominator // self.iters_per_epoch.numerator

    def _start(self, epoch: int) -> int:
        return -(-epoch * self.iters_per_epoch.numerator // self.iters_per_epoch.denominator)
