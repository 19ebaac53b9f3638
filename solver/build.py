"""From a config to an optimizer and its learning rate; the only place of this folder that reads one."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from warmstart.config import (
    CfgNode,
    ConfigError,
    call,
    check_arguments,
    gathering,
    resolve_durations,
    unknown_name,
)

from .catalog import KEYED_SCHEDULES, OPTIMIZERS, REFUSED, SCHEDULES, fused_works
from .lr_scheduler import ScheduleLR
from .param_groups import get_default_optimizer_params
from .schedules import Cosine, Delayed, Interpolate, MultiStep, Product, Schedule, StepWithFixedGamma, Warmup

logger = logging.getLogger(__name__)

# Arguments of optimizers that have a key of their own.
_KEYS = {
    "lr": "BASE_LR",
    "momentum": "MOMENTUM",
    "nesterov": "NESTEROV",
    "weight_decay": "WEIGHT_DECAY",
}
# What is asked of an optimizer by each key that not all of them can give.
_OPTIONAL_KEYS = {
    "MOMENTUM": "momentum",
    "NESTEROV": "nesterov",
    "WEIGHT_DECAY": "weight_decay",
    "WEIGHT_DECAY_NORM": "weight_decay",
    "WEIGHT_DECAY_BIAS": "weight_decay",
}


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Return the optimizer of a model that is on its device already.

    Its groups are those of `get_default_optimizer_params`. It is the fused kind where torch has one for
    the parameters' device, unless OPTIMIZER_ARGS sets fused or foreach.

    Raises:
        ConfigError: what the optimizer is asked for does not go together, or nothing is to be trained.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.OPTIMIZER", "AdamW", "SOLVER.OPTIMIZER_ARGS.betas", "[0.9, 0.95]"])
    >>> build_optimizer(cfg, nn.Linear(2, 2)).defaults["betas"]
    (0.9, 0.95)
    """
    solver = cfg.SOLVER
    cls, arguments = _optimizer(cfg)
    decays = "weight_decay" in inspect.signature(cls).parameters
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY if decays else None,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM if decays else None,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS if decays else None,
    )
    if not groups:
        raise ConfigError("the model has no parameter to train: all are frozen, or there are none")
    parameters = [parameter for group in groups for _, parameter in group["params"]]
    if fused_works(cls, arguments, parameters):
        arguments["fused"] = True
    optimizer = _construct(cfg, cls, groups, arguments)
    if cls is torch.optim.SGD and arguments.get("fused") and solver.MOMENTUM and not arguments.get("dampening"):
        # torch's fused SGD cannot begin twice: it fails where a parameter's first gradient comes later than
        # the others', and goes on from unset memory where a scaler skips the first update. Zeros give the
        # same first update.
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def build_lr_scheduler(
    cfg: CfgNode,
    optimizer: Optimizer,
    iters_per_epoch: Fraction | int | None = None,
    last_epoch: int = -1,
) -> ScheduleLR:
    """Return the scheduler of an optimizer; see `ScheduleLR` for what it promises.

    Args:
        cfg: durations may still have units.
        optimizer: its groups' rates are the base rates.
        iters_per_epoch: len(data set) / IMS_PER_BATCH; only needed where a duration ends in "ep".
        last_epoch: -1 to start; k where updates 0 to k are done.

    Raises:
        ConfigError: as `build_schedule`.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.MAX_ITER", 10, "SOLVER.WARMUP_ITERS", 2, "SOLVER.WARMUP_FACTOR", 0.5])
    >>> scheduler = build_lr_scheduler(cfg, torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0))
    >>> [scheduler.lr_at(t)[0] for t in (0, 1, 2, 7, 8, 9, 10)]
    [0.5, 0.75, 1.0, 1.0, 0.1, 0.1, 0.1]
    """
    cfg = resolve_durations(cfg, iters_per_epoch)
    schedule = build_schedule(cfg)
    solver = cfg.SOLVER
    late = [step for step in solver.STEPS if step >= solver.MAX_ITER]
    if late and solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        logger.info(
            "%s: dropped %s, which the run of %s iterations does not reach",
            cfg.label("SOLVER.STEPS"),
            ", ".join(f"{step:,}" for step in late),
            f"{solver.MAX_ITER:,}",
        )
    return ScheduleLR(optimizer, schedule, last_epoch)


def build_schedule(cfg: CfgNode, iters_per_epoch: Fraction | int | None = None) -> Schedule:
    """Return the factor of the base rate as a function of the iteration, warm-up included.

    Raises:
        ConfigError: the name or an argument is unknown, or the plan is impossible.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.LR_SCHEDULER_NAME", "StepLR", "SOLVER.LR_SCHEDULER_ARGS.step_size", 30])
    >>> cfg.merge_from_list(["SOLVER.WARMUP_ITERS", 5])
    >>> [build_schedule(cfg)(t) for t in (5, 34, 35)]
    [1.0, 1.0, 0.1]
    """
    cfg = resolve_durations(cfg, iters_per_epoch)
    solver, name = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER_NAME
    if name not in SCHEDULES and name not in KEYED_SCHEDULES:
        known = [*SCHEDULES, *KEYED_SCHEDULES]
        raise unknown_name(cfg.label("SOLVER.LR_SCHEDULER_NAME"), "schedule", name, known)
    length, start = solver.MAX_ITER, solver.WARMUP_ITERS
    if start >= length:
        raise ConfigError(
            f"{cfg.label('SOLVER.WARMUP_ITERS')}: warm-up of {start:,} iterations never ends in a run of "
            f"{length:,} (SOLVER.MAX_ITER); try SOLVER.WARMUP_ITERS {length // 20}, or 0 for no warm-up"
        )
    warmup = Warmup(solver.WARMUP_METHOD, solver.WARMUP_FACTOR, start)
    if name in SCHEDULES:
        return Product(warmup, Delayed(_named_schedule(cfg, length - start), start))
    if solver.LR_SCHEDULER_ARGS:
        raise ConfigError(
            f"SOLVER.LR_SCHEDULER_ARGS: {name} takes none; its settings are keys of SOLVER, as STEPS, GAMMA, "
            f"NUM_DECAYS, BASE_LR_END. Schedules that take arguments: {', '.join(sorted(SCHEDULES))}"
        )
    if solver.RESCALE_INTERVAL:
        schedule: Schedule = Delayed(_keyed_schedule(cfg, length - start), start)
    else:
        schedule = _keyed_schedule(cfg, length)
    return (Interpolate if solver.WARMUP_BLEND == "interpolate" else Product)(warmup, schedule)


def check_solver(cfg: CfgNode, iters_per_epoch: Fraction | int | None = None) -> None:
    """Raise ConfigError for all that is wrong with SOLVER and can be known without a model.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.MOMENTUM", 0.8, "SOLVER.OPTIMIZER", "RAdam"])
    >>> check_solver(cfg)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: SOLVER.MOMENTUM (override): RAdam has no momentum; \
leave it out or set it to 0; optimizers that have it: ...RMSprop, SGD
    """
    problems: list[str] = []
    with gathering(problems):
        build_schedule(cfg, iters_per_epoch)
    with gathering(problems):
        cls, arguments = _optimizer(cfg)
        # A parameter of two dimensions is one that every optimizer takes.
        parameters = [nn.Parameter(torch.zeros(1, 1))]
        _construct(cfg, cls, parameters, arguments)
    if problems:
        raise ConfigError(problems)


def _keyed_schedule(cfg: CfgNode, length: int) -> Schedule:
    """Return a schedule whose settings are keys of SOLVER, fitted into `length` iterations."""
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        return _cosine(cfg, length)
    if solver.LR_SCHEDULER_NAME == "WarmupStepWithFixedGammaLR":
        return StepWithFixedGamma(length, solver.NUM_DECAYS, solver.GAMMA)
    return _multi_step(cfg, length)


def _multi_step(cfg: CfgNode, length: int) -> Schedule:
    steps, end = cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ConfigError(
            f"{cfg.label('SOLVER.STEPS')}: each step must come after the one before; got {list(steps)}"
        )
    # Fitted into `length`, rounded up: exact, since these are integers.
    milestones = tuple(-(-step * length // end) for step in steps if step < end)
    return MultiStep(milestones, cfg.SOLVER.GAMMA)


def _cosine(cfg: CfgNode, length: int) -> Schedule:
    start, end = cfg.SOLVER.BASE_LR, cfg.SOLVER.BASE_LR_END
    if end > start:
        raise ConfigError(
            f"{cfg.label('SOLVER.BASE_LR_END')}: {end:g} is above SOLVER.BASE_LR, {start:g}; a cosine goes down"
        )
    return Cosine(length, end / start)


def _named_schedule(cfg: CfgNode, length: int) -> Schedule:
    name, label = cfg.SOLVER.LR_SCHEDULER_NAME, "SOLVER.LR_SCHEDULER_ARGS"
    factory, arguments = SCHEDULES[name], cfg.SOLVER.LR_SCHEDULER_ARGS
    if "num_iters" in inspect.signature(factory).parameters:
        factory = partial(factory, num_iters=length)
    check_arguments(label, name, factory, arguments)
    schedule: Schedule = call(label, name, factory, **arguments)
    if not callable(schedule):
        raise ConfigError(
            f"{cfg.label('SOLVER.LR_SCHEDULER_NAME')}: {name} was registered with a factory that returns "
            f"{schedule!r}; it must return a function from the iteration to a factor"
        )
    return schedule


def _optimizer(cfg: CfgNode) -> tuple[Callable[..., Optimizer], dict[str, Any]]:
    """Return the class that SOLVER names and the arguments that it gives, checked."""
    solver, name = cfg.SOLVER, cfg.SOLVER.OPTIMIZER
    if name in REFUSED:
        raise ConfigError(f"{cfg.label('SOLVER.OPTIMIZER')}: {name} {REFUSED[name]}; choose another")
    if name not in OPTIMIZERS:
        known = [known for known in OPTIMIZERS if known not in REFUSED]
        raise unknown_name(cfg.label("SOLVER.OPTIMIZER"), "optimizer", name, known)
    cls, takes = OPTIMIZERS[name], inspect.signature(OPTIMIZERS[name]).parameters
    problems = _misplaced(cfg, takes)
    if solver.NESTEROV and "nesterov" in takes and not solver.MOMENTUM:
        problems.append(f"{cfg.label('SOLVER.NESTEROV')}: Nesterov momentum needs SOLVER.MOMENTUM above 0")
    own = solver.OPTIMIZER_ARGS.clone()
    for argument in _KEYS:
        own.pop(argument, None)  # _misplaced has spoken of them
    with gathering(problems):
        check_arguments("SOLVER.OPTIMIZER_ARGS", name, cls, own, given=["params", *_KEYS])
    if problems:
        raise ConfigError(problems)
    keys = {argument: solver[key] for argument, key in _KEYS.items() if argument in takes}
    # Torch wants tuples where YAML has lists.
    return cls, keys | {k: tuple(value) if isinstance(value, list) else value for k, value in own.items()}


def _construct(
    cfg: CfgNode, cls: Callable[..., Optimizer], parameters: list[Any], arguments: dict[str, Any]
) -> Optimizer:
    name = cfg.SOLVER.OPTIMIZER
    label = "SOLVER.OPTIMIZER_ARGS" if cfg.SOLVER.OPTIMIZER_ARGS else cfg.label("SOLVER.OPTIMIZER")
    try:
        optimizer: Optimizer = call(label, name, cls, parameters, **arguments)
    except RuntimeError as error:  # torch's word for fused and foreach together
        raise ConfigError(f"{label}: {name} refuses it: {error}") from error
    return optimizer


def _misplaced(cfg: CfgNode, takes: Collection[str]) -> list[str]:
    """Return what is wrong with settings that the optimizer does not have, or that stand in two places."""
    name = cfg.SOLVER.OPTIMIZER
    problems = [
        f"{cfg.label(f'SOLVER.OPTIMIZER_ARGS.{argument}')}: set SOLVER.{key} instead"
        for argument, key in _KEYS.items()
        if argument in cfg.SOLVER.OPTIMIZER_ARGS
    ]
    for key, argument in _OPTIONAL_KEYS.items():
        # Its default asks for nothing: MOMENTUM is 0.9 and simply not used.
        if argument not in takes and cfg.is_set(f"SOLVER.{key}") and cfg.SOLVER[key]:
            able = [n for n, cls in OPTIMIZERS.items() if argument in inspect.signature(cls).parameters]
            off = "false" if cfg.SOLVER[key] is True else "0"
            problems.append(
                f"{cfg.label(f'SOLVER.{key}')}: {name} has no {argument.replace('_', ' ')}; leave it out or "
                f"set it to {off}; optimizers that have it: {', '.join(sorted(able))}"
            )
    return problems
