"""What holds for each schedule a config can name, and for those that later join the registry."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from warmstart.config import CfgNode, get_cfg
from warmstart.solver import ScheduleLR, build_lr_scheduler, build_optimizer, catalog

# Settings under which each schedule changes often; a name that is missing here fails below.
SETTINGS: dict[str, list[str]] = {
    "StepLR": ["LR_SCHEDULER_ARGS.step_size=3", "LR_SCHEDULER_ARGS.gamma=0.7"],
    "WarmupCosineLR": ["BASE_LR_END=0.003"],
    "WarmupMultiStepLR": ["STEPS=20%,50%,51%,90%", "GAMMA=0.3"],
    "WarmupStepWithFixedGammaLR": ["NUM_DECAYS=5", "GAMMA=0.7"],
}
NAMES = [*catalog.SCHEDULES, *catalog.KEYED_SCHEDULES]
WARMUPS = [
    ["WARMUP_ITERS=0"],
    ["WARMUP_ITERS=11", "WARMUP_METHOD=constant"],
    ["WARMUP_ITERS=11", "WARMUP_FACTOR=0"],
    ["WARMUP_ITERS=11", "WARMUP_BLEND=interpolate"],
    ["WARMUP_ITERS=11", "RESCALE_INTERVAL=true"],
]
N = 60
PAST = 10**12

every_name = pytest.mark.parametrize("name", NAMES)
every_warmup = pytest.mark.parametrize("warmup", WARMUPS, ids="+".join)


def test_each_registered_name_is_tested_here() -> None:
    assert sorted(NAMES) == sorted(SETTINGS)


def config(name: str, *more: str) -> CfgNode:
    cfg = get_cfg()
    settings = [f"LR_SCHEDULER_NAME={name}", "BASE_LR=0.1", f"MAX_ITER={N}", *SETTINGS[name], *more]
    cfg.merge_from_list([f"SOLVER.{setting}" for setting in settings])
    return cfg


def optimizer_with(*rates: Any) -> SGD:
    groups = [{"params": [nn.Parameter(torch.ones(2))], "lr": rate} for rate in rates]
    return SGD(groups, momentum=0.9)


def rates_of(optimizer: SGD) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


@every_name
@every_warmup
@pytest.mark.need("A6", "A7", "B4")
def test_all_ways_to_an_iteration_give_the_same_bits(name: str, warmup: list[str]) -> None:
    cfg = config(name, *warmup)
    walked = optimizer_with(0.1, 0.0037)
    walker = build_lr_scheduler(cfg, walked)
    closed = build_lr_scheduler(cfg, optimizer_with(0.1, 0.0037))
    for k in range(N + 15):
        expected = rates_of(walked)
        assert closed.lr_at(k) == walker.lr_at(k) == walker.get_last_lr() == walker.get_lr() == expected
        built = optimizer_with(0.1, 0.0037)
        assert build_lr_scheduler(cfg, built, last_epoch=k - 1).last_epoch == k
        assert rates_of(built) == expected
        for optimizer_first in (True, False):
            resumed = optimizer_with(0.1, 0.0037)
            scheduler = build_lr_scheduler(cfg, resumed)
            if optimizer_first:
                resumed.load_state_dict(copy.deepcopy(walked.state_dict()))
            scheduler.load_state_dict(json.loads(json.dumps(walker.state_dict(), allow_nan=False)))
            if not optimizer_first:
                resumed.load_state_dict(copy.deepcopy(walked.state_dict()))
            assert rates_of(resumed) == scheduler.get_last_lr() == expected
        walked.step()
        walker.step()
    assert closed.last_epoch == 0  # asking has moved nothing


@every_name
@pytest.mark.need("B5")
def test_the_state_is_the_iteration(name: str) -> None:
    scheduler = build_lr_scheduler(config(name), optimizer_with(0.1), last_epoch=41)
    assert json.dumps(scheduler.state_dict(), allow_nan=False) == '{"last_epoch": 42}'


@every_name
@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.need("A4", "A5")
def test_short_runs_and_far_past_the_end(name: str, length: int) -> None:
    cfg = config(name, f"MAX_ITER={length}", f"WARMUP_ITERS={length // 2}", "STEPS=100%")
    optimizer = optimizer_with(0.1)
    scheduler = build_lr_scheduler(cfg, optimizer)
    for _ in range(3 * length):
        optimizer.step()
        scheduler.step()
        assert 0 <= rates_of(optimizer)[0] <= 0.1
    assert 0 <= scheduler.lr_at(PAST)[0] <= scheduler.lr_at(length)[0]


@every_name
@every_warmup
@pytest.mark.need("B4", "B9")
def test_never_above_the_base_rate_and_no_jump_upwards(name: str, warmup: list[str]) -> None:
    scheduler = build_lr_scheduler(config(name, *warmup), optimizer_with(0.1))
    curve = [scheduler.lr_at(t)[0] for t in range(N + 1)]
    assert max(curve) <= 0.1
    if "WARMUP_METHOD=constant" not in warmup:
        slope = 0.1 / 11 * (1 + 1e-9)
        assert all(after - before <= slope for before, after in itertools.pairwise(curve))


@every_name
@pytest.mark.need("B1")
def test_without_warm_up_the_first_update_has_the_base_rate(name: str) -> None:
    for blend in ("product", "interpolate"):
        optimizer = optimizer_with(0.1, 0.02)
        build_lr_scheduler(config(name, "WARMUP_ITERS=0", f"WARMUP_BLEND={blend}"), optimizer)
        assert rates_of(optimizer) == [0.1, 0.02]


@every_name
@pytest.mark.need("A1", "A2", "S7")
def test_the_config_rules_over_what_was_saved(name: str) -> None:
    old = optimizer_with(0.1, 0.02)
    scheduler = build_lr_scheduler(config(name), old)
    for _ in range(40):
        old.step()
        scheduler.step()
    changed = config(name, "BASE_LR=0.05", "MAX_ITER=90", "GAMMA=0.5")
    expected = build_lr_scheduler(changed, optimizer_with(0.05, 0.01)).lr_at(40)
    new = optimizer_with(0.05, 0.01)
    resumed = build_lr_scheduler(changed, new)
    new.load_state_dict(old.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    assert rates_of(new) == expected
    assert [group["initial_lr"] for group in new.param_groups] == [0.05, 0.01]


@every_name
@pytest.mark.need("B12")
def test_a_group_added_at_k_follows_from_its_own_base_rate(name: str) -> None:
    cfg = config(name, "WARMUP_ITERS=11")
    optimizer = optimizer_with(0.1)
    scheduler = build_lr_scheduler(cfg, optimizer)
    for k in range(1, N + 5):
        optimizer.step()
        scheduler.step()
        if k == 17:
            optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": 0.05})
            assert rates_of(optimizer)[1] == 0.05
        if k > 17:
            first, second = rates_of(optimizer)
            assert second == pytest.approx(first / 2, rel=1e-12)
            assert scheduler.get_last_lr() == [first, second]


@every_name
def test_a_rate_that_is_a_tensor_stays_the_same_object(name: str) -> None:
    rate = torch.tensor(0.1, dtype=torch.float64)
    optimizer = optimizer_with(rate)
    scheduler = build_lr_scheduler(config(name), optimizer)
    for k in range(1, N + 5):
        optimizer.step()
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] is rate
        assert rate.item() == scheduler.lr_at(k)[0]


@every_name
@pytest.mark.need("B5")
def test_a_copy_goes_its_own_way(name: str) -> None:
    scheduler = build_lr_scheduler(config(name), optimizer_with(0.1))
    scheduler.step()
    twin = copy.deepcopy(scheduler)
    for _ in range(30):
        twin.step()
    assert (scheduler.last_epoch, twin.last_epoch) == (1, 31)
    assert rates_of(scheduler.optimizer) == scheduler.lr_at(1)
    assert rates_of(twin.optimizer) == scheduler.lr_at(31)


@every_name
@pytest.mark.need("B2")
def test_a_hand_written_loop_uses_the_rates_of_the_schedule(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False)
    cfg = config(name, "MOMENTUM=0", "WEIGHT_DECAY=0")
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    assert not hasattr(scheduler, "total_steps")
    for t in range(N):
        before = model.weight.detach().clone()
        optimizer.zero_grad()
        model(torch.ones(1, 3)).sum().backward()  # its gradient is 1 everywhere
        optimizer.step()
        scheduler.step()
        used = (before - model.weight.detach()).flatten().tolist()
        assert used == pytest.approx([scheduler.lr_at(t)[0]] * 3, abs=1e-6)


@every_name
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
    scheduler = build_lr_scheduler(config(name), optimizer_with(0.1))
    with pytest.raises(
        TypeError, match=r"step\(\) takes no argument, got 0.5: a metric goes to observe\(metric\)"
    ):
        scheduler.step(0.5)
    assert scheduler.state_dict() == {"last_epoch": 0}


def test_one_optimizer_may_get_another_schedule() -> None:
    optimizer = optimizer_with(0.1)
    schedulers: list[ScheduleLR] = [build_lr_scheduler(config(name), optimizer, last_epoch=29) for name in NAMES]
    assert [scheduler.base_lrs for scheduler in schedulers] == [[0.1]] * len(NAMES)
    assert rates_of(optimizer) == schedulers[-1].lr_at(30)
