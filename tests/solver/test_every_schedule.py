"""Properties of every schedule in the registry."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer

from warmstart.config import CfgNode, get_cfg, import_module
from warmstart.solver import ScheduleLR, build_lr_scheduler, build_optimizer, schedule_names

import_module(__name__, "as with --import")  # for the function below

# Settings under which each schedule changes often; a name that is missing here fails below.
SETTINGS: dict[str, list[str]] = {
    "ChainedScheduler": [
        "LR_FACTORS=[{NAME: CosineAnnealingLR}, {NAME: StepLR, ARGS: {step_size: 9, gamma: 0.7}}]",
    ],
    "ConstantLR": ["LR_SCHEDULER_ARGS.factor=0.3", "LR_SCHEDULER_ARGS.total_iters=50%"],
    "CosineAnnealingLR": ["LR_SCHEDULER_ARGS.eta_min=0.001"],
    "CosineAnnealingWarmRestarts": ["LR_SCHEDULER_ARGS.T_0=7", "LR_SCHEDULER_ARGS.T_mult=2"],
    "CyclicLR": [
        *("LR_SCHEDULER_ARGS.base_lr=0.01", "LR_SCHEDULER_ARGS.max_lr=0.1", "LR_SCHEDULER_ARGS.step_size_up=6"),
        *("LR_SCHEDULER_ARGS.step_size_down=5", "LR_SCHEDULER_ARGS.mode=triangular2"),
    ],
    "ExponentialLR": ["LR_SCHEDULER_ARGS.gamma=0.93"],
    "LambdaLR": [f"LR_SCHEDULER_ARGS.lr_lambda={__name__}:dented"],
    "LinearLR": [
        "LR_SCHEDULER_ARGS.start_factor=1",
        "LR_SCHEDULER_ARGS.end_factor=0.1",
        "LR_SCHEDULER_ARGS.total_iters=90%",
    ],
    "MultiStepLR": ["LR_SCHEDULER_ARGS.milestones=5,20,21", "LR_SCHEDULER_ARGS.gamma=0.3"],
    "MultiplicativeLR": [f"LR_SCHEDULER_ARGS.lr_lambda={__name__}:dented"],
    "OneCycleLR": ["LR_SCHEDULER_ARGS.max_lr=0.1", "LR_SCHEDULER_ARGS.three_phase=true"],
    "PolynomialLR": ["LR_SCHEDULER_ARGS.total_iters=80%", "LR_SCHEDULER_ARGS.power=2"],
    "ReduceLROnPlateau": ["LR_SCHEDULER_ARGS.factor=0.7", "LR_SCHEDULER_ARGS.patience=2"],
    "SequentialLR": [
        "LR_PHASES=[{NAME: CosineAnnealingLR, UNTIL: 8}, {NAME: CyclicLR, UNTIL: 20, "
        "ARGS: {base_lr: 0.01, max_lr: 0.08, step_size_up: 3}}, {NAME: ExponentialLR, ARGS: {gamma: 0.9}}]",
    ],
    "StepLR": ["LR_SCHEDULER_ARGS.step_size=3", "LR_SCHEDULER_ARGS.gamma=0.7"],
    "WarmupCosineLR": ["BASE_LR_END=0.003"],
    "WarmupMultiStepLR": ["STEPS=20%,50%,51%,90%", "GAMMA=0.3"],
    "WarmupPolyLR": ["POLY_LR_POWER=0.7", "POLY_LR_CONSTANT_ENDING=0.05"],
    "WarmupStableDecayLR": ["DECAY_ITERS=60%", "DECAY_METHOD=sqrt", "BASE_LR_END=0.002"],
    "WarmupStepWithFixedGammaLR": ["NUM_DECAYS=5", "GAMMA=0.7"],
}
NAMES = schedule_names()
MOVE_MOMENTUM = {"CyclicLR", "OneCycleLR", "SequentialLR"}
# Neither the first factor nor the highest one is 1, or the rate comes back up.
UNEVEN = MOVE_MOMENTUM | {"ConstantLR", "CosineAnnealingWarmRestarts", "LambdaLR", "MultiplicativeLR"}
ONE_WAY = sorted({*NAMES} - UNEVEN)
WARMUPS = [
    ["WARMUP_ITERS=0"],
    ["WARMUP_ITERS=11", "WARMUP_METHOD=constant"],
    ["WARMUP_ITERS=11", "WARMUP_FACTOR=0"],
    ["WARMUP_ITERS=11", "WARMUP_METHOD=cosine"],
    ["WARMUP_ITERS=11", "WARMUP_METHOD=exponential"],
    ["WARMUP_ITERS=11", "WARMUP_BLEND=interpolate"],
    ["WARMUP_ITERS=11", "RESCALE_INTERVAL=true"],
    ["WARMUP_ITERS=11", "LR_STEP_UNIT=epoch"],
]
N = 60
EPOCH = Fraction(5, 2)
PAST = 10**12


def dented(t: int) -> float:
    return 1.0 - (t % 3) / 8


every_name = pytest.mark.parametrize("name", NAMES)
one_way = pytest.mark.parametrize("name", ONE_WAY)
every_warmup = pytest.mark.parametrize("warmup", WARMUPS, ids="+".join)


def test_each_registered_name_is_tested_here() -> None:
    assert sorted(NAMES) == sorted(SETTINGS)


@functools.cache
def config(name: str, *more: str) -> CfgNode:
    cfg = get_cfg()
    settings = [f"LR_SCHEDULER_NAME={name}", "BASE_LR=0.1", f"MAX_ITER={N}", *SETTINGS[name], *more]
    cfg.merge_from_list([f"SOLVER.{setting}" for setting in settings])
    return cfg


def optimizer_with(*rates: Any) -> SGD:
    groups = [{"params": [nn.Parameter(torch.ones(2))], "lr": rate} for rate in rates]
    return SGD(groups, momentum=0.9)


def rates_of(optimizer: Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def build(name: str, optimizer: Optimizer, *more: str, last_epoch: int = -1) -> ScheduleLR:
    return build_lr_scheduler(config(name, *more), optimizer, EPOCH, last_epoch)


def settings_of(optimizer: Optimizer) -> list[tuple[Any, ...]]:
    """What a schedule writes."""
    return [(group["lr"], group["momentum"]) for group in optimizer.param_groups]


def show_metric(scheduler: ScheduleLR) -> None:
    """What a loop does that evaluates after every third update; the metric gets worse from 20 on."""
    t = scheduler.last_epoch
    if t % 3 == 0:
        scheduler.observe(1.0 / t if t < 20 else float(t))


@every_name
@every_warmup
@pytest.mark.need("A6", "A7", "B4", "B14")
def test_all_ways_to_an_iteration_give_the_same_bits(name: str, warmup: list[str]) -> None:
    walked = optimizer_with(0.1, 0.0037)
    walker = build(name, walked, *warmup)
    closed = build(name, optimizer_with(0.1, 0.0037), *warmup)
    by_metric = name == "ReduceLROnPlateau"
    for k in range(N + 15):
        expected = settings_of(walked)
        assert [rate for rate, _ in expected] == walker.lr_at(k) == walker.get_last_lr() == walker.get_lr()
        if not by_metric:
            assert closed.lr_at(k) == walker.lr_at(k)
            built = optimizer_with(0.1, 0.0037)
            assert build(name, built, *warmup, last_epoch=k - 1).last_epoch == k
            assert settings_of(built) == expected
        for optimizer_first in (True, False):
            resumed = optimizer_with(0.1, 0.0037)
            scheduler = build(name, resumed, *warmup)
            if optimizer_first:
                resumed.load_state_dict(copy.deepcopy(walked.state_dict()))
            scheduler.load_state_dict(json.loads(json.dumps(walker.state_dict(), allow_nan=False)))
            if not optimizer_first:
                resumed.load_state_dict(copy.deepcopy(walked.state_dict()))
            assert settings_of(resumed) == expected
            assert scheduler.get_last_lr() == rates_of(resumed)
        walked.step()
        walker.step()
        show_metric(walker)
    assert closed.last_epoch == 0  # asking has moved nothing
    if by_metric:
        assert walker.state_dict()["num_reductions"] > 2


@every_name
@pytest.mark.need("B5")
def test_the_state_is_a_few_numbers(name: str) -> None:
    scheduler = build(name, optimizer_with(0.1), last_epoch=41)
    state = json.loads(json.dumps(scheduler.state_dict(), allow_nan=False))
    assert state.pop("last_epoch") == 42
    memory = {"warmup_end": None, "best": None, "num_bad": 0, "cooldown": 0, "num_reductions": 0}
    assert state == (memory if name == "ReduceLROnPlateau" else {})


@every_name
@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.need("A4", "A5", "B6")
def test_short_runs_and_far_past_the_end(name: str, length: int) -> None:
    optimizer = optimizer_with(0.1)
    # Phases that the run does not reach are not a mistake.
    scheduler = build(name, optimizer, f"MAX_ITER={length}", f"WARMUP_ITERS={length // 2}", "STEPS=100%")
    for _ in range(3 * length):
        optimizer.step()
        scheduler.step()
        assert 0 <= rates_of(optimizer)[0] <= 0.1
    past = scheduler.lr_at(10**4 if name == "MultiplicativeLR" else PAST)[0]
    assert 0 <= past <= 0.1
    if name in ONE_WAY and name not in ("CosineAnnealingLR", "ChainedScheduler"):  # as in torch, waves continue
        assert past <= scheduler.lr_at(length)[0]


@one_way
@every_warmup
@pytest.mark.need("B4", "B9")
def test_never_above_the_base_rate_and_no_jump_upwards(name: str, warmup: list[str]) -> None:
    scheduler = build(name, optimizer_with(0.1), *warmup)
    curve = [scheduler.lr_at(t)[0] for t in range(N + 1)]
    assert max(curve) <= 0.1
    method = next((word.partition("=")[2] for word in warmup if "METHOD" in word), "linear")
    if method in ("linear", "cosine"):
        slope = 0.1 / 11 * (math.pi / 2 if method == "cosine" else 1.0) * (1 + 1e-9)
        assert all(after - before <= slope for before, after in itertools.pairwise(curve))


@one_way
@pytest.mark.need("B1")
def test_without_warm_up_the_first_update_has_the_base_rate(name: str) -> None:
    for blend in ("product", "interpolate"):
        optimizer = optimizer_with(0.1, 0.02)
        build(name, optimizer, "WARMUP_ITERS=0", f"WARMUP_BLEND={blend}")
        assert rates_of(optimizer) == [0.1, 0.02]


@every_name
@pytest.mark.need("A1", "A2", "S7")
def test_the_config_overrides_saved_settings(name: str) -> None:
    old = optimizer_with(0.1, 0.02)
    scheduler = build(name, old)
    for _ in range(40):
        old.step()
        scheduler.step()
    changed = ["BASE_LR=0.05", "MAX_ITER=90", "GAMMA=0.5"]
    fresh = optimizer_with(0.05, 0.01)
    build(name, fresh, *changed, last_epoch=39)
    new = optimizer_with(0.05, 0.01)
    resumed = build(name, new, *changed)
    new.load_state_dict(old.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    assert settings_of(new) == settings_of(fresh)
    assert [group["initial_lr"] for group in new.param_groups] == [0.05, 0.01]


@every_name
@pytest.mark.need("A1", "A2")
def test_another_schedule_continues_from_the_same_iteration(name: str) -> None:
    old = optimizer_with(0.1)
    scheduler = build("OneCycleLR", old)
    for _ in range(40):
        old.step()
        scheduler.step()
    new, fresh = optimizer_with(0.1), optimizer_with(0.1)
    resumed = build(name, new)
    new.load_state_dict(old.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    build(name, fresh, last_epoch=39)
    assert rates_of(new) == rates_of(fresh)


@every_name
@pytest.mark.need("B12")
def test_a_group_added_at_k_follows_from_its_own_base_rate(name: str) -> None:
    optimizer = optimizer_with(0.1)
    scheduler = build(name, optimizer, "WARMUP_ITERS=11")
    both = optimizer_with(0.1, 0.05)
    expected = build(name, both, "WARMUP_ITERS=11")
    for k in range(1, N + 5):
        for one, its in ((optimizer, scheduler), (both, expected)):
            one.step()
            its.step()
            show_metric(its)
        if k == 17:
            optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": 0.05})
            assert rates_of(optimizer)[1] == 0.05
        if k > 17:
            assert settings_of(optimizer) == settings_of(both)
            assert scheduler.get_last_lr() == rates_of(optimizer)


@every_name
@pytest.mark.need("B12")
def test_a_group_with_base_rate_0_keeps_it(name: str) -> None:
    optimizer = optimizer_with(0.1, 0.0)
    scheduler = build(name, optimizer)
    for _ in range(N):
        assert rates_of(optimizer)[1] == 0.0
        optimizer.step()
        scheduler.step()
        show_metric(scheduler)


@every_name
def test_a_rate_that_is_a_tensor_stays_the_same_object(name: str) -> None:
    rate = torch.tensor(0.1, dtype=torch.float64)
    optimizer = optimizer_with(rate)
    scheduler = build(name, optimizer)
    for k in range(1, N + 5):
        optimizer.step()
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] is rate
        assert rate.item() == scheduler.lr_at(k)[0]


@every_name
@pytest.mark.need("B5")
def test_a_copy_of_a_scheduler_is_independent(name: str) -> None:
    scheduler = build(name, optimizer_with(0.1))
    scheduler.step()
    twin = copy.deepcopy(scheduler)
    for _ in range(30):
        twin.step()
    assert (scheduler.last_epoch, twin.last_epoch) == (1, 31)
    assert rates_of(scheduler.optimizer) == scheduler.lr_at(1)
    assert rates_of(twin.optimizer) == scheduler.lr_at(31)


@every_name
@pytest.mark.need("B2", "B13")
def test_a_hand_written_loop_uses_the_rates_of_the_schedule(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False).double()
    more = ["MOMENTUM=0", "WEIGHT_DECAY=0"]
    cfg = config(name, *more)
    optimizer = build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        group["dampening"] = 1  # a momentum that moves adds nothing to the update
    scheduler = build_lr_scheduler(cfg, optimizer)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    assert not hasattr(scheduler, "total_steps")
    if name in MOVE_MOMENTUM:
        return
    for t in range(N):
        before = model.weight.detach().clone()
        optimizer.zero_grad()
        model(torch.ones(1, 3, dtype=torch.float64)).sum().backward()  # its gradient is 1 everywhere
        optimizer.step()
        scheduler.step()
        used = (before - model.weight.detach()).flatten().tolist()
        assert used == pytest.approx([scheduler.lr_at(t)[0]] * 3, abs=1e-12)


@every_name
@pytest.mark.need("B3")
def test_an_update_that_a_scaler_skips_counts_and_is_quiet(name: str) -> None:
    model = nn.Linear(3, 1, bias=False)
    # Without momentum: torch's fused SGD leaves its buffer unset when it skips the very first update.
    cfg = config(name, "MOMENTUM=0")
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for t in range(5):
        optimizer.zero_grad()
        before = model.weight.detach().clone()
        scaler.scale(model(torch.ones(1, 3)).sum() * (torch.inf if t in (0, 3) else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        assert torch.equal(before, model.weight) == (t in (0, 3))
        assert rates_of(optimizer) == scheduler.lr_at(t + 1)


@every_name
def test_a_metric_is_no_argument_of_step(name: str) -> None:
    scheduler = build(name, optimizer_with(0.1))
    state = scheduler.state_dict()
    with pytest.raises(
        TypeError, match=r"step\(\) takes no argument, got 0.5: a metric goes to observe\(metric\)"
    ):
        scheduler.step(0.5)
    assert scheduler.state_dict() == state


def test_one_optimizer_may_get_another_schedule() -> None:
    optimizer = optimizer_with(0.1)
    schedulers = [build(name, optimizer, last_epoch=29) for name in NAMES]
    assert [scheduler.base_lrs for scheduler in schedulers] == [[0.1]] * len(NAMES)
    assert rates_of(optimizer) == schedulers[-1].lr_at(30)
