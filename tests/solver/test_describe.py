from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from warmstart.config import CfgNode, ConfigError, resolve_durations
from warmstart.solver import WarmupCosineLR, build_lr_scheduler, build_optimizer, describe_groups, describe_plan

Cfg = Callable[..., CfgNode]


@pytest.mark.parametrize(
    ("keys", "plan"),
    [
        (
            {"MAX_ITER": 1200, "STEPS": [800, 1100], "WARMUP_ITERS": 60, "BASE_LR": 0.1},
            "1,200 iterations = 9.6 epochs of 2,000 samples; warm-up ends at 60; drops at 800, 1,100; "
            "final rate 0.001",
        ),
        (
            {"MAX_ITER": "10ep", "STEPS": ["50%"], "WARMUP_ITERS": 0, "BASE_LR": 0.1},
            "1,250 iterations = 10 epochs of 2,000 samples; drops at 625; final rate 0.01",
        ),
        (
            {"MAX_ITER": 4, "LR_SCHEDULER_NAME": "WarmupCosineLR", "WARMUP_ITERS": 1, "BASE_LR": 0.1},
            "4 iterations = 0.032 epochs of 2,000 samples; warm-up ends at 1; final rate 0.01464",
        ),
        (
            {
                "MAX_ITER": 1000,
                "LR_SCHEDULER_NAME": "StepLR",
                "LR_SCHEDULER_ARGS": {"step_size": 9, "gamma": 0.99},
                "WARMUP_ITERS": 1,
                "BASE_LR": 1.0,
            },
            "1,000 iterations = 8 epochs of 2,000 samples; warm-up ends at 1; "
            "drops at 10, 19, 28, ... (110 in all); final rate 0.331",
        ),
        (
            {
                "MAX_ITER": 100,
                "STEPS": [5, 50, 100],
                "WARMUP_ITERS": 9,
                "WARMUP_BLEND": "interpolate",
                "BASE_LR": 1,
            },
            "100 iterations = 0.8 epochs of 2,000 samples; warm-up ends at 9; drops at 50; final rate 0.01",
        ),
        (
            {"MAX_ITER": 1000, "LR_SCHEDULER_NAME": "ReduceLROnPlateau", "WARMUP_ITERS": 1},
            "1,000 iterations = 8 epochs of 2,000 samples; warm-up ends at 1; drops when a score on the first test"
            " set stops improving",
        ),
        (
            {"MAX_ITER": 1000, "LR_SCHEDULER_NAME": "ReduceLROnPlateau", "LR_METRIC": "x/y", "WARMUP_ITERS": 1},
            "1,000 iterations = 8 epochs of 2,000 samples; warm-up ends at 1; drops when x/y stops improving",
        ),
    ],
)
@pytest.mark.need("B10", "E14")
def test_plans(keys: dict[str, Any], plan: str, cfg_with: Cfg) -> None:
    cfg = cfg_with(**keys)
    assert describe_plan(cfg, 2000) == plan
    assert describe_plan(resolve_durations(cfg, 125), 2000) == plan


def test_groups_tell_their_base_rates_also_after_warm_up_has_lowered_them(cfg_with: Cfg) -> None:
    cfg = cfg_with(BASE_LR=0.1, BIAS_LR_FACTOR=2, WEIGHT_DECAY=0.01)
    optimizer = build_optimizer(cfg, torch.nn.Sequential(torch.nn.Linear(100, 20), torch.nn.LayerNorm(20)))
    build_lr_scheduler(cfg, optimizer)
    assert describe_groups(optimizer).splitlines() == [
        "default:   1 tensor, 2,000 parameters, rate 0.1, decay 0.01",
        "norm:      1 tensor,    20 parameters, rate 0.1, decay    0",
        "bias:      1 tensor,    20 parameters, rate 0.2, decay 0.01",
        "norm bias: 1 tensor,    20 parameters, rate 0.2, decay    0",
    ]


def test_columns_of_groups_with_one_tensor_and_several(cfg_with: Cfg) -> None:
    rules = [{"MATCH": "weight", "LR_FACTOR": 0.25, "NAME": "w"}, {"MATCH": "0.bias", "LR": 2}]
    model = torch.nn.Sequential(torch.nn.Linear(100, 20), torch.nn.Linear(20, 3), torch.nn.Linear(3, 1))
    optimizer = build_optimizer(cfg_with(BASE_LR=0.1, PARAM_GROUPS=rules), model)
    assert describe_groups(optimizer).splitlines() == [
        "bias:   2 tensors,     4 parameters, rate   0.1, decay 0.0001",
        "w:      3 tensors, 2,063 parameters, rate 0.025, decay 0.0001",
        "0.bias: 1 tensor,     20 parameters, rate     2, decay 0.0001",
    ]


def test_groups_without_names_are_numbered() -> None:
    optimizer = torch.optim.Rprop(torch.nn.Linear(2, 2).parameters(), lr=torch.tensor(0.5))
    WarmupCosineLR(optimizer, 10)
    assert describe_groups(optimizer) == "0: 2 tensors, 6 parameters, rate 0.5, decay 0"


STEP_EVERY_TIME = {"LR_SCHEDULER_NAME": "StepLR", "LR_SCHEDULER_ARGS": {"step_size": 1}, "WARMUP_ITERS": 0}


def test_a_plan_that_drops_at_each_of_10_to_12_iterations_names_the_first(cfg_with: Cfg) -> None:
    plan = describe_plan(cfg_with(MAX_ITER=10**12, **STEP_EVERY_TIME), 1000)
    assert "; drops at 1, 2, 3, ... (1,000 or more); final rate 0" in plan


def test_more_iterations_than_any_run_takes_are_refused(cfg_with: Cfg) -> None:
    message = (
        r"SOLVER.MAX_ITER \(merged config\): no run takes 1,000,000,000,000,000,000 iterations; give "
        r"1,000,000,000,000,000 or fewer"
    )
    with pytest.raises(ConfigError, match=message):
        describe_plan(cfg_with(MAX_ITER=10**18), 1000)
    assert describe_plan(cfg_with(MAX_ITER=10**15), 1000).startswith("1,000,000,000,000,000 iterations = ")


def test_a_product_that_is_multiplied_for_hours_is_refused(cfg_with: Cfg) -> None:
    solver = {"LR_SCHEDULER_NAME": "MultiplicativeLR", "LR_SCHEDULER_ARGS": {"lr_lambda": lambda t: 1.0}}
    with pytest.raises(ConfigError, match="too long in a run of 10,000,001; use LambdaLR with the product"):
        describe_plan(cfg_with(MAX_ITER=10_000_001, **solver), 1000)
