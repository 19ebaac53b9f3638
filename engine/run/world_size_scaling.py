"""Scaling of a config to another number of processes: SOLVER.REFERENCE_WORLD_SIZE."""

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

_LEARNING_RATE = re.compile(r"\w+_lr|eta_min")  # arguments of schedules that are absolute learning rates


def scaled(cfg: CfgNode, ranks: int) -> CfgNode:
    """Return the config for `ranks` processes, each of which trains on as many images per update as before.

    The batch and the learning rates are multiplied by the ratio of the numbers of processes, and lengths in
    iterations are divided by it, rounded half up: the learning rate curve keeps its shape, higher and shorter.
    Lengths with a unit follow by themselves. REFERENCE_WORLD_SIZE becomes `ranks`.

    Goyal et al. 2017, "Accurate, Large Minibatch SGD", arXiv:1706.02677.

    Args:
        cfg: not resolved; it is not changed.
        ranks: at least 1.

    Raises:
        ConfigError: the value of a length is not a duration.

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
    def shorter(value: int | str) -> int | str:
        return value if isinstance(value, str) else rounded(value / factor)

    def same(value: int | str) -> int | str:
        return value

    resized = map_durations(_with_lengths(cfg), shorter, shorter if cfg.SOLVER.LR_STEP_UNIT == "iter" else same)
    solver = resized.SOLVER
    # Item access keeps the recorded source of each value, and works on a frozen config.
    solver["REFERENCE_WORLD_SIZE"] = ranks
    solver["IMS_PER_BATCH"] = rounded(solver.IMS_PER_BATCH * factor)
    solver["BASE_LR"] = float(solver.BASE_LR * factor)
    solver["BASE_LR_END"] = float(solver.BASE_LR_END * factor)
    solver["PARAM_GROUPS"] = tuple(
        rule | {"LR": float(rule["LR"] * factor)} if "LR" in rule else rule for rule in solver.PARAM_GROUPS
    )
    return resized


def _with_lengths(cfg: CfgNode) -> CfgNode:
    """Return a copy that sets the lengths which schedules have by default, such as total_iters of ConstantLR."""
    cfg = cfg.clone()
    solver = cfg.SOLVER

    def lengths(name: str) -> dict[str, int]:
        takes = inspect.signature(SCHEDULES[name]).parameters if name in SCHEDULES else {}
        defaults = {key: each.default for key, each in takes.items() if counts_steps(key)}
        return {key: default for key, default in defaults.items() if type(default) is int}

    for key, value in lengths(solver.LR_SCHEDULER_NAME).items():
        solver.LR_SCHEDULER_ARGS.setdefault(key, value)
    for name in ("LR_PHASES", "LR_FACTORS"):
        solver[name] = tuple(
            entry | {"ARGS": lengths(entry["NAME"]) | entry.get("ARGS", {})} for entry in solver[name]
        )
    return cfg


def check_scaled(given: CfgNode, cfg: CfgNode) -> None:
    """Raise ConfigError if a config was scaled whose schedule cannot be: its curve would change its shape.

    Called before training, when it is known whether a resumed run keeps the number of processes it was scaled to.

    Args:
        given: the config as the user wrote it.
        cfg: the scaled config, resolved or not.
    """
    if scale_between(given, cfg) == 1:
        return
    label, counts_iterations = cfg.label("SOLVER.REFERENCE_WORLD_SIZE"), cfg.SOLVER.LR_STEP_UNIT == "iter"
    for name, arguments in named_schedules(cfg):
        rates = [key for key, value in arguments.items() if _LEARNING_RATE.fullmatch(key) and _is_set(value)]
        if rates:
            raise ConfigError(
                f"{label}: {name} takes absolute learning rates ({', '.join(rates)}), which cannot be scaled; set "
                "SOLVER.REFERENCE_WORLD_SIZE to 0, or choose a schedule that is relative to SOLVER.BASE_LR"
            )
        if counts_iterations and ("lr_lambda" in arguments or name == "ExponentialLR"):
            raise ConfigError(
                f"{label}: {name} computes from the number of the iteration, which cannot be scaled; set "
                "SOLVER.REFERENCE_WORLD_SIZE to 0, or SOLVER.LR_STEP_UNIT to epoch with arguments per epoch"
            )


def _is_set(value: Any) -> bool:
    """Return whether an argument, a number or one a parameter group, is not 0."""
    return any(value) if isinstance(value, (list, tuple)) else bool(value)


def scale_between(given: CfgNode, cfg: CfgNode) -> Fraction:
    """Return the ratio of the numbers of processes of a scaled config and of the config from which it was made."""
    before, after = given.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.REFERENCE_WORLD_SIZE
    return Fraction(after, before) if before else Fraction(1)


def log_scaling(given: CfgNode, cfg: CfgNode) -> None:
    """Log each key that scaling has changed, old -> new.

    Args:
        given: the config as the user wrote it.
        cfg: the config that will run, resolved.
    """
    now = scaled(given, cfg.SOLVER.REFERENCE_WORLD_SIZE)
    if now is given:
        return
    before = _scaled(given, given.SOLVER.REFERENCE_WORLD_SIZE, Fraction(1))  # with default lengths, too
    for key, old, new, _ in now.differences(before.to_dict()):
        logger.info("scaled by SOLVER.REFERENCE_WORLD_SIZE: %s: %r -> %r", key, old, new)


def scale_of(start: Mapping[str, Any]) -> int:
    """Return to how many processes the run that wrote a checkpoint was scaled; 0 if it was not scaled."""
    solver = start["config"].get("SOLVER")
    scale = solver.get("REFERENCE_WORLD_SIZE") if isinstance(solver, dict) else 0
    return scale if isinstance(scale, int) else 0


def rounded(exact: Fraction) -> int:
    """Return the nearest integer, rounding half up; at least 1 unless `exact` is 0."""
    return max(1, math.floor(exact + Fraction(1, 2))) if exact else 0
