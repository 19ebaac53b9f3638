"""How schedules are put together: warm-up in front, one after the other, multiplied, by epochs.

"Warm up for 2 of 10 from factor 0, then cosine to 0", by update, 10 being past the end:

| blend | t=0 | 1 | 2 | 3 | 6 | 9 | 10 |
|---|---|---|---|---|---|---|---|
| product | 0 | .488 | .905 | .794 | .345 | .024 | 0 |
| interpolate | 0 | .452 | .905 | .794 | .345 | .024 | 0 |
| either, rescaled | 0 | .500 | 1 | .962 | .500 | .038 | 0 |
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from .schedules import Schedule, check_at_least, directly, drops, once_each

WARMUP_METHODS = ("constant", "linear", "gradual", "cosine", "exponential")  # gradual is linear


@dataclass(frozen=True)
class Warmup:
    """w(t) = f + (1 - f) share(t / W) with f = factor, W = num_iters, and exactly 1 from its end on.

    Its share of the way up is, at x = t / W: "constant" 0, "linear" (also written "gradual") x, "cosine"
    (1 - cos(pi x)) / 2; "exponential" makes w(t) = f ^ (1 - x), for f above 0.

    Args:
        method: one of them.
        factor: f, where it starts.
        num_iters: W, its length.
        ended: the iteration at which it was ended before W; None: it lasts until W.

    Raises:
        ValueError: the method is unknown, the factor is not in [0, 1] (exponential: or is 0), or
            num_iters is negative.

    >>> [Warmup("linear", 0.5, 2)(t) for t in (0, 1, 2, 3)]
    [0.5, 0.75, 1.0, 1.0]
    >>> [Warmup("constant", 0.5, 2)(t) for t in (0, 1, 2, 3)]
    [0.5, 0.5, 1.0, 1.0]
    >>> [round(Warmup("cosine", 0.5, 4)(t), 3) for t in (0, 1, 2, 3, 4)]
    [0.5, 0.573, 0.75, 0.927, 1.0]
    >>> [round(Warmup("exponential", 0.25, 2)(t), 3) for t in (0, 1, 2, 3)]
    [0.25, 0.5, 1.0, 1.0]
    """

    method: str
    factor: float
    num_iters: int
    ended: int | None = None
    end: int = field(init=False, repr=False)  # the first iteration after it

    def __post_init__(self) -> None:
        last = self.num_iters if self.ended is None else min(self.ended, self.num_iters)
        object.__setattr__(self, "end", last)
        if self.method not in WARMUP_METHODS:
            raise ValueError(f"no warm-up is called {self.method!r}; known: {', '.join(WARMUP_METHODS)}")
        if not 0 <= self.factor <= 1:
            raise ValueError(f"a warm-up factor must lie in [0, 1]; got {self.factor}")
        if self.method == "exponential" and self.factor == 0 and self.num_iters:
            raise ValueError("an exponential warm-up cannot start at the factor 0; use a small one, such as 0.001")
        check_at_least("the length of warm-up", self.num_iters, 0)

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return self.factor + (1 - self.factor) * self.share(t / self.num_iters) if t < self.end else 1.0

    def share(self, x: float) -> float:
        """Return the share of the way up that is done at the share x < 1 of its length; both in [0, 1]."""
        if self.method == "constant":
            return 0.0
        if self.method == "cosine":
            return (1 - math.cos(math.pi * x)) / 2
        if self.method == "exponential" and self.factor < 1:
            return float((self.factor ** (1 - x) - self.factor) / (1 - self.factor))
        return x


@dataclass(frozen=True)
class Delayed:
    """schedule(t - start), and its first value until then.

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
        """Return the schedule's own, later."""
        return (self.start + t for t in drops(self.schedule, end - self.start))


@dataclass(frozen=True)
class Product:
    """w(t) schedule(t): the warm-up that WarmupMultiStepLR and WarmupCosineLR are known for.

    >>> from .schedules import MultiStep
    >>> schedule = Product(Warmup("linear", 0.5, 2), MultiStep((4,), 0.1))
    >>> [schedule(t) for t in (0, 1, 2, 3, 4, 1_000_000)]
    [0.5, 0.75, 1.0, 1.0, 0.1, 0.1]
    """

    warmup: Warmup
    schedule: Schedule
    _end: int = field(init=False, repr=False, compare=False)
    _after: Schedule = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_end", self.warmup.end)
        object.__setattr__(self, "_after", directly(self.schedule))

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        if t >= self._end:  # nearly always, and so the short way
            return self._after(t)
        return self.warmup(t) * self.schedule(t)

    def drops(self, end: int) -> Iterable[int]:
        """Return the schedule's own."""
        return drops(self.schedule, end)


@dataclass(frozen=True)
class Interpolate:
    """A ramp from f schedule(0) that ends on schedule(W) at iteration W; the schedule from there on.

    f and W are the warm-up's factor and length; "constant" holds f schedule(0). This is what detectron2
    builds from a config.

    >>> from .schedules import MultiStep
    >>> schedule = Interpolate(Warmup("linear", 0.5, 2), MultiStep((1, 4), 0.5))
    >>> [schedule(t) for t in (0, 1, 2, 3, 4, 1_000_000)]
    [0.5, 0.5, 0.5, 0.5, 0.25, 0.25]
    """

    warmup: Warmup
    schedule: Schedule

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        warmup = self.warmup
        if t >= warmup.end:
            return self.schedule(t)
        start, end = warmup.factor * self.schedule(0), self.schedule(warmup.num_iters)
        return start + (end - start) * warmup.share(t / warmup.num_iters)

    def drops(self, end: int) -> Iterable[int]:
        """Return the schedule's own, without those that the ramp hides."""
        return (t for t in drops(self.schedule, end) if t > self.warmup.end)


@dataclass(frozen=True)
class Sequential:
    """schedules[0] until ends[0], then schedules[1] from its own 0 until ends[1], ...; the last one for ever.

    Raises:
        ValueError: there is not one end fewer than there are schedules, or the ends do not increase.

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
        """Return those of each schedule, and the borders where the factor falls at once."""
        for schedule, start, stop in zip(self.schedules, (0, *self.ends), (*self.ends, end), strict=True):
            yield from (start + t for t in drops(schedule, min(stop, end) - start))
            # At its end, if the next one begins below where this one would have gone on.
            if stop < end and self(stop) < schedule(stop - start) * (1 - 1e-9):
                yield stop


@dataclass(frozen=True)
class Multiplied:
    """schedules[0](t) schedules[1](t) ...

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
        """Return those of all of them."""
        return once_each(heapq.merge(*(drops(schedule, end) for schedule in self.schedules)), end)


@dataclass(frozen=True)
class PerEpoch:
    """schedule(completed epochs): what a loop does that steps its scheduler once an epoch.

    An epoch may have a fractional number of iterations: of 2.5, the first is complete after 3.

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
        """Return the schedule's own, in iterations."""
        epochs = math.ceil(end / self.iters_per_epoch)
        return once_each((math.ceil(epoch * self.iters_per_epoch) for epoch in drops(self.schedule, epochs)), end)


@dataclass(frozen=True)
class HeldInEpoch:
    """schedule(first iteration of the epoch that t is in).

    >>> [HeldInEpoch(lambda t: 1 - t / 10, Fraction(5, 2))(t) for t in (0, 2, 3, 4, 5, 7, 8)]
    [1.0, 1.0, 0.7, 0.7, 0.5, 0.5, 0.19999999999999996]
    """

    schedule: Schedule
    iters_per_epoch: Fraction

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return self.schedule(self._start(self._epoch(t)))

    def drops(self, end: int) -> Iterable[int]:
        """Return the schedule's own, each at the next start of an epoch."""
        return once_each(map(self._start_from, drops(self.schedule, end)), end)

    def _start_from(self, t: int) -> int:
        """Return the first start of an epoch that is not before t."""
        epoch = self._epoch(t)
        return self._start(epoch) if self._start(epoch) >= t else self._start(epoch + 1)

    # In whole numbers, as a fraction's own division and rounding, which take ten times as long.
    def _epoch(self, t: int) -> int:
        return t * self.iters_per_epoch.denominator // self.iters_per_epoch.numerator

    def _start(self, epoch: int) -> int:
        return -(-epoch * self.iters_per_epoch.numerator // self.iters_per_epoch.denominator)
