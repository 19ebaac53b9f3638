"""The schedules that a config describes, as pure functions: learning rate and momentum of each parameter group."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any

from warmstart.config import CfgNode, ConfigError, call, check_arguments, unknown_name

from .compose import Delayed, HeldInEpoch, Multiplied, PerEpoch, Sequential
from .decays import Cosine, Poly, StableDecay
from .lr_lambdas import Checked
from .lr_scheduler import GroupSchedules
from .metric_scheduler import Progress
from .plateau import Plateau
from .registry import COMPOSED_SCHEDULES, KEYED_SCHEDULES, PLATEAU, SCHEDULES, schedule_names
from .schedules import Group, Level, MultiStep, Schedule, StepWithFixedGamma
from .torch_schedules import MOMENTA, TORCH_SCHEDULES
from .warmup import Interpolate, Product, Warmup

# Parameters of a schedule's factory that are filled in here if its signature has them.
_FILLED_IN = ("num_iters", "group")


def build_curves(
    cfg: CfgNode, iters_per_epoch: Fraction | int | None = None, progress: Progress | None = None
) -> GroupSchedules:
    """Return the schedules of a config, warm-up included.

    Args:
        cfg: durations are integers, and `check_schedule` has accepted it.
        iters_per_epoch: iterations per epoch; only needed if LR_STEP_UNIT is epoch.
        progress: the effect of metrics so far.

    Raises:
        ConfigError: a schedule rejects its settings.
    """
    solver, name = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER_NAME
    progress = progress or Progress()
    warmup = Warmup(solver.WARMUP_METHOD, solver.WARMUP_FACTOR, solver.WARMUP_ITERS, progress.warmup_end)
    epoch = Fraction(iters_per_epoch or 1) if solver.LR_STEP_UNIT == "epoch" else None
    # No lambdas: a scheduler can be pickled, to copy it to another process.
    if name in KEYED_SCHEDULES:
        return GroupSchedules(partial(_for_any, _with_warmup(cfg, warmup, epoch)))
    if name == PLATEAU:
        return GroupSchedules(partial(_reduced, build_plateau(cfg), progress.patience.reductions, warmup))
    return _after_warmup(cfg, warmup, epoch)


def _with_warmup(cfg: CfgNode, warmup: Warmup, epoch: Fraction | None) -> Schedule:
    """Return a schedule whose settings are keys of SOLVER; it starts at iteration 0 unless it is rescaled."""
    solver = cfg.SOLVER
    if solver.RESCALE_INTERVAL:
        schedule: Schedule = Delayed(_keyed(cfg, solver.MAX_ITER - warmup.end), warmup.end)
    else:
        schedule = _keyed(cfg, solver.MAX_ITER)
    if epoch is not None:
        schedule = HeldInEpoch(schedule, epoch)
    return (Interpolate if solver.WARMUP_BLEND == "interpolate" else Product)(warmup, schedule)


def _keyed(cfg: CfgNode, length: int) -> Schedule:
    """Return such a schedule without warm-up, rescaled to `length` iterations."""
    solver, name, end = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.MAX_ITER

    def fitted(t: int) -> int:
        return int(-(-t * length // end))  # rounded up, exactly: these are integers

    if name == "WarmupCosineLR":
        return Cosine(length, _end_factor(cfg))
    if name == "WarmupStepWithFixedGammaLR":
        return StepWithFixedGamma(length, solver.NUM_DECAYS, solver.GAMMA)
    if name == "WarmupPolyLR":
        return Poly(length, solver.POLY_LR_POWER, solver.POLY_LR_CONSTANT_ENDING)
    if name == "WarmupStableDecayLR":
        decay = length - fitted(end - solver.DECAY_ITERS)
        return StableDecay(length, max(decay, min(solver.DECAY_ITERS, 1)), solver.DECAY_METHOD, _end_factor(cfg))
    if any(later <= earlier for earlier, later in pairwise(solver.STEPS)):
        raise ConfigError(
            f"{cfg.label('SOLVER.STEPS')}: each step must come after the one before; got {list(solver.STEPS)}"
        )
    return MultiStep(tuple(fitted(step) for step in solver.STEPS if step < end), solver.GAMMA)


def _end_factor(cfg: CfgNode) -> float:
    start, end = cfg.SOLVER.BASE_LR, cfg.SOLVER.BASE_LR_END
    if end > start:
        raise ConfigError(
            f"{cfg.label('SOLVER.BASE_LR_END')}: {end:g} is above SOLVER.BASE_LR, {start:g}; "
            f"{cfg.SOLVER.LR_SCHEDULER_NAME} goes down"
        )
    return float(end / start)


def named_schedules(cfg: CfgNode) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the name and the arguments of the schedule and of each of its parts."""
    solver = cfg.SOLVER
    parts = [(entry["NAME"], entry.get("ARGS", {})) for entry in (*solver.LR_PHASES, *solver.LR_FACTORS)]
    return [(solver.LR_SCHEDULER_NAME, solver.LR_SCHEDULER_ARGS), *parts]


def chosen_schedules(cfg: CfgNode) -> set[str]:
    """Return the names of the schedule and of its parts."""
    return {name for name, _ in named_schedules(cfg)}


def moves_momentum(cfg: CfgNode) -> bool:
    """Return whether the schedule, or a part of it, may change the momentum."""
    return not MOMENTA.keys().isdisjoint(chosen_schedules(cfg))


def build_plateau(cfg: CfgNode) -> Plateau:
    """Return the rule of ReduceLROnPlateau."""
    label, arguments = "SOLVER.LR_SCHEDULER_ARGS", cfg.SOLVER.LR_SCHEDULER_ARGS
    check_arguments(label, PLATEAU, Plateau, arguments)
    plateau: Plateau = call(label, PLATEAU, Plateau, **arguments)
    return plateau


def _for_any(schedule: Schedule, group: Group) -> Schedule:
    return schedule


def _reduced(plateau: Plateau, reductions: int, warmup: Warmup, group: Group) -> Schedule:
    """Return the schedule after a number of reductions."""
    rate: float = call("SOLVER.LR_SCHEDULER_ARGS", PLATEAU, plateau.rate, group, reductions)
    return Product(warmup, Level(group.factor(rate)))


@dataclass(frozen=True)
class _Part:
    """A torch or registered schedule with the arguments in the config."""

    label: str
    name: str
    arguments: dict[str, Any]
    num_iters: int

    @property
    def moves_momentum(self) -> bool:
        return self.name in MOMENTA and bool(self.arguments.get("cycle_momentum", True))

    def rate(self, group: Group) -> Schedule:
        schedule = self._call(SCHEDULES[self.name], group)
        if not callable(schedule):
            raise ConfigError(
                f"{self.label}: {self.name} was registered with a factory that returns {schedule!r}; it must "
                "return a function from the iteration to a factor"
            )
        # Built-in schedules return floats; the values of user-defined ones are checked.
        return schedule if self.name in TORCH_SCHEDULES else Checked(schedule, f"{self.label}: {self.name}")

    def momentum(self, group: Group) -> Schedule:
        if not self.moves_momentum:
            return Level(group.momentum or 0.0)
        schedule: Schedule = self._call(MOMENTA[self.name], group)
        return schedule

    def _call(self, factory: Callable[..., Any], group: Group) -> Any:
        takes = inspect.signature(factory).parameters
        filled = dict(zip(_FILLED_IN, (self.num_iters, group), strict=True))
        filled = {name: value for name, value in filled.items() if name in takes and name not in self.arguments}
        return call(self.label, self.name, factory, **self.arguments, **filled)


@dataclass(frozen=True)
class _AfterWarmup:
    """Schedules that count from the end of warm-up: one, several in sequence, or several multiplied.

    Args:
        warmup: the warm-up before them.
        parts: the schedules.
        ends: the iterations at which all parts but the last end; None: the parts are multiplied.
        epoch: iterations per epoch if epochs are counted; else None.
    """

    warmup: Warmup
    parts: tuple[_Part, ...]
    ends: tuple[int, ...] | None
    epoch: Fraction | None

    def rate(self, group: Group) -> Schedule:
        return Product(self.warmup, self._combined([part.rate(group) for part in self.parts]))

    def momentum(self, group: Group) -> Schedule:
        moving = self.parts if self.ends else [part for part in self.parts if part.moves_momentum]
        return self._combined([part.momentum(group) for part in moving])

    def _combined(self, schedules: list[Schedule]) -> Schedule:
        if len(schedules) == 1:
            (schedule,) = schedules
        elif self.ends is None:
            schedule = Multiplied(tuple(schedules))
        else:
            schedule = Sequential(tuple(schedules), self.ends)
        return Delayed(schedule if self.epoch is None else PerEpoch(schedule, self.epoch), self.warmup.end)


def _after_warmup(cfg: CfgNode, warmup: Warmup, epoch: Fraction | None) -> GroupSchedules:
    """Return the schedules whose settings are arguments, checked."""
    name, left = cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.MAX_ITER - warmup.end
    if epoch is not None:
        left = max(1, round(left / epoch))
    if name in COMPOSED_SCHEDULES:
        parts, ends = _composed_parts(cfg, left)
    else:
        parts, ends = [_Part("SOLVER.LR_SCHEDULER_ARGS", name, dict(cfg.SOLVER.LR_SCHEDULER_ARGS), left)], None
        _check_part(parts[0], cfg.SOLVER.LR_SCHEDULER_ARGS)
    curves = _AfterWarmup(warmup, tuple(parts), ends, epoch)
    moving = [part.name for part in curves.parts if part.moves_momentum]
    if len(moving) > 1 and ends is None:
        raise ConfigError(
            f"{cfg.label('SOLVER.LR_FACTORS')}: {' and '.join(moving)} cannot both change the momentum; set "
            "cycle_momentum: false in the ARGS of one"
        )
    return GroupSchedules(curves.rate, curves.momentum if moving else None)


def _composed_parts(cfg: CfgNode, left: int) -> tuple[list[_Part], tuple[int, ...] | None]:
    """Return the schedules in LR_PHASES or LR_FACTORS, and for phases the ends of all but the last."""
    key = COMPOSED_SCHEDULES[cfg.SOLVER.LR_SCHEDULER_NAME]
    entries, in_turn = cfg.SOLVER[key], key == "LR_PHASES"
    parts: list[_Part] = []
    ends = [0]
    for number, entry in enumerate(entries, start=1):
        label, name = f"{cfg.label(f'SOLVER.{key}')}: entry {number}", entry["NAME"]
        if name in schedule_names() and name not in SCHEDULES:
            raise ConfigError(
                f"{label}: {name} cannot be a part of another; parts are {', '.join(sorted(SCHEDULES))}"
            )
        if name not in SCHEDULES:
            raise unknown_name(f"{label}: NAME", "schedule", name, list(SCHEDULES))
        until = entry.get("UNTIL", max(left, ends[-1] + 1) if not in_turn or number == len(entries) else 0)
        if until <= ends[-1]:
            raise ConfigError(
                f"{label}: UNTIL is where the next phase begins, and must come after {ends[-1]:,}; got "
                f"{entry.get('UNTIL', 'none')}"
            )
        parts.append(_Part(label, name, dict(entry.get("ARGS", {})), until - ends[-1]))
        _check_part(parts[-1], parts[-1].arguments)
        if in_turn:
            ends.append(until)
    return parts, tuple(ends[1:-1]) if in_turn else None


def _check_part(part: _Part, arguments: Mapping[str, Any]) -> None:
    # A registered schedule may let users set num_iters; no scheduler of torch has an argument with that name.
    given = [name for name in _FILLED_IN if name not in arguments or part.name in TORCH_SCHEDULES]
    check_arguments(part.label, part.name, SCHEDULES[part.name], arguments, given=given)
