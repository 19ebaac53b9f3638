"""Fuzz tests of schedules: stepping, lr_at and resuming give the same finite learning rates."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from warmstart.config import CfgNode, ConfigError, get_cfg, resolve_durations
from warmstart.solver import MetricLR, build_lr_scheduler, build_optimizer, check_solver

EPOCH = Fraction(45, 7)
AFTER = 5  # iterations looked at past the run's end

steps = st.integers(1, 30)
shares = st.floats(0, 1)
gammas = st.floats(0.01, 1.5)
rates = st.floats(1e-6, 2)
momenta = st.floats(0, 0.99)
# Arguments of torch's names: those that are needed, and those that may be left out.
REQUIRED: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": steps},
    "MultiStepLR": {"milestones": st.lists(st.integers(0, 60), max_size=4)},
    "ExponentialLR": {"gamma": gammas},
    "CosineAnnealingWarmRestarts": {"T_0": steps},
    "CyclicLR": {"base_lr": st.floats(0, 0.1), "max_lr": rates, "step_size_up": steps},
    "OneCycleLR": {"max_lr": rates},
}
OPTIONAL: dict[str, dict[str, Any]] = {
    "StepLR": {"gamma": gammas},
    "MultiStepLR": {"gamma": gammas},
    "ConstantLR": {"factor": shares, "total_iters": steps},
    "LinearLR": {"start_factor": st.floats(0.01, 1), "end_factor": shares, "total_iters": steps},
    "PolynomialLR": {"total_iters": steps, "power": st.floats(0, 3)},
    "CosineAnnealingLR": {"T_max": steps, "eta_min": st.floats(0, 0.1)},
    "CosineAnnealingWarmRestarts": {"T_mult": st.integers(1, 3), "eta_min": st.floats(0, 0.1)},
    "CyclicLR": {
        "step_size_down": steps,
        "mode": st.sampled_from(["triangular", "triangular2", "exp_range"]),
        "gamma": st.floats(0.01, 1),  # above 1 the wave grows beyond its limits, as torch's does
        "cycle_momentum": st.booleans(),
        "base_momentum": momenta,
    },
    "OneCycleLR": {
        "total_steps": st.integers(1, 90),
        "pct_start": shares,
        "anneal_strategy": st.sampled_from(["cos", "linear"]),
        "cycle_momentum": st.booleans(),
        "max_momentum": momenta,
        "div_factor": st.floats(1, 100),
        "final_div_factor": st.floats(1, 1e6),
        "three_phase": st.booleans(),
    },
}
NAMES = sorted(REQUIRED.keys() | OPTIONAL.keys())
KEYED = {
    "WarmupMultiStepLR": {"STEPS": st.lists(steps, max_size=3, unique=True).map(sorted), "GAMMA": gammas},
    "WarmupCosineLR": {"BASE_LR_END": st.floats(0, 0.01)},
    "WarmupStepWithFixedGammaLR": {"NUM_DECAYS": st.integers(0, 10), "GAMMA": gammas},
    "WarmupPolyLR": {"POLY_LR_POWER": st.floats(0, 3), "POLY_LR_CONSTANT_ENDING": shares},
    "WarmupStableDecayLR": {
        "DECAY_ITERS": st.integers(0, 60),
        "DECAY_METHOD": st.sampled_from(["linear", "cosine", "sqrt"]),
    },
}


def arguments(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(REQUIRED.get(name, {}), optional=OPTIONAL.get(name, {}))


def named(name_key: str, arguments_key: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.sampled_from(NAMES).flatmap(
        lambda name: st.fixed_dictionaries({name_key: st.just(name), arguments_key: arguments(name)})
    )


parts = st.lists(named("NAME", "ARGS"), min_size=1, max_size=3)
phases = st.tuples(parts, st.lists(steps, min_size=3, max_size=3, unique=True).map(sorted)).map(
    lambda pair: [part | {"UNTIL": end} for part, end in zip(*pair, strict=False)]
)
plateaus = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from(["min", "max"]),
        "factor": st.floats(0, 0.99),
        "patience": st.integers(0, 3),
        "cooldown": st.integers(0, 3),
        "threshold": shares,
        "min_lr": st.floats(0, 0.1),
    },
)
schedules = st.one_of(
    *[st.fixed_dictionaries({"LR_SCHEDULER_NAME": st.just(name)}, optional=KEYED[name]) for name in KEYED],
    *[named("LR_SCHEDULER_NAME", "LR_SCHEDULER_ARGS")] * 5,
    st.fixed_dictionaries({"LR_SCHEDULER_NAME": st.just("SequentialLR"), "LR_PHASES": phases}),
    st.fixed_dictionaries({"LR_SCHEDULER_NAME": st.just("ChainedScheduler"), "LR_FACTORS": parts}),
    st.fixed_dictionaries({"LR_SCHEDULER_NAME": st.just("ReduceLROnPlateau"), "LR_SCHEDULER_ARGS": plateaus}),
)
settings = st.fixed_dictionaries(
    {"BASE_LR": rates, "MAX_ITER": st.integers(21, 60) | st.integers(1, 60), "WARMUP_ITERS": st.integers(0, 20)},
    optional={
        "WARMUP_FACTOR": shares,
        "WARMUP_METHOD": st.sampled_from(["constant", "linear", "cosine", "exponential"]),
        "WARMUP_BLEND": st.sampled_from(["product", "interpolate"]),
        "WARMUP_UNTIL": st.just({"METRIC": "total_loss", "BELOW": 0.5}),
        "RESCALE_INTERVAL": st.booleans(),
        "LR_STEP_UNIT": st.sampled_from(["iter", "epoch"]),
        "OPTIMIZER": st.sampled_from(["SGD", "AdamW"]),
        "BIAS_LR_FACTOR": st.just(0.0) | st.floats(0.01, 3),
    },
)


def build(cfg: CfgNode) -> Any:
    """Return a scheduler; its optimizer has two groups."""
    return build_lr_scheduler(cfg, build_optimizer(cfg, torch.nn.Linear(2, 2)), EPOCH)


def written(scheduler: Any) -> list[tuple[float, Any]]:
    """Return the learning rate, and the momentum or betas, of the optimizer's groups."""
    return [(group["lr"], group.get("betas", group.get("momentum"))) for group in scheduler.optimizer.param_groups]


@given(settings, schedules, st.integers(0, 60), st.lists(st.floats(0, 2), min_size=8, max_size=8))
def test_step_lr_at_and_resume_agree(
    solver: dict[str, Any], schedule: dict[str, Any], stop: int, metrics: list[float]
) -> None:
    cfg = get_cfg()
    cfg.merge_from_other_cfg({"SOLVER": solver | schedule})
    try:
        cfg = resolve_durations(cfg, EPOCH)
        check_solver(cfg, EPOCH)
    except ConfigError:
        return
    scheduler, end = build(cfg), cfg.SOLVER.MAX_ITER + AFTER
    resumed = None
    for t in range(end):
        if t == min(stop, end - 1):
            resumed = build(cfg)
            resumed.load_state_dict(json.loads(json.dumps(scheduler.state_dict(), allow_nan=False)))
        assert scheduler.last_epoch == t
        assert scheduler.get_last_lr() == scheduler.lr_at(t) == [rate for rate, _ in written(scheduler)]
        assert all(math.isfinite(rate) and rate >= 0 for rate in scheduler.lr_at(t))
        assert all(momentum is None or 0 <= momentum < 1 for momentum in scheduler.momentum_at(t))
        if resumed is not None:
            assert resumed.state_dict() == scheduler.state_dict()
            assert written(resumed) == written(scheduler)
            assert resumed.lr_at(end) == scheduler.lr_at(end)
        for each in filter(None, (scheduler, resumed)):
            each.step()
            if isinstance(each, MetricLR) and t % 3 == 0:
                metric = metrics[t % len(metrics)]
                each.observe(metric)
                if metric < 0.5:
                    each.end_warmup()
