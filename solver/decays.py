"""Schedules that decrease smoothly, as pure functions like those in schedules.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi

from .schedules import check_at_least, check_within, power

DECAY_METHODS: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
    "sqrt": lambda x: 1 - math.sqrt(x),
}


@dataclass(frozen=True)
class Exponential:
    """gamma ^ t, without an end.

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
class Linear:
    """A straight line from `start` at iteration 0 to `end` at iteration num_iters; `end` from there on.

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
    """(1 - t / N) ^ exponent with N = num_iters, but at least `floor`; `floor` from N on.

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

    One cycle of SGDR (Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983).

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
    """1, then a decay to e = end_factor over the last D = decay_iters of N = num_iters; e from N on.

    With x = (t - (N - D)) / D the decay is 1 - x ("linear"), (1 + cos(pi x)) / 2 ("cosine") or
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
