"""Schedules of a config: lengths, blends, composed schedules, metrics, and every mistake."""

from __future__ import annotations

import inspect
import itertools
import logging
import math
import pickle
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from warmstart.config import CfgNode, ConfigError, get_cfg, import_module, resolve_durations
from warmstart.solver import (
    MetricLR,
    build_lr_scheduler,
    build_schedule,
    check_solver,
    drops,
    register_lr_lambda,
    register_lr_scheduler,
    schedule_names,
)
from warmstart.solver.lr_lambdas import LAMBDAS
from warmstart.solver.plateau import Plateau
from warmstart.solver.registry import SCHEDULES
from warmstart.solver.torch_schedules import MOMENTA, TORCH_SCHEDULES

Cfg = Callable[..., CfgNode]
Make = Callable[..., torch.optim.Optimizer]


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.need("S6")
@pytest.mark.parametrize("blend", ["product", "interpolate"])
def test_a_milestone_at_half_of_five_million(cfg_with: Cfg, blend: str) -> None:
    cfg = cfg_with(MAX_ITER=5_000_000, STEPS=[2_500_000], WARMUP_BLEND=blend, WARMUP_ITERS=1000)
    schedule = build_schedule(cfg)
    assert [schedule(t) for t in (2_499_999, 2_500_000)] == [1.0, 0.1]


@pytest.mark.need("S6")
def test_rescaling_is_exact(cfg_with: Cfg) -> None:
    cfg = cfg_with(MAX_ITER=5_000_000, STEPS=[1, 2_500_000], WARMUP_ITERS=1_000_001, RESCALE_INTERVAL=True)
    schedule = build_schedule(cfg)
    # 1,000,001 + 2,500,000 * 3,999,999 / 5,000,000 = 3,000,000.5
    assert [round(schedule(t), 9) for t in (1_000_001, 1_000_002, 3_000_000, 3_000_001)] == [1, 0.1, 0.1, 0.01]


def test_torchs_names_start_when_warm_up_ends(cfg_with: Cfg) -> None:
    cfg = cfg_with(LR_SCHEDULER_NAME="StepLR", LR_SCHEDULER_ARGS={"step_size": 10, "gamma": 0.5})
    cfg.merge_from_list(["SOLVER.MAX_ITER", 100, "SOLVER.WARMUP_ITERS", 4, "SOLVER.WARMUP_FACTOR", 0.5])
    schedule = build_schedule(cfg)
    assert [schedule(t) for t in (0, 2, 4, 13, 14, 24)] == [0.5, 0.75, 1.0, 1.0, 0.5, 0.25]


def test_durations_may_have_units_and_the_config_stays_as_it_is(cfg_with: Cfg, optimizer_with: Make) -> None:
    cfg = cfg_with(MAX_ITER="3ep", LR_SCHEDULER_NAME="StepLR", LR_SCHEDULER_ARGS={"step_size": "1ep"})
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.freeze()
    scheduler = build_lr_scheduler(cfg, optimizer_with(1.0), iters_per_epoch=Fraction(25, 2))
    assert [scheduler.lr_at(t) for t in (12, 13, 26)] == [[1.0], [0.1], [pytest.approx(0.01)]]
    assert cfg.SOLVER.MAX_ITER == "3ep"
    with pytest.raises(ConfigError, match="'3ep' needs the size of the data set"):
        build_lr_scheduler(cfg, optimizer_with(1.0))


def test_a_whole_number_written_as_1e1(cfg_with: Cfg) -> None:
    cfg = cfg_with(LR_SCHEDULER_NAME="StepLR", WARMUP_ITERS=0)
    cfg.merge_from_list(["SOLVER.LR_SCHEDULER_ARGS.step_size", "1e1"])
    assert [build_schedule(cfg)(t) for t in (9, 10)] == [1.0, 0.1]


@pytest.mark.need("B7")
@pytest.mark.parametrize("late", [[100], [100, 101], [5000]])
def test_steps_that_are_not_reached_are_dropped_with_one_line(
    late: list[int], cfg_with: Cfg, optimizer_with: Make, logged: list[logging.LogRecord]
) -> None:
    cfg = cfg_with(MAX_ITER=100, STEPS=[50, 99, *late], WARMUP_ITERS=0)
    scheduler = build_lr_scheduler(cfg, optimizer_with(1.0))
    assert [scheduler.lr_at(t)[0] for t in (49, 50, 99, 100, 10**6)] == pytest.approx([1, 0.1, 0.01, 0.01, 0.01])
    (line,) = [record.getMessage() for record in logged]
    numbers = ", ".join(f"{step:,}" for step in late)
    assert (
        line == f"SOLVER.STEPS (merged config): dropped {numbers}, which the run of 100 iterations does not reach"
    )


@pytest.mark.need("B7")
def test_steps_that_no_one_reads_are_not_mentioned(
    cfg_with: Cfg, optimizer_with: Make, logged: list[logging.LogRecord]
) -> None:
    build_lr_scheduler(
        cfg_with(MAX_ITER=100, STEPS=[500, 3], LR_SCHEDULER_NAME="WarmupCosineLR"), optimizer_with(1.0)
    )
    assert logged == []


@pytest.mark.parametrize("name", sorted(TORCH_SCHEDULES))
def test_arguments_are_those_of_torch(name: str) -> None:
    theirs = dict(inspect.signature(getattr(torch.optim.lr_scheduler, name)).parameters)
    ours = dict(inspect.signature(TORCH_SCHEDULES[name]).parameters)
    for filled_in in ("optimizer", "last_epoch"):
        del theirs[filled_in]
    for filled_in in ("num_iters", "group"):
        ours.pop(filled_in, None)
    assert list(ours) == list(theirs)
    defaults = {key: parameter.default for key, parameter in theirs.items()}
    if name == "CosineAnnealingLR":
        defaults["T_max"] = None  # what is left after warm-up
    assert {key: parameter.default for key, parameter in ours.items()} == defaults
    if name in MOMENTA:
        of_momentum = inspect.signature(MOMENTA[name]).parameters
        assert {key: p.default for key, p in of_momentum.items() if key in theirs}.items() <= defaults.items()


def test_arguments_of_the_plateau_are_those_of_torch() -> None:
    theirs = dict(inspect.signature(torch.optim.lr_scheduler.ReduceLROnPlateau).parameters)
    del theirs["optimizer"]
    ours = inspect.signature(Plateau).parameters
    assert {k: p.default for k, p in ours.items()} == {k: p.default for k, p in theirs.items()}


def test_every_scheduler_of_torch_has_a_name_here() -> None:
    assert {*torch.optim.lr_scheduler.__all__} - {"LRScheduler"} <= {*schedule_names()}


def test_poly_and_stable_decay(cfg_with: Cfg) -> None:
    cfg = cfg_with(LR_SCHEDULER_NAME="WarmupPolyLR", MAX_ITER=10, WARMUP_ITERS=0, POLY_LR_POWER=2.0)
    assert [build_schedule(cfg)(t) for t in (0, 5, 9, 10, 11)] == pytest.approx([1, 0.25, 0.01, 0, 0])
    cfg.merge_from_list(["SOLVER.POLY_LR_CONSTANT_ENDING", 0.1])
    assert [build_schedule(cfg)(t) for t in (0, 5, 9, 10, 11)] == pytest.approx([1, 0.25, 0.1, 0.1, 0.1])
    cfg = cfg_with(LR_SCHEDULER_NAME="WarmupStableDecayLR", MAX_ITER=10, WARMUP_ITERS=2, DECAY_ITERS=4)
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.1, "SOLVER.BASE_LR_END", 0.02, "SOLVER.WARMUP_FACTOR", 0.5])
    curves = {
        "linear": [0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2],
        "cosine": [0.5, 0.75, 1, 1, 1, 0.882842712, 0.6, 0.317157288, 0.2, 0.2],
        "sqrt": [0.5, 0.75, 1, 1, 1, 0.6, 0.434314575, 0.30717968, 0.2, 0.2],
    }
    for method, curve in curves.items():
        cfg.merge_from_list(["SOLVER.DECAY_METHOD", method])
        assert [build_schedule(cfg)(t) for t in (0, 1, 2, 5, 6, 7, 8, 9, 10, 11)] == pytest.approx(curve)


def test_a_rescaled_decay_keeps_its_share_of_the_run(cfg_with: Cfg) -> None:
    cfg = cfg_with(LR_SCHEDULER_NAME="WarmupStableDecayLR", MAX_ITER=20, WARMUP_ITERS=10, DECAY_ITERS=8)
    cfg.merge_from_list(["SOLVER.RESCALE_INTERVAL", True])
    assert [build_schedule(cfg)(t) for t in (10, 16, 17, 18, 19, 20)] == pytest.approx([1, 1, 0.75, 0.5, 0.25, 0])


WARMUPS = {
    "constant": [0.2, 0.2, 0.2, 0.2],
    "linear": [0.2, 0.4, 0.6, 0.8],
    "gradual": [0.2, 0.4, 0.6, 0.8],
    "cosine": [0.2, 0.317157288, 0.6, 0.882842712],
    "exponential": [0.2, 0.299069756, 0.447213595, 0.668740305],
}


@pytest.mark.parametrize("method", WARMUPS)
@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "ConstantLR", "ReduceLROnPlateau"])
@pytest.mark.need("B9", "B10")
def test_every_warm_up_in_front_of_a_flat_schedule(method: str, name: str, cfg_with: Cfg) -> None:
    cfg = cfg_with(LR_SCHEDULER_NAME=name, STEPS=[], WARMUP_METHOD=method, WARMUP_ITERS=4, WARMUP_FACTOR=0.2)
    if name == "ConstantLR":
        cfg.merge_from_list(["SOLVER.LR_SCHEDULER_ARGS.factor", 1])
    for blend in ("product", "interpolate"):
        cfg.merge_from_list(["SOLVER.WARMUP_BLEND", blend])
        assert [build_schedule(cfg)(t) for t in range(6)] == pytest.approx([*WARMUPS[method], 1, 1])


@pytest.mark.parametrize("method", ["linear", "cosine", "exponential"])
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0])
@pytest.mark.need("B9")
def test_an_interpolated_warm_up_ends_on_the_schedules_value(method: str, factor: float, cfg_with: Cfg) -> None:
    if (method, factor) == ("exponential", 0.0):
        factor = 1e-9
    cfg = cfg_with(LR_SCHEDULER_NAME="WarmupCosineLR", MAX_ITER=100, WARMUP_ITERS=50, WARMUP_FACTOR=factor)
    cfg.merge_from_list(["SOLVER.WARMUP_METHOD", method, "SOLVER.WARMUP_BLEND", "interpolate"])
    curve = [build_schedule(cfg)(t) for t in range(52)]
    assert curve[0] == pytest.approx(factor)
    assert curve[50] == pytest.approx(0.5)
    # No jump where warm-up hands over: a step of a ramp of 50, at the steepest end of an exponential one.
    assert abs(curve[50] - curve[49]) < (0.18 if method == "exponential" else 0.011)
    rising = [after - before for before, after in itertools.pairwise(curve[:51])]
    assert all(step >= 0 for step in rising) if factor < 0.5 else all(step <= 1e-15 for step in rising)


# ---------------------------------------------------------------- composed schedules


PHASES = [
    {"NAME": "LinearLR", "ARGS": {"start_factor": 0.5, "total_iters": 4}, "UNTIL": 4},
    {"NAME": "CosineAnnealingLR", "UNTIL": "80%"},
    {"NAME": "ConstantLR", "ARGS": {"factor": 0.25, "total_iters": 1000}},
]


@pytest.mark.need("B1")
def test_phases_follow_each_other_as_in_torch(cfg_with: Cfg, optimizer_with: Make) -> None:
    cfg = cfg_with(LR_SCHEDULER_NAME="SequentialLR", LR_PHASES=PHASES, MAX_ITER=20, WARMUP_ITERS=0)
    optimizer = optimizer_with(1.0)
    torchs = torch.optim.lr_scheduler
    parts = [
        torchs.LinearLR(optimizer, 0.5, 1.0, 4),
        torchs.CosineAnnealingLR(optimizer, 12),
        torchs.ConstantLR(optimizer, 0.25, 1000),
    ]
    theirs = torchs.SequentialLR(optimizer, parts, [4, 16])
    schedule = build_schedule(cfg)
    for t in range(25):
        assert rates(optimizer) == pytest.approx([schedule(t)], rel=1e-9), t
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs warns of itself at each border
            theirs.step()
    assert list(drops(schedule, 20)) == []


def test_phases_count_from_the_end_of_warm_up(cfg_with: Cfg) -> None:
    phases = [{"NAME": "StepLR", "ARGS": {"step_size": 2, "gamma": 0.5}, "UNTIL": 5}, {"NAME": "OneCycleLR"}]
    phases[1]["ARGS"] = {"max_lr": 0.5, "cycle_momentum": False, "pct_start": 0.5, "final_div_factor": 1.0}
    cfg = cfg_with(LR_SCHEDULER_NAME="SequentialLR", LR_PHASES=phases, MAX_ITER=20, WARMUP_ITERS=4, BASE_LR=1.0)
    schedule = build_schedule(cfg)
    assert [schedule(t) for t in (4, 5, 6, 8)] == [1, 1, 0.5, 0.25]
    # 11 iterations are left for the cycle: a peak at 0.5 * 11 - 1, an end at 10.
    assert [round(schedule(9 + t), 6) for t in (0, 10, 11, 99)] == [0.02] * 4
    assert max(schedule(9 + t) for t in range(11)) > 0.48
    assert list(drops(schedule, 20)) == [6, 8, 9]


def test_factors_are_multiplied_as_in_torch(cfg_with: Cfg, optimizer_with: Make) -> None:
    factors = [
        {"NAME": "CosineAnnealingLR"},
        {"NAME": "StepLR", "ARGS": {"step_size": "25%", "gamma": 0.5}},
        {"NAME": "ConstantLR", "ARGS": {"factor": 0.5, "total_iters": 3}},
    ]
    cfg = cfg_with(LR_SCHEDULER_NAME="ChainedScheduler", LR_FACTORS=factors, MAX_ITER=20, WARMUP_ITERS=0)
    optimizer = optimizer_with(1.0)
    torchs = torch.optim.lr_scheduler
    theirs = torchs.ChainedScheduler(
        [
            torchs.CosineAnnealingLR(optimizer, 20),
            torchs.StepLR(optimizer, 5, 0.5),
            torchs.ConstantLR(optimizer, 0.5, 3),
        ]
    )
    schedule = build_schedule(cfg)
    for t in range(20):
        assert rates(optimizer) == pytest.approx([schedule(t)], rel=1e-9), t
        optimizer.step()
        theirs.step()
    assert list(drops(schedule, 20)) == [5, 10, 15]


def test_momentum_moves_in_its_phase_only(cfg_with: Cfg, optimizer_with: Make) -> None:
    phases = [
        {"NAME": "ConstantLR", "ARGS": {"factor": 1.0}, "UNTIL": 3},
        {"NAME": "CyclicLR", "ARGS": {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 2}, "UNTIL": 7},
        {"NAME": "StepLR", "ARGS": {"step_size": 2}},
    ]
    cfg = cfg_with(LR_SCHEDULER_NAME="SequentialLR", LR_PHASES=phases, MAX_ITER=10, WARMUP_ITERS=0)
    optimizer = optimizer_with(0.1)
    optimizer.param_groups[0]["momentum"] = 0.6
    scheduler = build_lr_scheduler(cfg, optimizer)
    momenta = []
    for _ in range(9):
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    assert momenta == pytest.approx([0.6, 0.6, 0.6, 0.9, 0.85, 0.8, 0.85, 0.6, 0.6])
    assert [scheduler.momentum_at(t)[0] for t in range(9)] == momenta


@pytest.mark.parametrize("name", ["Adam", "SGD", "RMSprop", "NAdam"])
def test_momentum_is_the_first_beta_where_there_are_betas(name: str, cfg_with: Cfg) -> None:
    arguments = {"max_lr": 0.1}
    cfg = cfg_with(LR_SCHEDULER_NAME="OneCycleLR", LR_SCHEDULER_ARGS=arguments, MAX_ITER=20, WARMUP_ITERS=2)
    parameter = nn.Parameter(torch.zeros(1))
    kwargs = {"momentum": 0.5} if name in ("SGD", "RMSprop") else {}
    ours = getattr(torch.optim, name)([parameter], lr=0.01, **kwargs)
    theirs = getattr(torch.optim, name)([parameter], lr=0.01, **kwargs)
    scheduler = build_lr_scheduler(cfg, ours)
    reference = torch.optim.lr_scheduler.OneCycleLR(theirs, total_steps=18, **arguments)
    for t in range(20):
        key = "betas" if "betas" in ours.defaults else "momentum"
        assert ours.param_groups[0][key] == pytest.approx(theirs.param_groups[0][key], rel=1e-9), t
        ours.step()
        scheduler.step()
        if 2 <= t < 19:  # until then warm-up, and momentum keeps its first value
            theirs.step()
            reference.step()


# ---------------------------------------------------------------- one value a group


@pytest.mark.usefixtures("math_imported")
def test_lists_hold_one_value_a_group(cfg_with: Cfg, optimizer_with: Make) -> None:
    arguments = {"base_lr": [0.1, 0.2], "max_lr": [0.5, 1.0], "step_size_up": 2, "cycle_momentum": False}
    cfg = cfg_with(LR_SCHEDULER_NAME="CyclicLR", LR_SCHEDULER_ARGS=arguments, WARMUP_ITERS=0)
    scheduler = build_lr_scheduler(cfg, optimizer_with(0.3, 0.7))
    assert [scheduler.lr_at(t) for t in (0, 1, 2)] == [
        pytest.approx(pair) for pair in ([0.1, 0.2], [0.3, 0.6], [0.5, 1.0])
    ]
    lambdas = {"lr_lambda": ["math:erfc", "math:cos"]}
    cfg = cfg_with(LR_SCHEDULER_NAME="LambdaLR", LR_SCHEDULER_ARGS=lambdas, WARMUP_ITERS=0)
    scheduler = build_lr_scheduler(cfg, optimizer_with(0.3, 0.7))
    assert scheduler.lr_at(1) == pytest.approx([0.3 * math.erfc(1), 0.7 * math.cos(1)])
    plateau = {"min_lr": [0.1, 0.4], "patience": 0, "factor": 0.5}
    cfg = cfg_with(LR_SCHEDULER_NAME="ReduceLROnPlateau", LR_SCHEDULER_ARGS=plateau, WARMUP_ITERS=0)
    scheduler = build_lr_scheduler(cfg, optimizer_with(0.3, 0.7))
    for metric in (1.0, 1.0, 1.0):
        scheduler.observe(metric)
    assert scheduler.get_last_lr() == pytest.approx([0.1, 0.4])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("CyclicLR", {"base_lr": 0.1, "max_lr": [0.5, 1.0, 2.0]}),
        ("OneCycleLR", {"max_lr": [0.5]}),
        ("LambdaLR", {"lr_lambda": ["math:exp"]}),
        ("ReduceLROnPlateau", {"min_lr": [0.1]}),
    ],
)
def test_a_list_of_another_length_is_refused(
    name: str, arguments: dict[str, Any], cfg_with: Cfg, optimizer_with: Make
) -> None:
    cfg = cfg_with(LR_SCHEDULER_NAME=name, LR_SCHEDULER_ARGS=arguments)
    with pytest.raises(ConfigError, match=r"has \d values for 2 parameter groups; give one for each"):
        build_lr_scheduler(cfg, optimizer_with(0.3, 0.7))


def test_base_rates_that_one_cycle_does_not_use_are_logged(
    cfg_with: Cfg, optimizer_with: Make, logged: list[logging.LogRecord]
) -> None:
    cfg = cfg_with(LR_SCHEDULER_NAME="OneCycleLR", LR_SCHEDULER_ARGS={"max_lr": 0.5})
    build_lr_scheduler(cfg, optimizer_with(0.3, 0.3))
    assert logged == []
    build_lr_scheduler(cfg, optimizer_with(0.3, 0.7))
    (line,) = [record.getMessage() for record in logged]
    assert line.startswith(
        "OneCycleLR sets the learning rates of all parameter groups from max_lr; their own (0.3, 0.7)"
    )


# ---------------------------------------------------------------- epochs


@pytest.mark.need("B10")
def test_the_unit_epoch(cfg_with: Cfg) -> None:
    step = {"LR_SCHEDULER_NAME": "StepLR", "LR_SCHEDULER_ARGS": {"step_size": 2, "gamma": 0.5}}
    cfg = cfg_with(MAX_ITER=40, WARMUP_ITERS=5, WARMUP_FACTOR=0.5, LR_STEP_UNIT="epoch", **step)
    schedule = build_schedule(cfg, Fraction(5, 2))
    # Epochs are complete after 3, 5, 8, 10 iterations, counted from the end of warm-up.
    assert [schedule(5 + t) for t in (0, 4, 5, 9, 10)] == [1, 1, 0.5, 0.5, 0.25]
    assert schedule(2) == pytest.approx(0.7)  # warm-up moves with each iteration
    assert list(drops(schedule, 20)) == [10, 15]
    with pytest.raises(ConfigError, match=r"SOLVER.LR_STEP_UNIT .*: epochs need the size of the data set"):
        build_schedule(cfg)


def test_units_of_arguments_in_epochs(cfg_with: Cfg) -> None:
    arguments = {"T_max": "3ep", "eta_min": 0.0}
    keys = {"LR_SCHEDULER_NAME": "CosineAnnealingLR", "LR_SCHEDULER_ARGS": arguments, "LR_STEP_UNIT": "epoch"}
    for t_max in ("3ep", "50%", 3):
        arguments["T_max"] = t_max
        schedule = build_schedule(cfg_with(MAX_ITER="6ep", WARMUP_ITERS=0, **keys), 10)
        assert [schedule(t) for t in (0, 9, 10, 20, 30)] == pytest.approx([1, 1, 0.75, 0.25, 0])
    del arguments["T_max"]  # by default the full run, of 6 epochs
    schedule = build_schedule(cfg_with(MAX_ITER="6ep", WARMUP_ITERS=0, **keys), 10)
    assert [schedule(t) for t in (0, 9, 30, 59, 60)] == pytest.approx([1, 1, 0.5, 0.066987298, 0])


def test_warmup_names_hold_their_value_within_an_epoch(cfg_with: Cfg) -> None:
    cfg = cfg_with(LR_SCHEDULER_NAME="WarmupCosineLR", MAX_ITER=10, WARMUP_ITERS=0, LR_STEP_UNIT="epoch")
    schedule = build_schedule(cfg, 5)
    assert [schedule(t) for t in range(12)] == pytest.approx([1] * 5 + [0.5] * 5 + [0] * 2)


# ---------------------------------------------------------------- metrics


@pytest.mark.need("B14")
def test_a_plateau_ignores_metrics_during_warm_up(cfg_with: Cfg, optimizer_with: Make) -> None:
    arguments = {"patience": 0, "factor": 0.5}
    cfg = cfg_with(LR_SCHEDULER_NAME="ReduceLROnPlateau", LR_SCHEDULER_ARGS=arguments, WARMUP_ITERS=2)
    optimizer = optimizer_with(0.4)
    scheduler = build_lr_scheduler(cfg, optimizer)
    scheduler.observe(0.1)  # would be the best one ever
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert scheduler.state_dict()["best"] is None
    scheduler.observe(0.5)
    assert rates(optimizer) == [0.4]
    scheduler.observe(float("nan"))
    assert rates(optimizer) == [0.2]
    assert scheduler.state_dict()["best"] == 0.5
    scheduler.observe(float("-inf"))  # neither: no state could hold it as the best
    assert (rates(optimizer), scheduler.state_dict()["best"]) == ([0.1], 0.5)
    assert scheduler.lr_at(0) == pytest.approx([0.1 * 0.001])


@pytest.mark.need("B14")
def test_patience_continues_after_a_resume(cfg_with: Cfg, optimizer_with: Make) -> None:
    arguments = {"patience": 2, "factor": 0.5, "cooldown": 1}
    cfg = cfg_with(LR_SCHEDULER_NAME="ReduceLROnPlateau", LR_SCHEDULER_ARGS=arguments, WARMUP_ITERS=0)
    metrics = [0.5, 0.6, 0.7, 0.8, 0.9, 0.4, 0.5, 0.5, 0.5, 0.5]
    whole = build_lr_scheduler(cfg, optimizer_with(0.4))
    trace = []
    for metric in metrics:
        whole.step()
        whole.observe(metric)
        trace.append(whole.get_last_lr())
    assert len({rate for (rate,) in trace}) == 3
    for k in range(len(metrics)):
        first, second = (build_lr_scheduler(cfg, optimizer_with(0.4)) for _ in range(2))
        for metric in metrics[:k]:
            first.step()
            first.observe(metric)
        second.load_state_dict(first.state_dict())
        for metric, rate in zip(metrics[k:], trace[k:], strict=True):
            second.step()
            second.observe(metric)
            assert second.get_last_lr() == rate


def test_a_metric_ends_warm_up(cfg_with: Cfg, optimizer_with: Make) -> None:
    """The rule for ResNet-110 on CIFAR-10: 0.01 until the training error is below 80 %, then 0.1."""
    until = {"METRIC": "train/error", "BELOW": 0.8}
    cfg = cfg_with(BASE_LR=0.1, WARMUP_FACTOR=0.1, WARMUP_ITERS=400, WARMUP_METHOD="constant", WARMUP_UNTIL=until)
    cfg.merge_from_list(["SOLVER.MAX_ITER", 64000, "SOLVER.STEPS", "32000,48000"])
    optimizer = optimizer_with(0.1)
    scheduler = build_lr_scheduler(cfg, optimizer)
    assert isinstance(scheduler, MetricLR)
    for _ in range(137):
        optimizer.step()
        scheduler.step()
    assert rates(optimizer) == pytest.approx([0.01])
    scheduler.end_warmup()
    assert rates(optimizer) == [0.1]
    assert scheduler.state_dict()["warmup_end"] == 137
    assert [scheduler.lr_at(t)[0] for t in (136, 137, 400, 32000, 48000)] == pytest.approx(
        [0.01, 0.1, 0.1, 0.01, 0.001]
    )
    scheduler.end_warmup()  # once is enough
    resumed_optimizer = optimizer_with(0.1)
    resumed = build_lr_scheduler(cfg, resumed_optimizer)
    resumed.load_state_dict(scheduler.state_dict())
    assert rates(resumed_optimizer) == [0.1]
    assert resumed.state_dict() == scheduler.state_dict()


def test_schedules_count_from_the_end_of_warm_up_that_a_metric_set(cfg_with: Cfg, optimizer_with: Make) -> None:
    until = {"METRIC": "total_loss", "BELOW": 1.0}
    cfg = cfg_with(LR_SCHEDULER_NAME="CosineAnnealingLR", MAX_ITER=30, WARMUP_ITERS=20, WARMUP_UNTIL=until)
    scheduler = build_lr_scheduler(cfg, optimizer_with(1.0))
    assert [scheduler.lr_at(t)[0] for t in (20, 25, 30)] == pytest.approx([1, 0.5, 0])
    scheduler.load_state_dict({"last_epoch": 10})
    assert isinstance(scheduler, MetricLR)
    scheduler.end_warmup()
    assert [scheduler.lr_at(t)[0] for t in (10, 20, 30)] == pytest.approx([1, 0.5, 0])


def test_a_metric_means_nothing_to_other_schedules(cfg_with: Cfg, optimizer_with: Make) -> None:
    scheduler = build_lr_scheduler(cfg_with(), optimizer_with(1.0))
    before = scheduler.get_last_lr()
    scheduler.observe(1e9)
    assert scheduler.get_last_lr() == before


import_module(__name__, "as with --import")  # for functions in here

# ---------------------------------------------------------------- registries


def test_a_registered_lambda(cfg_with: Cfg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmstart.solver.lr_lambdas.LAMBDAS", LAMBDAS.copy())
    register_lr_lambda("inverse", lambda t: 1 / (1 + t))
    keys = {"LR_SCHEDULER_NAME": "LambdaLR", "WARMUP_ITERS": 0}
    schedule = build_schedule(cfg_with(LR_SCHEDULER_ARGS={"lr_lambda": "inverse"}, **keys))
    assert [schedule(t) for t in (0, 1, 3)] == [1, 0.5, 0.25]
    with pytest.raises(ConfigError, match="a function called 'inverse' is registered already"):
        register_lr_lambda("inverse", lambda t: 1.0)
    with pytest.raises(ConfigError, match=r"got 'inverted'; registered: inverse"):
        build_schedule(cfg_with(LR_SCHEDULER_ARGS={"lr_lambda": "inverted"}, **keys))


def test_lr_lambda_names_a_function_of_a_module_that_was_imported(
    cfg_with: Cfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_lambdas_for_a_test.py").write_text("def half(t):\n    return 0.5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    arguments = {"lr_lambda": "my_lambdas_for_a_test:half"}
    import_module("my_lambdas_for_a_test", "command line")
    schedule = build_schedule(cfg_with(LR_SCHEDULER_NAME="LambdaLR", LR_SCHEDULER_ARGS=arguments))
    assert schedule(10**6) == 0.5


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("LambdaLR", {"lr_lambda": "os:_exit"}),
        ("LambdaLR", {"lr_lambda": ["os:_exit"]}),
        ("MultiplicativeLR", {"lr_lambda": "os:_exit"}),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.5, "scale_fn": "os:_exit"}),
    ],
)
def test_a_config_by_itself_imports_and_calls_nothing(
    name: str, arguments: dict[str, Any], cfg_with: Cfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os._exit", lambda code: pytest.fail("it was called"))
    phases = [{"NAME": name, "ARGS": arguments, "UNTIL": 5}, {"NAME": "ConstantLR"}]
    for keys in (
        {"LR_SCHEDULER_NAME": name, "LR_SCHEDULER_ARGS": arguments},
        {"LR_SCHEDULER_NAME": "SequentialLR", "LR_PHASES": phases},
        {"LR_SCHEDULER_NAME": "ChainedScheduler", "LR_FACTORS": [{"NAME": name, "ARGS": arguments}]},
    ):
        with pytest.raises(
            ConfigError, match=r"(scale_fn|lr_lambda): os:_exit is in a module that no --import names"
        ):
            check_solver(cfg_with(MAX_ITER=10, WARMUP_ITERS=0, **keys))


def test_a_schedule_of_ones_own_for_each_group(
    cfg_with: Cfg, optimizer_with: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCHEDULES, "ByGroup", lambda group: lambda t: 1.0 / (1 + group.index))
    scheduler = build_lr_scheduler(cfg_with(LR_SCHEDULER_NAME="ByGroup", WARMUP_ITERS=0), optimizer_with(1.0, 1.0))
    assert scheduler.get_last_lr() == [1.0, 0.5]


def test_a_schedule_of_ones_own(cfg_with: Cfg) -> None:
    register_lr_scheduler("Triangle", lambda num_iters, low=0.0: lambda t: max(low, 1 - t / num_iters))
    try:
        cfg = cfg_with(LR_SCHEDULER_NAME="Triangle", MAX_ITER=12, WARMUP_ITERS=2, WARMUP_FACTOR=0.5)
        assert [build_schedule(cfg)(t) for t in (0, 1, 2, 7, 12, 99)] == [0.5, 0.75, 1.0, 0.5, 0.0, 0.0]
        cfg.merge_from_list(["SOLVER.LR_SCHEDULER_ARGS", "{low: 0.25, num_iters: '50%'}"])
        assert [build_schedule(cfg)(t) for t in (2, 5, 12)] == [1.0, 0.5, 0.25]
        cfg.merge_from_list(["SOLVER.LR_SCHEDULER_ARGS.high", 1])
        with pytest.raises(ConfigError, match=r"Triangle takes no argument 'high'.*It takes: num_iters, low"):
            check_solver(cfg)
    finally:
        del SCHEDULES["Triangle"]


def test_a_factory_must_return_a_function(cfg_with: Cfg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULES, "Wrong", lambda: 0.5)
    with pytest.raises(ConfigError, match="Wrong was registered with a factory that returns 0.5; it must return"):
        check_solver(cfg_with(LR_SCHEDULER_NAME="Wrong"))


@pytest.mark.parametrize("name", ["StepLR", "WarmupCosineLR"])
def test_a_schedules_name_is_given_once(name: str) -> None:
    with pytest.raises(ConfigError, match=f"a schedule called '{name}' is registered already"):
        register_lr_scheduler(name, lambda: lambda t: 1.0)


# ---------------------------------------------------------------- mistakes

MISTAKES = [
    (
        {"LR_SCHEDULER_NAME": "WarmupMultistepLR"},
        r"SOLVER.LR_SCHEDULER_NAME \(merged config\): no schedule is called 'WarmupMultistepLR'; did you mean "
        r"'WarmupMultiStepLR'\? Known: ChainedScheduler, ConstantLR, .*, WarmupStepWithFixedGammaLR",
    ),
    (
        {"MAX_ITER": 300, "WARMUP_ITERS": 1000},
        r"SOLVER.WARMUP_ITERS \(merged config\): warm-up of 1,000 iterations never ends in a run of 300 "
        r"\(SOLVER.MAX_ITER\); try SOLVER.WARMUP_ITERS 15, or 0 for no warm-up",
    ),
    ({"MAX_ITER": 300, "WARMUP_ITERS": 300}, "warm-up of 300 iterations never ends in a run of 300"),
    ({"STEPS": [200, 100]}, r"SOLVER.STEPS \(merged config\): each step must come after .*; got \[200, 100\]"),
    ({"STEPS": [100, 100]}, r"SOLVER.STEPS.*got \[100, 100\]"),
    (
        {"LR_SCHEDULER_NAME": "WarmupCosineLR", "BASE_LR": 0.1, "BASE_LR_END": 0.2},
        r"SOLVER.BASE_LR_END \(merged config\): 0.2 is above SOLVER.BASE_LR, 0.1; WarmupCosineLR goes down",
    ),
    (
        {"LR_SCHEDULER_NAME": "WarmupCosineLR", "LR_SCHEDULER_ARGS": {"T_max": 100}},
        "SOLVER.LR_SCHEDULER_ARGS: WarmupCosineLR takes none; its settings are keys of SOLVER.*StepLR",
    ),
    (
        {"LR_SCHEDULER_NAME": "StepLR", "LR_SCHEDULER_ARGS": {"stepsize": 30}},
        r"SOLVER.LR_SCHEDULER_ARGS.stepsize \(merged config\): StepLR takes no argument 'stepsize'; "
        "did you mean 'step_size'",
    ),
    ({"LR_SCHEDULER_NAME": "StepLR"}, "SOLVER.LR_SCHEDULER_ARGS.step_size: StepLR needs it"),
    (
        {"LR_SCHEDULER_NAME": "StepLR", "LR_SCHEDULER_ARGS": {"step_size": 3, "optimizer": "SGD"}},
        "SOLVER.LR_SCHEDULER_ARGS.optimizer .*: StepLR takes no argument 'optimizer'",
    ),
    (
        {"LR_SCHEDULER_NAME": "StepLR", "LR_SCHEDULER_ARGS": {"step_size": 3, "gamma": "fast"}},
        "SOLVER.LR_SCHEDULER_ARGS.gamma .*: StepLR expects a number; got 'fast'",
    ),
    (
        {"LR_SCHEDULER_NAME": "StepLR", "LR_SCHEDULER_ARGS": {"step_size": 0}},
        "SOLVER.LR_SCHEDULER_ARGS: StepLR refuses it: step_size must be 1 or more; got 0",
    ),
    (
        {"LR_SCHEDULER_NAME": "StepLR", "LR_SCHEDULER_ARGS": {"step_size": 3, "num_iters": 5}},
        "SOLVER.LR_SCHEDULER_ARGS.num_iters .*: StepLR takes no argument 'num_iters'",
    ),
    (
        {"LR_SCHEDULER_NAME": "StepLR", "LR_SCHEDULER_ARGS": {"step_size": 3}, "LR_PHASES": [{"NAME": "StepLR"}]},
        r"SOLVER.LR_PHASES \(merged config\): only SequentialLR reads it, and the schedule is StepLR",
    ),
    (
        {"LR_SCHEDULER_NAME": "SequentialLR", "LR_FACTORS": [{"NAME": "StepLR"}]},
        r"SOLVER.LR_FACTORS \(merged config\): only ChainedScheduler reads it",
    ),
    ({"LR_SCHEDULER_NAME": "SequentialLR"}, r"SOLVER.LR_PHASES: SequentialLR needs it, as \[\{NAME: StepLR"),
    ({"LR_SCHEDULER_NAME": "ChainedScheduler"}, r"SOLVER.LR_FACTORS: ChainedScheduler needs it"),
    (
        {"LR_SCHEDULER_NAME": "SequentialLR", "LR_PHASES": PHASES, "LR_SCHEDULER_ARGS": {"gamma": 1}},
        "SOLVER.LR_SCHEDULER_ARGS: SequentialLR takes none; its settings are keys of SOLVER, as LR_PHASES",
    ),
    (
        {"LR_SCHEDULER_NAME": "SequentialLR", "LR_PHASES": [{"NAME": "StepL", "ARGS": {"step_size": 3}}]},
        r"SOLVER.LR_PHASES \(merged config\): entry 1: NAME: no schedule is called 'StepL'; did you mean 'StepLR'",
    ),
    (
        {"LR_SCHEDULER_NAME": "SequentialLR", "LR_PHASES": [{"NAME": "WarmupCosineLR"}]},
        "entry 1: WarmupCosineLR cannot be a part of another; parts are ConstantLR",
    ),
    (
        {"LR_SCHEDULER_NAME": "SequentialLR", "LR_PHASES": [PHASES[0], {"NAME": "StepLR"}]},
        r"SOLVER.LR_PHASES \(merged config\): entry 2.step_size: StepLR needs it",
    ),
    (
        {"LR_SCHEDULER_NAME": "SequentialLR", "LR_PHASES": [{"NAME": "ExponentialLR"}, PHASES[0]]},
        "entry 1: UNTIL is where the next phase begins, and must come after 0; got none",
    ),
    (
        {"LR_SCHEDULER_NAME": "SequentialLR", "LR_PHASES": [PHASES[0], PHASES[0], PHASES[2]]},
        "entry 2: UNTIL is where the next phase begins, and must come after 4; got 4",
    ),
    (
        {
            "LR_SCHEDULER_NAME": "ChainedScheduler",
            "LR_FACTORS": [{"NAME": "OneCycleLR", "ARGS": {"max_lr": 0.1}}] * 2,
        },
        "SOLVER.LR_FACTORS .*: OneCycleLR and OneCycleLR cannot both change the momentum; set "
        "cycle_momentum: false in the ARGS of one",
    ),
    (
        {"LR_SCHEDULER_NAME": "StepLR", "LR_SCHEDULER_ARGS": {"step_size": 3}, "LR_METRIC": "total_loss"},
        r"SOLVER.LR_METRIC \(merged config\): only ReduceLROnPlateau reads it, and the schedule is StepLR",
    ),
    (
        {"LR_SCHEDULER_NAME": "ReduceLROnPlateau", "LR_SCHEDULER_ARGS": {"factor": 1.5}},
        "SOLVER.LR_SCHEDULER_ARGS: ReduceLROnPlateau refuses it: factor must be 0 or more and below 1; got 1.5",
    ),
    *(
        (
            {"LR_SCHEDULER_NAME": "ReduceLROnPlateau", "LR_SCHEDULER_ARGS": {name: value}},
            f"SOLVER.LR_SCHEDULER_ARGS: ReduceLROnPlateau refuses it: {name} must be 0 or more; got {value}",
        )
        for name, value in (("threshold", -0.1), ("eps", -1.0))
    ),
    (
        {
            "LR_SCHEDULER_NAME": "CyclicLR",
            "LR_SCHEDULER_ARGS": {"base_lr": 0.1, "max_lr": 0.2, "scale_mode": "epochs"},
        },
        "SOLVER.LR_SCHEDULER_ARGS: CyclicLR refuses it: scale_mode must be cycle or iterations; got 'epochs'",
    ),
    (
        {"LR_SCHEDULER_NAME": "LinearLR", "LR_SCHEDULER_ARGS": {"total_iters": 10**400}},
        r"SOLVER.LR_SCHEDULER_ARGS.total_iters .*: .*whole numbers go up to 9,223,",
    ),
    (
        {"LR_SCHEDULER_NAME": "ReduceLROnPlateau", "LR_SCHEDULER_ARGS": {"mode": "lower"}},
        "ReduceLROnPlateau refuses it: mode must be min or max; got 'lower'",
    ),
    (
        {"LR_SCHEDULER_NAME": "ReduceLROnPlateau", "LR_SCHEDULER_ARGS": {"pateince": 3}},
        "SOLVER.LR_SCHEDULER_ARGS.pateince .*: ReduceLROnPlateau takes no argument .*did you mean 'patience'",
    ),
    (
        {"LR_SCHEDULER_NAME": "CyclicLR", "LR_SCHEDULER_ARGS": {"base_lr": 0.1, "max_lr": "high"}},
        "CyclicLR refuses it: max_lr is a number, or a list with one for each parameter group; got 'high'",
    ),
    (
        {"LR_SCHEDULER_NAME": "CyclicLR", "LR_SCHEDULER_ARGS": {"base_lr": 0.1, "max_lr": 1, "mode": "square"}},
        "CyclicLR refuses it: mode must be one of triangular, triangular2, exp_range; got 'square'",
    ),
    (
        {
            "LR_SCHEDULER_NAME": "OneCycleLR",
            "LR_SCHEDULER_ARGS": {"max_lr": 1},
            "OPTIMIZER": "Adagrad",
        },
        "OneCycleLR refuses it: cycle_momentum needs an optimizer with momentum or betas; set cycle_momentum: fa",
    ),
    (
        {"LR_SCHEDULER_NAME": "OneCycleLR", "LR_SCHEDULER_ARGS": {"max_lr": 1, "epochs": 3}},
        "OneCycleLR refuses it: epochs and steps_per_epoch go together",
    ),
    (
        {"LR_SCHEDULER_NAME": "LambdaLR", "LR_SCHEDULER_ARGS": {"lr_lambda": "lambda t: 1"}},
        r'LambdaLR refuses it: lr_lambda .*"module:function"; got',
    ),
    (
        {"LR_SCHEDULER_NAME": "LambdaLR", "LR_SCHEDULER_ARGS": {"lr_lambda": "math:erfc"}},
        "lr_lambda: math:erfc is in a module that no --import names, and a config cannot load code by itself; if "
        "you trust it, add --import math$",
    ),
    ({"WARMUP_METHOD": "exponential", "WARMUP_FACTOR": 0}, r"SOLVER.WARMUP_FACTOR .*: an exponential warm-up"),
    (
        {"LR_SCHEDULER_NAME": "WarmupStableDecayLR", "MAX_ITER": 100, "WARMUP_ITERS": 30, "DECAY_ITERS": 80},
        "SOLVER.DECAY_ITERS .*: warm-up of 30 and decay of 80 iterations overlap in a run of 100; try "
        "SOLVER.DECAY_ITERS 70",
    ),
    (
        {"WARMUP_UNTIL": {"METRIC": "total_loss"}},
        "SOLVER.WARMUP_UNTIL.METRIC .*: needs one of BELOW and ABOVE; got 0",
    ),
    ({"WARMUP_UNTIL": {"BELOW": 0.5}}, "SOLVER.WARMUP_UNTIL.BELOW .*: needs SOLVER.WARMUP_UNTIL.METRIC"),
    (
        {"WARMUP_UNTIL": {"METRIC": "total_loss", "ABOVE": 1.0}, "WARMUP_ITERS": 0},
        "SOLVER.WARMUP_UNTIL.METRIC .*: there is no warm-up to end; set SOLVER.WARMUP_ITERS",
    ),
]


@pytest.mark.need("B8")
@pytest.mark.parametrize(("keys", "message"), MISTAKES)
def test_mistakes_are_refused_before_anything_is_built(keys: dict[str, Any], message: str, cfg_with: Cfg) -> None:
    with pytest.raises(ConfigError, match=message):
        check_solver(cfg_with(**keys))


# ---------------------------------------------------------------- what users' functions return


def nothing(t: int) -> None:
    return None


def late(t: int) -> Any:
    return 1.0 if t < 30 else None


def not_a_number(t: int) -> float:
    return math.nan


def without_argument() -> float:
    return 1.0


def of_numpy(t: int) -> Any:
    return np.float64(0.5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "nothing: must take the count and return a number; at 0: float.. argument must be"),
        ("late", "late: must take the count and return a number; at 59: float.. argument must be"),
        ("not_a_number", "not_a_number: returned nan at 0; a factor must be finite"),
        ("without_argument", "without_argument: must take the count and return a number; at 0: .*0 positional"),
    ],
)
def test_a_function_that_gives_no_number_is_refused_before_anything_is_built(
    function: str, message: str, cfg_with: Cfg
) -> None:
    arguments = {"lr_lambda": f"{__name__}:{function}"}
    cfg = cfg_with(LR_SCHEDULER_NAME="LambdaLR", LR_SCHEDULER_ARGS=arguments, MAX_ITER=60, WARMUP_ITERS=0)
    with pytest.raises(ConfigError, match=f"lr_lambda .*:{message}"):
        check_solver(cfg)


def test_a_function_may_return_a_number_of_numpys(cfg_with: Cfg, optimizer_with: Make) -> None:
    arguments = {"lr_lambda": f"{__name__}:of_numpy"}
    cfg = cfg_with(LR_SCHEDULER_NAME="LambdaLR", LR_SCHEDULER_ARGS=arguments, WARMUP_ITERS=0)
    optimizer = optimizer_with(1.0)
    build_lr_scheduler(cfg, optimizer).step()
    assert repr(optimizer.param_groups[0]["lr"]) == "0.5"


# ---------------------------------------------------------------- short runs, phases that are not reached


@pytest.mark.parametrize("length", [1, 2, 7])
def test_the_default_warm_up_does_not_fill_a_short_run(length: int, cfg_with: Cfg) -> None:
    schedule = build_schedule(cfg_with(MAX_ITER=length, STEPS=[]))
    assert schedule(length - 1) == 1.0
    with pytest.raises(
        ConfigError, match=f"never ends in a run of {length} .*; try SOLVER.WARMUP_ITERS 0, for no"
    ):
        build_schedule(cfg_with(MAX_ITER=length, WARMUP_ITERS=length))


def test_the_last_phase_may_say_where_it_ends(cfg_with: Cfg) -> None:
    phases = [
        {"NAME": "ConstantLR", "ARGS": {"factor": 1.0}, "UNTIL": 4},
        {"NAME": "CosineAnnealingLR", "UNTIL": 8},
    ]
    schedule = build_schedule(cfg_with(LR_SCHEDULER_NAME="SequentialLR", LR_PHASES=phases, WARMUP_ITERS=0))
    assert [schedule(t) for t in (4, 6, 8)] == pytest.approx([1.0, 0.5, 0.0])


def test_a_phase_that_is_not_reached_is_logged(
    cfg_with: Cfg, optimizer_with: Make, logged: list[logging.LogRecord]
) -> None:
    phases = [{"NAME": "ExponentialLR", "ARGS": {"gamma": 0.9}, "UNTIL": "80%"}, {"NAME": "CosineAnnealingLR"}]
    keys = {"LR_SCHEDULER_NAME": "SequentialLR", "LR_PHASES": phases, "MAX_ITER": 100}
    build_lr_scheduler(cfg_with(WARMUP_ITERS=10, **keys), optimizer_with(1.0))
    assert logged == []
    build_lr_scheduler(cfg_with(WARMUP_ITERS=20, **keys), optimizer_with(1.0))
    (line,) = [record.getMessage() for record in logged]
    assert line.endswith("entry 2 begins at 100, which the run of 100 iterations does not reach")


def test_an_epoch_count_is_rounded(cfg_with: Cfg) -> None:
    cfg = cfg_with(LR_SCHEDULER_NAME="CosineAnnealingLR", MAX_ITER=19, WARMUP_ITERS=0, LR_STEP_UNIT="epoch")
    # 19 / 2.5 = 7.6 epochs: the wave has a length of 8.
    assert build_schedule(cfg, Fraction(5, 2))(18) == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)


def test_a_resolved_config_survives_a_dump(cfg_with: Cfg) -> None:
    cfg = cfg_with(LR_SCHEDULER_NAME="MultiStepLR", LR_SCHEDULER_ARGS={"milestones": ["50%", 90]}, MAX_ITER=100)
    resolved = resolve_durations(cfg)
    again = get_cfg()
    again.merge_from_other_cfg(yaml.safe_load(resolved.dump()))
    assert again.differences(resolved) == []


@pytest.mark.parametrize("name", ["WarmupCosineLR", "OneCycleLR", "ReduceLROnPlateau", "SequentialLR"])
@pytest.mark.need("B5")
def test_a_scheduler_can_be_pickled(name: str, cfg_with: Cfg, optimizer_with: Make) -> None:
    keys: dict[str, Any] = {"LR_SCHEDULER_ARGS": {"max_lr": 0.5}} if name == "OneCycleLR" else {}
    keys |= {"LR_PHASES": [{"NAME": "CosineAnnealingLR"}]} if name == "SequentialLR" else {}
    scheduler = build_lr_scheduler(cfg_with(LR_SCHEDULER_NAME=name, MAX_ITER=50, **keys), optimizer_with(1.0))
    twin = pickle.loads(pickle.dumps(scheduler))
    for one in (scheduler, twin):
        one.step()
        one.observe(1.0)
    assert twin.state_dict() == scheduler.state_dict()
    assert twin.get_last_lr() == scheduler.get_last_lr() == rates(twin.optimizer)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"LR_SCHEDULER_NAME": "SequentialLR", "LR_PHASES": [{"NAME": "StepLR", "ARGS": {"step_size": "x"}}]},
            r"SOLVER.LR_PHASES: entry 1: step_size \\(merged config\\): expected a number of iterations",
        ),
        (
            {"LR_SCHEDULER_NAME": "MultiStepLR", "LR_SCHEDULER_ARGS": {"milestones": None}},
            "MultiStepLR refuses it: milestones must be a list of iterations, such as .30, 60.; got None",
        ),
        (
            {"LR_SCHEDULER_NAME": "SequentialLR", "LR_PHASES": [{"NAME": "SequentialLR"}]},
            "entry 1: SequentialLR cannot be a part of another; parts are ConstantLR",
        ),
        (
            {"LR_SCHEDULER_NAME": "CyclicLR", "LR_SCHEDULER_ARGS": {"base_lr": 0.1, "max_lr": -1}},
            "CyclicLR refuses it: max_lr must be 0 or more; got -1",
        ),
    ],
)
def test_messages_name_the_source_of_a_key(keys: dict[str, Any], message: str, cfg_with: Cfg) -> None:
    with pytest.raises(ConfigError, match=message.replace("\\\\", "\\")):
        check_solver(cfg_with(**keys))


def test_an_exponential_factor_of_0_is_no_mistake_without_warm_up(cfg_with: Cfg) -> None:
    check_solver(cfg_with(WARMUP_METHOD="exponential", WARMUP_FACTOR=0, WARMUP_ITERS=0))
