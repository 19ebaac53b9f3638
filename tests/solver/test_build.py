from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from warmstart.config import CfgNode, ConfigError
from warmstart.solver import (
    build_lr_scheduler,
    build_optimizer,
    check_solver,
)

Cfg = Callable[..., CfgNode]
Make = Callable[..., torch.optim.Optimizer]


def test_the_default_is_torchs_sgd_bit_for_bit(cfg_with: Cfg) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    theirs = copy.deepcopy(ours)
    built = build_optimizer(cfg_with(BASE_LR=0.1, NESTEROV=True, WEIGHT_DECAY=0.01, WEIGHT_DECAY_NORM=0.01), ours)
    plain = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=0.01, fused=True)
    for _ in range(3):
        for model, optimizer in ((ours, built), (theirs, plain)):
            optimizer.zero_grad()
            model(torch.arange(8.0).view(2, 4)).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"OPTIMIZER": "AdamW", "OPTIMIZER_ARGS": {"betas": 5}}, "AdamW refuses it: "),
        ({"OPTIMIZER_ARGS": {"fused": True, "foreach": True}}, "SGD refuses it: "),
    ],
)
def test_check_solver_names_the_key_of_arguments_that_the_class_refuses(
    keys: dict[str, Any], message: str, cfg_with: Cfg
) -> None:
    with pytest.raises(ConfigError, match=f"SOLVER.OPTIMIZER.*{message}"):
        check_solver(cfg_with(**keys))
    with pytest.raises(ConfigError, match=f"SOLVER.OPTIMIZER.*{message}"):
        build_optimizer(cfg_with(**keys), nn.Linear(2, 2))


@pytest.mark.gpu
def test_a_rate_on_the_gpu_is_filled_in_place(cfg_with: Cfg) -> None:
    rate = torch.tensor(1.0, device="cuda")
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).cuda().parameters(), lr=rate, capturable=True)
    scheduler = build_lr_scheduler(cfg_with(MAX_ITER=10, STEPS=[1], WARMUP_ITERS=0), optimizer)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert torch.equal(rate.cpu(), torch.tensor(0.1))


def test_an_optimizer_without_weight_decay_gets_none(cfg_with: Cfg) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    (group,) = build_optimizer(cfg_with(OPTIMIZER="Rprop"), model).param_groups
    assert "weight_decay" not in group


def test_a_frozen_model_is_refused(cfg_with: Cfg) -> None:
    with pytest.raises(ConfigError, match="the model has no parameter to train"):
        build_optimizer(cfg_with(), nn.Linear(2, 2).requires_grad_(False))


# ---------------------------------------------------------------- mistakes

MISTAKES = [
    (
        {"OPTIMIZER": "Adamw"},
        r"SOLVER.OPTIMIZER \(merged config\): no optimizer is called 'Adamw'; did you mean 'AdamW'\? Known: ASGD,",
    ),
    ({"OPTIMIZER": "Optimizer"}, "no optimizer is called 'Optimizer'"),
    ({"OPTIMIZER": "LBFGS"}, "LBFGS evaluates the loss several times per update.*; choose another"),
    ({"OPTIMIZER": "SparseAdam"}, "SparseAdam accepts only sparse gradients.*; choose another"),
    (
        {"OPTIMIZER": "AdamW", "MOMENTUM": 0.9},
        r"SOLVER.MOMENTUM \(merged config\): AdamW has no momentum; leave it out or set it to 0; optimizers that "
        "have it: .*RMSprop, SGD",
    ),
    (
        {"OPTIMIZER": "AdamW", "NESTEROV": True},
        "SOLVER.NESTEROV .*: AdamW has no nesterov; leave it out or set it to false; .*SGD",
    ),
    ({"OPTIMIZER": "Rprop", "WEIGHT_DECAY": 0.1}, "SOLVER.WEIGHT_DECAY .*: Rprop has no weight decay"),
    ({"NESTEROV": True, "MOMENTUM": 0}, "SOLVER.NESTEROV .*: Nesterov momentum needs SOLVER.MOMENTUM above 0"),
    (
        {"NESTEROV": True, "OPTIMIZER_ARGS": {"dampening": 0.5}},
        "SOLVER.OPTIMIZER_ARGS: SGD refuses it: Nesterov momentum requires a momentum and zero dampening",
    ),
    ({"OPTIMIZER_ARGS": {"lr": 0.1}}, r"SOLVER.OPTIMIZER_ARGS.lr \(merged config\): set SOLVER.BASE_LR instead"),
    ({"OPTIMIZER_ARGS": {"momentum": 0.1}}, "SOLVER.OPTIMIZER_ARGS.momentum .*: set SOLVER.MOMENTUM instead"),
    ({"OPTIMIZER_ARGS": {"nesterov": True}}, "SOLVER.OPTIMIZER_ARGS.nesterov .*: set SOLVER.NESTEROV instead"),
    ({"OPTIMIZER_ARGS": {"weight_decay": 0.1}}, "SOLVER.OPTIMIZER_ARGS.weight_decay .*: set SOLVER.WEIGHT_DECAY"),
    ({"OPTIMIZER_ARGS": {"params": []}}, "SOLVER.OPTIMIZER_ARGS.params .*: SGD takes no argument 'params'"),
    (
        {"OPTIMIZER": "Adam", "OPTIMIZER_ARGS": {"beta": [0.9, 0.95]}},
        "SOLVER.OPTIMIZER_ARGS.beta .*: Adam takes no argument 'beta'; did you mean 'betas'",
    ),
    (
        {"OPTIMIZER": "Adam", "OPTIMIZER_ARGS": {"betas": [0.9, 2]}},
        "SOLVER.OPTIMIZER_ARGS: Adam refuses it: .*",
    ),
    (
        {"OPTIMIZER": "Adam", "OPTIMIZER_ARGS": {"eps": "small"}},
        "SOLVER.OPTIMIZER_ARGS.eps .*: Adam expects a number",
    ),
    # What torch takes without a word.
    *(
        (
            {"OPTIMIZER": name, "MOMENTUM": 0, "OPTIMIZER_ARGS": {argument: value}},
            f"SOLVER.OPTIMIZER_ARGS: {name} refuses it: {argument} {message}; got ",
        )
        for name, argument, value, message in (
            ("SGD", "dampening", -1.0, r"must be in \[0, 1\]"),
            ("RMSprop", "alpha", 2.0, r"must be in \[0, 1\]"),
            ("ASGD", "lambd", -1.0, "must be 0 or more"),
            ("ASGD", "alpha", -1.0, "must be 0 or more"),
            ("ASGD", "t0", -1.0, "must be 0 or more"),
            ("Adafactor", "eps", [None, math.inf], "must be 0 or more"),
            ("Rprop", "etas", [0.5, math.inf], "must be 0 or more"),
            ("Rprop", "step_sizes", [math.nan, 50], "must be 0 or more"),
            ("Rprop", "step_sizes", ["x", 50], "must be numbers"),
            ("Rprop", "step_sizes", [50], "must be 2 numbers"),
        )
    ),
]


@pytest.mark.need("B8", "E13")
@pytest.mark.parametrize(("keys", "message"), MISTAKES)
def test_mistakes_are_refused_before_anything_is_built(keys: dict[str, Any], message: str, cfg_with: Cfg) -> None:
    with pytest.raises(ConfigError, match=message):
        check_solver(cfg_with(**keys))


def test_build_optimizer_and_build_lr_scheduler_check_their_settings(cfg_with: Cfg, optimizer_with: Make) -> None:
    with pytest.raises(ConfigError, match="warm-up of 9 iterations never ends"):
        build_lr_scheduler(cfg_with(MAX_ITER=5, WARMUP_ITERS=9), optimizer_with(1.0))
    with pytest.raises(ConfigError, match="Adam has no momentum"):
        build_optimizer(cfg_with(OPTIMIZER="Adam", MOMENTUM=0.5), nn.Linear(2, 2))


def test_check_solver_reports_all_mistakes_at_once(cfg_with: Cfg) -> None:
    cfg = cfg_with(OPTIMIZER="Adam", MOMENTUM=0.5, OPTIMIZER_ARGS={"lr": 1, "beta": 1}, STEPS=[9, 3])
    with pytest.raises(ConfigError) as caught:
        check_solver(cfg)
    assert [problem.split(" ")[0] for problem in caught.value.problems] == [
        "SOLVER.OPTIMIZER_ARGS.lr",
        "SOLVER.MOMENTUM",
        "SOLVER.OPTIMIZER_ARGS.beta",
        "SOLVER.STEPS",
    ]


@pytest.mark.parametrize(
    "keys",
    [
        {"OPTIMIZER": "AdamW"},  # MOMENTUM is 0.9 by default, and no one has asked for it
        {"OPTIMIZER": "AdamW", "MOMENTUM": 0, "NESTEROV": False},
        {"OPTIMIZER": "Rprop"},
        {"LR_SCHEDULER_NAME": "WarmupCosineLR", "STEPS": [9, 3]},
        {"BASE_LR": 0.1, "BASE_LR_END": 0.2},
    ],
)
def test_check_solver_accepts_settings_that_are_not_used(keys: dict[str, Any], cfg_with: Cfg) -> None:
    check_solver(cfg_with(**keys))
