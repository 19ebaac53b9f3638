"""torch's schedulers under their own names and arguments, as pure functions.

Each function takes the arguments of the class in torch.optim.lr_scheduler, with the same names and defaults, and
returns the schedule: torch's curve, as a factor of the group's base learning rate, counted from the end of
warm-up. It may have two more parameters, which the caller fills in: `num_iters`, the number of iterations after
warm-up, and `group`, the parameter group, for curves in absolute learning rates and for arguments with one value
per group. A group whose base learning rate is 0 keeps the learning rate 0 with every schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .cycles import CosineWaves, Cumulative, WarmRestarts
from .decays import Exponential, Linear, Poly
from .lr_lambdas import user_function
from .schedules import Constant, Group, MultiStep, Schedule, Step
from .torch_cycles import cyclic_lr, cyclic_momentum, one_cycle_lr, one_cycle_momentum


def lambda_lr(lr_lambda: Any, *, group: Group) -> Schedule:
    """Return lr_lambda(t).

    Args:
        lr_lambda: a function, a registered name or "module:function"; or a list with one per group.
        group: the parameter group.

    Raises:
        ValueError: it is none of these, or the list does not have one value per group.

    >>> schedule = lambda_lr(lambda t: 0.5 ** (t // 5), group=Group(0.1))
    >>> [schedule(t) for t in (0, 4, 5, 9, 10)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    return user_function("lr_lambda", group.own("lr_lambda", lr_lambda))


def multiplicative_lr(lr_lambda: Any, *, group: Group) -> Schedule:
    """Return the product lr_lambda(1) lr_lambda(2) ... lr_lambda(t).

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

    Raises:
        ValueError: milestones is not a list, or gamma is negative.

    >>> [multi_step_lr([5, 8], 0.5)(t) for t in (0, 4, 5, 9, 10)]
    [1.0, 1.0, 0.5, 0.25, 0.25]
    """
    if not isinstance(milestones, (list, tuple)):
        raise ValueError(f"milestones must be a list of iterations, such as [30, 60]; got {milestones!r}")
    return MultiStep(tuple(sorted(milestones)), gamma)


def constant_lr(factor: float = 1 / 3, total_iters: int = 5) -> Schedule:
    """Return factor before total_iters, then 1.

    >>> [constant_lr(0.5, 5)(t) for t in (0, 4, 5, 9, 10)]
    [0.5, 0.5, 1.0, 1.0, 1.0]
    """
    return Constant(factor, total_iters)


def linear_lr(start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5) -> Schedule:
    """Return a straight line from start_factor to end_factor over total_iters.

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
    """Return half a cosine wave from the base learning rate to eta_min at T_max; then, as in torch, up again.

    eta_min is a learning rate. T_max is by default the number of iterations after warm-up.

    >>> schedule = cosine_annealing_lr(eta_min=0.05, num_iters=10, group=Group(0.1))
    >>> [round(schedule(t), 3) for t in (0, 5, 9, 10, 20)]
    [1.0, 0.75, 0.512, 0.5, 1.0]
    """
    return CosineWaves(num_iters if T_max is None else T_max, group.factor(eta_min))


def cosine_annealing_warm_restarts(T_0: int, T_mult: int = 1, eta_min: float = 0.0, *, group: Group) -> Schedule:
    """Return half cosine waves from the base learning rate to eta_min, of length T_0, T_0 T_mult, T_0 T_mult^2 ...

    >>> schedule = cosine_annealing_warm_restarts(4, 2, group=Group(0.1))
    >>> [round(schedule(t), 3) for t in (0, 2, 3, 4, 8, 11, 12)]
    [1.0, 0.5, 0.146, 1.0, 0.5, 0.038, 1.0]
    """
    return WarmRestarts(T_0, T_mult, group.factor(eta_min))


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
# The schedules of the momentum, called with the same arguments; None: the momentum does not change.
MOMENTA: dict[str, Callable[..., Schedule | None]] = {
    "CyclicLR": cyclic_momentum,
    "OneCycleLR": one_cycle_momentum,
}
