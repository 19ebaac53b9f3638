from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fvcore.common import param_scheduler as fvcore

from warmstart.solver import LRMultiplier, WarmupParamScheduler

Make = Callable[..., torch.optim.Optimizer]


def as_detectron2_builds_it(solver: dict[str, Any]) -> fvcore.ParamScheduler:
    name, length = solver["LR_SCHEDULER_NAME"], solver["MAX_ITER"]
    if name == "WarmupMultiStepLR":
        values = [solver["GAMMA"] ** k for k in range(len(solver["STEPS"]) + 1)]
        inner = fvcore.MultiStepParamScheduler(values, milestones=solver["STEPS"], num_updates=length)
    elif name == "WarmupCosineLR":
        inner = fvcore.CosineParamScheduler(1.0, solver["BASE_LR_END"] / solver["BASE_LR"])
    else:
        inner = fvcore.StepWithFixedGammaParamScheduler(1.0, solver["NUM_DECAYS"], solver["GAMMA"], length)
    return WarmupParamScheduler(
        inner,
        solver["WARMUP_FACTOR"],
        min(solver["WARMUP_ITERS"] / length, 1.0),
        solver["WARMUP_METHOD"],
        solver["RESCALE_INTERVAL"],
    )


def test_detectron2s_curves(optimizer_with: Make, golden: Callable[[str], list[dict[str, Any]]]) -> None:
    curves = [curve for curve in golden("lr_curves.json") if curve["id"].startswith("detectron2")]
    assert len(curves) == 7
    for curve in curves:
        optimizer = optimizer_with(*curve["base_lrs"])
        scheduler = LRMultiplier(optimizer, as_detectron2_builds_it(curve["solver"]), 120)
        for t in range(len(curve["lr"][0])):
            expected = [group[t] for group in curve["lr"]]
            assert scheduler.get_last_lr() == pytest.approx(expected, rel=1e-9), (curve["id"], t)
            assert scheduler.lr_at(t) == scheduler.get_last_lr()
            scheduler.step()


@pytest.mark.need("A4", "A5")
@pytest.mark.parametrize("length", [1, 2, 7, 5_000_000])
@pytest.mark.parametrize(
    ("multiplier", "last"),
    [
        (fvcore.ConstantParamScheduler(0.5), 0.5),
        (fvcore.CosineParamScheduler(1.0, 0.25), 0.25),
        (fvcore.LinearParamScheduler(1.0, 0.25), 0.25),
        (fvcore.MultiStepParamScheduler([1.0, 0.25], milestones=[3, 4]), 0.25),
        (fvcore.PolynomialDecayParamScheduler(1.0, 2.0), 0.0),
        (fvcore.StepParamScheduler(4, [1.0, 0.5, 0.25]), 0.25),
        (fvcore.StepWithFixedGammaParamScheduler(1.0, 2, 0.5, 9), 0.25),
    ],
)
def test_defined_past_the_end(
    optimizer_with: Make, multiplier: fvcore.ParamScheduler, last: float, length: int
) -> None:
    scheduler = LRMultiplier(optimizer_with(1.0), multiplier, length)
    for t in (length, length + 1, 10**12):
        assert scheduler.lr_at(t) == [last]
    assert scheduler.lr_at(length - 1)[0] >= last


def test_a_multiplier_that_fails_inside_the_run_is_not_silenced(optimizer_with: Make) -> None:
    def fails(where: float) -> float:
        if where > 0.4:
            raise RuntimeError("no value here")
        return 1.0

    scheduler = LRMultiplier(optimizer_with(1.0), fails, 10)
    with pytest.raises(RuntimeError, match="no value here"):
        scheduler.lr_at(5)
    with pytest.raises(RuntimeError, match="no value here"):
        scheduler.lr_at(10)


def test_last_iter_is_the_index_of_the_last_update(optimizer_with: Make) -> None:
    optimizer = optimizer_with(1.0)
    scheduler = LRMultiplier(optimizer, fvcore.LinearParamScheduler(1.0, 0.0), 10, last_iter=4)
    assert (scheduler.last_epoch, optimizer.param_groups[0]["lr"]) == (5, 0.5)


@pytest.mark.need("B1")
def test_no_warm_up_is_the_scheduler_itself() -> None:
    inner = fvcore.CosineParamScheduler(1.0, 0.0)
    warmup = WarmupParamScheduler(inner, 0.001, 0.0)
    assert [warmup(where) for where in (0.0, 0.3, 1.0)] == [inner(where) for where in (0.0, 0.3, 1.0)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda inner: WarmupParamScheduler(inner, 0.1, 1.0), "warmup_length is a fraction of the run"),
        (lambda inner: WarmupParamScheduler(inner, 0.1, 500), "warmup_length is a fraction of the run.*got 500"),
        (lambda inner: WarmupParamScheduler(inner, 2.0, 0.1), r"a warm-up factor must be in \[0, 1\]; got 2.0"),
        (lambda inner: WarmupParamScheduler(inner, 0.1, 0.1, "exp"), "no warm-up is called 'exp'"),
    ],
)
def test_impossible_settings(make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(fvcore.CosineParamScheduler(1.0, 0.0))


def test_a_run_has_a_length(optimizer_with: Make) -> None:
    with pytest.raises(ValueError, match="max_iter must be 1 or more; got 0"):
        LRMultiplier(optimizer_with(1.0), fvcore.CosineParamScheduler(1.0, 0.0), 0)
