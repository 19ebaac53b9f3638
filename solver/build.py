"""From a config to an optimizer and a scheduler: every name that SOLVER can hold is on this page."""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import nn
from torch.optim import Optimizer

from warmstart.config import CfgNode, ConfigError, call, check_arguments, resolve_durations, unknown_name

from .lr_scheduler import ScheduleLR
from .param_groups import get_default_optimizer_params
from .schedules import (
    AfterWarmup,
    Cosine,
    Interpolated,
    MultiStep,
    Product,
    Schedule,
    Step,
    StepWithFixedGamma,
    Warmup,
    drops,
)

logger = logging.getLogger(__name__)

# These need a closure or sparse gradients, which our loop does not give them.
_UNFIT = ("Optimizer", "LBFGS", "SparseAdam")
_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if inspect.isclass(cls) and issubclass(cls, Optimizer) and name not in _UNFIT
}

# Arguments that have a key of their own, and so are not taken from OPTIMIZER_ARGS.
_OWN_KEYS = {
    "lr": "SOLVER.BASE_LR",
    "weight_decay": "SOLVER.WEIGHT_DECAY",
    "momentum": "SOLVER.MOMENTUM",
    "nesterov": "SOLVER.NESTEROV",
}


def _multi_step(solver: CfgNode) -> Schedule:
    return MultiStep(tuple(step for step in solver.STEPS if step < solver.MAX_ITER), solver.GAMMA)


def _cosine(solver: CfgNode) -> Schedule:
    return Cosine(solver.MAX_ITER, solver.BASE_LR_END / solver.BASE_LR)


def _fixed_gamma(solver: CfgNode) -> Schedule:
    return StepWithFixedGamma(solver.MAX_ITER, solver.NUM_DECAYS, solver.GAMMA)


# The Warmup* names read SOLVER keys and count from iteration 0, warm-up running on top of them.
_WARMUP_SCHEDULES: dict[str, Callable[[CfgNode], Schedule]] = {
    "WarmupMultiStepLR": _multi_step,
    "WarmupCosineLR": _cosine,
    "WarmupStepWithFixedGammaLR": _fixed_gamma,
}
# All others take LR_SCHEDULER_ARGS and count from 0 when warm-up ends.
_SCHEDULES: dict[str, Callable[..., Schedule]] = {"StepLR": Step}


def register_optimizer(name: str, cls: Callable[..., Optimizer]) -> None:
    """Make `name` usable as SOLVER.OPTIMIZER: `cls(groups, **SOLVER.OPTIMIZER_ARGS)` builds it.

    Raises:
        ValueError: the name is taken.
    """
    if name in _OPTIMIZERS:
        raise ValueError(f"an optimizer called {name!r} exists already; choose another name")
    _OPTIMIZERS[name] = cls


def register_lr_scheduler(name: str, factory: Callable[..., Schedule]) -> None:
    """Make `name` usable as SOLVER.LR_SCHEDULER_NAME.

    Args:
        name: the name.
        factory: `factory(**SOLVER.LR_SCHEDULER_ARGS)` returns a pure function of the iteration, counted
            from 0 when warm-up ends, that gives the factor of the base rate. A parameter called
            `num_iters` is filled with the iterations from there to MAX_ITER.

    Raises:
        ValueError: the name is taken.

    >>> register_lr_scheduler("StepLR", lambda: lambda t: 1.0)
    Traceback (most recent call last):
    ValueError: a schedule called 'StepLR' exists already; choose another name
    """
    if name in _SCHEDULES or name in _WARMUP_SCHEDULES:
        raise ValueError(f"a schedule called {name!r} exists already; choose another name")
    _SCHEDULES[name] = factory


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Return the optimizer that SOLVER describes over the model's trainable parameters.

    Groups follow `get_default_optimizer_params` and keep their parameters' names. The fused
    implementation is taken wherever the class has one for the parameters' device.

    Args:
        cfg: resolved or not, frozen or not.
        model: on the device where it will be trained.

    Raises:
        ConfigError: what `check_solver` refuses, or the class itself does.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.OPTIMIZER", "AdamW", "SOLVER.OPTIMIZER_ARGS.betas", "[0.9, 0.95]"])
    >>> optimizer = build_optimizer(cfg, nn.Linear(2, 2))
    >>> type(optimizer).__name__, optimizer.param_groups[0]["betas"]
    ('AdamW', (0.9, 0.95))
    """
    _check_optimizer(cfg)
    solver = cfg.SOLVER
    try:
        groups = get_default_optimizer_params(
            model,
            base_lr=solver.BASE_LR,
            weight_decay=solver.WEIGHT_DECAY,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            bias_lr_factor=solver.BIAS_LR_FACTOR,
            weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        )
    except ValueError as error:
        raise ConfigError(f"{cfg.label('MODEL.NAME')}: {error}") from None
    cls = _OPTIMIZERS[solver.OPTIMIZER]
    takes = inspect.signature(cls).parameters
    arguments = dict(solver.OPTIMIZER_ARGS)
    own = {"lr": solver.BASE_LR, "momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
    arguments |= {name: value for name, value in own.items() if name in takes}
    label = cfg.label("SOLVER.OPTIMIZER_ARGS")
    if "fused" in takes and not {"fused", "foreach", "differentiable"} & set(arguments):
        try:
            fused: Optimizer = cls(groups, **arguments, fused=True)
            return fused
        except (RuntimeError, ValueError):
            pass  # not on this device, or not with these arguments: the class decides, not we
    optimizer: Optimizer = call(label, solver.OPTIMIZER, cls, groups, **arguments)
    return optimizer


def build_lr_scheduler(
    cfg: CfgNode, optimizer: Optimizer, iters_per_epoch: Fraction | int | None = None, last_epoch: int = -1
) -> ScheduleLR:
    """Return the scheduler that SOLVER describes; its rates are a function of the iteration alone.

    Args:
        cfg: resolved or not, frozen or not.
        optimizer: its groups' rates are the base rates.
        iters_per_epoch: needed where a duration of an unresolved config is in epochs.
        last_epoch: -1 begins anew; k is the index of the last update done.

    Raises:
        ConfigError: what `check_solver` refuses.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.BASE_LR", 0.1, "SOLVER.MAX_ITER", 100, "SOLVER.WARMUP_ITERS", 10])
    >>> optimizer = build_optimizer(cfg, nn.Linear(2, 2))
    >>> scheduler = build_lr_scheduler(cfg, optimizer)
    >>> [round(scheduler.lr_at(t)[0], 6) for t in (0, 9, 10, 74, 75, 99, 100)]
    [0.0001, 0.09001, 0.1, 0.1, 0.01, 0.01, 0.01]
    """
    cfg = resolve_durations(cfg, iters_per_epoch)
    _check_schedule(cfg)
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        late = [f"{step:,}" for step in solver.STEPS if step >= solver.MAX_ITER]
        if late:
            logger.info(
                "SOLVER.STEPS at %s never come: SOLVER.MAX_ITER is %s", ", ".join(late), f"{solver.MAX_ITER:,}"
            )
    return ScheduleLR(optimizer, build_schedule(cfg), last_epoch)


def build_schedule(cfg: CfgNode) -> Schedule:
    """Return the schedule of a resolved config, warm-up included, as a pure function of the iteration.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.LR_SCHEDULER_NAME", "StepLR", "SOLVER.LR_SCHEDULER_ARGS.step_size", 30])
    >>> cfg.merge_from_list(["SOLVER.WARMUP_ITERS", 10, "SOLVER.WARMUP_FACTOR", 0.5])
    >>> schedule = build_schedule(resolve_durations(cfg))
    >>> [round(schedule(t), 6) for t in (0, 9, 10, 39, 40)]
    [0.5, 0.95, 1.0, 1.0, 0.1]
    """
    solver = cfg.SOLVER
    method = "linear" if solver.WARMUP_METHOD == "gradual" else solver.WARMUP_METHOD
    warmup = Warmup(method, solver.WARMUP_FACTOR, solver.WARMUP_ITERS)
    left = solver.MAX_ITER - solver.WARMUP_ITERS
    name = solver.LR_SCHEDULER_NAME
    if name not in _WARMUP_SCHEDULES:
        factory = _SCHEDULES[name]
        arguments = dict(solver.LR_SCHEDULER_ARGS)
        if "num_iters" in inspect.signature(factory).parameters:
            arguments["num_iters"] = left
        return AfterWarmup(warmup, call(cfg.label("SOLVER.LR_SCHEDULER_ARGS"), name, factory, **arguments))
    if not solver.RESCALE_INTERVAL:
        blend = {"product": Product, "interpolate": Interpolated}[solver.WARMUP_BLEND]
        return blend(warmup, _WARMUP_SCHEDULES[name](solver))
    whole = _WARMUP_SCHEDULES[name](solver)
    if isinstance(whole, MultiStep):
        return AfterWarmup(warmup, whole.rescaled(solver.MAX_ITER, left))
    fitted = solver.clone()
    fitted.defrost()
    fitted["MAX_ITER"] = left
    return AfterWarmup(warmup, _WARMUP_SCHEDULES[name](fitted))


def describe_plan(cfg: CfgNode, dataset_size: int) -> str:
    """Return a resolved config's plan in one line: length, warm-up, drops, final rate.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.MAX_ITER", 1200, "SOLVER.STEPS", "800,1100", "SOLVER.WARMUP_ITERS", 60])
    >>> cfg.merge_from_list(["SOLVER.BASE_LR", 0.1])
    >>> describe_plan(resolve_durations(cfg), dataset_size=2000)
    '1,200 iterations = 9.6 epochs of 2,000 samples; warm-up ends at 60; drops at 800, 1,100; final rate 0.001'
    """
    solver = cfg.SOLVER
    epochs = solver.MAX_ITER * solver.IMS_PER_BATCH / dataset_size
    parts = [f"{solver.MAX_ITER:,} iterations = {epochs:.4g} epochs of {dataset_size:,} samples"]
    if solver.WARMUP_ITERS:
        parts.append(f"warm-up ends at {solver.WARMUP_ITERS:,}")
    schedule = build_schedule(cfg)
    falls = drops(schedule, solver.MAX_ITER)
    if falls:
        shown = ", ".join(f"{t:,}" for t in falls[:5])
        parts.append(f"drops at {shown}" + (f", ... ({len(falls)} in all)" if len(falls) > 5 else ""))
    parts.append(f"final rate {solver.BASE_LR * schedule(solver.MAX_ITER - 1):.4g}")
    return "; ".join(parts)


def check_solver(cfg: CfgNode) -> None:
    """Raise ConfigError, with all mistakes at once, for what can be refused without model or optimizer.

    Args:
        cfg: resolved, so that lengths can be compared.
    """
    problems: list[str] = []
    for check in (_check_optimizer, _check_schedule):
        try:
            check(cfg)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _check_optimizer(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    name, label = solver.OPTIMIZER, cfg.label("SOLVER.OPTIMIZER")
    if name not in _OPTIMIZERS:
        raise unknown_name(label, "optimizer", name, _OPTIMIZERS)
    takes = inspect.signature(_OPTIMIZERS[name]).parameters
    problems = []
    for argument in solver.OPTIMIZER_ARGS:
        if argument in _OWN_KEYS:
            key = cfg.label(f"SOLVER.OPTIMIZER_ARGS.{argument}")
            problems.append(f"{key}: it has a key of its own; set {_OWN_KEYS[argument]}")
    for argument in ("momentum", "nesterov"):
        key = _OWN_KEYS[argument]
        if argument not in takes and cfg.is_set(key):
            problems.append(f"{cfg.label(key)}: {name} takes no {argument}; remove the key or use SGD")
    if solver.NESTEROV and not solver.MOMENTUM:
        problems.append(f"{cfg.label('SOLVER.NESTEROV')}: needs SOLVER.MOMENTUM above 0")
    others = {k: v for k, v in solver.OPTIMIZER_ARGS.items() if k not in _OWN_KEYS}
    try:
        check_arguments("SOLVER.OPTIMIZER_ARGS", name, _OPTIMIZERS[name], others, ("params", *_OWN_KEYS))
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)


def _check_schedule(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    name, label = solver.LR_SCHEDULER_NAME, cfg.label("SOLVER.LR_SCHEDULER_NAME")
    if name not in _SCHEDULES and name not in _WARMUP_SCHEDULES:
        raise unknown_name(label, "schedule", name, [*_SCHEDULES, *_WARMUP_SCHEDULES])
    problems = []
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        problems.append(
            f"{cfg.label('SOLVER.WARMUP_ITERS')}: warm-up of {solver.WARMUP_ITERS:,} iterations never ends in a "
            f"run of SOLVER.MAX_ITER {solver.MAX_ITER:,}; use fewer, such as SOLVER.WARMUP_ITERS 5%, or 0 for none"
        )
    if name in _WARMUP_SCHEDULES and solver.LR_SCHEDULER_ARGS:
        given = ", ".join(solver.LR_SCHEDULER_ARGS)
        problems.append(
            f"{cfg.label('SOLVER.LR_SCHEDULER_ARGS')}: {name} takes none ({given} given); it reads SOLVER.STEPS, "
            "GAMMA, BASE_LR_END and NUM_DECAYS"
        )
    elif name in _SCHEDULES:
        try:
            check_arguments(
                "SOLVER.LR_SCHEDULER_ARGS", name, _SCHEDULES[name], solver.LR_SCHEDULER_ARGS, ("num_iters",)
            )
            build_schedule(cfg)
        except ConfigError as error:
            problems += error.problems
    # Those past the end never come: shares of a short run may round to one and the same iteration there.
    reached = [min(step, solver.MAX_ITER) for step in solver.STEPS]
    increasing = all(a < b or a == solver.MAX_ITER for a, b in itertools.pairwise(reached))
    if name == "WarmupMultiStepLR" and not increasing:
        steps = ", ".join(map(str, solver.STEPS))
        problems.append(f"{cfg.label('SOLVER.STEPS')}: must be increasing; got {steps} (iterations)")
    if name == "WarmupCosineLR" and solver.BASE_LR_END > solver.BASE_LR:
        problems.append(
            f"{cfg.label('SOLVER.BASE_LR_END')}: {solver.BASE_LR_END:g} is above SOLVER.BASE_LR "
            f"{solver.BASE_LR:g}; a cosine falls from BASE_LR to BASE_LR_END"
        )
    if problems:
        raise ConfigError(problems)
