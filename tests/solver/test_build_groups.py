from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.engine import Trainer
from warmstart.solver import build_lr_scheduler, build_optimizer, check_solver

Cfg = Callable[..., CfgNode]


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = {"stem": nn.Conv2d(1, 4, 3), "bn": nn.BatchNorm2d(4), "flat": nn.Flatten(), "fc": nn.Linear(16, 2)}
    return nn.Sequential(OrderedDict(layers))


def groups(cfg: CfgNode, model: nn.Module | None = None) -> list[tuple[str, list[str], float, float]]:
    found = build_optimizer(cfg, model or network()).param_groups
    return [(group["name"], group["param_names"], group["lr"], group["weight_decay"]) for group in found]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (
            [{"MATCH": "^fc", "LR": 0.5, "NAME": "head"}],
            [
                ("default", ["stem.weight", "stem.bias"], 0.1, 0.01),
                ("norm", ["bn.weight", "bn.bias"], 0.1, 0.0),
                ("head", ["fc.weight", "fc.bias"], 0.5, 0.01),
            ],
        ),
        (
            [{"MATCH": "fc|bn", "LR_FACTOR": 4, "NAME": "late"}],  # found anywhere; the norm's decay stays
            [
                ("default", ["stem.weight", "stem.bias"], 0.1, 0.01),
                ("late", ["fc.weight", "fc.bias"], 0.4, 0.01),
                ("late norm", ["bn.weight", "bn.bias"], 0.4, 0.0),
            ],
        ),
        (
            [{"MATCH": "fc|bn", "LR_FACTOR": 4, "WEIGHT_DECAY": 0.2}],  # NAME is MATCH
            [
                ("default", ["stem.weight", "stem.bias"], 0.1, 0.01),
                ("fc|bn", ["bn.weight", "bn.bias", "fc.weight", "fc.bias"], 0.4, 0.2),
            ],
        ),
        (
            [{"MATCH": "bias$", "WEIGHT_DECAY": 0}, {"MATCH": "^fc", "LR_FACTOR": 0}],  # the first wins
            [
                ("default", ["stem.weight"], 0.1, 0.01),
                ("norm", ["bn.weight"], 0.1, 0.0),
                ("bias$", ["stem.bias", "bn.bias", "fc.bias"], 0.1, 0.0),
                ("^fc", ["fc.weight"], 0.0, 0.01),
            ],
        ),
        (
            [{"MATCH": "^bn", "LR": 0.2, "NAME": "bn"}],  # a name of its own is enough for one group
            [
                ("default", ["stem.weight", "stem.bias", "fc.weight", "fc.bias"], 0.1, 0.01),
                ("bn", ["bn.weight", "bn.bias"], 0.2, 0.0),
            ],
        ),
        (
            [{"MATCH": ".", "LR_FACTOR": 2, "NAME": "all"}],
            [
                ("all", ["stem.weight", "stem.bias", "fc.weight", "fc.bias"], 0.2, 0.01),
                ("all norm", ["bn.weight", "bn.bias"], 0.2, 0.0),
            ],
        ),
    ],
)
def test_rules(rules: list[dict[str, Any]], expected: list[Any], cfg_with: Cfg) -> None:
    cfg = cfg_with(BASE_LR=0.1, WEIGHT_DECAY=0.01, PARAM_GROUPS=rules)
    check_solver(cfg)
    assert groups(cfg) == expected


def test_a_factor_multiplies_the_rate_that_a_bias_would_have_had(cfg_with: Cfg) -> None:
    cfg = cfg_with(BASE_LR=0.1, BIAS_LR_FACTOR=2, PARAM_GROUPS=[{"MATCH": "^fc", "LR_FACTOR": 3, "NAME": "head"}])
    rates = {name: lr for name, _, lr, _ in groups(cfg)}
    assert rates == {
        "default": 0.1,
        "norm": 0.1,
        "bias": 0.2,
        "norm bias": 0.2,
        "head": pytest.approx(0.3),
        "head bias": pytest.approx(0.6),
    }
    cfg.merge_from_list(["SOLVER.PARAM_GROUPS", [{"MATCH": "^fc", "LR": 0.7, "NAME": "head"}]])
    assert {lr for name, _, lr, _ in groups(cfg) if name.startswith("head")} == {0.7}


def test_an_optimizer_that_has_no_decay_takes_rules_for_rates(cfg_with: Cfg) -> None:
    cfg = cfg_with(OPTIMIZER="Rprop", PARAM_GROUPS=[{"MATCH": "^fc", "LR": 0.5}])
    assert [group["name"] for group in build_optimizer(cfg, network()).param_groups] == ["default", "^fc"]


def test_rules_from_a_command_line(cfg_with: Cfg) -> None:
    cfg = get_cfg()
    cfg.merge_from_list([r"SOLVER.PARAM_GROUPS=[{MATCH: '^fc\.', LR_FACTOR: 10, NAME: head}]"])
    assert [name for name, *_ in groups(cfg)] == ["default", "norm", "head"]


@pytest.mark.need("B12")
@pytest.mark.parametrize(
    "schedule",
    [
        {"LR_SCHEDULER_NAME": "WarmupCosineLR"},
        {"LR_SCHEDULER_NAME": "ReduceLROnPlateau"},
        {"LR_SCHEDULER_NAME": "CyclicLR", "LR_SCHEDULER_ARGS": {"base_lr": 0.01, "max_lr": 0.1}},
    ],
)
def test_lr_factor_0_keeps_the_parameters_of_a_group(schedule: dict[str, Any], cfg_with: Cfg) -> None:
    model = network()
    cfg = cfg_with(BASE_LR=0.1, MAX_ITER=10, WARMUP_ITERS=2, PARAM_GROUPS=[{"MATCH": "^stem", "LR_FACTOR": 0}])
    cfg.merge_from_other_cfg({"SOLVER": schedule})
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    before = copy.deepcopy(model)
    for _ in range(10):
        optimizer.zero_grad()
        model(torch.ones(2, 1, 4, 4)).square().sum().backward()
        optimizer.step()
        scheduler.step()
        assert optimizer.param_groups[-1]["lr"] == 0.0
    assert torch.equal(model.stem.weight, before.stem.weight)
    assert not torch.equal(model.fc.weight, before.fc.weight)


class Losses(nn.Module):
    """The network with a loss, as the trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.net(images).square().mean()}


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Muon"])
def test_a_resumed_run_accepts_other_rules(name: str, cfg_with: Cfg) -> None:
    if name == "Muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")

    def trainer(max_iter: int, rules: list[dict[str, Any]]) -> Trainer:
        model = Losses()
        cfg = cfg_with(OPTIMIZER=name, BASE_LR=0.1, MAX_ITER=4, WARMUP_ITERS=0, STEPS=[], PARAM_GROUPS=rules)
        optimizer = build_optimizer(cfg, model)
        batches = [(torch.full((2, 1, 4, 4), 0.5 + i),) for i in range(4)]
        return Trainer(model, optimizer, build_lr_scheduler(cfg, optimizer), batches, max_iter=max_iter)

    first = trainer(2, [])
    first.train()
    regrouped = trainer(4, [{"MATCH": "fc", "LR_FACTOR": 0.5, "NAME": "head"}])
    regrouped.load_state_dict(copy.deepcopy(first.state_dict()))
    rates = {n: g["lr"] for g in regrouped.optimizer.param_groups for n in g["param_names"]}
    assert (rates["net.fc.weight"], rates["net.stem.weight"]) == (0.05, 0.1)
    states = [
        {
            n: optimizer.state[p]
            for g in optimizer.param_groups
            for n, p in zip(g["param_names"], g["params"], strict=True)
        }
        for optimizer in (first.optimizer, regrouped.optimizer)
    ]
    assert states[0].keys() == states[1].keys()
    for parameter, state in states[0].items():
        assert state
        assert all(torch.equal(value, states[1][parameter][key]) for key, value in state.items())
    regrouped.train()
    assert regrouped.iteration == 4


# ---------------------------------------------------------------- mistakes

WHERE = r"SOLVER.PARAM_GROUPS \(merged config\): rule "


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([{"MATCH": "fc("}], WHERE + r"1, MATCH 'fc\(': is not a regular expression: missing \), unterminated"),
        (
            [{"MATCH": "fc", "LR": 0.1, "LR_FACTOR": 2}],
            WHERE + "1, MATCH 'fc': LR and LR_FACTOR both set the learning rate; give one of them$",
        ),
        (
            [{"MATCH": "fc", "LR": 1}, {"MATCH": "bn", "NAME": "norms"}],
            WHERE + "2, MATCH 'bn': changes nothing; give it LR, LR_FACTOR or WEIGHT_DECAY$",
        ),
        (
            [{"MATCH": "fc", "LR": 1, "NAME": "x"}, {"MATCH": "bn", "LR": 2, "NAME": "x"}],
            WHERE + "2, MATCH 'bn': an earlier rule is called 'x' too; give one of them another NAME$",
        ),
        ([{"MATCH": "", "LR": 1}], WHERE + "1, MATCH '': is empty and matches everything; write '.' if"),
    ],
)
def test_mistakes_in_rules_are_found_without_a_model(
    rules: list[dict[str, Any]], message: str, cfg_with: Cfg
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_solver(cfg_with(PARAM_GROUPS=rules))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            [{"MATCH": r"^fc1\.", "LR": 1}],
            WHERE + r"1, MATCH '\^fc1.*': matches no trainable parameter; the nearest names are fc.bias, ",
        ),
        ([{"MATCH": "frozen", "LR": 1}], "matches no trainable parameter; the nearest names are "),
        (
            [{"MATCH": "[wb]", "LR": 1}, {"MATCH": "bias", "LR": 2}],
            WHERE
            + "2, MATCH 'bias': rule 1 above it matches all of its parameters, such as stem.bias; put this rule",
        ),
        (
            [{"MATCH": "fc", "LR": 1, "NAME": "norm"}],
            r"SOLVER.PARAM_GROUPS \(merged config\): two groups would be called .norm.; give the rule another",
        ),
    ],
)
def test_rules_that_do_not_suit_the_model(rules: list[dict[str, Any]], message: str, cfg_with: Cfg) -> None:
    model = network()
    model.frozen = nn.Linear(2, 2).requires_grad_(False)
    cfg = cfg_with(PARAM_GROUPS=rules)
    check_solver(cfg)
    with pytest.raises(ConfigError, match=message):
        build_optimizer(cfg, model)


def test_all_rules_that_match_nothing_are_reported_at_once(cfg_with: Cfg) -> None:
    cfg = cfg_with(PARAM_GROUPS=[{"MATCH": "head", "LR": 1}, {"MATCH": "^fc", "LR": 2}, {"MATCH": "zz", "LR": 3}])
    with pytest.raises(ConfigError) as caught:
        build_optimizer(cfg, network())
    assert [problem.split(":")[1] for problem in caught.value.problems] == [
        " rule 1, MATCH 'head'",
        " rule 3, MATCH 'zz'",
    ]


def test_a_decay_for_an_optimizer_that_has_none(cfg_with: Cfg) -> None:
    cfg = cfg_with(OPTIMIZER="Rprop", PARAM_GROUPS=[{"MATCH": "fc", "WEIGHT_DECAY": 0.1}])
    with pytest.raises(
        ConfigError,
        match=r"SOLVER.PARAM_GROUPS \(merged config\): Rprop has no weight decay; leave out WEIGHT_DECAY; .*SGD",
    ):
        check_solver(cfg)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"LR": 0.1}], r"SOLVER.PARAM_GROUPS \(override\): expected .*\(entry 1 needs MATCH\)"),
        ([{"MATCH": "fc", "LR_FAKTOR": 2}], "entry 1 has no key LR_FAKTOR; did you mean LR_FACTOR"),
        ([{"MATCH": "fc", "LR_FACTOR": -1}], "entry 1: LR_FACTOR is a number of at least 0; got -1"),
        ([{"MATCH": "fc", "WEIGHT_DECAY": "much"}], "entry 1: WEIGHT_DECAY is a number of at least 0; got 'much'"),
    ],
)
def test_values_of_the_wrong_type(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_cfg().merge_from_list(["SOLVER.PARAM_GROUPS", value])


@pytest.mark.parametrize("value", [0, -0.5, 1.5])
def test_layer_decay_is_above_0_and_at_most_1(value: float) -> None:
    with pytest.raises(ConfigError, match=r"SOLVER.LAYER_DECAY.*expected a number above 0 and at most 1; got"):
        get_cfg().merge_from_list(["SOLVER.LAYER_DECAY", value])


def test_of_ten_thousand_rules_that_match_nothing_three_are_shown(cfg_with: Cfg) -> None:
    rules = [{"MATCH": f"^nothing{number}$", "LR": 1.0} for number in range(10_000)]
    cfg = cfg_with(PARAM_GROUPS=[*rules, {"MATCH": "fc", "LR": 0.5}])
    with pytest.raises(ConfigError) as caught:
        build_optimizer(cfg, network())
    told = caught.value.problems
    assert len(told) == 4
    assert "rule 3, MATCH '^nothing2$': matches no trainable parameter; the nearest names are" in told[2]
    assert told[3].endswith("9,997 more of the 10,001 rules have no effect either")
