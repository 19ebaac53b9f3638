"""Lengths with a unit: rounding, exactness, and which keys have them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from warmstart.config import CfgNode, ConfigError, get_cfg, resolve_durations, to_iterations


def config(*overrides: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(overrides)
    return cfg


@pytest.mark.need("E14")
@pytest.mark.parametrize(
    ("value", "max_iter", "iters_per_epoch", "iterations"),
    [
        (7, None, None, 7),
        (0, None, None, 0),
        ("5%", 1000, None, 50),
        ("2.5%", 100, None, 3),  # 2.5, half up
        ("1.5%", 100, None, 2),
        ("2.4%", 100, None, 2),
        ("5%", 3, None, 1),  # 0.15, at least 1
        ("0.001%", 10, None, 1),
        ("0%", 1000, None, 0),
        ("0ep", None, 10, 0),
        ("100%", 41, None, 41),
        ("150%", 41, None, 62),
        ("33.3%", 5_000_000, None, 1_665_000),
        ("67%", 3, None, 2),
        ("90ep", None, 100, 9000),
        ("1ep", None, Fraction(1437, 64), 22),  # 22.45
        ("2ep", None, Fraction(1437, 64), 45),  # 44.9, not 2 * 22
        ("0.5 ep", None, Fraction(1, 3), 1),
        ("1.1ep", None, 5, 6),  # 5.5; in floats 5.500000000000001
        ("0.1%", 4500, None, 5),  # 4.5; in floats 0.1 / 100 * 4500 is below
        ("3ep", None, Fraction(1, 6), 1),  # exactly a half
    ],
)
def test_to_iterations(
    value: int | str, max_iter: int | None, iters_per_epoch: Fraction | int | None, iterations: int
) -> None:
    result = to_iterations(value, max_iter=max_iter, iters_per_epoch=iters_per_epoch)
    assert result == iterations
    assert type(result) is int


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("5%", "^'5%' is a share of MAX_ITER, which is not known here$"),
        ("5ep", "^'5ep' needs the size of the data set: pass iters_per_epoch, or use iterations$"),
        ("5", "^expected iterations or a string with a unit such as '90ep' or '5%'; got '5'$"),
        ("five", "got 'five'$"),
    ],
)
def test_to_iterations_refuses_other_text_and_unknown_lengths(value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_iterations(value)


@pytest.mark.need("E14", "B10")
def test_epochs_and_iterations_describe_the_same_run() -> None:
    """1,437 samples in batches of 64: an epoch is 22.453125 iterations."""
    in_epochs = config(
        *("SOLVER.IMS_PER_BATCH", 64, "SOLVER.MAX_ITER", "40ep", "SOLVER.STEPS", "20ep,75%"),
        *("SOLVER.WARMUP_ITERS", "1.5ep", "SOLVER.CHECKPOINT_PERIOD", "10ep", "TEST.EVAL_PERIOD", "1ep"),
        *("LOG_PERIOD", "1%"),
    )
    in_iterations = config(
        *("SOLVER.IMS_PER_BATCH", 64, "SOLVER.MAX_ITER", 898, "SOLVER.STEPS", (449, 674)),
        *(
            "SOLVER.DECAY_ITERS",
            180,
            "SOLVER.WARMUP_ITERS",
            34,
            "SOLVER.CHECKPOINT_PERIOD",
            225,
            "TEST.EVAL_PERIOD",
            22,
        ),
        *("LOG_PERIOD", 9),
    )
    assert resolve_durations(in_epochs, Fraction(1437, 64)) == in_iterations
    assert resolve_durations(in_iterations) == in_iterations


def test_every_duration_becomes_an_integer_and_keeps_its_source() -> None:
    cfg = config("SOLVER.MAX_ITER", "10ep", "SOLVER.WARMUP_ITERS", "10%")
    cfg.freeze()
    resolved = resolve_durations(cfg, 7)
    assert resolved.is_frozen()
    assert {d.key: (d.default, d.value) for d in resolved.differences(cfg)} == {
        "SOLVER.MAX_ITER": ("10ep", 70),
        "SOLVER.STEPS": (("75%",), (53,)),
        "SOLVER.DECAY_ITERS": ("20%", 14),
        "SOLVER.WARMUP_ITERS": ("10%", 7),
    }
    assert resolved.label("SOLVER.WARMUP_ITERS") == "SOLVER.WARMUP_ITERS (override)"
    assert not resolved.is_set("SOLVER.STEPS")
    assert cfg.SOLVER.MAX_ITER == "10ep"
    assert resolve_durations(resolved) == resolved


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("step_size", "30ep", 300),
        ("step_size_up", "5%", 50),
        ("total_iters", "1e2", 100),
        ("milestones", "30ep,60ep", (300, 600)),
        ("milestones", "[30, 50%]", (30, 500)),
        ("milestones", "30", (30,)),
        ("milestones", [1e2], (100,)),
        ("T_max", 17, 17),
        ("T_0", "100%", 1000),
        ("total_steps", "null", None),
        ("T_mult", "2", 2),
        ("gamma", 0.5, 0.5),
        ("mode", "5%", "5%"),
    ],
)
def test_arguments_of_schedules_that_count_steps(argument: str, value: Any, expected: Any) -> None:
    cfg = config("SOLVER.MAX_ITER", 1000, f"SOLVER.LR_SCHEDULER_ARGS.{argument}", value)
    arguments = resolve_durations(cfg, 10).SOLVER.LR_SCHEDULER_ARGS
    assert arguments.to_dict() == {argument: list(expected) if isinstance(expected, tuple) else expected}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["SOLVER.MAX_ITER", "9ep"],
            r"^SOLVER.MAX_ITER \(override\): '9ep' needs the size of the data set: pass iters_per_epoch",
        ),
        (
            ["SOLVER.STEPS", "9ep", "TEST.EVAL_PERIOD=1ep"],
            r"(?s)^2 problems:\n  SOLVER.STEPS \(override\): '9ep' needs .*\n  TEST.EVAL_PERIOD \(override\): ",
        ),
        (
            ["SOLVER.LR_SCHEDULER_ARGS.step_size", "9 epochs"],
            r"^SOLVER.LR_SCHEDULER_ARGS.step_size \(override\): expected a number of it.*; got '9 epochs'",
        ),
        (
            ["SOLVER.LR_SCHEDULER_ARGS.milestones", "{a: 1}"],
            r"SCHEDULER_ARGS.milestones: expected a list, .*'a': 1",
        ),
        (["SOLVER.LR_SCHEDULER_ARGS.T_max", "1.5"], r"SCHEDULER_ARGS.T_max \(override\): .*; got 1.5"),
    ],
)
def test_resolve_durations_names_each_key_that_cannot_be_resolved(overrides: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_durations(config(*overrides))
