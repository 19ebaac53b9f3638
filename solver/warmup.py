"""Warm-up, and the two ways to combine it with a schedule.

Factors of "warm up for 2 of 10 iterations from factor 0, then cosine to 0" (10 is after the end):

| blend | t=0 | 1 | 2 | 3 | 6 | 9 | 10 |
|---|---|---|---|---|---|---|---|
| product | 0 | .488 | .905 | .794 | .345 | .024 | 0 |
| interpolate | 0 | .452 | .905 | .794 | .345 | .024 | 0 |
| either, rescaled | 0 | .500 | 1 | .962 | .500 | .038 | 0 |
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from .schedules import Schedule, check_at_least, directly, drops

WARMUP_METHODS = ("constant", "linear", "gradual", "cosine", "exponential")  # gradual is linear


@dataclass(frozen=True)
class Warmup:
    """w(t) = f + (1 - f) share(t / W) with f = factor, W = num_iters, and exactly 1 after warm-up.

    share(x) with x = t / W is 0 ("constant"), x ("linear", also written "gradual") or (1 - cos(pi x)) / 2
    ("cosine"); "exponential" gives w(t) = f ^ (1 - x), for f above 0.

    Args:
        method: "constant", "linear", "gradual", "cosine" or "exponential".
        factor: f, the factor of iteration 0.
        num_iters: W, the length in iterations.
        ended: the iteration at which a metric ended warm-up before W; None: warm-up lasts until W.

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
    end: int = field(init=False, repr=False)  # the first iteration after warm-up

    def __post_init__(self) -> None:
        last = self.num_iters if self.ended is None else min(self.ended, self.num_iters)
        object.__setattr__(self, "end", last)
        if self.method not in WARMUP_METHODS:
            raise ValueError(f"no warm-up is called {self.method!r}; known: {', '.join(WARMUP_METHODS)}")
        if not 0 <= self.factor <= 1:
            raise ValueError(f"a warm-up factor must be in [0, 1]; got {self.factor}")
        if self.method == "exponential" and self.factor == 0 and self.num_iters:
            raise ValueError("an exponential warm-up cannot start at the factor 0; use a small one, such as 0.001")
        check_at_least("the length of warm-up", self.num_iters, 0)

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        return self.factor + (1 - self.factor) * self.share(t / self.num_iters) if t < self.end else 1.0

    def share(self, x: float) -> float:
        """Return the completed share of the ramp, in [0, 1], at x = t / W < 1."""
        if self.method == "constant":
            return 0.0
        if self.method == "cosine":
            return (1 - math.cos(math.pi * x)) / 2
        if self.method == "exponential" and self.factor < 1:
            return float((self.factor ** (1 - x) - self.factor) / (1 - self.factor))
        return x


@dataclass(frozen=True)
class Product:
    """w(t) schedule(t), as in WarmupMultiStepLR and WarmupCosineLR.

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
        if t >= self._end:  # nearly always: the fast path
            return self._after(t)
        return self.warmup(t) * self.schedule(t)

    def drops(self, end: int) -> Iterable[int]:
        """Return the drops of the schedule."""
        return drops(self.schedule, end)


@dataclass(frozen=True)
class Interpolate:
    """A ramp from f schedule(0) to schedule(W) at iteration W; the schedule from there on.

    f and W are the factor and length of the warm-up; "constant" stays at f schedule(0). This is what detectron2
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
        """Return the drops of the schedule after warm-up."""
        return (t for t in drops(self.schedule, end) if t > self.warmup.end)
