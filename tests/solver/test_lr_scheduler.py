from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.solver import GroupSchedules, MetricLR, ScheduleLR, WarmupCosineLR, WarmupMultiStepLR
from warmstart.solver.decays import Cosine
from warmstart.solver.plateau import Plateau
from warmstart.solver.schedules import Level, MultiStep

Make = Callable[..., torch.optim.Optimizer]


def multi_step(optimizer: torch.optim.Optimizer, last_epoch: int = -1) -> WarmupMultiStepLR:
    return WarmupMultiStepLR(optimizer, [6, 9], 0.5, 0.5, 2, "linear", last_epoch)


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def walk(optimizer: torch.optim.Optimizer, scheduler: ScheduleLR, updates: int) -> None:
    for _ in range(updates):
        optimizer.step()
        scheduler.step()


def test_contract_of_a_torch_scheduler(optimizer_with: Make) -> None:
    optimizer = optimizer_with(1.0, 0.25)
    scheduler = multi_step(optimizer)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    assert scheduler.last_epoch == 0
    assert scheduler.get_last_lr() == rates(optimizer) == [0.5, 0.125]
    assert [group["initial_lr"] for group in optimizer.param_groups] == [1.0, 0.25]
    assert not hasattr(scheduler, "total_steps")  # HF accelerate would read it
    walk(optimizer, scheduler, 6)
    assert scheduler.last_epoch == 6
    assert scheduler.get_last_lr() == scheduler.get_lr() == rates(optimizer) == [0.5, 0.125]
    assert scheduler.lr_at(10**9) == [0.25, 0.0625]
    assert scheduler.lr_at(3) == [1.0, 0.25]
    assert rates(optimizer) == [0.5, 0.125]


def test_the_rates_reported_before_stay_as_they_were(optimizer_with: Make) -> None:
    scheduler = multi_step(optimizer_with(1.0))
    used = scheduler.get_last_lr()
    scheduler.step()
    assert (used, scheduler.get_last_lr()) == ([0.5], [0.75])


def test_step_takes_no_argument(optimizer_with: Make) -> None:
    scheduler = multi_step(optimizer_with(1.0))
    with pytest.raises(
        TypeError, match=r"step\(\) takes no argument, got 0.5: a metric goes to observe\(metric\)"
    ):
        scheduler.step(0.5)
    assert scheduler.last_epoch == 0


def test_a_scheduler_refuses_other_objects_than_optimizers() -> None:
    with pytest.raises(TypeError, match="expected an Optimizer; got list"):
        ScheduleLR([], Cosine(3))  # type: ignore[arg-type]


@pytest.mark.need("B2")
def test_quiet_in_any_order_of_calls_and_optimizer_untouched(optimizer_with: Make) -> None:
    optimizer = optimizer_with(1.0)
    step = optimizer.step
    scheduler = multi_step(optimizer)
    scheduler.step()  # before optimizer.step(): torch's own schedulers warn, and warnings are errors here
    scheduler.step()
    assert optimizer.step.__func__ is step.__func__
    assert rates(optimizer) == [1.0]


@pytest.mark.need("B5")
def test_state_is_the_iteration(optimizer_with: Make) -> None:
    optimizer = optimizer_with(1.0)
    scheduler = multi_step(optimizer)
    walk(optimizer, scheduler, 7)
    assert json.dumps(scheduler.state_dict(), allow_nan=False) == '{"last_epoch": 7}'
    again = optimizer_with(1.0)
    multi_step(again).load_state_dict({"last_epoch": 7})
    assert rates(again) == [0.5]


@pytest.mark.need("A6", "A7")
@pytest.mark.parametrize("k", range(1, 14))
def test_all_ways_to_an_iteration_agree_bit_for_bit(optimizer_with: Make, k: int) -> None:
    base = (0.1, 0.037)

    def cosine(optimizer: torch.optim.Optimizer, last_epoch: int = -1) -> WarmupCosineLR:
        return WarmupCosineLR(optimizer, 11, 0.001, 3, "linear", last_epoch)

    walked = optimizer_with(*base)
    scheduler = cosine(walked)
    walk(walked, scheduler, k)
    expected = rates(walked)
    saved = copy.deepcopy((walked.state_dict(), scheduler.state_dict()))

    assert cosine(optimizer_with(*base)).lr_at(k) == expected
    fresh = optimizer_with(*base)  # without initial_lr: torch raises a KeyError
    assert cosine(fresh, last_epoch=k - 1).last_epoch == k
    assert rates(fresh) == expected
    loaded = optimizer_with(*base)
    loaded.load_state_dict(saved[0])
    cosine(loaded, last_epoch=k - 1)  # base rates from initial_lr
    assert rates(loaded) == expected
    for optimizer_first in (True, False):
        optimizer = optimizer_with(*base)
        restored = cosine(optimizer)
        if optimizer_first:
            optimizer.load_state_dict(saved[0])
        restored.load_state_dict(saved[1])
        if not optimizer_first:
            optimizer.load_state_dict(saved[0])
        assert rates(optimizer) == restored.get_last_lr() == expected
        restored.step()
        scheduler_next = cosine(optimizer_with(*base)).lr_at(k + 1)
        assert rates(optimizer) == scheduler_next


@pytest.mark.need("A1", "S7")
@pytest.mark.parametrize("optimizer_first", [True, False])
def test_a_changed_base_rate_rules_over_the_checkpoint(optimizer_with: Make, optimizer_first: bool) -> None:
    old = optimizer_with(1.0)
    scheduler = multi_step(old)
    walk(old, scheduler, 4)
    new = optimizer_with(0.5)
    resumed = multi_step(new)
    if optimizer_first:
        new.load_state_dict(old.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    if not optimizer_first:
        new.load_state_dict(old.state_dict())
    assert rates(new) == [0.5]
    assert new.param_groups[0]["initial_lr"] == 0.5
    walk(new, resumed, 2)
    assert rates(new) == [0.25]


@pytest.mark.need("A2")
def test_a_run_with_a_larger_max_iter_continues_on_the_new_curve(optimizer_with: Make) -> None:
    optimizer = optimizer_with(1.0)
    scheduler = WarmupCosineLR(optimizer, 200, 0.5, 0)
    scheduler.load_state_dict({"last_epoch": 100})  # of a run of 100
    assert rates(optimizer) == pytest.approx([0.5])


@pytest.mark.need("A4", "A5")
@pytest.mark.parametrize("length", [1, 2, 7])
def test_short_runs_and_far_past_the_end(optimizer_with: Make, length: int) -> None:
    optimizer = optimizer_with(1.0)
    scheduler = WarmupCosineLR(optimizer, length, 0.5, 0)
    walk(optimizer, scheduler, 2 * length + 1)
    assert rates(optimizer) == scheduler.lr_at(10**12) == [0.0]


@pytest.mark.need("B4")
def test_no_drift_after_many_steps(optimizer_with: Make) -> None:
    optimizer = optimizer_with(0.3)
    scheduler = ScheduleLR(optimizer, MultiStep((10_000, 20_000), 0.1))
    for _ in range(30_000):
        scheduler.step()
    assert rates(optimizer) == [0.3 * 0.1**2]


@pytest.mark.need("B12")
def test_a_group_added_later_follows_from_its_first_update(optimizer_with: Make) -> None:
    optimizer = optimizer_with(1.0)
    used: list[list[float]] = []
    scheduler = multi_step(optimizer)
    optimizer.register_step_pre_hook(lambda *_: used.append(rates(optimizer)))
    walk(optimizer, scheduler, 6)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.25})
    assert rates(optimizer) == [0.5, 0.25]
    assert scheduler.lr_at(9) == [0.25, 0.0625]
    optimizer.step()
    assert scheduler.get_last_lr() == [0.5, 0.125]  # what the update used, as a record shows it
    scheduler.step()
    walk(optimizer, scheduler, 3)
    assert used[5:] == [[1.0], [0.5, 0.125], [0.5, 0.125], [0.5, 0.125], [0.25, 0.0625]]


@pytest.mark.need("B12")
def test_a_group_added_to_a_copied_optimizer_follows_from_its_first_update(optimizer_with: Make) -> None:
    twin = copy.deepcopy(multi_step(optimizer_with(1.0)))
    twin.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.25})
    twin.optimizer.step()
    assert rates(twin.optimizer) == [0.5, 0.125]


# In drops, in a wave, with one schedule a group, and by a metric; of one group and of several.
WRITERS: dict[str, Callable[[torch.optim.Optimizer], ScheduleLR]] = {
    "drops": lambda optimizer: multi_step(optimizer),
    "wave": lambda optimizer: WarmupCosineLR(optimizer, 40, 0.5, 2),
    "each its own": lambda optimizer: ScheduleLR(
        optimizer, GroupSchedules(lambda group: MultiStep((6, 9), 0.5 if group.index else 0.25))
    ),
    "metric": lambda optimizer: MetricLR(
        optimizer, lambda progress: Level(0.5**progress.patience.reductions), plateau=Plateau(patience=1)
    ),
}


@pytest.mark.need("B13")
@pytest.mark.parametrize("make", WRITERS.values(), ids=list(WRITERS))
@pytest.mark.parametrize("kind", ["one", "three", "tensors", "tensors put there since"])
def test_step_sets_the_scheduled_learning_rate_in_every_group(
    make: Callable[[torch.optim.Optimizer], ScheduleLR], kind: str, optimizer_with: Make
) -> None:
    base = (1.0,) if kind == "one" else (1.0, 0.25, 0.125)
    optimizer = optimizer_with(*(map(torch.tensor, base) if kind == "tensors" else base))
    scheduler = make(optimizer)
    if kind == "tensors put there since":
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"])
    kept = [group["lr"] for group in optimizer.param_groups]
    for update in range(1, 14):
        if update % 4 == 0:
            optimizer.param_groups[-1] = {**optimizer.param_groups[-1], "lr": kept[-1]}
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= 0.5  # as a hook of a user's does
        scheduler.step()
        scheduler.observe(1.0)
        written = rates(optimizer)
        assert written == scheduler.lr_at(update) == scheduler.get_last_lr() == scheduler.get_lr()
        if kind.startswith("tensors"):
            assert all(rate is tensor for rate, tensor in zip(written, kept, strict=True))
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    scheduler.load_state_dict(scheduler.state_dict())
    assert rates(optimizer) == scheduler.lr_at(13)


@pytest.mark.need("B12")
def test_a_group_added_on_a_plateau_and_a_resume_after_it(optimizer_with: Make) -> None:
    def grown() -> tuple[torch.optim.Optimizer, ScheduleLR]:
        optimizer = optimizer_with(1.0)
        scheduler = multi_step(optimizer)
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.25})
        return optimizer, scheduler

    optimizer, scheduler = grown()
    walk(optimizer, scheduler, 10)
    walk(optimizer, scheduler, 1)  # the factor stays
    assert scheduler.get_last_lr() == [0.25, 0.0625]
    resumed, its_scheduler = grown()
    resumed.load_state_dict(optimizer.state_dict())
    its_scheduler.load_state_dict(scheduler.state_dict())
    assert rates(resumed) == [0.25, 0.0625]


def test_a_rate_that_is_a_tensor_is_filled_in_place(optimizer_with: Make) -> None:
    rate = torch.tensor(1.0)
    optimizer = optimizer_with(rate)
    scheduler = multi_step(optimizer)
    walk(optimizer, scheduler, 1)
    assert optimizer.param_groups[0]["lr"] is rate
    assert torch.equal(rate, torch.tensor(0.75))
    assert scheduler.get_last_lr() == [0.75]
    assert scheduler.base_lrs == [1.0]
    assert type(optimizer.param_groups[0]["initial_lr"]) is float


def test_a_whole_number_as_rate(optimizer_with: Make) -> None:
    optimizer = optimizer_with(1)
    walk(optimizer, multi_step(optimizer), 1)
    assert rates(optimizer) == [0.75]


@pytest.mark.parametrize("how", ["deepcopy", "save"])
def test_copies_of_a_scheduler_are_independent(optimizer_with: Make, how: str) -> None:
    scheduler = multi_step(optimizer_with(1.0))
    scheduler.step()
    if how == "deepcopy":
        twin = copy.deepcopy(scheduler)
    else:
        buffer = io.BytesIO()
        torch.save(scheduler, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    scheduler.step()
    assert (twin.last_epoch, rates(twin.optimizer), rates(scheduler.optimizer)) == (1, [0.75], [1.0])
    twin.optimizer.load_state_dict(scheduler.optimizer.state_dict())
    assert rates(twin.optimizer) == [0.75]  # its own optimizer is watched too


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: WarmupMultiStepLR(o, [9, 6]), r"milestones must increase; got \(9, 6\)"),
        (lambda o: WarmupMultiStepLR(o, [6], warmup_method="exp"), "no warm-up is called 'exp'"),
        (lambda o: WarmupCosineLR(o, 0), "num_iters must be 1 or more; got 0"),
        (lambda o: WarmupCosineLR(o, 10, warmup_factor=2.0), r"a warm-up factor must be in \[0, 1\]; got 2.0"),
    ],
)
def test_impossible_settings(optimizer_with: Make, make: Callable[[Any], Any], message: str) -> None:
    optimizer = optimizer_with(1.0)
    with pytest.raises(ValueError, match=message):
        make(optimizer)
    assert rates(optimizer) == [1.0]


@pytest.mark.need("B12")
@pytest.mark.parametrize("ask", ["lr_at", "momentum_at", "get_lr", "nothing"])
def test_lr_at_between_a_new_group_and_its_first_step_changes_nothing(ask: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = ScheduleLR(optimizer, MultiStep((2,), 0.1))
    for _ in range(5):
        scheduler.step()
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.3})
    if ask in ("lr_at", "momentum_at"):
        getattr(scheduler, ask)(50)
    elif ask == "get_lr":
        scheduler.get_lr()
    assert scheduler.get_last_lr() == pytest.approx([0.01])
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.03])
    assert scheduler.get_last_lr() == pytest.approx([0.01, 0.03])


@pytest.mark.need("A1", "B12")
def test_the_base_rate_of_a_group_added_before_loading_is_the_configs(optimizer_with: Make) -> None:
    saved = optimizer_with(0.1, 0.3)
    ScheduleLR(saved, MultiStep((2,), 0.1))
    state = saved.state_dict()
    optimizer = optimizer_with(0.1)
    scheduler = ScheduleLR(optimizer, MultiStep((2,), 0.1))
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.5})
    optimizer.load_state_dict(state)
    assert scheduler.base_lrs == [0.1, 0.5]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]


@pytest.mark.need("B5", "D7")
def test_a_number_of_numpys_becomes_a_float(optimizer_with: Make) -> None:
    optimizer = optimizer_with(0.1)
    scheduler = ScheduleLR(optimizer, lambda t: np.cos(t / 10))  # type: ignore[arg-type, return-value]
    for _ in range(3):
        scheduler.step()
        assert [type(rate) for rate in (optimizer.param_groups[0]["lr"], *scheduler.lr_at(5))] == [float, float]
    scheduler.load_state_dict({"last_epoch": 7})
    assert type(optimizer.param_groups[0]["lr"]) is float


def test_a_tensor_rate_in_one_of_several_groups_stays_a_tensor(optimizer_with: Make) -> None:
    rate = torch.tensor(0.1, dtype=torch.float64)
    optimizer = optimizer_with(rate, 0.2)
    scheduler = ScheduleLR(optimizer, MultiStep((1,), 0.5))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.05, 0.1]


@pytest.mark.parametrize("wrong", ["5", -3, 2.5, None, True, torch.tensor(3)])
def test_load_state_dict_refuses_an_invalid_state_and_changes_nothing(wrong: Any, optimizer_with: Make) -> None:
    scheduler = ScheduleLR(optimizer_with(0.1), MultiStep((2,), 0.1), last_epoch=4)
    with pytest.raises(ValueError, match='"last_epoch" must be a number of iterations; got '):
        scheduler.load_state_dict({"last_epoch": wrong})
    assert scheduler.last_epoch == 5


@pytest.mark.parametrize("place", ["before the update", "before the step"])
def test_an_update_uses_the_scheduled_rate_of_a_group_that_was_replaced(place: str, optimizer_with: Make) -> None:
    optimizer = optimizer_with(1.0, 0.25)
    scheduler = multi_step(optimizer)
    used: list[list[float]] = []
    walk(optimizer, scheduler, 3)
    optimizer.register_step_pre_hook(lambda *_: used.append(rates(optimizer)))
    for _ in range(2):
        if place == "before the update":
            optimizer.param_groups[1] = {**optimizer.param_groups[1], "lr": 7.0}
        optimizer.step()
        if place == "before the step":
            optimizer.param_groups[1] = {**optimizer.param_groups[1], "lr": 7.0}
        scheduler.step()
    optimizer.step()
    assert used == [[1.0, 0.25]] * 3
    scheduler.step()
    assert rates(optimizer) == [0.5, 0.125]
