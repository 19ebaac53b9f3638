"""What follows from the data set, and from other keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from warmstart.config import CfgNode, ConfigError
from warmstart.engine import resolve_config

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


def test_resolving_twice_changes_nothing(tiny: Tiny) -> None:
    once = resolve_config(tiny("SOLVER.MAX_ITER", "10ep"))
    assert resolve_config(once) == once


def test_everything_wrong_is_said_at_once(tiny: Tiny) -> None:
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
def test_a_batch_that_cannot_be_cut_into_equal_parts_is_refused_with_the_nearest_that_can(
    tiny: Tiny, images: int, steps: int, ways_out: str
) -> None:
    cfg = tiny("SOLVER.IMS_PER_BATCH", images, "SOLVER.GRAD_ACCUM_STEPS", steps)
    message = (
        f"^SOLVER.GRAD_ACCUM_STEPS .*: {images} images an update .* {steps} equal micro-batches; .*{ways_out}"
    )
    with pytest.raises(ConfigError, match=message):
        resolve_config(cfg)


@pytest.mark.need("E4")
def test_a_decay_that_averages_nothing_in_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="SOLVER.EMA.DECAY .*: expected .* at least 0 and below 1; got 1"):
        tiny("SOLVER.EMA.DECAY", 1)
