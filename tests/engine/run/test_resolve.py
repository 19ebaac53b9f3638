"""Resolved configs: values that follow from the data set and from other keys, and checks."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from warmstart.config import CfgNode, ConfigError
from warmstart.engine import resolve_config
from warmstart.engine.run.resolve import _nearest_batches
from warmstart.engine.run.world_size_scaling import rounded

Tiny = Callable[..., CfgNode]


def test_sizes_and_durations_follow_from_the_data_set(tiny: Tiny) -> None:
    """48 samples, 8 an iteration: an epoch is 6."""
    cfg = resolve_config(tiny("SOLVER.MAX_ITER", "10ep", "SOLVER.STEPS", "5ep,90%", "TEST.EVAL_PERIOD", "1.5ep"))
    assert cfg.is_frozen()
    assert (cfg.MODEL.NUM_CLASSES, cfg.MODEL.IN_CHANNELS, cfg.MODEL.STEM) == (3, 1, "small")
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.TEST.EVAL_PERIOD) == (60, (30, 54), 9)


@pytest.mark.need("E14")
def test_epochs_and_iterations_give_the_same_run(tiny: Tiny) -> None:
    assert resolve_config(tiny("SOLVER.MAX_ITER", "2ep")) == resolve_config(tiny("SOLVER.MAX_ITER", 12))


@pytest.mark.parametrize(
    ("images", "factor", "parts", "nearest"),
    [
        (16, 1, 10**9, [10**9]),
        (16, 1, 3, [15, 18]),
        (100, 1, 8, [96, 104]),
        (2, 1, 4, [4]),
        (21, Fraction(1, 2), 4, [16, 23]),
        (10, 3, 4, [8, 12]),
        (10, Fraction(7, 3), 5, [2, 13]),
        (16, Fraction(7, 3), 10**18, [857142857142857143]),
    ],
)
def test_nearest_batches_agree_with_a_search(images: int, factor: Any, parts: int, nearest: list[int]) -> None:
    assert list(_nearest_batches(images, Fraction(factor), parts)) == nearest
    for each in nearest:
        assert rounded(each * Fraction(factor)) % parts == 0
    if parts < 100:
        others = [n for n in range(1, 200) if rounded(n * Fraction(factor)) % parts == 0]
        assert nearest == [*[n for n in others if n < images][-1:], *[n for n in others if n > images][:1]]


def test_resolve_config_refuses_a_billion_micro_batches_in_one_sentence(tiny: Tiny) -> None:
    message = (
        r"8 images an update cannot be cut into 1000000000 equal micro-batches; set SOLVER.GRAD_ACCUM_STEPS to"
    )
    with pytest.raises(ConfigError, match=message):
        resolve_config(tiny("SOLVER.GRAD_ACCUM_STEPS", 10**9))


@pytest.mark.parametrize("trains", [True, False])
def test_a_model_that_fails_on_the_images_is_refused(tiny: Tiny, trains: bool) -> None:
    words = (
        "INPUT.TRANSFORMS_TRAIN",
        "[{Resize: {size: [8, 8]}}]",
        "INPUT.TRANSFORMS_TEST",
        "[{Resize: {size: 2}}]",
    )
    cfg = tiny(*words)
    with pytest.raises(ConfigError, match=r"small_cnn fails on 2 images of 1x2x2: .* in INPUT.TRANSFORMS_TEST"):
        resolve_config(cfg, trains=trains)


def test_resolve_config_refuses_a_model_that_does_not_fit_into_memory(tiny: Tiny) -> None:
    message = "^MODEL.NAME: small_cnn with 1,000,000,000 outputs needs 136 GB of memory for its weights and"
    with pytest.raises(ConfigError, match=message):
        resolve_config(tiny("MODEL.NUM_CLASSES", 10**9))


def test_resolving_twice_changes_nothing(tiny: Tiny) -> None:
    once = resolve_config(tiny("SOLVER.MAX_ITER", "10ep"))
    assert resolve_config(once) == once


def test_resolve_config_reports_all_problems_at_once(tiny: Tiny) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_config(tiny("MODEL.NAME", "resnet19", "SOLVER.OPTIMIZER", "Adm", "SOLVER.WARMUP_ITERS", 20))
    assert len(error.value.problems) == 3


@pytest.mark.need("E12")
@pytest.mark.parametrize(
    ("images", "steps", "ways_out"),
    [
        (8, 3, "GRAD_ACCUM_STEPS to 2 or 4, or SOLVER.IMS_PER_BATCH to 6 or 9"),
        (8, 6, "GRAD_ACCUM_STEPS to 4 or 8, or SOLVER.IMS_PER_BATCH to 6 or 12"),
        (8, 16, "GRAD_ACCUM_STEPS to 8, or SOLVER.IMS_PER_BATCH to 16$"),
    ],
)
def test_resolve_config_refuses_unequal_micro_batches_and_suggests_the_nearest_sizes(
    tiny: Tiny, images: int, steps: int, ways_out: str
) -> None:
    cfg = tiny("SOLVER.IMS_PER_BATCH", images, "SOLVER.GRAD_ACCUM_STEPS", steps)
    message = (
        f"^SOLVER.GRAD_ACCUM_STEPS .*: {images} images an update .* {steps} equal micro-batches; .*{ways_out}"
    )
    with pytest.raises(ConfigError, match=message):
        resolve_config(cfg)


@pytest.mark.need("E4")
def test_ema_decay_refuses_1(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="SOLVER.EMA.DECAY .*: expected .* at least 0 and below 1; got 1"):
        tiny("SOLVER.EMA.DECAY", 1)
