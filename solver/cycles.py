"""Schedules that increase again, as pure functions: waves, restarts, triangles, one cycle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import cos, pi

from .schedules import Schedule, check_at_least


@dataclass(frozen=True)
class CosineWaves:
    """e + (1 - e)(1 + cos(pi t / T)) / 2 with e = end_factor, T = half_period: down, up and down again.

    torch's CosineAnnealingLR in closed form.

    Raises:
        ValueError: half_period is below 1, or end_factor is negative.

    >>> [round(CosineWaves(10, 0.5)(t), 3) for t in (0, 9, 10, 11, 20, 1_000_010)]
    [1.0, 0.512, 0.5, 0.512, 1.0, 0.5]
    """

    half_period: int
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("T_max", self.half_period, 1)
        check_at_least("eta_min", self.end_factor, 0)

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        position = t % (2 * self.half_period)
        return self.end_factor + (1 - self.end_factor) * (1 + cos(pi * position / self.half_period)) / 2


@dataclass(frozen=True)
class WarmRestarts:
    """Half a cosine wave from 1 to end_factor, restarted after `first`, first m, first m^2 ... iterations.

    SGDR (Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983), m = multiplier.

    Raises:
        ValueError: first or multiplier is below 1, or end_factor is negative.

    >>> [round(WarmRestarts(4, 2)(t), 3) for t in (0, 2, 3, 4, 8, 11, 12)]
    [1.0, 0.5, 0.146, 1.0, 0.5, 0.038, 1.0]
    """

    first: int
    multiplier: int = 1
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("T_0", self.first, 1)
        check_at_least("T_mult", self.multiplier, 1)
        check_at_least("eta_min", self.end_factor, 0)

    def __call__(self, t: int) -> float:
        """Return the factor of iteration t."""
        length = self.first
        if self.multiplier == 1:
            t %= length
        while t >= length:  # one round per restart: few, because the lengths grow geometrically
            t -= length
            length *= self.multiplier
        return self.end_factor + (1 - self.end_factor) * (1 + cos(pi * t / length)) / 2


@dataclass(frozen=True)
class Cyclic:
    """low + (high - low) height(t) scale(...): a triangle wave, rising for `up` and falling for `down` iterations.

    Smith 2017 (https://arxiv.org/abs/1506.01186).

    Args:
        low, high: values at the bottom and the top.
        up, down: numbers of iterations.
        scale: returns the factor by which the height of a cycle is multiplied.
        per_iteration: whether `scale` is called with the iteration; else with the number of the cycle: 1, 2, ...

    Raises:
        ValueError: up or down is below 1.

    >>> schedule = Cyclic(0.1, 1.1, up=2, down=4, scale=lambda cycle: 0.5 ** (cycle - 1))
    >>> [round(schedule(t), 3) for t in (0, 1, 2, 4, 6, 8, 12, 14)]
    [0.1, 0.6, 1.1, 0.6, 0.1, 0.6, 0.1, 0.35]
    """

    low: float
    high: float
    up: int
    down: int
    scale: Callable[[int], float]
    per_iteration: bool = False

    def __post_init__(self) -> None:
        check_at_least("step_size_up", self.up, 1)
        check_at_least("step_size_down", self.down, 1)

    def __call__(self, t: int) -> float:
        """Return the value at iteration t."""
        cycle, position = divmod(t, self.up + self.down)
        height = position / self.up if position <= self.up else (self.up + self.down - position) / self.down
        return self.low + (self.high - self.low) * height * self.scale(t if self.per_iteration else cycle + 1)


@dataclass(frozen=True)
class Anneal:
    """From values[0] to values[1] at ends[0], then to values[2] at ends[1], ...; constant after the last end.

    Each part is half a cosine wave, or a straight line. OneCycleLR is built from it.

    >>> schedule = Anneal((1.0, 3.0), (0.0, 1.0, 0.5), is_cosine=False)
    >>> [schedule(t) for t in (0, 1, 2, 3, 1_000_000)]
    [0.0, 1.0, 0.75, 0.5, 0.5]
    """

    ends: tuple[float, ...]
    values: tuple[float, ...]
    is_cosine: bool = True

    def __call__(self, t: int) -> float:
        """Return the value at iteration t."""
        begin = 0.0
        for end, start, target in zip(self.ends, self.values, self.values[1:], strict=False):
            if t <= end:
                x = (t - begin) / (end - begin) if end > begin else 1.0
                if self.is_cosine:
                    return target + (start - target) * (1 + cos(pi * x)) / 2
                return start + (target - start) * x
            begin = end
        return self.values[-1]


@dataclass(frozen=True)
class Cumulative:
    """The product factor(1) factor(2) ... factor(t); products are computed once and cached.

    >>> schedule = Cumulative(lambda t: 0.5)
    >>> [schedule(t) for t in (0, 1, 3, 2)]
    [1.0, 0.5, 0.125, 0.25]
    """

    factor: Schedule
    _products: list[float] = field(default_factory=lambda: [1.0], init=False, repr=False, compare=False)

    def __call__(self, t: int) -> float:
        """Return the product at iteration t."""
        products = self._products
        while len(products) <= t:
            products.append(products[-1] * self.factor(len(products)))
        return products[t]
