from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from warmstart.config import CfgNode, ConfigError
from warmstart.solver import (
    ScheduleLR,
    build_lr_scheduler,
    build_optimizer,
    build_schedule,
    check_solver,
    register_lr_scheduler,
    register_optimizer,
)
from warmstart.solver.catalog import OPTIMIZERS, SCHEDULES

Cfg = Callable[..., CfgNode]
Make = Callable[..., torch.optim.Optimizer]

PLANS = {
    "multi-step": {"STEPS": [30, 45], "WARMUP_ITERS": 7},
    "multi-step, interpolated": {"STEPS": [3, 45], "WARMUP_ITERS": 7, "WARMUP_BLEND": "interpolate"},
    "multi-step, rescaled": {"STEPS": [30, 45], "WARMUP_ITERS": 7, "RESCALE_INTERVAL": True},
    "cosine": {"LR_SCHEDULER_NAME": "WarmupCosineLR", "WARMUP_ITERS": 7, "BASE_LR_END": 0.001},
    "cosine, no warm-up": {"LR_SCHEDULER_NAME": "WarmupCosineLR", "WARMUP_ITERS": 0},
    "fixed gamma": {"LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR", "WARMUP_METHOD": "constant"},
    "step": {"LR_SCHEDULER_NAME": "StepLR", "LR_SCHEDULER_ARGS": {"step_size": 9}, "WARMUP_ITERS": 7},
}


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


# ---------------------------------------------------------------- curves


def test_golden_curves_by_stepping_and_in_closed_form(
    golden: Callable[[str], list[dict[str, Any]]], optimizer_with: Make, cfg_with: Cfg
) -> None:
    curves = golden("lr_curves.json")
    assert len(curves) == 16
    for curve in curves:
        optimizer = optimizer_with(*curve["base_lrs"])
        scheduler = build_lr_scheduler(cfg_with(**curve["solver"]), optimizer)
        for t in range(len(curve["lr"][0])):
            expected = [group[t] for group in curve["lr"]]
            assert rates(optimizer) == pytest.approx(expected, rel=1e-9), (curve["id"], t)
            assert scheduler.lr_at(t) == rates(optimizer)
            scheduler.step()


@pytest.mark.need("A6", "A7", "B5")
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_all_ways_to_an_iteration_agree_bit_for_bit(
    plan: dict[str, Any], cfg_with: Cfg, optimizer_with: Make
) -> None:
    cfg = cfg_with(MAX_ITER=60, BASE_LR=0.1, **plan)
    base = (0.1, 0.037)
    walked = optimizer_with(*base)
    walker = build_lr_scheduler(cfg, walked)
    closed = build_lr_scheduler(cfg, optimizer_with(*base))
    for k in range(1, 75):
        walked.step()
        walker.step()
        expected = rates(walked)
        assert closed.lr_at(k) == expected
        constructed = optimizer_with(*base)
        build_lr_scheduler(cfg, constructed, last_epoch=k - 1)
        assert rates(constructed) == expected
        for optimizer_first in (True, False):
            resumed = optimizer_with(*base)
            scheduler = build_lr_scheduler(cfg, resumed)
            loads = [
                lambda into=resumed: into.load_state_dict(copy.deepcopy(walked.state_dict())),
                lambda into=scheduler: into.load_state_dict(walker.state_dict()),
            ]
            for load in loads if optimizer_first else reversed(loads):
                load()
            assert rates(resumed) == scheduler.get_last_lr() == expected


@pytest.mark.need("A1", "A2", "S7")
def test_the_config_rules_over_the_checkpoint(cfg_with: Cfg) -> None:
    model = nn.Linear(2, 2)

    def run(**keys: Any) -> tuple[torch.optim.Optimizer, ScheduleLR]:
        cfg = cfg_with(LR_SCHEDULER_NAME="WarmupCosineLR", WARMUP_ITERS=0, **keys)
        optimizer = build_optimizer(cfg, model)
        return optimizer, build_lr_scheduler(cfg, optimizer)

    optimizer, scheduler = run(MAX_ITER=100, BASE_LR=0.2)
    scheduler.load_state_dict({"last_epoch": 100})
    assert rates(optimizer) == [0.0]
    longer, its_scheduler = run(MAX_ITER=200, BASE_LR=0.1)
    its_scheduler.load_state_dict(scheduler.state_dict())
    longer.load_state_dict(optimizer.state_dict())
    assert rates(longer) == pytest.approx([0.05])


@pytest.mark.need("S6")
@pytest.mark.parametrize("blend", ["product", "interpolate"])
def test_a_milestone_at_half_of_five_million(cfg_with: Cfg, blend: str) -> None:
    cfg = cfg_with(MAX_ITER=5_000_000, STEPS=[2_500_000], WARMUP_BLEND=blend, WARMUP_ITERS=1000)
    schedule = build_schedule(cfg)
    assert [schedule(t) for t in (2_499_999, 2_500_000)] == [1.0, 0.1]


@pytest.mark.need("S6")
def test_rescaling_is_exact(cfg_with: Cfg) -> None:
    cfg = cfg_with(MAX_ITER=5_000_000, STEPS=[1, 2_500_000], WARMUP_ITERS=1_000_001, RESCALE_INTERVAL=True)
    schedule = build_schedule(cfg)
    # 1,000,001 + 2,500,000 * 3,999,999 / 5,000,000 = 3,000,000.5
    assert [round(schedule(t), 9) for t in (1_000_001, 1_000_002, 3_000_000, 3_000_001)] == [1, 0.1, 0.1, 0.01]


@pytest.mark.need("B1")
@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"])
def test_no_warm_up_starts_at_the_base_rate(cfg_with: Cfg, optimizer_with: Make, name: str) -> None:
    for blend in ("product", "interpolate"):
        cfg = cfg_with(LR_SCHEDULER_NAME=name, WARMUP_ITERS=0, WARMUP_BLEND=blend)
        optimizer = optimizer_with(0.3)
        build_lr_scheduler(cfg, optimizer)
        assert rates(optimizer) == [0.3]


@pytest.mark.need("A4", "A5", "B2")
@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_short_runs_and_past_the_end(
    plan: dict[str, Any], length: int, cfg_with: Cfg, optimizer_with: Make
) -> None:
    cfg = cfg_with(**{**plan, "MAX_ITER": length, "STEPS": [], "WARMUP_ITERS": length - 1})
    optimizer = optimizer_with(0.001)
    scheduler = build_lr_scheduler(cfg, optimizer)
    for _ in range(3 * length):
        optimizer.step()
        scheduler.step()
    assert all(0 <= rate <= 0.001 for t in (length, 10**12) for rate in scheduler.lr_at(t))


def test_torchs_names_start_when_warm_up_ends(cfg_with: Cfg) -> None:
    cfg = cfg_with(LR_SCHEDULER_NAME="StepLR", LR_SCHEDULER_ARGS={"step_size": 10, "gamma": 0.5})
    cfg.merge_from_list(["SOLVER.MAX_ITER", 100, "SOLVER.WARMUP_ITERS", 4, "SOLVER.WARMUP_FACTOR", 0.5])
    schedule = build_schedule(cfg)
    assert [schedule(t) for t in (0, 2, 4, 13, 14, 24)] == [0.5, 0.75, 1.0, 1.0, 0.5, 0.25]


# ---------------------------------------------------------------- durations


def test_durations_may_have_units_and_the_config_stays_as_it_is(cfg_with: Cfg, optimizer_with: Make) -> None:
    cfg = cfg_with(MAX_ITER="3ep", LR_SCHEDULER_NAME="StepLR", LR_SCHEDULER_ARGS={"step_size": "1ep"})
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.freeze()
    scheduler = build_lr_scheduler(cfg, optimizer_with(1.0), iters_per_epoch=Fraction(25, 2))
    assert [scheduler.lr_at(t) for t in (12, 13, 26)] == [[1.0], [0.1], [pytest.approx(0.01)]]
    assert cfg.SOLVER.MAX_ITER == "3ep"
    with pytest.raises(ConfigError, match="'3ep' needs the size of the data set"):
        build_lr_scheduler(cfg, optimizer_with(1.0))


def test_a_whole_number_written_as_1e1(cfg_with: Cfg) -> None:
    cfg = cfg_with(LR_SCHEDULER_NAME="StepLR", WARMUP_ITERS=0)
    cfg.merge_from_list(["SOLVER.LR_SCHEDULER_ARGS.step_size", "1e1"])
    assert [build_schedule(cfg)(t) for t in (9, 10)] == [1.0, 0.1]


@pytest.mark.need("B7")
@pytest.mark.parametrize("late", [[100], [100, 101], [5000]])
def test_steps_that_are_not_reached_are_dropped_with_one_line(
    late: list[int], cfg_with: Cfg, optimizer_with: Make, logged: list[logging.LogRecord]
) -> None:
    cfg = cfg_with(MAX_ITER=100, STEPS=[50, 99, *late], WARMUP_ITERS=0)
    scheduler = build_lr_scheduler(cfg, optimizer_with(1.0))
    assert [scheduler.lr_at(t)[0] for t in (49, 50, 99, 100, 10**6)] == pytest.approx([1, 0.1, 0.01, 0.01, 0.01])
    (line,) = [record.getMessage() for record in logged]
    numbers = ", ".join(f"{step:,}" for step in late)
    assert (
        line == f"SOLVER.STEPS (merged config): dropped {numbers}, which the run of 100 iterations does not reach"
    )


@pytest.mark.need("B7")
def test_steps_that_no_one_reads_are_not_mentioned(
    cfg_with: Cfg, optimizer_with: Make, logged: list[logging.LogRecord]
) -> None:
    build_lr_scheduler(
        cfg_with(MAX_ITER=100, STEPS=[500, 3], LR_SCHEDULER_NAME="WarmupCosineLR"), optimizer_with(1.0)
    )
    assert logged == []


# ---------------------------------------------------------------- optimizers


@pytest.mark.need("E13")
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("LBFGS", "SparseAdam", "Muon")])
def test_every_optimizer_of_torch_trains(name: str, cfg_with: Cfg) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    cfg = cfg_with(OPTIMIZER=name, BASE_LR=0.01, WARMUP_ITERS=0)
    check_solver(cfg)
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    inputs = torch.randn(16, 4)
    losses = []
    for _ in range(20):
        loss = model(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


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


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_fused_where_torch_has_it(name: str, cfg_with: Cfg) -> None:
    assert build_optimizer(cfg_with(OPTIMIZER=name), nn.Linear(2, 2)).defaults["fused"] is True


@pytest.mark.parametrize(
    ("arguments", "fused"),
    [({"foreach": True}, None), ({"fused": False}, False), ({"differentiable": True}, None)],
)
def test_not_fused_where_the_user_asks_for_something_else(
    arguments: dict[str, bool], fused: bool | None, cfg_with: Cfg
) -> None:
    optimizer = build_optimizer(cfg_with(OPTIMIZER="Adam", OPTIMIZER_ARGS=arguments), nn.Linear(2, 2))
    assert optimizer.defaults["fused"] is fused


def test_not_fused_for_parameters_that_the_fused_kind_refuses(cfg_with: Cfg) -> None:
    model = nn.ParameterList([torch.zeros(2, dtype=torch.complex64), torch.zeros(2)])
    assert build_optimizer(cfg_with(), model).defaults["fused"] is None


class TwoBranches(nn.Module):
    """A model whose second branch gets its first gradient later than the first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, both: bool) -> torch.Tensor:
        return (self.first(x) + (self.second(x) if both else 0)).square().mean()


def test_fused_sgd_takes_a_first_gradient_that_comes_late_bit_for_bit_as_the_plain_one(cfg_with: Cfg) -> None:
    results = []
    for fused in (True, False):
        model = TwoBranches()
        optimizer = build_optimizer(cfg_with(**({} if fused else {"OPTIMIZER_ARGS": {"fused": False}})), model)
        assert optimizer.defaults["fused"] is fused
        for both in (False, True, True):
            optimizer.zero_grad()
            model(torch.ones(1, 2), both).backward()
            optimizer.step()
        results.append([parameter.detach().clone() for parameter in model.parameters()])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=0)


def test_sgd_with_dampening_is_not_fused(cfg_with: Cfg) -> None:
    optimizer = build_optimizer(cfg_with(OPTIMIZER_ARGS={"dampening": 0.5}), nn.Linear(2, 2))
    assert not optimizer.defaults["fused"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"OPTIMIZER": "AdamW", "OPTIMIZER_ARGS": {"betas": 5}}, "AdamW refuses it: "),
        ({"OPTIMIZER_ARGS": {"fused": True, "foreach": True}}, "SGD refuses it: "),
    ],
)
def test_what_the_class_itself_refuses_names_the_key(keys: dict[str, Any], message: str, cfg_with: Cfg) -> None:
    with pytest.raises(ConfigError, match=f"SOLVER.OPTIMIZER.*{message}"):
        check_solver(cfg_with(**keys))
    with pytest.raises(ConfigError, match=f"SOLVER.OPTIMIZER.*{message}"):
        build_optimizer(cfg_with(**keys), nn.Linear(2, 2))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_fused_steps_on_cuda(name: str, cfg_with: Cfg) -> None:
    model = nn.Linear(2, 2).cuda()
    optimizer = build_optimizer(cfg_with(OPTIMIZER=name), model)
    model(torch.ones(1, 2, device="cuda")).sum().backward()
    optimizer.step()
    assert optimizer.defaults["fused"] or name == "Adagrad"  # which old versions of torch fuse on the CPU only


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


@pytest.mark.skipif("Muon" not in OPTIMIZERS, reason="this torch has no Muon")
def test_muon_takes_matrices_only(cfg_with: Cfg) -> None:
    cfg = cfg_with(OPTIMIZER="Muon")
    assert isinstance(build_optimizer(cfg, nn.Linear(2, 2, bias=False)), OPTIMIZERS["Muon"])
    with pytest.raises(ConfigError, match=r"SOLVER.OPTIMIZER \(merged config\): Muon refuses it: .*2D"):
        build_optimizer(cfg, nn.Linear(2, 2))


# ---------------------------------------------------------------- registries


def test_a_schedule_of_ones_own(cfg_with: Cfg) -> None:
    register_lr_scheduler("Triangle", lambda num_iters, low=0.0: lambda t: max(low, 1 - t / num_iters))
    try:
        cfg = cfg_with(LR_SCHEDULER_NAME="Triangle", MAX_ITER=12, WARMUP_ITERS=2, WARMUP_FACTOR=0.5)
        assert [build_schedule(cfg)(t) for t in (0, 1, 2, 7, 12, 99)] == [0.5, 0.75, 1.0, 0.5, 0.0, 0.0]
        cfg.merge_from_list(["SOLVER.LR_SCHEDULER_ARGS", "{low: 0.25, num_iters: '50%'}"])
        assert [build_schedule(cfg)(t) for t in (2, 5, 12)] == [1.0, 0.5, 0.25]
        cfg.merge_from_list(["SOLVER.LR_SCHEDULER_ARGS.high", 1])
        with pytest.raises(ConfigError, match=r"Triangle takes no argument 'high'.*It takes: num_iters, low"):
            check_solver(cfg)
    finally:
        del SCHEDULES["Triangle"]


def test_a_factory_must_return_a_function(cfg_with: Cfg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULES, "Wrong", lambda: 0.5)
    with pytest.raises(ConfigError, match="Wrong was registered with a factory that returns 0.5; it must return"):
        check_solver(cfg_with(LR_SCHEDULER_NAME="Wrong"))


@pytest.mark.parametrize("name", ["StepLR", "WarmupCosineLR"])
def test_a_schedules_name_is_given_once(name: str) -> None:
    with pytest.raises(ConfigError, match=f"a schedule called '{name}' is registered already"):
        register_lr_scheduler(name, lambda: lambda t: 1.0)


def test_an_optimizer_of_ones_own(cfg_with: Cfg) -> None:
    def half_sgd(params: Any, lr: float, scale: float = 0.5) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=lr * scale)

    register_optimizer("HalfSGD", half_sgd)
    try:
        cfg = cfg_with(OPTIMIZER="HalfSGD", OPTIMIZER_ARGS={"scale": 0.25}, BASE_LR=0.4)
        check_solver(cfg)
        optimizer = build_optimizer(cfg, nn.Linear(2, 2))
        assert (rates(optimizer), optimizer.defaults["lr"]) == ([0.4], 0.1)  # groups bring their rates
        with pytest.raises(ConfigError, match="an optimizer called 'HalfSGD' is registered already"):
            register_optimizer("HalfSGD", half_sgd)
    finally:
        del OPTIMIZERS["HalfSGD"]


# ---------------------------------------------------------------- mistakes

MISTAKES = [
    (
        {"LR_SCHEDULER_NAME": "WarmupMultistepLR"},
        r"SOLVER.LR_SCHEDULER_NAME \(merged config\): no schedule is called 'WarmupMultistepLR'; did you mean "
        r"'WarmupMultiStepLR'\? Known: StepLR, WarmupCosineLR, WarmupMultiStepLR, WarmupStepWithFixedGammaLR",
    ),
    (
        {"MAX_ITER": 300, "WARMUP_ITERS": 1000},
        r"SOLVER.WARMUP_ITERS \(merged config\): warm-up of 1,000 iterations never ends in a run of 300 "
        r"\(SOLVER.MAX_ITER\); try SOLVER.WARMUP_ITERS 15, or 0 for no warm-up",
    ),
    ({"MAX_ITER": 300, "WARMUP_ITERS": 300}, "warm-up of 300 iterations never ends in a run of 300"),
    ({"STEPS": [200, 100]}, r"SOLVER.STEPS \(merged config\): each step must come after .*; got \[200, 100\]"),
    ({"STEPS": [100, 100]}, r"SOLVER.STEPS.*got \[100, 100\]"),
    (
        {"LR_SCHEDULER_NAME": "WarmupCosineLR", "BASE_LR": 0.1, "BASE_LR_END": 0.2},
        r"SOLVER.BASE_LR_END \(merged config\): 0.2 is above SOLVER.BASE_LR, 0.1; a cosine goes down",
    ),
    (
        {"LR_SCHEDULER_NAME": "WarmupCosineLR", "LR_SCHEDULER_ARGS": {"T_max": 100}},
        "SOLVER.LR_SCHEDULER_ARGS: WarmupCosineLR takes none; its settings are keys of SOLVER.*: StepLR",
    ),
    (
        {"LR_SCHEDULER_NAME": "StepLR", "LR_SCHEDULER_ARGS": {"stepsize": 30}},
        r"SOLVER.LR_SCHEDULER_ARGS.stepsize \(merged config\): StepLR takes no argument 'stepsize'; "
        "did you mean 'step_size'",
    ),
    ({"LR_SCHEDULER_NAME": "StepLR"}, "SOLVER.LR_SCHEDULER_ARGS.step_size: StepLR needs it"),
    (
        {"LR_SCHEDULER_NAME": "StepLR", "LR_SCHEDULER_ARGS": {"step_size": 3, "optimizer": "SGD"}},
        "SOLVER.LR_SCHEDULER_ARGS.optimizer .*: StepLR takes no argument 'optimizer'",
    ),
    (
        {"LR_SCHEDULER_NAME": "StepLR", "LR_SCHEDULER_ARGS": {"step_size": 3, "gamma": "fast"}},
        "SOLVER.LR_SCHEDULER_ARGS.gamma .*: StepLR expects a number; got 'fast'",
    ),
    (
        {"LR_SCHEDULER_NAME": "StepLR", "LR_SCHEDULER_ARGS": {"step_size": 0}},
        "SOLVER.LR_SCHEDULER_ARGS: StepLR refuses it: step_size must be 1 or more; got 0",
    ),
    (
        {"OPTIMIZER": "Adamw"},
        r"SOLVER.OPTIMIZER \(merged config\): no optimizer is called 'Adamw'; did you mean 'AdamW'\? Known: ASGD,",
    ),
    ({"OPTIMIZER": "Optimizer"}, "no optimizer is called 'Optimizer'"),
    ({"OPTIMIZER": "LBFGS"}, "LBFGS evaluates the loss several times an update.*; choose another"),
    ({"OPTIMIZER": "SparseAdam"}, "SparseAdam takes sparse gradients only.*; choose another"),
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
]


@pytest.mark.need("B8", "E13")
@pytest.mark.parametrize(("keys", "message"), MISTAKES)
def test_mistakes_are_refused_before_anything_is_built(keys: dict[str, Any], message: str, cfg_with: Cfg) -> None:
    with pytest.raises(ConfigError, match=message):
        check_solver(cfg_with(**keys))


def test_the_build_functions_check_too(cfg_with: Cfg, optimizer_with: Make) -> None:
    with pytest.raises(ConfigError, match="warm-up of 9 iterations never ends"):
        build_lr_scheduler(cfg_with(MAX_ITER=5, WARMUP_ITERS=9), optimizer_with(1.0))
    with pytest.raises(ConfigError, match="Adam has no momentum"):
        build_optimizer(cfg_with(OPTIMIZER="Adam", MOMENTUM=0.5), nn.Linear(2, 2))


def test_all_mistakes_are_told_at_once(cfg_with: Cfg) -> None:
    cfg = cfg_with(OPTIMIZER="Adam", MOMENTUM=0.5, OPTIMIZER_ARGS={"lr": 1, "beta": 1}, STEPS=[9, 3])
    with pytest.raises(ConfigError) as caught:
        check_solver(cfg)
    assert [problem.split(" ")[0] for problem in caught.value.problems] == [
        "SOLVER.STEPS",
        "SOLVER.OPTIMIZER_ARGS.lr",
        "SOLVER.MOMENTUM",
        "SOLVER.OPTIMIZER_ARGS.beta",
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
def test_what_is_not_used_does_no_harm(keys: dict[str, Any], cfg_with: Cfg) -> None:
    check_solver(cfg_with(**keys))
