"""Scaling to k times SOLVER.REFERENCE_WORLD_SIZE: the learning rate is k times as high, the run 1/k as long."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from warmstart.config import CfgNode, ConfigError, get_cfg, imports
from warmstart.engine import check_scaled, resolve_config, scaled
from warmstart.solver import build_plan
from warmstart.tools import train_net

Tiny = Callable[..., CfgNode]


def cfg_of(*words: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.REFERENCE_WORLD_SIZE", 1, "SOLVER.MAX_ITER", 80, "SOLVER.BASE_LR", 0.1, *words])
    return cfg


def named(name: str, *words: Any, **arguments: Any) -> list[Any]:
    return ["SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.LR_SCHEDULER_ARGS", arguments, *words]


def test_train_net_logs_each_scaled_key_with_its_old_and_new_value(
    tiny_words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*tiny_words, "SOLVER.REFERENCE_WORLD_SIZE=2", "SOLVER.LR_SCHEDULER_NAME=StepLR"]
    words += ["SOLVER.LR_SCHEDULER_ARGS.step_size=5", "SOLVER.PARAM_GROUPS=[{MATCH: bias, LR: 0.02}]"]
    words += ["SOLVER.BASE_LR_END=0.001", "SOLVER.MAX_ITER=7", "LOG_PERIOD=5ep"]
    assert train_net.main(words) == 0
    said = [
        line.partition("WORLD_SIZE: ")[2] for line in capsys.readouterr().out.splitlines() if "scaled by" in line
    ]
    assert said == [
        "SOLVER.IMS_PER_BATCH: 8 -> 4",
        "SOLVER.REFERENCE_WORLD_SIZE: 2 -> 1",
        "SOLVER.MAX_ITER: 7 -> 14",
        "SOLVER.BASE_LR: 0.05 -> 0.025",
        "SOLVER.BASE_LR_END: 0.001 -> 0.0005",
        "SOLVER.LR_SCHEDULER_ARGS.step_size: 5 -> 10",
        "SOLVER.STEPS: (9,) -> (18,)",
        "SOLVER.WARMUP_ITERS: 4 -> 8",
        "SOLVER.PARAM_GROUPS: ({'MATCH': 'bias', 'LR': 0.02},) -> ({'MATCH': 'bias', 'LR': 0.01},)",
        "SOLVER.EMA.PERIOD: 1 -> 2",
        "SOLVER.CHECKPOINT_PERIOD: 5000 -> 10000",
        "TEST.PRECISE_BN.NUM_ITER: 200 -> 400",
    ]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("StepLR", {"step_size": 10}, {"step_size": 5}),
        ("StepLR", {"step_size": "10ep", "gamma": 0.5}, {"step_size": "10ep", "gamma": 0.5}),
        ("MultiStepLR", {"milestones": [30, "50%", 61]}, {"milestones": [15, "50%", 31]}),
        ("MultiStepLR", {"milestones": "30,60"}, {"milestones": [15, 30]}),
        ("ConstantLR", {}, {"total_iters": 3}),
        ("LinearLR", {"total_iters": 40, "start_factor": 0.5}, {"total_iters": 20, "start_factor": 0.5}),
        ("CosineAnnealingLR", {"T_max": 40, "eta_min": 0.0}, {"T_max": 20, "eta_min": 0.0}),
        ("CosineAnnealingLR", {"T_max": None}, {"T_max": None}),
        ("CosineAnnealingWarmRestarts", {"T_0": 10, "T_mult": 2}, {"T_0": 5, "T_mult": 2}),
        ("CyclicLR", {"step_size_down": 8}, {"step_size_down": 4, "step_size_up": 1000}),
        ("OneCycleLR", {"total_steps": 80}, {"total_steps": 40}),
        ("OneCycleLR", {"epochs": 2, "steps_per_epoch": 40}, {"epochs": 2, "steps_per_epoch": 20}),
        ("ReduceLROnPlateau", {"patience": 3}, {"patience": 3}),
    ],
)
def test_scaled_divides_the_lengths_among_a_schedules_arguments(
    name: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    found = scaled(cfg_of(*named(name, **before)), 2).SOLVER.LR_SCHEDULER_ARGS
    assert found == after
    for composed, key in (("SequentialLR", "LR_PHASES"), ("ChainedScheduler", "LR_FACTORS")):
        cfg = cfg_of("SOLVER.LR_SCHEDULER_NAME", composed, f"SOLVER.{key}", [{"NAME": name, "ARGS": before}])
        assert scaled(cfg, 2).SOLVER[key] == ({"NAME": name, "ARGS": after},)


PHASES = [
    {"NAME": "LinearLR", "ARGS": {"total_iters": 24}, "UNTIL": 24},
    {"NAME": "CosineAnnealingWarmRestarts", "ARGS": {"T_0": 8}},
]


@pytest.mark.parametrize(
    "words",
    [
        ["SOLVER.STEPS", (20, "50%", 60)],
        ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 0.01],
        ["SOLVER.LR_SCHEDULER_NAME", "WarmupStableDecayLR", "SOLVER.DECAY_ITERS", 20],
        named("StepLR", step_size=20),
        named("CosineAnnealingLR"),
        named("PolynomialLR", total_iters=64),
        named("SequentialLR", "SOLVER.LR_PHASES", PHASES),
        named("ChainedScheduler", "SOLVER.LR_FACTORS", [{"NAME": "StepLR", "ARGS": {"step_size": 20}}, PHASES[1]]),
        [*named("StepLR", step_size=20), "SOLVER.PARAM_GROUPS", [{"MATCH": "bias", "LR": 0.02}]],
    ],
)
def test_scaled_keeps_the_shape_of_the_learning_rates_curve(words: list[Any]) -> None:
    given = cfg_of("SOLVER.WARMUP_ITERS", 8, "SOLVER.IMS_PER_BATCH", 16, *words)
    long, short = (resolve_config(scaled(given, ranks), ranks, given=given) for ranks in (1, 4))
    assert (short.SOLVER.MAX_ITER, short.SOLVER.IMS_PER_BATCH) == (20, 64)
    for one, four in zip(build_plan(long), build_plan(short), strict=True):
        assert [four.rate(t) / 4 for t in range(20)] == pytest.approx(
            [one.rate(4 * t) for t in range(20)], abs=1e-9
        )


def test_scaled_keeps_lengths_that_are_counted_in_epochs() -> None:
    words = ["SOLVER.LR_STEP_UNIT", "epoch", *named("CosineAnnealingLR", T_max=40)]
    assert scaled(cfg_of(*words), 2).SOLVER.LR_SCHEDULER_ARGS == {"T_max": 40}
    assert (
        scaled(cfg_of("SOLVER.LR_STEP_UNIT", "epoch", *named("ExponentialLR", gamma=0.5)), 2).SOLVER.MAX_ITER == 40
    )


COSINE = [{"NAME": "CosineAnnealingLR", "ARGS": {"eta_min": 0.01}}]


@pytest.mark.parametrize(
    ("words", "rates"),
    [
        (named("CosineAnnealingLR", eta_min=0.01), "(eta_min)"),
        (named("OneCycleLR", max_lr=0.5), "(max_lr)"),
        (named("CyclicLR", base_lr=0.01, max_lr=[0.2]), "(base_lr, max_lr)"),
        (named("ChainedScheduler", "SOLVER.LR_FACTORS", COSINE), "(eta_min)"),
    ],
)
@pytest.mark.parametrize("unit", ["iter", "epoch"])
def test_check_scaled_refuses_absolute_learning_rates(words: list[Any], rates: str, unit: str) -> None:
    given = cfg_of(*words, "SOLVER.LR_STEP_UNIT", unit)
    with pytest.raises(ConfigError) as error:
        check_scaled(given, scaled(given, 2))
    assert re.fullmatch(
        rf"SOLVER.REFERENCE_WORLD_SIZE \(override\): \w+ takes absolute learning rates {re.escape(rates)}, which "
        "cannot be scaled; set SOLVER.REFERENCE_WORLD_SIZE to 0, or choose a schedule that is relative to "
        "SOLVER.BASE_LR",
        str(error.value),
    )
    check_scaled(given, scaled(given, 1))


@pytest.mark.parametrize("key", ["SOLVER.LR_PHASES", "SOLVER.LR_FACTORS"])
@pytest.mark.parametrize("place", [0, 1])
def test_check_scaled_looks_at_each_part_of_a_composed_schedule(key: str, place: int) -> None:
    parts: list[dict[str, Any]] = [{"NAME": "CosineAnnealingLR", "ARGS": {"T_max": 40}} for _ in range(2)]
    parts[place]["ARGS"]["eta_min"] = 0.01
    given = cfg_of(*named("SequentialLR" if key.endswith("PHASES") else "ChainedScheduler"), key, parts)
    with pytest.raises(ConfigError, match=r"CosineAnnealingLR takes absolute learning rates \(eta_min\)"):
        check_scaled(given, scaled(given, 2))


@pytest.mark.parametrize("zero", [0, 0.0, [0.0], [0.0, 0]])
def test_check_scaled_accepts_a_learning_rate_of_zero(zero: Any) -> None:
    given = cfg_of(*named("ReduceLROnPlateau", min_lr=zero))
    check_scaled(given, scaled(given, 2))


@pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR", "ExponentialLR"])
def test_check_scaled_refuses_a_function_of_the_iteration_except_for_epochs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(imports._IMPORTED, "math", math)
    arguments = {"gamma": 0.95} if name == "ExponentialLR" else {"lr_lambda": "math:cos"}
    given = cfg_of(*named(name, **arguments))
    with pytest.raises(ConfigError) as error:
        check_scaled(given, scaled(given, 2))
    assert str(error.value) == (
        f"SOLVER.REFERENCE_WORLD_SIZE (override): {name} computes from the number of the iteration, which cannot "
        "be scaled; set SOLVER.REFERENCE_WORLD_SIZE to 0, or SOLVER.LR_STEP_UNIT to epoch with arguments per epoch"
    )
    check_scaled(given, scaled(given, 1))
    given.merge_from_list(["SOLVER.LR_STEP_UNIT", "epoch"])
    check_scaled(given, scaled(given, 2))


def test_scaled_keeps_a_config_frozen_and_the_sources_of_its_values() -> None:
    given = cfg_of(*named("StepLR", step_size=10))
    given.freeze()
    cfg = scaled(given, 2)
    assert cfg.is_frozen()
    assert given.SOLVER.LR_SCHEDULER_ARGS == {"step_size": 10}
    assert cfg.label("SOLVER.LR_SCHEDULER_ARGS.step_size") == "SOLVER.LR_SCHEDULER_ARGS.step_size (override)"
