"""The plan of a run as curves: learning rate and momentum of each update, known before the first one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import islice
from typing import Any

from warmstart.config import CfgNode, printable, resolve_durations, unknown_name

from .build_curves import build_curves
from .build_groups import check_param_groups
from .build_schedule import check_schedule
from .lr_scheduler import GroupSchedules, ScheduleLR
from .optimizers import OPTIMIZERS
from .schedules import Group, Schedule, drops

# A picture or a table cannot show more drops.
MOST_DROPS = 1000
_GOLDEN = (math.sqrt(5) - 1) / 2
# Arguments of schedules that may be lists with one value per group.
_PER_GROUP = ("base_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "lr_lambda")


@dataclass(frozen=True)
class Curve:
    """The learning rate and momentum of one parameter group, or of several with the same values, over a run.

    Args:
        name: the name of the group or groups.
        length: number of updates of the run.
        rate: from the iteration to the learning rate.
        momentum: from the iteration to the momentum or first beta; None if it does not change.
        warmup_end: the first iteration after warm-up; 0 without warm-up.
        drops: the iterations at which the learning rate drops abruptly, at most the first MOST_DROPS.
    """

    name: str
    length: int
    rate: Schedule
    momentum: Schedule | None = None
    warmup_end: int = 0
    drops: tuple[int, ...] = ()

    def turning_points(self) -> list[int]:
        """Return the first and last iteration and those around drops and the end of warm-up.

        Between them the curve is smooth, unless the schedule has drops that it does not report.

        >>> Curve("default", 800, lambda t: 0.1, warmup_end=40, drops=(536,)).turning_points()
        [0, 39, 40, 535, 536, 799]
        """
        turns = (self.warmup_end, *(self.drops if len(self.drops) < MOST_DROPS else ()))
        around = {t for turn in turns for t in (turn - 1, turn)}
        return sorted(t for t in {0, *around, self.length - 1} if 0 <= t < self.length)

    def samples(self, count: int = 1000) -> list[int]:
        """Return the iterations to draw in a picture of `count` points: all, or a sample with `turning_points`.

        In a long run there is one in each of `count` equal intervals, at varying positions: cycles shorter than an
        interval then appear as a band, instead of a slow wave that does not exist (aliasing).

        >>> Curve("default", 5_000_000, lambda t: 0.1, drops=(2_500_000,)).samples(4)
        [0, 2022542, 2499999, 2500000, 2795084, 4817627, 4999999]
        """
        if self.length <= count:
            return list(range(self.length))
        spread = {int((part + part * _GOLDEN % 1) * self.length / count) for part in range(count)}
        return sorted(spread | set(self.turning_points()))

    def peak(self, count: int = 100_000) -> int:
        """Return the first iteration with the highest learning rate; in a long run, of about `count` samples."""
        return max(self.samples(count), key=self.rate)


def drawn(curves: Sequence[Curve], most: int = 100) -> list[Curve]:
    """Return the curves to draw: all of them, or `most`, evenly spread from the first to the last.

    >>> [curve.name for curve in drawn([Curve(name, 9, abs) for name in "abcdefghi"], most=3)]
    ['a', 'e', 'i']
    """
    count = len(curves)
    return list(curves) if count <= most else [curves[i * (count - 1) // (most - 1)] for i in range(most)]


def build_plan(cfg: CfgNode, iters_per_epoch: Fraction | int | None = None) -> list[Curve]:
    """Return the curves of a config, as far as they are known without a model.

    There is one curve for each group that SOLVER distinguishes: biases if BIAS_LR_FACTOR is not 1, each rule in
    PARAM_GROUPS, and each value of an argument of the schedule that is a list. The learning rates of LAYER_DECAY
    depend on the layers of the model; the curve is drawn for the head, which has the highest.

    Args:
        cfg: durations may have units.
        iters_per_epoch: len(data set) / IMS_PER_BATCH; only needed if something is counted in epochs.

    Raises:
        ConfigError: the schedule is impossible.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.MAX_ITER", 800, "SOLVER.STEPS", "600", "SOLVER.BIAS_LR_FACTOR", 2])
    >>> [(curve.name, curve.rate(20), curve.warmup_end, curve.drops) for curve in build_plan(cfg)]
    [('default', 0.001, 20, (600,)), ('bias', 0.002, 20, (600,))]
    """
    cfg = resolve_durations(cfg, iters_per_epoch)
    check_param_groups(cfg)
    groups = _groups(cfg)
    check_schedule(cfg, iters_per_epoch, [group for _, group in groups])
    return _curves(build_curves(cfg, iters_per_epoch), groups, cfg.SOLVER.MAX_ITER)


def scheduler_plan(scheduler: ScheduleLR, length: int) -> list[Curve]:
    """Return the curves of a scheduler's parameter groups; groups with equal values share a curve.

    Args:
        scheduler: if metrics drive it, as if there were no further ones.
        length: number of updates of the run.

    >>> import torch
    >>> from .warmup_schedulers import WarmupCosineLR
    >>> groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "name": name} for name in ("a", "b")]
    >>> scheduler = WarmupCosineLR(torch.optim.SGD(groups, lr=0.5), max_iters=60, warmup_iters=6)
    >>> [(curve.name, round(curve.rate(6), 3), curve.warmup_end) for curve in scheduler_plan(scheduler, 60)]
    [('a, b', 0.488, 6)]
    """
    scheduler.lr_at(0)  # adopts groups that were added after its last step
    groups, bases = scheduler.optimizer.param_groups, scheduler.base_lrs
    named = [
        (str(group.get("name", index)), Group(base, index, group.get("initial_momentum"), len(groups)))
        for index, (group, base) in enumerate(zip(groups, bases, strict=True))
    ]
    return _curves(scheduler.schedule, named, length)


def _curves(schedule: Schedule | GroupSchedules, groups: Iterable[tuple[str, Group]], length: int) -> list[Curve]:
    found: dict[tuple[Any, ...], Curve] = {}
    for name, group in groups:
        factor, momentum = schedule, None
        if isinstance(schedule, GroupSchedules):
            factor = schedule.rate(group)
            if schedule.momentum is not None and group.momentum is not None:
                momentum = schedule.momentum(group)
        assert not isinstance(factor, GroupSchedules)
        warmup = getattr(factor, "warmup", None)
        name = printable(name)
        curve = Curve(
            name,
            length,
            partial(_scaled, group.lr, factor),
            momentum,
            0 if warmup is None else min(warmup.end, length),
            tuple(islice(drops(factor, length), MOST_DROPS)),
        )
        probes = curve.samples(100)
        if momentum is not None and len({momentum(t) for t in probes}) == 1:
            curve = replace(curve, momentum=None)
        moved = curve.momentum and tuple(map(curve.momentum, probes))
        key = (tuple(map(curve.rate, probes)), moved)
        same = found.get(key)
        found[key] = replace(same, name=f"{same.name}, {name}") if same else curve
    return list(found.values())


def _scaled(rate: float, factor: Schedule, t: int) -> float:
    return rate * factor(t)


def _groups(cfg: CfgNode) -> list[tuple[str, Group]]:
    """Return the parameter groups that SOLVER distinguishes; a model may have only some of them."""
    solver = cfg.SOLVER
    momentum = _momentum(cfg)
    entries = [entry.get("ARGS", {}) for entry in (*solver.LR_PHASES, *solver.LR_FACTORS)]
    given = [entry.get(name) for entry in (solver.LR_SCHEDULER_ARGS, *entries) for name in _PER_GROUP]
    count = max((len(value) for value in given if isinstance(value, (list, tuple))), default=0)
    if count:
        return [(f"group {index}", Group(solver.BASE_LR, index, momentum, count)) for index in range(count)]
    rates = {"default": solver.BASE_LR}
    if solver.BIAS_LR_FACTOR != 1:
        rates["bias"] = solver.BASE_LR * solver.BIAS_LR_FACTOR
    for rule in solver.PARAM_GROUPS:
        name = rule.get("NAME") or rule["MATCH"]
        rates[name] = rule.get("LR", solver.BASE_LR * rule.get("LR_FACTOR", 1.0))
    return [(name, Group(rate, index, momentum)) for index, (name, rate) in enumerate(rates.items())]


def _momentum(cfg: CfgNode) -> float | None:
    """Return the momentum, or first beta, that the optimizer will have, from its signature."""
    name, arguments = cfg.SOLVER.OPTIMIZER, cfg.SOLVER.OPTIMIZER_ARGS
    if name not in OPTIMIZERS:
        raise unknown_name(cfg.label("SOLVER.OPTIMIZER"), "optimizer", name, OPTIMIZERS)
    # Not from an instance: building one imports torch's compiler, which takes as long as importing torch.
    takes: Mapping[str, inspect.Parameter] = inspect.signature(OPTIMIZERS[name]).parameters
    if "betas" in takes:
        betas = arguments.get("betas", takes["betas"].default)
        return float(betas[0]) if isinstance(betas, (list, tuple)) else None
    return float(cfg.SOLVER.MOMENTUM) if "momentum" in takes else None
