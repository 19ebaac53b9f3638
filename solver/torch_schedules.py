"""torch's schedulers under their own names and arguments, as pure functions.

Each function here takes what the class of torch.optim.lr_scheduler takes, in its names and defaults,
and returns the schedule: torch's curve, as a factor of the group's base rate, counted from the end of
warm-up. Three things it may get besides: `num_iters`, the iterations that are left after warm-up, and
`group`, for curves in absolute rates and for arguments with one value a group. A group whose base rate
is 0 stands still under every schedule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from warmstart.config import ConfigError, import_function

from .cycles import Anneal, CosineWaves, Cumulative, Cyclic, WarmRestarts
from .schedules import (
    Constant,
    Exponential,
    Group,
    Linear,
    MultiStep,
    Poly,
    Schedule,
    Step,
    check_within,
    drops,
    power,
)


@dataclass(frozen=True)
class Checked:
    """A user's function, of which each value must be a finite number; it comes out as a float.

    >>> Checked(len, "lr_lambda len")(3)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: lr_lambda len: takes the count and returns a number, but at 3: \
object of type 'int' has no len()
    """

    function: Callable[[int], Any]
    label: str

    def __call__(self, t: int) -> float:
        """Return the value at t."""
        try:
            value = float(self.function(t))
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ConfigError(
                f"{self.label}: takes the count and returns a number, but at {t}: {error}"
            ) from error
        if not math.isfinite(value):
            raise ConfigError(f"{self.label}: returned {value} at {t}; a factor is finite")
        return value

    def drops(self, end: int) -> Iterable[int]:
        """Return the function's own, if it tells them."""
        return drops(self.function, end)


LAMBDAS: dict[str, Callable[[int], float]] = {}


def register_lr_lambda(name: str, function: Callable[[int], float]) -> None:
    """Make `name` usable as lr_lambda of LambdaLR and MultiplicativeLR, and as scale_fn of CyclicLR.

    Args:
        name: the name.
        function: from the count to a factor.

    Raises:
        ConfigError: the name is taken.

    >>> register_lr_lambda("inverse", lambda t: 1 / (1 + t))
    >>> lambda_lr("inverse", group=Group(0.1))(3)
    0.25
    >>> del LAMBDAS["inverse"]
    """
    if name in LAMBDAS:
        raise ConfigError(f"a function called {name!r} is registered already; choose another name")
    LAMBDAS[name] = function


def _function(name: str, value: Any) -> Callable[[int], float]:
    if callable(value):
        return Checked(value, name)
    if isinstance(value, str) and value in LAMBDAS:
        return Checked(LAMBDAS[value], f"{name} {value}")
    if isinstance(value, str) and re.fullmatch(r"[\w.]+:\w+", value):
        try:
            return Checked(import_function(value, name), f"{name} {value}")
        except ConfigError as error:
            raise ValueError(str(error)) from None  # whoever calls knows the key
    known = f"; registered: {', '.join(sorted(LAMBDAS))}" if LAMBDAS else ""
    raise ValueError(f'{name} is a registered function or "module:function"; got {value!r}{known}')


def lambda_lr(lr_lambda: Any, *, group: Group) -> Schedule:
    """Return lr_lambda(t).

    >>> schedule = lambda_lr(lambda t: 0.5 ** (t // 5), group=Group(0.1))
    >>> [schedule(t) for t in (0, 4, 5, 9, 10)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    return _function("lr_lambda", group.own("lr_lambda", lr_lambda))


def multiplicative_lr(lr_lambda: Any, *, group: Group) -> Schedule:
    """Return lr_lambda(1) lr_lambda(2) ... lr_lambda(t).

    >>> schedule = multiplicative_lr(lambda t: 0.5, group=Group(0.1))
    >>> [schedule(t) for t in (0, 1, 9, 10)]
    [1.0, 0.5, 0.001953125, 0.0009765625]
    """
    return Cumulative(lambda_lr(lr_lambda, group=group))


def step_lr(step_size: int, gamma: float = 0.1) -> Schedule:
    """Return gamma ^ floor(t / step_size).

    >>> [step_lr(5, 0.5)(t) for t in (0, 4, 5, 9, 10)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    return Step(step_size, gamma)


def multi_step_lr(milestones: Sequence[int], gamma: float = 0.1) -> Schedule:
    """Return gamma ^ (number of milestones <= t).

    >>> [multi_step_lr([5, 8], 0.5)(t) for t in (0, 4, 5, 9, 10)]
    [1.0, 1.0, 0.5, 0.25, 0.25]
    """
    if not isinstance(milestones, (list, tuple)):
        raise ValueError(f"milestones is a list of iterations, such as [30, 60]; got {milestones!r}")
    return MultiStep(tuple(sorted(milestones)), gamma)


def constant_lr(factor: float = 1 / 3, total_iters: int = 5) -> Schedule:
    """Return factor until total_iters, then 1.

    >>> [constant_lr(0.5, 5)(t) for t in (0, 4, 5, 9, 10)]
    [0.5, 0.5, 1.0, 1.0, 1.0]
    """
    return Constant(factor, total_iters)


def linear_lr(start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5) -> Schedule:
    """Return a straight line from start_factor to end_factor, over total_iters.

    >>> [linear_lr(0.5, 1.0, 5)(t) for t in (0, 4, 5, 9, 10)]
    [0.5, 0.9, 1.0, 1.0, 1.0]
    """
    return Linear(start_factor, end_factor, total_iters)


def exponential_lr(gamma: float) -> Schedule:
    """Return gamma ^ t.

    >>> [exponential_lr(0.5)(t) for t in (0, 1, 9, 10)]
    [1.0, 0.5, 0.001953125, 0.0009765625]
    """
    return Exponential(gamma)


def polynomial_lr(total_iters: int = 5, power: float = 1.0) -> Schedule:
    """Return (1 - t / total_iters) ^ power, and 0 from total_iters on.

    >>> [polynomial_lr(10, 2.0)(t) for t in (0, 5, 8, 10, 11)]
    [1.0, 0.25, 0.04000000000000001, 0.0, 0.0]
    """
    return Poly(total_iters, power)


def cosine_annealing_lr(
    T_max: int | None = None, eta_min: float = 0.0, *, num_iters: int, group: Group
) -> Schedule:
    """Return half a cosine wave from the base rate to eta_min at T_max; then, as in torch, up again.

    T_max is what is left after warm-up unless it is given.

    >>> schedule = cosine_annealing_lr(eta_min=0.05, num_iters=10, group=Group(0.1))
    >>> [round(schedule(t), 3) for t in (0, 5, 9, 10, 20)]
    [1.0, 0.75, 0.512, 0.5, 1.0]
    """
    return CosineWaves(num_iters if T_max is None else T_max, group.factor(eta_min))


def cosine_annealing_warm_restarts(T_0: int, T_mult: int = 1, eta_min: float = 0.0, *, group: Group) -> Schedule:
    """Return half cosine waves from the base rate to eta_min, of length T_0, T_0 T_mult, T_0 T_mult^2 ...

    >>> schedule = cosine_annealing_warm_restarts(4, 2, group=Group(0.1))
    >>> [round(schedule(t), 3) for t in (0, 2, 3, 4, 8, 11, 12)]
    [1.0, 0.5, 0.146, 1.0, 0.5, 0.038, 1.0]
    """
    return WarmRestarts(T_0, T_mult, group.factor(eta_min))


def cyclic_lr(
    base_lr: float | list[float],
    max_lr: float | list[float],
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
    scale_fn: Any = None,
    scale_mode: str = "cycle",
    cycle_momentum: bool = True,
    base_momentum: float | list[float] = 0.8,
    max_momentum: float | list[float] = 0.9,
    *,
    group: Group,
) -> Schedule:
    """Return a triangle wave between base_lr and max_lr, which are rates; BASE_LR has no part in it.

    Its height stays ("triangular"), halves with each cycle ("triangular2") or is multiplied by gamma ^ t
    ("exp_range"); scale_fn, of the cycle (1, 2, ...) or of t, takes the place of these.

    >>> schedule = cyclic_lr(0.1, 0.5, 4, 5, group=Group(lr=1.0))
    >>> [round(schedule(t), 3) for t in (0, 4, 8, 9, 10)]
    [0.1, 0.5, 0.18, 0.1, 0.2]
    """
    low = group.factor(group.number("base_lr", base_lr))
    high = group.factor(group.number("max_lr", max_lr))
    return _cyclic(low, high, step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode)


def cyclic_momentum(
    step_size_up: int = 2000,
    step_size_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
    scale_fn: Any = None,
    scale_mode: str = "cycle",
    cycle_momentum: bool = True,
    base_momentum: float | list[float] = 0.8,
    max_momentum: float | list[float] = 0.9,
    *,
    group: Group,
    **rates: Any,
) -> Schedule | None:
    """Return the momentum of `cyclic_lr`: max_momentum at the lowest rate, base_momentum at the highest."""
    if not cycle_momentum:
        return None
    low = group.number("max_momentum", max_momentum)
    high = group.number("base_momentum", base_momentum)
    _check_momenta(group, low, high)
    return _cyclic(low, high, step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode)


def _cyclic(
    low: float, high: float, up: int, down: int | None, mode: str, gamma: float, scale_fn: Any, scale_mode: str
) -> Cyclic:
    # No lambdas: groups with equal schedules share one, and functions made here would never be equal.
    modes: dict[str, Callable[[int], float]] = {
        "triangular": _whole,
        "triangular2": _halved,
        "exp_range": Exponential(gamma),
    }
    if scale_mode not in ("cycle", "iterations"):
        raise ValueError(f"scale_mode is cycle or iterations; got {scale_mode!r}")
    if scale_fn is not None:
        scale, per_iteration = _function("scale_fn", scale_fn), scale_mode == "iterations"
    elif mode in modes:
        scale, per_iteration = modes[mode], mode == "exp_range"
    else:
        raise ValueError(f"mode is one of {', '.join(modes)}; got {mode!r}")
    return Cyclic(low, high, up, up if down is None else down, scale, per_iteration)


def _whole(cycle: int) -> float:
    return 1.0


def _halved(cycle: int) -> float:
    return power(0.5, cycle - 1)


def one_cycle_lr(
    max_lr: float | list[float],
    total_steps: int | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    cycle_momentum: bool = True,
    base_momentum: float | list[float] = 0.85,
    max_momentum: float | list[float] = 0.95,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
    *,
    num_iters: int,
    group: Group,
) -> Schedule:
    """Return one cycle: from max_lr / div_factor up to max_lr, down to that / final_div_factor, and stay.

    max_lr is a rate; BASE_LR has no part in it. total_steps is epochs * steps_per_epoch or, where these
    are not given either, what is left after warm-up. Smith and Topin 2017
    (https://arxiv.org/abs/1708.07120).

    >>> schedule = one_cycle_lr(0.5, pct_start=0.5, final_div_factor=10, num_iters=11, group=Group(lr=1.0))
    >>> [round(schedule(t), 3) for t in (0, 4, 5, 9, 10, 11)]
    [0.02, 0.486, 0.49, 0.042, 0.002, 0.002]
    """
    if div_factor <= 0 or final_div_factor <= 0:
        raise ValueError("div_factor and final_div_factor must be above 0")
    top = group.factor(group.number("max_lr", max_lr))
    start = top / div_factor
    values = (start, top, start) if three_phase else (start, top)
    total_steps = _total_steps(total_steps, epochs, steps_per_epoch, num_iters)
    return _one_cycle((*values, start / final_div_factor), total_steps, pct_start, anneal_strategy)


def one_cycle_momentum(
    total_steps: int | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    cycle_momentum: bool = True,
    base_momentum: float | list[float] = 0.85,
    max_momentum: float | list[float] = 0.95,
    three_phase: bool = False,
    *,
    num_iters: int,
    group: Group,
    **rates: Any,
) -> Schedule | None:
    """Return the momentum of `one_cycle_lr`: base_momentum at the highest rate, max_momentum at both ends."""
    if not cycle_momentum:
        return None
    low = group.number("base_momentum", base_momentum)
    high = group.number("max_momentum", max_momentum)
    _check_momenta(group, low, high)
    values = (high, low, high, high) if three_phase else (high, low, high)
    total_steps = _total_steps(total_steps, epochs, steps_per_epoch, num_iters)
    return _one_cycle(values, total_steps, pct_start, anneal_strategy)


def _total_steps(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None, left: int) -> int:
    if total_steps is None and (epochs is None) != (steps_per_epoch is None):
        raise ValueError("epochs and steps_per_epoch go together; or give total_steps, or none of the three")
    if total_steps is None:
        total_steps = left if epochs is None or steps_per_epoch is None else epochs * steps_per_epoch
    if total_steps < 1:
        raise ValueError(f"total_steps must be 1 or more; got {total_steps}")
    return total_steps


def _one_cycle(values: tuple[float, ...], total_steps: int, pct_start: float, anneal_strategy: str) -> Anneal:
    check_within("pct_start", pct_start, 0, 1)
    if anneal_strategy not in ("cos", "linear"):
        raise ValueError(f"anneal_strategy is cos or linear; got {anneal_strategy!r}")
    # Phases end on fractions of a step where pct_start * total_steps is none, as in torch.
    up = pct_start * total_steps
    ends = (up - 1, 2 * up - 2, total_steps - 1) if len(values) == 4 else (up - 1, total_steps - 1)
    return Anneal(ends, values, anneal_strategy == "cos")


def _check_momenta(group: Group, *momenta: float) -> None:
    if group.momentum is None:
        raise ValueError("cycle_momentum needs an optimizer with momentum or betas; set cycle_momentum: false")
    for momentum in momenta:
        if not 0 <= momentum < 1:
            raise ValueError(f"a momentum must be 0 or more and below 1; got {momentum}")


TORCH_SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "ConstantLR": constant_lr,
    "CosineAnnealingLR": cosine_annealing_lr,
    "CosineAnnealingWarmRestarts": cosine_annealing_warm_restarts,
    "CyclicLR": cyclic_lr,
    "ExponentialLR": exponential_lr,
    "LambdaLR": lambda_lr,
    "LinearLR": linear_lr,
    "MultiStepLR": multi_step_lr,
    "MultiplicativeLR": multiplicative_lr,
    "OneCycleLR": one_cycle_lr,
    "PolynomialLR": polynomial_lr,
    "StepLR": step_lr,
}
# Called with the same arguments as the schedule of that name; None: the momentum stays as it is.
MOMENTA: dict[str, Callable[..., Schedule | None]] = {
    "CyclicLR": cyclic_momentum,
    "OneCycleLR": one_cycle_momentum,
}
