"""A config made for some number of processes, as it is for another: SOLVER.REFERENCE_WORLD_SIZE."""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from warmstart.config import CfgNode, ConfigError, counts_steps, map_durations
from warmstart.solver import SCHEDULES, named_schedules

logger = logging.getLogger(__name__)

_RATE = re.compile(r"\w+_lr|eta_min")  # arguments of schedules that are rates, and no factors of one


def scaled(cfg: CfgNode, ranks: int) -> CfgNode:
    """Return the config for `ranks` processes: each works on as many images as its reference says.

    The batch and all rates grow with the number of processes, and lengths in iterations shrink, rounded half up:
    the curve of the rate is the same one, higher and shorter. Lengths with a unit follow by themselves. It is then
    its own reference.

    Goyal et al. 2017, "Accurate, Large Minibatch SGD", arXiv:1706.02677.

    Args:
        cfg: not resolved; left as it is.
        ranks: at least 1.

    Raises:
        ConfigError: a length of the schedule's is none.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.REFERENCE_WORLD_SIZE", 8, "SOLVER.STEPS", "30000,90%"])
    >>> solver = scaled(cfg, 2).SOLVER
    >>> solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER, solver.STEPS, solver.REFERENCE_WORLD_SIZE
    (4, 0.00025, 160000, (120000, '90%'), 2)
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference in (0, ranks):
        return cfg
    return _scaled(cfg, ranks, Fraction(ranks, reference))


def _scaled(cfg: CfgNode, ranks: int, factor: Fraction) -> CfgNode:
    in_iterations = cfg.SOLVER.LR_STEP_UNIT == "iter"

    def shorter(value: int | str) -> int | str:
        return value if isinstance(value, str) else rounded(value / factor)

    def args(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a schedule that are no durations."""
        changed = {key: _times(value, factor) for key, value in given.items() if _RATE.fullmatch(key)}
        each_count = in_iterations and (name == "ExponentialLR" or given.get("mode") == "exp_range")
        if each_count and _is_number(given.get("gamma")) and given["gamma"] > 0:
            changed["gamma"] = given["gamma"] ** float(factor)
        return changed

    resized = map_durations(_with_lengths(cfg), shorter, shorter if in_iterations else lambda value: value)
    solver = resized.SOLVER
    # Item access keeps the source of each value as it was, and works on a frozen config.
    solver["REFERENCE_WORLD_SIZE"] = ranks
    solver["IMS_PER_BATCH"] = rounded(solver.IMS_PER_BATCH * factor)
    for name in ("BASE_LR", "BASE_LR_END"):
        solver[name] = _times(solver[name], factor)
    solver["PARAM_GROUPS"] = tuple(
        rule | {"LR": _times(rule["LR"], factor)} if "LR" in rule else rule for rule in solver.PARAM_GROUPS
    )
    solver.LR_SCHEDULER_ARGS.update(args(solver.LR_SCHEDULER_NAME, solver.LR_SCHEDULER_ARGS))
    for name in ("LR_PHASES", "LR_FACTORS"):
        solver[name] = tuple(
            entry | {"ARGS": entry["ARGS"] | args(entry["NAME"], entry["ARGS"])} if "ARGS" in entry else entry
            for entry in solver[name]
        )
    return resized


def _with_lengths(cfg: CfgNode) -> CfgNode:
    """Return a copy that names the lengths which schedules have by default, as step_size_up of CyclicLR."""
    cfg = cfg.clone()
    solver = cfg.SOLVER

    def lengths(name: str) -> dict[str, int]:
        takes = inspect.signature(SCHEDULES[name]).parameters if name in SCHEDULES else {}
        return {key: each.default for key, each in takes.items() if counts_steps(key) and _is_number(each.default)}

    for key, value in lengths(solver.LR_SCHEDULER_NAME).items():
        solver.LR_SCHEDULER_ARGS.setdefault(key, value)
    for name in ("LR_PHASES", "LR_FACTORS"):
        solver[name] = tuple(
            entry | {"ARGS": lengths(entry["NAME"]) | entry.get("ARGS", {})} for entry in solver[name]
        )
    return cfg


def check_scaled(given: CfgNode, cfg: CfgNode) -> None:
    """Raise ConfigError where a schedule was to be scaled that is a function of the iteration.

    Args:
        given: as the user wrote it.
        cfg: the same, scaled.
    """
    if scale_between(given, cfg) == 1 or cfg.SOLVER.LR_STEP_UNIT == "epoch":
        return
    for name, arguments in named_schedules(cfg).items():
        if "lr_lambda" in arguments or arguments.get("scale_mode") == "iterations":
            raise ConfigError(
                f"{cfg.label('SOLVER.REFERENCE_WORLD_SIZE')}: {name} computes from the number of the iteration, "
                "which cannot be scaled; set it to 0, or SOLVER.LR_STEP_UNIT to epoch"
            )


def scale_between(given: CfgNode, cfg: CfgNode) -> Fraction:
    """Return how many times as many processes a scaled config is for as the one that it was made from."""
    before, after = given.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.REFERENCE_WORLD_SIZE
    return Fraction(after, before) if before else Fraction(1)


def log_scaling(given: CfgNode, cfg: CfgNode) -> None:
    """Log each key that scaling has changed, old -> new.

    Args:
        given: as the user wrote it.
        cfg: what it was resolved to.
    """
    now = scaled(given, cfg.SOLVER.REFERENCE_WORLD_SIZE)
    if now is given:
        return
    before = _scaled(given, given.SOLVER.REFERENCE_WORLD_SIZE, Fraction(1))  # in the same form
    for key, old, new, _ in now.differences(before.to_dict()):
        logger.info("scaled by SOLVER.REFERENCE_WORLD_SIZE: %s: %r -> %r", key, old, new)


def scale_of(start: Mapping[str, Any]) -> int:
    """Return for how many processes the run that wrote a checkpoint was scaled; 0 where it was not."""
    solver = start["config"].get("SOLVER")
    scale = solver.get("REFERENCE_WORLD_SIZE") if isinstance(solver, dict) else 0
    return scale if isinstance(scale, int) else 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _times(value: Any, factor: Fraction) -> Any:
    """Return a rate, or a list with one a group, times a factor; what is neither is told of where it is read."""
    if isinstance(value, list | tuple):
        return [_times(each, factor) for each in value]
    return float(value * factor) if _is_number(value) else value


def rounded(exact: Fraction) -> int:
    """Return the nearest whole number, half up; of what is more than nothing at least 1."""
    return max(1, math.floor(exact + Fraction(1, 2))) if exact else 0
