"""Two schedules, each built in both ways, and the learning rates of a plain loop as the reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.optimizer import Optimizer
from torch.utils.data import DataLoader

from warmstart.config import CfgNode, get_cfg
from warmstart.solver import ScheduleLR, WarmupCosineLR, WarmupMultiStepLR, build_lr_scheduler, build_optimizer

UPDATES = 12

Make = Callable[[Optimizer], ScheduleLR]
# A model, its optimizer and scheduler, and the rates of each update done so far, one for each group.
Parts = tuple[nn.Module, Optimizer, ScheduleLR, list[list[float]]]


def config_of(name: str) -> CfgNode:
    cfg = get_cfg()
    solver = {
        "LR_SCHEDULER_NAME": name,
        "MAX_ITER": UPDATES,
        "BASE_LR": 0.1,
        "BIAS_LR_FACTOR": 2.0,  # two parameter groups
        "STEPS": [6, 9],
        "WARMUP_ITERS": 4,
        "WARMUP_FACTOR": 0.1,
    }
    cfg.merge_from_other_cfg({"SOLVER": solver})
    return cfg


SCHEDULERS: dict[str, Make] = {
    "multi-step, config": partial(build_lr_scheduler, config_of("WarmupMultiStepLR")),
    "multi-step, class": lambda optimizer: WarmupMultiStepLR(optimizer, [6, 9], 0.1, 0.1, 4),
    "cosine, config": partial(build_lr_scheduler, config_of("WarmupCosineLR")),
    "cosine, class": lambda optimizer: WarmupCosineLR(optimizer, UPDATES, 0.1, 4),
}


@pytest.fixture(scope="session")
def config() -> Callable[[str], CfgNode]:
    """From the name of a schedule to the config of its run."""
    return config_of


@pytest.fixture(params=SCHEDULERS.values(), ids=list(SCHEDULERS))
def fresh(request: pytest.FixtureRequest) -> Callable[[], Parts]:
    """Return a function that builds the model, optimizer and scheduler of a new run."""

    def make() -> Parts:
        model = nn.Linear(3, 2)
        optimizer = build_optimizer(config_of("WarmupCosineLR"), model)
        used: list[list[float]] = []
        # torch calls it in the update itself, whoever has wrapped the optimizer.
        optimizer.register_step_pre_hook(lambda *_: used.append([group["lr"] for group in optimizer.param_groups]))
        return model, optimizer, request.param(optimizer), used

    return make


@pytest.fixture
def batches() -> DataLoader[torch.Tensor]:
    """An epoch of 6 micro-batches: 6 updates; or 3 of two; or 2 of four, the second with what is left."""
    return DataLoader(torch.ones(24, 3), batch_size=4)  # type: ignore[arg-type]


@pytest.fixture
def plain_loop(fresh: Callable[[], Parts]) -> list[list[float]]:
    """The learning rates that a plain loop uses."""
    model, optimizer, scheduler, used = fresh()
    for _ in range(UPDATES):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    return used
