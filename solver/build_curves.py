"""From a config to pure functions: the rate, and where it moves the momentum, of each parameter group."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

from warmstart.config import CfgNode, ConfigError, call, check_arguments, unknown_name

from .catalog import COMPOSED_SCHEDULES, KEYED_SCHEDULES, PLATEAU, SCHEDULES
from .lr_scheduler import GroupSchedules, Progress
from .plateau import Plateau
from .schedules import Cosine, Group, Level, MultiStep, Poly, Schedule, StableDecay, StepWithFixedGamma
from .torch_names import MOMENTA, TORCH_SCHEDULES
from .warmup import Delayed, HeldInEpoch, Interpolate, Multiplied, PerEpoch, Product, Sequential, Warmup

# What the caller of a schedule's factory fills in where its signature has it.
_FILLED_IN = ("num_iters", "group")


def build_curves(
    cfg: CfgNode, iters_per_epoch: Fraction | int | None = None, progress: Progress | None = None
) -> GroupSchedules:
    """Return the schedules of a config, warm-up included.

    Args:
        cfg: durations are integers, and `check_schedule` has seen it.
        iters_per_epoch: only needed where LR_STEP_UNIT is epoch.
        progress: what metrics have done so far.

    Raises:
        ConfigError: a schedule refuses its settings.
    """
    solver, name = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER_NAME
    progress = progress or Progress()
    warmup = Warmup(solver.WARMUP_METHOD, solver.WARMUP_FACTOR, solver.WARMUP_ITERS, progress.warmup_end)
    epoch = Fraction(iters_per_epoch or 1) if solver.LR_STEP_UNIT == "epoch" else None
    if name in KEYED_SCHEDULES:
        whole = _with_warmup(cfg, warmup, epoch)
        return GroupSchedules(lambda group: whole)
    if name == PLATEAU:
        return _reduced(cfg, warmup, progress)
    return _after_warmup(cfg, warmup, epoch)


def _with_warmup(cfg: CfgNode, warmup: Warmup, epoch: Fraction | None) -> Schedule:
    """Return a schedule whose settings are keys of SOLVER; it runs from iteration 0 unless rescaled."""
    solver = cfg.SOLVER
    if solver.RESCALE_INTERVAL:
        schedule: Schedule = Delayed(_keyed(cfg, solver.MAX_ITER - warmup.end), warmup.end)
    else:
        schedule = _keyed(cfg, solver.MAX_ITER)
    if epoch is not None:
        schedule = HeldInEpoch(schedule, epoch)
    return (Interpolate if solver.WARMUP_BLEND == "interpolate" else Product)(warmup, schedule)


def _keyed(cfg: CfgNode, length: int) -> Schedule:
    """Return such a schedule without warm-up, fitted into `length` iterations."""
    solver, name, end = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.MAX_ITER

    def fitted(t: int) -> int:
        return int(-(-t * length // end))  # rounded up: exact, since these are integers

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


def moves_momentum(cfg: CfgNode) -> bool:
    """Return whether the schedule, or one that it is made of, may move the momentum."""
    solver = cfg.SOLVER
    named = {solver.LR_SCHEDULER_NAME, *(entry["NAME"] for entry in (*solver.LR_PHASES, *solver.LR_FACTORS))}
    return not named.isdisjoint(MOMENTA)


def build_plateau(cfg: CfgNode) -> Plateau:
    """Return the rule of ReduceLROnPlateau."""
    label, arguments = "SOLVER.LR_SCHEDULER_ARGS", cfg.SOLVER.LR_SCHEDULER_ARGS
    check_arguments(label, PLATEAU, Plateau, arguments)
    plateau: Plateau = call(label, PLATEAU, Plateau, **arguments)
    return plateau


def _reduced(cfg: CfgNode, warmup: Warmup, progress: Progress) -> GroupSchedules:
    """Return the rates after as many reductions as there were."""
    plateau, reductions = build_plateau(cfg), progress.patience.reductions

    def rate(group: Group) -> Schedule:
        reduced: float = call("SOLVER.LR_SCHEDULER_ARGS", PLATEAU, plateau.rate, group, reductions)
        return Product(warmup, Level(group.factor(reduced)))

    return GroupSchedules(rate)


class _Part(NamedTuple):
    """One schedule of torch's names or a registered one, as the config has it."""

    label: str
    name: str
    arguments: Mapping[str, Any]
    num_iters: int

    @property
    def moves_momentum(self) -> bool:
        return self.name in MOMENTA and bool(self.arguments.get("cycle_momentum", True))

    def build(self, factory: Callable[..., Schedule | None], group: Group) -> Schedule:
        """Return what the factory makes of the arguments; what it refuses is a ConfigError."""
        takes = inspect.signature(factory).parameters
        filled = dict(zip(_FILLED_IN, (self.num_iters, group), strict=True))
        filled = {name: value for name, value in filled.items() if name in takes and name not in self.arguments}
        schedule: Schedule = call(self.label, self.name, factory, **self.arguments, **filled)
        if not callable(schedule):
            raise ConfigError(
                f"{self.label}: {self.name} was registered with a factory that returns {schedule!r}; it must "
                "return a function from the iteration to a factor"
            )
        return schedule

    def rate(self, group: Group) -> Schedule:
        return self.build(SCHEDULES[self.name], group)

    def momentum(self, group: Group) -> Schedule:
        if not self.moves_momentum:
            return Level(group.momentum or 0.0)
        return self.build(MOMENTA[self.name], group)


def _after_warmup(cfg: CfgNode, warmup: Warmup, epoch: Fraction | None) -> GroupSchedules:
    """Return schedules that count from the end of warm-up, and whose settings are arguments."""
    name, left = cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.MAX_ITER - warmup.end
    if epoch is not None:
        left = max(1, round(left / epoch))
    parts, ends = _parts(cfg, left)

    def curve(of: Callable[[_Part, Group], Schedule], combined: list[_Part], group: Group) -> Schedule:
        schedules = tuple(of(part, group) for part in combined)
        if name == "SequentialLR":
            schedule: Schedule = Sequential(schedules, ends)
        else:
            schedule = Multiplied(schedules) if len(schedules) > 1 else schedules[0]
        return Delayed(schedule if epoch is None else PerEpoch(schedule, epoch), warmup.end)

    moving = [part for part in parts if part.moves_momentum]
    if len(moving) > 1 and name != "SequentialLR":
        raise ConfigError(
            f"{cfg.label('SOLVER.LR_FACTORS')}: {' and '.join(part.name for part in moving)} cannot both move the "
            "momentum; set cycle_momentum: false in the ARGS of one"
        )
    moving = parts if name == "SequentialLR" and moving else moving
    return GroupSchedules(
        lambda group: Product(warmup, curve(_Part.rate, parts, group)),
        (lambda group: curve(_Part.momentum, moving, group)) if moving else None,
    )


def _parts(cfg: CfgNode, left: int) -> tuple[list[_Part], tuple[int, ...]]:
    """Return the schedules that the config names, checked, and where all but the last of them end."""
    solver, name = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER_NAME
    if name not in COMPOSED_SCHEDULES:
        part = _Part("SOLVER.LR_SCHEDULER_ARGS", name, solver.LR_SCHEDULER_ARGS, left)
        _check_part(part)
        return [part], ()
    key = f"SOLVER.{COMPOSED_SCHEDULES[name]}"
    parts: list[_Part] = []
    ends: list[int] = []
    for number, entry in enumerate(solver[COMPOSED_SCHEDULES[name]], start=1):
        label, start = f"{cfg.label(key)}: entry {number}", ends[-1] if ends else 0
        if entry["NAME"] not in SCHEDULES:
            raise unknown_name(f"{label}: NAME", "schedule", entry["NAME"], list(SCHEDULES))
        if name == "SequentialLR" and number < len(solver.LR_PHASES):
            if entry.get("UNTIL", 0) <= start:
                raise ConfigError(
                    f"{label}: UNTIL is where the next phase begins, and must come after {start:,}; got "
                    f"{entry.get('UNTIL', 'none')}"
                )
            ends.append(entry["UNTIL"])
        length = max(1, (ends[-1] if len(ends) == number else left) - start)
        parts.append(_Part(label, entry["NAME"], entry.get("ARGS", {}), length))
        _check_part(parts[-1])
    return parts, tuple(ends)


def _check_part(part: _Part) -> None:
    # Whoever registers a schedule may let users set num_iters; none of torch's has an argument of that name.
    given = [name for name in _FILLED_IN if name not in part.arguments or part.name in TORCH_SCHEDULES]
    check_arguments(part.label, part.name, SCHEDULES[part.name], part.arguments, given=given)
