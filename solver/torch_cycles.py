"""CyclicLR and OneCycleLR of torch, which move the momentum too, as pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .cycles import Anneal, Cyclic
from .decays import Exponential
from .lr_lambdas import user_function
from .schedules import Group, Schedule, check_within, power


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
    """Return a triangle wave between base_lr and max_lr, which are learning rates; BASE_LR has no effect on it.

    The height is constant ("triangular"), halved in each cycle ("triangular2") or multiplied by gamma ^ t
    ("exp_range"); scale_fn, a function of the cycle (1, 2, ...) or of t, replaces these. Smith 2017
    (https://arxiv.org/abs/1506.01186).

    Raises:
        ValueError: an argument is out of range, or a list does not have one value per group.

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
    """Return the momentum of `cyclic_lr`: max_momentum at the lowest learning rate, base_momentum at the highest.

    None if cycle_momentum is False.

    >>> group = Group(lr=1.0, momentum=0.9)
    >>> schedule = cyclic_momentum(4, 5, base_momentum=0.5, max_momentum=0.9, group=group)
    >>> [round(schedule(t), 3) for t in (0, 4, 8, 9, 10)]
    [0.9, 0.5, 0.82, 0.9, 0.8]
    """
    if not cycle_momentum:
        return None
    low = group.number("max_momentum", max_momentum)
    high = group.number("base_momentum", base_momentum)
    _check_momenta(group, low, high)
    return _cyclic(low, high, step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode)


def _cyclic(
    low: float, high: float, up: int, down: int | None, mode: str, gamma: float, scale_fn: Any, scale_mode: str
) -> Cyclic:
    # No lambdas: groups with equal schedules share one, and functions created here would never compare equal.
    modes: dict[str, Callable[[int], float]] = {
        "triangular": _constant,
        "triangular2": _halved,
        "exp_range": Exponential(gamma),
    }
    if scale_mode not in ("cycle", "iterations"):
        raise ValueError(f"scale_mode must be cycle or iterations; got {scale_mode!r}")
    if scale_fn is not None:
        scale, per_iteration = user_function("scale_fn", scale_fn), scale_mode == "iterations"
    elif mode in modes:
        scale, per_iteration = modes[mode], mode == "exp_range"
    else:
        raise ValueError(f"mode must be one of {', '.join(modes)}; got {mode!r}")
    return Cyclic(low, high, up, up if down is None else down, scale, per_iteration)


def _constant(cycle: int) -> float:
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
    """Return one cycle: max_lr / div_factor up to max_lr, then down to max_lr / div_factor / final_div_factor.

    The last value is kept after total_steps. max_lr is a learning rate; BASE_LR has no effect on it. total_steps
    is by default epochs * steps_per_epoch or, if these are not given either, the number of iterations after
    warm-up. Smith and Topin 2017 (https://arxiv.org/abs/1708.07120).

    Raises:
        ValueError: an argument is out of range, or a list does not have one value per group.

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
    """Return the momentum of `one_cycle_lr`: base_momentum at max_lr, max_momentum at both ends.

    None if cycle_momentum is False.

    >>> schedule = one_cycle_momentum(pct_start=0.5, num_iters=11, group=Group(lr=1.0, momentum=0.9))
    >>> [round(schedule(t), 3) for t in (0, 4, 5, 9, 10, 11)]
    [0.95, 0.853, 0.852, 0.942, 0.95, 0.95]
    """
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
        raise ValueError(f"anneal_strategy must be cos or linear; got {anneal_strategy!r}")
    # Phases end at a fraction of a step if pct_start * total_steps is not an integer, as in torch.
    up = pct_start * total_steps
    ends = (up - 1, 2 * up - 2, total_steps - 1) if len(values) == 4 else (up - 1, total_steps - 1)
    return Anneal(ends, values, anneal_strategy == "cos")


def _check_momenta(group: Group, *momenta: float) -> None:
    if group.momentum is None:
        raise ValueError("cycle_momentum needs an optimizer with momentum or betas; set cycle_momentum: false")
    for momentum in momenta:
        if not 0 <= momentum < 1:
            raise ValueError(f"a momentum must be 0 or more and below 1; got {momentum}")
