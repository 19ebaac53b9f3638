"""Descriptions of a run for the log: the learning rate plan and the parameter groups."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import islice

from torch.optim.optimizer import Optimizer

from warmstart.config import CfgNode, printable, resolve_durations

from .build_schedule import build_schedule
from .plan import MOST_DROPS
from .registry import PLATEAU
from .schedules import drops


def describe_plan(cfg: CfgNode, dataset_size: int) -> str:
    """Return the plan of a run in one line; the final rate is the learning rate of the last update.

    Args:
        cfg: durations may have units.
        dataset_size: number of samples in the training set.

    Raises:
        ConfigError: the schedule is impossible.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.MAX_ITER", 1200, "SOLVER.BASE_LR", 0.1, "SOLVER.STEPS", "800,1100"])
    >>> cfg.merge_from_list(["SOLVER.WARMUP_ITERS", "5%", "SOLVER.IMS_PER_BATCH", 16])
    >>> describe_plan(cfg, 2000)
    '1,200 iterations = 9.6 epochs of 2,000 samples; warm-up ends at 60; drops at 800, 1,100; final rate 0.001'
    """
    batch = cfg.SOLVER.IMS_PER_BATCH
    epoch = Fraction(dataset_size, batch)
    cfg = resolve_durations(cfg, epoch)
    schedule, length = build_schedule(cfg, epoch), cfg.SOLVER.MAX_ITER
    epochs = length * batch / dataset_size
    shown = f"{epochs:,.1f}".removesuffix(".0") if epochs >= 1 else f"{epochs:.2g}"
    parts = [f"{length:,} iterations = {shown} epochs of {dataset_size:,} samples"]
    if cfg.SOLVER.WARMUP_ITERS:
        parts.append(f"warm-up ends at {cfg.SOLVER.WARMUP_ITERS:,}{_or_earlier(cfg)}")
    found = tuple(islice(drops(schedule, length), MOST_DROPS))
    if found:
        parts.append(f"drops at {describe_drops(found, 5)}")
    if cfg.SOLVER.LR_SCHEDULER_NAME == PLATEAU:
        parts.append(f"drops when {cfg.SOLVER.LR_METRIC or 'a score on the first test set'} stops improving")
    else:
        parts.append(f"final rate {cfg.SOLVER.BASE_LR * schedule(length - 1):.4g}")
    return "; ".join(parts)


def describe_drops(found: Sequence[int], most: int) -> str:
    """Return a list of iterations as text; if there are more than `most`, the first three and their number.

    Args:
        found: the iterations, at most the first MOST_DROPS.
        most: 3 or more.

    >>> describe_drops([1000, 2000], 5), describe_drops(range(10, 400, 10), 5)
    ('1,000, 2,000', '10, 20, 30, ... (39 in all)')
    >>> describe_drops(range(MOST_DROPS), 5)
    '0, 1, 2, ... (1,000 or more)'
    """
    shown = [f"{t:,}" for t in (found if len(found) <= most else found[:3])]
    if len(found) > most:
        shown.append(f"... ({len(found):,} {'in all' if len(found) < MOST_DROPS else 'or more'})")
    return ", ".join(shown)


def _or_earlier(cfg: CfgNode) -> str:
    until = cfg.SOLVER.WARMUP_UNTIL
    if not until.METRIC:
        return ""
    way, value = ("above", until.ABOVE) if until.BELOW is None else ("below", until.BELOW)
    return f", or when {until.METRIC} is {way} {value:g}"


def describe_groups(optimizer: Optimizer) -> str:
    """Return one line per parameter group: name, tensors, parameters, base learning rate, weight decay.

    >>> import torch
    >>> from .param_groups import get_default_optimizer_params
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.LayerNorm(32))
    >>> groups = get_default_optimizer_params(model, 0.1, 1e-4, weight_decay_norm=0.0)
    >>> print(describe_groups(torch.optim.SGD(groups)))
    default: 2 tensors, 2,080 parameters, rate 0.1, decay 0.0001
    norm:    2 tensors,    64 parameters, rate 0.1, decay      0
    """
    rows = []
    for index, group in enumerate(optimizer.param_groups):
        tensors = group["params"]
        row = (
            f"{printable(str(group.get('name', index)))}:",
            f"{len(tensors):,}",
            "tensor," if len(tensors) == 1 else "tensors,",
            f"{sum(tensor.numel() for tensor in tensors):,}",
            f"{float(group.get('initial_lr', group['lr'])):g}",
            f"{float(group.get('weight_decay', 0)):g}",
        )
        rows.append(row)
    a, b, c, d, e, f = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        f"{name:{a}} {tensors:>{b}} {unit:{c}} {count:>{d}} parameters, rate {rate:>{e}}, decay {decay:>{f}}"
        for name, tensors, unit, count, rate, decay in rows
    )
