from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from warmstart.config import CfgNode
from warmstart.solver import GroupRule, build_optimizer, get_default_optimizer_params
from warmstart.solver.param_groups import NORM_LAYERS


def names(groups: list[dict[str, Any]]) -> dict[str, list[str]]:
    return {group["name"]: [name for name, _ in group["params"]] for group in groups}


def test_golden_groups(golden: Callable[[str], list[dict[str, Any]]], cfg_with: Callable[..., CfgNode]) -> None:
    for entry in golden("param_groups.json"):
        model = torchvision.models.get_model(entry["model"])
        optimizer = build_optimizer(cfg_with(**entry["solver"]), model)
        found = {
            name: [group["lr"], group["weight_decay"]]
            for group in optimizer.param_groups
            for name in group["param_names"]
        }
        assert found == entry["params"]
        assert len(optimizer.param_groups) == entry["groups"]
        parameters = {
            name: parameter
            for group in optimizer.param_groups
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
        }
        assert all(parameters[name] is parameter for name, parameter in model.named_parameters())


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"weight_decay": 0.1},
            {"default": ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]},
        ),
        (
            {"weight_decay": 0.1, "weight_decay_norm": 0.1, "weight_decay_bias": 0.1},
            {"default": ["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]},
        ),
        (
            {"weight_decay": 0.1, "weight_decay_norm": 0.0},
            {"default": ["0.weight", "0.bias", "2.weight", "2.bias"], "norm": ["1.weight", "1.bias"]},
        ),
        (
            {"weight_decay": 0.1, "weight_decay_bias": 0.0},
            {"default": ["0.weight", "1.weight", "2.weight"], "bias": ["0.bias", "1.bias", "2.bias"]},
        ),
        (
            {"weight_decay": 0.1, "weight_decay_norm": 0.0, "weight_decay_bias": 0.0},
            {"default": ["0.weight", "2.weight"], "norm+bias": ["0.bias", "1.weight", "1.bias", "2.bias"]},
        ),
        (
            {"base_lr": 0.1, "weight_decay": 0.1, "weight_decay_norm": 0.0, "bias_lr_factor": 2.0},
            {
                "default": ["0.weight", "2.weight"],
                "norm": ["1.weight"],
                "bias": ["0.bias", "2.bias"],
                "norm bias": ["1.bias"],
            },
        ),
    ],
)
def test_as_few_groups_as_the_settings_need(
    model: nn.Module, settings: dict[str, float], expected: dict[str, list[str]]
) -> None:
    assert names(get_default_optimizer_params(model, **settings)) == expected


def test_settings_that_are_not_given_are_left_to_the_optimizer(model: nn.Module) -> None:
    (group,) = get_default_optimizer_params(model)
    assert set(group) == {"name", "params"}
    optimizer = torch.optim.AdamW([group])
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.001, 0.01)


def test_a_bias_factor_needs_a_rate(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="bias_lr_factor 2.0 needs a base_lr to multiply"):
        get_default_optimizer_params(model, bias_lr_factor=2.0)


def test_a_bias_is_a_parameter_with_exactly_that_name() -> None:
    groups = get_default_optimizer_params(nn.MultiheadAttention(4, 1), weight_decay=0.1, weight_decay_bias=0.0)
    assert names(groups) == {
        "default": ["in_proj_weight", "in_proj_bias", "out_proj.weight"],
        "bias": ["out_proj.bias"],
    }


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4),
        nn.BatchNorm3d(4),
        nn.SyncBatchNorm(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm1d(4, affine=True),
        nn.InstanceNorm2d(4, affine=True),
        nn.InstanceNorm3d(4, affine=True),
        nn.LayerNorm(4),
        torchvision.models.convnext.LayerNorm2d(4),  # a subclass
    ],
)
def test_norm_layers(layer: nn.Module) -> None:
    groups = get_default_optimizer_params(layer, weight_decay=0.1, weight_decay_norm=0.0)
    assert names(groups) == {"norm": ["weight", "bias"]}


def test_norm_layers_include_local_response_norm() -> None:
    assert isinstance(nn.LocalResponseNorm(2), NORM_LAYERS)


def test_frozen_parameters_are_omitted_and_shared_ones_included_once(model: nn.Module) -> None:
    model[0].weight.requires_grad_(False)
    model.append(nn.Linear(4, 2))
    model[3].weight = model[2].weight
    model.append(model[1])
    groups = get_default_optimizer_params(model, weight_decay=0.1)
    assert names(groups) == {"default": ["0.bias", "1.weight", "1.bias", "2.weight", "2.bias", "3.bias"]}


def test_the_same_model_gives_the_same_order(model: nn.Module) -> None:
    settings = {"weight_decay": 0.1, "weight_decay_norm": 0.0, "weight_decay_bias": 0.2}
    first, second = (names(get_default_optimizer_params(model, **settings)) for _ in range(2))
    assert list(first.items()) == list(second.items())


def test_the_state_keeps_names(model: nn.Module) -> None:
    groups = get_default_optimizer_params(model, 0.1, 1e-4, weight_decay_norm=0.0)
    state = torch.optim.SGD(groups, momentum=0.9).state_dict()
    assert [(group["name"], group["param_names"]) for group in state["param_groups"]] == [
        ("default", ["0.weight", "0.bias", "2.weight", "2.bias"]),
        ("norm", ["1.weight", "1.bias"]),
    ]


def test_a_factor_needs_a_rate(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="a learning rate factor needs a base_lr to multiply"):
        get_default_optimizer_params(model, rules=[GroupRule("2", "head", lr_factor=2.0)])


def test_rules_without_rates_of_the_model(model: nn.Module) -> None:
    default, head = get_default_optimizer_params(model, rules=[GroupRule("^2", "head", lr=0.5)])
    assert ("lr" in default, head["lr"]) == (False, 0.5)
