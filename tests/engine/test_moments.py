"""What an optimizer has gathered comes back: types, counts in its groups, rates that schedulers of torch move."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedules
from torch.optim.lr_scheduler import LRScheduler

from warmstart.engine import Trainer
from warmstart.engine.checkpoint import snapshot

from .dying import assert_same_bits

Schedule = Callable[[Optimizer], LRScheduler]


class Loss(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(3, 2, dtype=dtype)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"loss_mse": (self.net(x) - y).square().mean()}


def constant(optimizer: Optimizer) -> LRScheduler:
    return torch_schedules.ConstantLR(optimizer, 1.0)


def make_trainer(
    build: Callable[..., Optimizer],
    max_iter: int,
    schedule: Schedule = constant,
    dtype: torch.dtype = torch.float32,
) -> Trainer:
    model = Loss(dtype)
    optimizer = build(list(model.named_parameters()), lr=0.1)
    batch = torch.linspace(-1, 1, 12, dtype=dtype).view(4, 3), torch.ones(4, 2, dtype=dtype)
    return Trainer(model, optimizer, schedule(optimizer), [batch], max_iter=max_iter)


def resumed_at(k: int, make: Callable[[int], Trainer]) -> Trainer:
    before = make(k)
    before.train()
    state = snapshot(before.state_dict())
    trainer = make(12)
    trainer.load_state_dict(state)
    return trainer


def assert_the_same_end(make: Callable[[int], Trainer], *ks: int) -> None:
    whole = make(12)
    whole.train()
    for k in ks:
        trainer = resumed_at(k, make)
        trainer.train()
        for part in ("model", "optimizer", "scheduler"):
            ours: Any = getattr(trainer, part).state_dict()
            assert_same_bits(ours, getattr(whole, part).state_dict(), f"from {k}: {part}")


@pytest.mark.need("A6")
@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch_schedules.StepLR(o, 3, 0.5),
        lambda o: torch_schedules.MultiStepLR(o, [2, 5], 0.5),
        lambda o: torch_schedules.CosineAnnealingLR(o, 12),
        lambda o: torch_schedules.ExponentialLR(o, 0.9),
        lambda o: torch_schedules.LambdaLR(o, lambda t: 1 / (1 + t)),
        lambda o: torch_schedules.OneCycleLR(o, 0.5, total_steps=13),
        lambda o: torch_schedules.CyclicLR(o, 0.1, 0.5, step_size_up=4),
        lambda o: torch_schedules.SequentialLR(
            o, [torch_schedules.LinearLR(o, 0.1, total_iters=4), torch_schedules.CosineAnnealingLR(o, 8)], [4]
        ),
    ],
    ids=["step", "multistep", "cosine", "exponential", "lambda", "onecycle", "cyclic", "sequential"],
)
def test_a_trainer_with_a_scheduler_of_torch_goes_on_at_its_rate(schedule: Schedule) -> None:
    def make(max_iter: int) -> Trainer:
        return make_trainer(lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9), max_iter, schedule)

    assert_the_same_end(make, 1, 4, 5, 11)


class Counting(torch.optim.SGD):
    """Counts its steps in its groups, as schedule-free optimizers do, and moves by them."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            for parameter in group["params"]:
                parameter.data.mul_(1 - 0.1 / group["k"])
        return super().step(closure)


@pytest.mark.need("D9")
def test_what_an_optimizer_counts_in_its_groups_goes_on() -> None:
    assert_the_same_end(lambda max_iter: make_trainer(Counting, max_iter), 1, 7)


@pytest.mark.need("D9")
def test_the_settings_of_the_groups_stay_this_runs() -> None:
    def make(max_iter: int) -> Trainer:
        return make_trainer(Counting, max_iter)

    before = make(3)
    before.train()
    after = make(12)
    after.optimizer.param_groups[0] |= {"weight_decay": 0.25, "name": "mine"}
    after.load_state_dict(before.state_dict())
    group = after.optimizer.param_groups[0]
    assert (group["weight_decay"], group["name"], group["k"]) == (0.25, "mine", 3)


@pytest.mark.need("D9")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.optim.NAdam, torch.optim.ASGD, torch.optim.Adam])
def test_moments_keep_their_types(kind: type[Optimizer], dtype: torch.dtype) -> None:
    assert_the_same_end(lambda max_iter: make_trainer(kind, max_iter, dtype=dtype), 1, 5)


class Master(torch.optim.SGD):
    """Keeps its weights in double precision, and a count as an integer."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                master = state.setdefault("master", parameter.double())
                state["count"] = state.get("count", torch.tensor(0, dtype=torch.int32)) + 1
                master -= group["lr"] / state["count"] * parameter.grad
                parameter.copy_(master)


@pytest.mark.need("D9")
def test_moments_of_other_types_than_the_parameters_come_back_as_they_were() -> None:
    trainer = resumed_at(3, lambda max_iter: make_trainer(Master, max_iter))
    state = next(iter(trainer.optimizer.state.values()))
    assert (state["master"].dtype, state["count"].dtype) == (torch.float64, torch.int32)
    assert_the_same_end(lambda max_iter: make_trainer(Master, max_iter), 1, 5)


def test_loading_leaves_the_saved_state_alone() -> None:
    before = make_trainer(Master, 3)
    before.train()
    state = snapshot(before.state_dict())
    kept = copy.deepcopy(state)
    trainer = make_trainer(Master, 12)
    trainer.load_state_dict(state)
    trainer.train()
    assert_same_bits(state, kept)
