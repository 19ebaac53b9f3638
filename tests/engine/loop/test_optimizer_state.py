"""Restored optimizer state: dtypes, counters in groups, learning rates that torch's schedulers change."""

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

from warmstart.config import get_cfg
from warmstart.engine import Trainer
from warmstart.engine.checkpoint.content import snapshot
from warmstart.engine.loop.optimizer_state import load_optimizer_state, missing_optimizer_state
from warmstart.solver import WarmupCosineLR, build_optimizer
from warmstart.solver.optimizers import OPTIMIZERS, REFUSED

from ..dying import assert_same_bits

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


def build_schedule(optimizer: Optimizer) -> LRScheduler:
    return WarmupCosineLR(optimizer, 12)


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
def test_a_resumed_trainer_with_a_torch_scheduler_keeps_the_learning_rate(schedule: Schedule) -> None:
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
def test_load_optimizer_state_restores_counters_in_groups() -> None:
    assert_the_same_end(lambda max_iter: make_trainer(Counting, max_iter), 1, 7)


@pytest.mark.need("D9")
def test_load_optimizer_state_keeps_this_runs_hyper_parameters() -> None:
    def make(max_iter: int) -> Trainer:
        return make_trainer(Counting, max_iter)

    before = make(3)
    before.train()
    after = make(12)
    after.optimizer.param_groups[0] |= {"weight_decay": 0.25, "name": "mine"}
    after.load_state_dict(before.state_dict())
    group = after.optimizer.param_groups[0]
    assert (group["weight_decay"], group["name"], group["k"]) == (0.25, "mine", 3)


@pytest.mark.need("A1", "D9")
@pytest.mark.parametrize("key", ["weight_decay", "betas", "eps"])
def test_load_optimizer_state_keeps_hyper_parameters_of_base_classes(key: str) -> None:
    class Own(torch.optim.AdamW):
        def __init__(self, params: Any, lr: float, **others: Any) -> None:
            super().__init__(params, lr, **others)

    ours = {"weight_decay": 0.5, "betas": (0.5, 0.75), "eps": 0.125}
    before = make_trainer(Own, 3, lambda optimizer: build_schedule(optimizer))
    before.train()
    after = make_trainer(lambda p, lr: Own(p, lr, **ours), 12, lambda optimizer: build_schedule(optimizer))
    after.load_state_dict(before.state_dict())
    assert after.optimizer.param_groups[0][key] == ours[key]


@pytest.mark.need("A1")
def test_load_optimizer_state_keeps_hyper_parameters_of_muon() -> None:
    before, now = stepped("Muon"), stepped("Muon")
    for group in now.param_groups:
        if "betas" in group:
            group["betas"] = (0.5, 0.75)
    load_optimizer_state(now, before.state_dict(), build_schedule(now))
    assert {group["betas"] for group in now.param_groups if "betas" in group} == {(0.5, 0.75)}


def test_a_parameter_without_saved_state_keeps_its_initial_state() -> None:
    before, now = stepped("SGD"), stepped("SGD")
    state = before.state_dict()
    state["state"] = {}
    kept = [now.state[p]["momentum_buffer"].clone() for group in now.param_groups for p in group["params"]]
    load_optimizer_state(now, state, build_schedule(now))
    after = [now.state[p]["momentum_buffer"] for group in now.param_groups for p in group["params"]]
    assert all(map(torch.equal, kept, after))


@pytest.mark.need("D9")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.optim.NAdam, torch.optim.ASGD, torch.optim.Adam])
def test_optimizer_state_keeps_its_dtypes(kind: type[Optimizer], dtype: torch.dtype) -> None:
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
def test_optimizer_state_of_another_dtype_than_the_parameters_is_restored_unchanged() -> None:
    trainer = resumed_at(3, lambda max_iter: make_trainer(Master, max_iter))
    state = next(iter(trainer.optimizer.state.values()))
    assert (state["master"].dtype, state["count"].dtype) == (torch.float64, torch.int32)
    assert_the_same_end(lambda max_iter: make_trainer(Master, max_iter), 1, 5)


def test_load_optimizer_state_leaves_the_saved_state_unchanged() -> None:
    before = make_trainer(Master, 3)
    before.train()
    state = snapshot(before.state_dict())
    kept = copy.deepcopy(state)
    trainer = make_trainer(Master, 12)
    trainer.load_state_dict(state)
    trainer.train()
    assert_same_bits(state, kept)


USABLE = [name for name in OPTIMIZERS if name not in REFUSED]
VARIANTS = {
    "Adam": ("amsgrad", "fused", "foreach", "capturable"),
    "AdamW": ("amsgrad",),
    "RMSprop": ("centered", "foreach"),
    "SGD": ("fused", "foreach"),
}


def stepped(name: str, argument: str = "") -> torch.optim.Optimizer:
    """Return an optimizer that has done a step with parameters of 0, 1, 2 and 4 dimensions."""
    torch.manual_seed(0)
    cfg = get_cfg()
    switched = [f"SOLVER.OPTIMIZER_ARGS.{argument}", True] if argument else []
    cfg.merge_from_list(["SOLVER.OPTIMIZER", name, "SOLVER.BIAS_LR_FACTOR", 2, *switched])
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 2))
    model.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    optimizer = build_optimizer(cfg, model)
    (model(torch.randn(8, 2, 4, 4)).square().sum() * model.scale).backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name in USABLE for argument in ("", *VARIANTS.get(name, ()))]
)
def test_missing_optimizer_state_names_exactly_the_removed_entries(name: str, argument: str) -> None:
    optimizer = stepped(name, argument)
    rng, weights = torch.get_rng_state(), [p.clone() for group in optimizer.param_groups for p in group["params"]]
    assert missing_optimizer_state(optimizer) == []
    for parameter, state in list(optimizer.state.items()):
        for key in list(state):
            taken = state.pop(key)
            # A parameter that never had a gradient has an empty state.
            assert missing_optimizer_state(optimizer) == ([key] if state else []), (name, parameter.ndim)
            state[key] = taken
    assert torch.equal(torch.get_rng_state(), rng)
    after = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(map(torch.equal, weights, after))


def test_missing_optimizer_state_does_not_call_the_step_of_a_user_defined_optimizer() -> None:
    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            raise AssertionError

    weight = nn.Parameter(torch.zeros(2))
    optimizer = Own([weight], lr=0.1)
    optimizer.state[weight] = {"own": 1}
    assert missing_optimizer_state(optimizer) == []
