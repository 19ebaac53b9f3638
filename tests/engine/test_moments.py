"""What an optimizer keeps for a parameter is known before it has done a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from warmstart.config import get_cfg
from warmstart.engine.moments import missing_moments
from warmstart.solver import build_optimizer
from warmstart.solver.optimizers import OPTIMIZERS, REFUSED

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
def test_each_optimizer_misses_nothing_of_its_own_and_all_that_is_taken_away(name: str, argument: str) -> None:
    optimizer = stepped(name, argument)
    rng, weights = torch.get_rng_state(), [p.clone() for group in optimizer.param_groups for p in group["params"]]
    assert missing_moments(optimizer) == []
    for parameter, state in list(optimizer.state.items()):
        for key in list(state):
            taken = state.pop(key)
            # An empty state is that of a parameter which never had a gradient.
            assert missing_moments(optimizer) == ([key] if state else []), (name, parameter.ndim)
            state[key] = taken
    assert torch.equal(torch.get_rng_state(), rng)
    after = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(map(torch.equal, weights, after))


def test_the_step_of_a_users_optimizer_is_left_alone() -> None:
    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            raise AssertionError

    weight = nn.Parameter(torch.zeros(2))
    optimizer = Own([weight], lr=0.1)
    optimizer.state[weight] = {"own": 1}
    assert missing_moments(optimizer) == []
