"""Durations with a unit ("90ep", "5%") and their conversion to iterations."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial, reduce
from operator import getitem
from typing import Any

from .compound_fields import ListOf
from .errors import ConfigError, gathering
from .fields import WITH_UNIT, Duration, Field
from .node import CfgNode

# Arguments of torch's schedulers that count steps; other arguments are not durations.
_STEP_ARGUMENT = re.compile(r"step_size\w*|\w+_iters|milestones|T_max|T_0|total_steps|steps_per_epoch")

#: Transforms of complete batches, whose argument `until` is a duration.
MIXING = ("MixUp", "CutMix")

#: A function from a duration (an integer, or a string with a unit) to a duration.
Change = Callable[[int | str], int | str]


def to_iterations(
    value: int | str, *, max_iter: int | Fraction | None = None, iters_per_epoch: Fraction | int | None = None
) -> int:
    """Return a duration in iterations, rounded half up, but at least 1 unless it is 0.

    Args:
        value: iterations, or "90ep" (epochs), or "5%" (of `max_iter`).
        max_iter: the length of the run.
        iters_per_epoch: len(data set) / IMS_PER_BATCH, as an exact fraction.

    Raises:
        ConfigError: the length of the unit is not known, or the string is not a duration.

    >>> to_iterations("2.5%", max_iter=100), to_iterations("5%", max_iter=3)
    (3, 1)
    >>> to_iterations("1.5ep", iters_per_epoch=Fraction(1437, 64))
    34
    """
    if not isinstance(value, str):
        return value
    match = WITH_UNIT.fullmatch(value)
    if not match:
        raise ConfigError(f"expected iterations or a string with a unit such as '90ep' or '5%'; got {value!r}")
    number, unit = Fraction(match[1]), match[2]
    if unit == "%":
        if max_iter is None:
            raise ConfigError(f"{value!r} is a share of MAX_ITER, which is not known here")
        exact = number / 100 * max_iter
    else:
        if iters_per_epoch is None:
            raise ConfigError(f"{value!r} needs the size of the data set: pass iters_per_epoch, or use iterations")
        exact = number * iters_per_epoch
    return max(1, math.floor(exact + Fraction(1, 2))) if exact else 0


def resolve_durations(cfg: CfgNode, iters_per_epoch: Fraction | int | None = None) -> CfgNode:
    """Return a copy of `cfg` in which every duration is an integer in iterations.

    Args:
        cfg: a config with the keys of `get_cfg()`; not modified.
        iters_per_epoch: len(data set) / IMS_PER_BATCH; only needed if a value ends in "ep".

    Raises:
        ConfigError: names each key whose value cannot be resolved.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.MAX_ITER", "90ep", "SOLVER.STEPS", "30ep,60ep"])
    >>> solver = resolve_durations(cfg, iters_per_epoch=100).SOLVER
    >>> solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS
    (9000, (3000, 6000), 225)
    """
    key, in_epochs = "SOLVER.MAX_ITER", partial(to_iterations, iters_per_epoch=iters_per_epoch)
    whole = _read(key, cfg.source(key), cfg.SOLVER.MAX_ITER, Duration(1, percent=False), in_epochs)
    in_run = partial(to_iterations, max_iter=whole, iters_per_epoch=iters_per_epoch)
    of_schedule = in_run
    if cfg.SOLVER.LR_STEP_UNIT == "epoch":  # the unit of the arguments of schedules
        epochs = whole / Fraction(iters_per_epoch) if iters_per_epoch else None
        of_schedule = partial(to_iterations, max_iter=epochs, iters_per_epoch=1)
    resolved = map_durations(cfg, in_run, of_schedule)
    solver = resolved.SOLVER
    if not cfg.is_set("SOLVER.WARMUP_ITERS") and whole <= solver.WARMUP_ITERS:
        solver["WARMUP_ITERS"] = 0  # the default in a very short run, which the user has not set
    return resolved


def map_durations(cfg: CfgNode, change: Change, of_schedule: Change) -> CfgNode:
    """Return a copy of `cfg` with every duration changed.

    Args:
        cfg: a config with the keys of `get_cfg()`; not modified.
        change: the function for durations in iterations.
        of_schedule: the function for the arguments of schedules, which are counted in SOLVER.LR_STEP_UNIT.

    Raises:
        ConfigError: names each key whose value is not a duration or cannot be changed.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.STEPS", "100,90%", "SOLVER.LR_SCHEDULER_ARGS.step_size", 10])
    >>> changed = map_durations(cfg, lambda value: value if isinstance(value, str) else 2 * value, str)
    >>> changed.SOLVER.STEPS, changed.SOLVER.LR_SCHEDULER_ARGS.step_size
    ((200, '90%'), '10')
    """
    problems: list[str] = []
    resolved: CfgNode = cfg.clone()
    for key, field in cfg.fields():
        if _is_duration(field):
            with gathering(problems):
                node, name = _holder(resolved, key)
                # Item access: the value is valid by construction, and keeps its source.
                node[name] = _read(key, cfg.source(key), node[name], field, change)
    solver = resolved.SOLVER
    for name in filter(counts_steps, list(solver.LR_SCHEDULER_ARGS)):
        key = f"SOLVER.LR_SCHEDULER_ARGS.{name}"
        with gathering(problems):
            value = _argument(key, cfg.source(key), solver.LR_SCHEDULER_ARGS[name], of_schedule)
            solver.LR_SCHEDULER_ARGS[name] = value
    for key, changed in (
        ("SOLVER.LR_PHASES", of_schedule),
        ("SOLVER.LR_FACTORS", of_schedule),
        ("MODEL.FREEZE", change),
    ):
        node, name = _holder(resolved, key)
        with gathering(problems):
            node[name] = tuple(
                _entry(f"{key}: entry {number}", cfg.source(key), entry, changed)
                for number, entry in enumerate(node[name], start=1)
            )
    key = "INPUT.TRANSFORMS_TRAIN"
    with gathering(problems):
        resolved.INPUT["TRANSFORMS_TRAIN"] = tuple(
            (name, _mixed_until(f"{key}: {name}.until", cfg.source(key), name, arguments, change))
            for name, arguments in resolved.INPUT.TRANSFORMS_TRAIN
        )
    if problems:
        raise ConfigError(problems)
    return resolved


def _mixed_until(key: str, source: str, name: str, arguments: dict[str, Any], change: Change) -> dict[str, Any]:
    """Return the arguments of a transform, with `until` of MixUp or CutMix changed."""
    if name not in MIXING or arguments.get("until") is None:
        return arguments
    return arguments | {"until": _read(key, source, arguments["until"], Duration(1, minimum=1), change)}


def _entry(key: str, source: str, entry: dict[str, Any], change: Change) -> dict[str, Any]:
    """Return an entry of LR_PHASES, LR_FACTORS or FREEZE with its durations changed."""
    entry = dict(entry)
    if "UNTIL" in entry:
        entry["UNTIL"] = _read(f"{key}: UNTIL", source, entry["UNTIL"], Duration(1, minimum=1), change)
    for name in filter(counts_steps, entry.get("ARGS", {})):
        entry["ARGS"] = entry["ARGS"] | {name: _argument(f"{key}: {name}", source, entry["ARGS"][name], change)}
    return entry


def counts_steps(name: str) -> bool:
    """Return whether an argument of a schedule with this name is a duration.

    >>> counts_steps("step_size_up"), counts_steps("gamma")
    (True, False)
    """
    return _STEP_ARGUMENT.fullmatch(name) is not None


def _argument(key: str, source: str, value: Any, change: Change) -> Any:
    """Return an argument of a schedule, or a list of them, changed; null is not changed."""
    if value is None:
        return None
    several = isinstance(value, (list, tuple)) or key.endswith("milestones")
    read = _read(key, source, value, ListOf(Duration(1), ()) if several else Duration(1), change)
    return list(read) if several else read  # a list, as in YAML


def _read(key: str, source: str, value: Any, field: Field, change: Change) -> Any:
    value = field.read(key, source, value)
    try:
        return tuple(map(change, value)) if isinstance(value, tuple) else change(value)
    except ConfigError as error:
        raise ConfigError(f"{key} ({source}): {error}" if source else f"{key}: {error}") from None


def _holder(cfg: CfgNode, key: str) -> tuple[CfgNode, str]:
    *sections, name = key.split(".")
    return reduce(getitem, sections, cfg), name


def _is_duration(field: Field) -> bool:
    return isinstance(field, Duration) or (isinstance(field, ListOf) and isinstance(field.item, Duration))
