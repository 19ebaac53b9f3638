"""One scheduler per optimizer: the one that was built last."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as torchs

from warmstart.solver import MetricLR, ScheduleLR, WarmupCosineLR, WarmupMultiStepLR
from warmstart.solver.plateau import Plateau
from warmstart.solver.schedules import Level

ADVICE = "to multiply schedules use SOLVER.LR_FACTORS, to run one after the other SOLVER.LR_PHASES"


@pytest.fixture
def optimizer() -> Optimizer:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def drops(optimizer: Optimizer) -> WarmupMultiStepLR:
    return WarmupMultiStepLR(optimizer, [6, 9], 0.5, warmup_iters=0)


def wave(optimizer: Optimizer) -> WarmupCosineLR:
    return WarmupCosineLR(optimizer, 4, warmup_iters=0)


def plateau(optimizer: Optimizer) -> MetricLR:
    return MetricLR(optimizer, lambda progress: Level(0.5**progress.patience.reductions), plateau=Plateau())


def refuses(problem: str) -> Any:
    sentence = f"an optimizer follows one scheduler, the one built last: {problem}; {ADVICE}"
    return pytest.raises(RuntimeError, match=f"^{re.escape(sentence)}$")


def warns(problem: str) -> Any:
    sentence = f"an optimizer follows one scheduler, the one built last: {problem}; {ADVICE}"
    return pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$")


def test_an_older_scheduler_raises_and_changes_nothing(optimizer: Optimizer) -> None:
    older = drops(optimizer)
    older.step()
    newer = wave(optimizer)
    newer.load_state_dict({"last_epoch": 2})
    for _ in range(2):
        with refuses("WarmupCosineLR was built after this WarmupMultiStepLR"):
            older.step()
    with refuses("WarmupCosineLR was built after this WarmupMultiStepLR"):
        older.load_state_dict({"last_epoch": 9})
    assert optimizer.param_groups[0]["lr"] == newer.get_last_lr()[0] == pytest.approx(0.5)
    assert older.lr_at(9) == [0.25]  # asking does no harm


def test_an_older_scheduler_with_metrics_raises(optimizer: Optimizer) -> None:
    older = plateau(optimizer)
    wave(optimizer)
    with refuses("WarmupCosineLR was built after this MetricLR"):
        older.observe(1.0)


def test_only_the_last_of_three_schedulers_steps(optimizer: Optimizer) -> None:
    first, second, third = drops(optimizer), wave(optimizer), plateau(optimizer)
    with refuses("WarmupCosineLR was built after this WarmupMultiStepLR"):
        first.step()
    with refuses("MetricLR was built after this WarmupCosineLR"):
        second.step()
    with warns("WarmupCosineLR, built before this MetricLR, is still there and has no effect"):
        third.step()


def test_a_referenced_older_scheduler_causes_one_warning_at_the_line_of_step(optimizer: Optimizer) -> None:
    older = drops(optimizer)
    older.step()
    newer = wave(optimizer)
    with warns("WarmupMultiStepLR, built before this WarmupCosineLR, is still there and has no effect") as seen:
        newer.step()
    assert seen[0].filename == __file__
    newer.step()  # warnings are errors here
    assert newer.last_epoch == 2


def test_an_older_scheduler_without_references_causes_no_warning(optimizer: Optimizer) -> None:
    scheduler: ScheduleLR = drops(optimizer)
    gone = weakref.ref(scheduler)
    scheduler.step()
    scheduler = wave(optimizer)
    assert gone() is None  # at once: no cycle keeps it until the collector runs
    scheduler.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.param_groups[0]["lr"] == scheduler.lr_at(1)[0]


def test_a_scheduler_that_cannot_be_built_replaces_none(optimizer: Optimizer) -> None:
    scheduler = drops(optimizer)
    with pytest.raises(ValueError, match="num_iters must be 1 or more"):
        WarmupCosineLR(optimizer, 0)
    with pytest.raises(ZeroDivisionError):
        ScheduleLR(optimizer, lambda t: 1 / t)
    scheduler.step()


def test_loaded_learning_rates_are_overwritten_by_the_newest_scheduler_only(optimizer: Optimizer) -> None:
    older, newer = drops(optimizer), wave(optimizer)
    newer.load_state_dict({"last_epoch": 2})
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)
    assert older.last_epoch == 0


def test_an_optimizer_does_not_accumulate_hooks(optimizer: Optimizer) -> None:
    for _ in range(5):
        wave(optimizer)
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    assert len(optimizer._optimizer_load_state_dict_post_hooks) == 1


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("older_first", [True, False])
def test_copies_of_two_schedulers_keep_their_order(
    how: Callable[[Any], Any], older_first: bool, optimizer: Optimizer
) -> None:
    older, newer = drops(optimizer), wave(optimizer)
    with pytest.warns(UserWarning, match="WarmupMultiStepLR, built before"):
        newer.step()
    pair = how([older, newer] if older_first else [newer, older])
    older_copy, newer_copy = pair if older_first else reversed(pair)
    newer_copy.step()
    with refuses("WarmupCosineLR was built after this WarmupMultiStepLR"):
        older_copy.step()
    newer.step()
    assert (newer.last_epoch, newer_copy.last_epoch, older_copy.last_epoch) == (2, 2, 0)


def test_a_shallow_copy_is_another_scheduler(optimizer: Optimizer) -> None:
    scheduler = wave(optimizer)
    twin = copy.copy(scheduler)
    with refuses("WarmupCosineLR was built after this WarmupCosineLR"):
        scheduler.step()
    with pytest.warns(UserWarning, match="is still there"):
        twin.step()


# ---------------------------------------------------------------- torch's own


def refuses_among(container: str, name: str) -> Any:
    return refuses(f"torch's {container} cannot step this {name} among others")


@pytest.mark.parametrize("place", [0, 1])
def test_sequential_lr_of_torch_is_refused_when_it_is_built(place: int, optimizer: Optimizer) -> None:
    makes: list[Callable[[Optimizer], Any]] = [lambda o: torchs.LinearLR(o, 0.1, total_iters=3)]
    makes.insert(place, wave)
    parts = [make(optimizer) for make in makes]
    with refuses_among("SequentialLR", "WarmupCosineLR"):
        torchs.SequentialLR(optimizer, parts, [3])


def test_sequential_lr_of_torch_over_two_of_ours_is_refused(optimizer: Optimizer) -> None:
    with refuses_among("SequentialLR", "WarmupMultiStepLR"):
        torchs.SequentialLR(optimizer, [drops(optimizer), wave(optimizer)], [3])


def test_methods_that_sequential_lr_calls_raise(optimizer: Optimizer) -> None:
    scheduler = wave(optimizer)  # torch before 2.7 calls these first
    with refuses_among("SequentialLR", "WarmupCosineLR"):
        scheduler._initial_step()
    with refuses_among("SequentialLR", "WarmupCosineLR"):
        scheduler._update_lr(0)


def test_chained_scheduler_of_torch_over_two_of_ours_is_refused(optimizer: Optimizer) -> None:
    chained = torchs.ChainedScheduler([drops(optimizer), wave(optimizer)])
    with refuses("WarmupCosineLR was built after this WarmupMultiStepLR"):
        chained.step()


def test_chained_scheduler_over_torchs_and_ours_is_refused(optimizer: Optimizer) -> None:
    chained = torchs.ChainedScheduler([torchs.StepLR(optimizer, 3), wave(optimizer)])
    optimizer.step()
    with refuses_among("ChainedScheduler", "WarmupCosineLR"):
        chained.step()


def test_chained_scheduler_over_ours_and_torchs_is_refused(optimizer: Optimizer) -> None:
    chained = torchs.ChainedScheduler([wave(optimizer), torchs.StepLR(optimizer, 3)])
    optimizer.step()
    with refuses("one of torch's was built after this WarmupCosineLR"):
        chained.step()


def test_chained_scheduler_over_one_of_ours_alone_steps_it(optimizer: Optimizer) -> None:
    scheduler = wave(optimizer)
    torchs.ChainedScheduler([scheduler]).step()
    assert scheduler.last_epoch == 1


def test_a_referenced_scheduler_of_torch_causes_a_warning(optimizer: Optimizer) -> None:
    older = torchs.LinearLR(optimizer, 0.1, total_iters=3)
    scheduler = wave(optimizer)
    optimizer.step()
    with warns("LinearLR, built before this WarmupCosineLR, is still there and has no effect"):
        scheduler.step()
    older.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == scheduler.lr_at(2)[0] == pytest.approx(0.5)


def test_a_deleted_scheduler_of_torch_causes_no_warning(optimizer: Optimizer) -> None:
    scheduler: Any = torchs.LinearLR(optimizer, 0.1, total_iters=3)
    scheduler = wave(optimizer)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == scheduler.get_last_lr()[0] == pytest.approx(0.8535534)


def test_a_scheduler_of_torch_over_another_optimizer_causes_no_warning(optimizer: Optimizer) -> None:
    other = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = [torchs.StepLR(other, 3), torchs.StepLR(optimizer, 3)]
    del theirs[1]
    wave(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wave(optimizer).step()
