"""The learning rate schedule that a config describes, and the scheduler that follows it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction
from functools import partial

from torch.optim.optimizer import Optimizer

from warmstart.config import CfgNode, ConfigError, resolve_durations, unknown_name

from .build_curves import build_curves, build_plateau, chosen_schedules, named_schedules
from .lr_scheduler import ScheduleLR, own_momentum
from .metric_scheduler import MetricLR, Progress
from .registry import COMPOSED_SCHEDULES, KEYED_SCHEDULES, PLATEAU, SCHEDULES, schedule_names
from .schedules import Group, Schedule, drops
from .torch_schedules import MOMENTA

logger = logging.getLogger(__name__)

# Iterations: below the limit for exact floats (2^53), and more than any run has.
_LONGEST = 10**15
_LONGEST_PRODUCT = 10**7  # iterations of MultiplicativeLR: a few seconds and 300 MB


def build_lr_scheduler(
    cfg: CfgNode,
    optimizer: Optimizer,
    iters_per_epoch: Fraction | int | None = None,
    last_epoch: int = -1,
) -> ScheduleLR:
    """Return the scheduler for an optimizer: a `ScheduleLR`, or a `MetricLR` if metrics drive the schedule.

    Args:
        cfg: durations may have units.
        optimizer: the learning rates of its groups are the base learning rates.
        iters_per_epoch: len(data set) / IMS_PER_BATCH; only needed if a duration ends in "ep" or
            LR_STEP_UNIT is epoch.
        last_epoch: -1 to start; k if updates 0 to k are completed.

    Raises:
        ConfigError: as `build_schedule`; or the optimizer lacks a setting that the schedule changes (momentum).

    >>> import torch
    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.MAX_ITER", 10, "SOLVER.WARMUP_ITERS", 2, "SOLVER.WARMUP_FACTOR", 0.5])
    >>> scheduler = build_lr_scheduler(cfg, torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=1.0))
    >>> [scheduler.lr_at(t)[0] for t in (0, 1, 2, 7, 8, 9, 10)]
    [0.5, 0.75, 1.0, 1.0, 0.1, 0.1, 0.1]
    """
    cfg = resolve_durations(cfg, iters_per_epoch)
    count = len(optimizer.param_groups)
    groups = [
        Group(float(group.get("initial_lr", group["lr"])), index, own_momentum(group), count)
        for index, group in enumerate(optimizer.param_groups)
    ]
    check_schedule(cfg, iters_per_epoch, groups)
    _log_settings_without_effect(cfg, optimizer)
    solver, after = cfg.SOLVER, partial(build_curves, cfg, iters_per_epoch)
    if follows_metrics(cfg):
        plateau = build_plateau(cfg) if solver.LR_SCHEDULER_NAME == PLATEAU else None
        return MetricLR(optimizer, after, solver.WARMUP_ITERS, plateau, last_epoch)
    return ScheduleLR(optimizer, after(Progress()), last_epoch)


def build_schedule(cfg: CfgNode, iters_per_epoch: Fraction | int | None = None) -> Schedule:
    """Return the factor of the base learning rate as a function of the iteration, warm-up included.

    The schedule of a group at BASE_LR; if metrics drive it, as if there were no metrics.

    Raises:
        ConfigError: the name or an argument is unknown, or the schedule is impossible.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.LR_SCHEDULER_NAME", "StepLR", "SOLVER.LR_SCHEDULER_ARGS.step_size", 30])
    >>> cfg.merge_from_list(["SOLVER.WARMUP_ITERS", 5])
    >>> [build_schedule(cfg)(t) for t in (5, 34, 35)]
    [1.0, 1.0, 0.1]
    """
    cfg = resolve_durations(cfg, iters_per_epoch)
    check_schedule(cfg, iters_per_epoch)
    return build_curves(cfg, iters_per_epoch).rate(Group(cfg.SOLVER.BASE_LR))


def decay_starts(cfg: CfgNode, iters_per_epoch: Fraction | int | None = None) -> list[int]:
    """Return the iterations before which a constant learning rate ends: the numbers of updates that used it.

    Those of the schedules whose decays are planned: each drop of WarmupMultiStepLR, and the decay of
    WarmupStableDecayLR. [] for all others.

    Args:
        cfg: durations may have units.
        iters_per_epoch: as `build_schedule` takes it.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.MAX_ITER", 100, "SOLVER.STEPS", "60, 90"])
    >>> decay_starts(cfg)
    [60, 90]
    >>> cfg.merge_from_list(["SOLVER.LR_SCHEDULER_NAME", "WarmupStableDecayLR", "SOLVER.DECAY_ITERS", "20%"])
    >>> decay_starts(cfg)
    [80]
    """
    cfg = resolve_durations(cfg, iters_per_epoch)
    solver, end = cfg.SOLVER, cfg.SOLVER.MAX_ITER
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        return [*drops(build_schedule(cfg, iters_per_epoch), end)]
    if solver.LR_SCHEDULER_NAME == "WarmupStableDecayLR":
        warmup = min(solver.WARMUP_ITERS, end) if solver.RESCALE_INTERVAL else 0
        return [warmup - (solver.DECAY_ITERS - end) * (end - warmup) // end]
    return []


def follows_metrics(cfg: CfgNode) -> bool:
    """Return whether metrics drive the schedule or end its warm-up."""
    return bool(cfg.SOLVER.LR_SCHEDULER_NAME == PLATEAU or cfg.SOLVER.WARMUP_UNTIL.METRIC)


def check_schedule(
    cfg: CfgNode, iters_per_epoch: Fraction | int | None = None, groups: Sequence[Group] | None = None
) -> None:
    """Raise ConfigError for all mistakes in the keys of the schedule.

    Args:
        cfg: durations are integers.
        iters_per_epoch: as for `build_lr_scheduler`.
        groups: the optimizer's parameter groups; None: what depends on the optimizer is not checked.
    """
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    if name not in schedule_names():
        raise unknown_name(cfg.label("SOLVER.LR_SCHEDULER_NAME"), "schedule", name, schedule_names())
    problems = _misplaced(cfg) + _impossible(cfg, iters_per_epoch)
    if problems:
        raise ConfigError(problems)
    curves = build_curves(cfg, iters_per_epoch)
    # User-defined functions are evaluated at both ends, unless the end takes as many calls as iterations.
    last = 1 if "MultiplicativeLR" in chosen_schedules(cfg) else cfg.SOLVER.MAX_ITER - 1
    for group in groups or [Group(cfg.SOLVER.BASE_LR)]:
        schedule = curves.rate(group)
        for t in (0, 1, last):
            schedule(t)
        if groups and curves.momentum is not None:
            curves.momentum(group)


def _misplaced(cfg: CfgNode) -> list[str]:
    """Return the mistakes in keys that belong to a schedule other than the selected one."""
    solver, name = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER_NAME
    problems = []
    for owner, key in COMPOSED_SCHEDULES.items():
        if name == owner and not solver[key]:
            problems.append(f"SOLVER.{key}: {owner} needs it, as [{{NAME: StepLR, ARGS: {{step_size: 30}}}}]")
        if name != owner and solver[key]:
            problems.append(f"{cfg.label(f'SOLVER.{key}')}: only {owner} reads it, and the schedule is {name}")
    if solver.LR_SCHEDULER_ARGS and (name in KEYED_SCHEDULES or name in COMPOSED_SCHEDULES):
        keys = COMPOSED_SCHEDULES.get(name, "STEPS, GAMMA, NUM_DECAYS, BASE_LR_END")
        takers = ", ".join(sorted([*SCHEDULES, PLATEAU]))
        problems.append(
            f"SOLVER.LR_SCHEDULER_ARGS: {name} takes none; its settings are keys of SOLVER, as {keys}. Schedules "
            f"that take arguments: {takers}"
        )
    if solver.LR_METRIC and name != PLATEAU:
        problems.append(f"{cfg.label('SOLVER.LR_METRIC')}: only {PLATEAU} reads it, and the schedule is {name}")
    until = solver.WARMUP_UNTIL
    given = [key for key in ("BELOW", "ABOVE") if until[key] is not None]
    if until.METRIC and len(given) != 1:
        problems.append(
            f"{cfg.label('SOLVER.WARMUP_UNTIL.METRIC')}: needs one of BELOW and ABOVE; got {len(given)}"
        )
    if given and not until.METRIC:
        problems.append(f"{cfg.label(f'SOLVER.WARMUP_UNTIL.{given[0]}')}: needs SOLVER.WARMUP_UNTIL.METRIC")
    if until.METRIC and not solver.WARMUP_ITERS:
        problems.append(
            f"{cfg.label('SOLVER.WARMUP_UNTIL.METRIC')}: there is no warm-up to end; set SOLVER.WARMUP_ITERS to "
            "the longest it may take"
        )
    return problems


def _impossible(cfg: CfgNode, iters_per_epoch: Fraction | int | None) -> list[str]:
    """Return the mistakes in the length of the run, its epochs and the warm-up."""
    solver, problems = cfg.SOLVER, []
    warmup, length = solver.WARMUP_ITERS, solver.MAX_ITER
    if length > _LONGEST:
        problems.append(
            f"{cfg.label('SOLVER.MAX_ITER')}: no run takes {length:,} iterations; give {_LONGEST:,} or fewer"
        )
    if warmup >= length:
        problems.append(
            f"{cfg.label('SOLVER.WARMUP_ITERS')}: warm-up of {warmup:,} iterations never ends in a run of "
            f"{length:,} (SOLVER.MAX_ITER); try SOLVER.WARMUP_ITERS "
            + (f"{length // 20}, or 0 for no warm-up" if length >= 20 else "0, for no warm-up")
        )
    steps = length if solver.LR_STEP_UNIT == "iter" else length / (iters_per_epoch or 1)
    if "MultiplicativeLR" in chosen_schedules(cfg) and steps > _LONGEST_PRODUCT:
        problems.append(
            f"{cfg.label('SOLVER.LR_SCHEDULER_NAME')}: MultiplicativeLR multiplies the factors of all iterations, "
            f"which takes too long in a run of {length:,}; use LambdaLR with the product as a function"
        )
    if warmup and solver.WARMUP_METHOD == "exponential" and not solver.WARMUP_FACTOR:
        problems.append(
            f"{cfg.label('SOLVER.WARMUP_FACTOR')}: an exponential warm-up cannot start at 0; use a small factor, "
            "such as 0.001"
        )
    if solver.LR_SCHEDULER_NAME == "WarmupStableDecayLR" and warmup < length < warmup + solver.DECAY_ITERS:
        problems.append(
            f"{cfg.label('SOLVER.DECAY_ITERS')}: warm-up of {warmup:,} and decay of {solver.DECAY_ITERS:,} "
            f"iterations overlap in a run of {length:,}; try SOLVER.DECAY_ITERS {length - warmup}"
        )
    if solver.LR_STEP_UNIT == "epoch" and iters_per_epoch is None:
        problems.append(
            f"{cfg.label('SOLVER.LR_STEP_UNIT')}: epochs need the size of the data set: pass iters_per_epoch, or "
            "use LR_STEP_UNIT iter"
        )
    return problems


def _log_settings_without_effect(cfg: CfgNode, optimizer: Optimizer) -> None:
    solver, name = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER_NAME
    late = [step for step in solver.STEPS if step >= solver.MAX_ITER]
    if late and name == "WarmupMultiStepLR":
        logger.info(
            "%s: dropped %s, which the run of %s iterations does not reach",
            cfg.label("SOLVER.STEPS"),
            ", ".join(f"{step:,}" for step in late),
            f"{solver.MAX_ITER:,}",
        )
    for number, entry in enumerate(solver.LR_PHASES[:-1], start=2):
        begins = solver.WARMUP_ITERS + entry["UNTIL"]
        if begins >= solver.MAX_ITER and solver.LR_STEP_UNIT == "iter":
            logger.info(
                "%s: entry %d begins at %s, which the run of %s iterations does not reach",
                cfg.label("SOLVER.LR_PHASES"),
                number,
                f"{begins:,}",
                f"{solver.MAX_ITER:,}",
            )
    rates = dict.fromkeys(float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups)
    for part, arguments in named_schedules(cfg):
        if part in MOMENTA and len(rates) > 1 and not isinstance(arguments["max_lr"], (list, tuple)):
            logger.info(
                "%s sets the learning rates of all parameter groups from max_lr; their own (%s) have no effect; "
                "for different learning rates, set max_lr to a list with one value per group",
                part,
                ", ".join(f"{rate:g}" for rate in rates),
            )
