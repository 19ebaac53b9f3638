"""A config made for some number of processes, as it is for another: SOLVER.REFERENCE_WORLD_SIZE."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from warmstart.config import CfgNode

logger = logging.getLogger(__name__)

_LENGTHS = (
    *("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS", "SOLVER.DECAY_ITERS", "SOLVER.CHECKPOINT_PERIOD"),
    "TEST.EVAL_PERIOD",
)


def scaled(cfg: CfgNode, ranks: int) -> CfgNode:
    """Return the config for `ranks` processes: each works on as many images as its reference says.

    The batch and the rate grow with the number of processes, and lengths in iterations shrink, rounded half up;
    those with a unit follow by themselves. It is then its own reference.

    Goyal et al. 2017, "Accurate, Large Minibatch SGD", arXiv:1706.02677.

    Args:
        cfg: not resolved; left as it is.
        ranks: at least 1.

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
    factor = Fraction(ranks, reference)
    resized: CfgNode = cfg.clone()
    resized.defrost()
    solver = resized.SOLVER
    # Item access keeps the source of each value as it was.
    solver["IMS_PER_BATCH"] = rounded(solver.IMS_PER_BATCH * factor)
    solver["BASE_LR"] = float(solver.BASE_LR * factor)
    for key in _LENGTHS:
        section, name = key.split(".")
        value = resized[section][name]
        lengths = [each if isinstance(each, str) else rounded(each / factor) for each in _listed(value)]
        resized[section][name] = tuple(lengths) if isinstance(value, tuple) else lengths[0]
    solver["REFERENCE_WORLD_SIZE"] = ranks
    if cfg.is_frozen():
        resized.freeze()
    return resized


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
    for key, before, after, _ in now.differences(given.to_dict()):
        logger.info("scaled by SOLVER.REFERENCE_WORLD_SIZE: %s: %r -> %r", key, before, after)


def scale_of(start: Mapping[str, Any]) -> int:
    """Return for how many processes the run that wrote a checkpoint was scaled; 0 where it was not."""
    solver = start["config"].get("SOLVER")
    scale = solver.get("REFERENCE_WORLD_SIZE") if isinstance(solver, dict) else 0
    return scale if isinstance(scale, int) else 0


def _listed(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def rounded(exact: Fraction) -> int:
    """Return the nearest whole number, half up; of what is more than nothing at least 1."""
    return max(1, math.floor(exact + Fraction(1, 2))) if exact else 0
