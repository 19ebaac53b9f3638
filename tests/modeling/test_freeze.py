"""Frozen parameters of a model, and the modules that stay in evaluation mode."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v3_small, resnet18

from warmstart.config import ConfigError, get_cfg
from warmstart.modeling import build_model, hold_modules, next_change, set_frozen
from warmstart.modeling.freeze import freeze


def net() -> nn.Sequential:
    """A stem and a body with BatchNorm, and a head with dropout."""
    stem = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    return nn.Sequential(stem, body, nn.Sequential(nn.Dropout(), nn.Linear(4, 2)))


def trained(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def evaluating(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if not module.training]


def test_freeze_holds_all_of_a_resnet_but_its_head() -> None:
    model = resnet18()
    freeze(model, [("^(?!fc)", None)])
    assert trained(model) == ["fc.weight", "fc.bias"]
    assert model.training
    still = [name for name, _ in model.named_children() if name not in evaluating(model)]
    assert still == ["relu", "maxpool", "avgpool", "fc"]  # without parameters, or trained
    assert all(not each.training for each in model.modules() if isinstance(each, nn.BatchNorm2d))


def test_freeze_leaves_the_dropout_of_a_trained_head_on() -> None:
    model = mobilenet_v3_small()
    freeze(model, [("^(?!classifier)", None)])
    model.eval()
    model.train()
    dropout = next(each for each in model.modules() if isinstance(each, nn.Dropout))
    assert dropout.training
    assert evaluating(model) == [name for name, _ in model.named_modules() if name.startswith("features")]


def test_frozen_parameters_get_no_gradient_and_their_batchnorm_keeps_its_statistics() -> None:
    model = net()
    freeze(model, [(r"^0\.", None)])
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(8, 3)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == [
        *("0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias")
    ]
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["1.1.running_mean", "1.1.running_var", "1.1.num_batches_tracked"]


def test_a_module_with_one_trained_parameter_stays_in_training_mode() -> None:
    model = net()
    freeze(model, [("^0.*weight$", None)])
    assert trained(model)[:2] == ["0.0.bias", "0.1.bias"]
    assert evaluating(model) == []


def test_modes_of_frozen_modules_are_copied_with_the_model() -> None:
    model = net()
    freeze(model, [(r"^0\.", None)])
    copied = copy.deepcopy(model)
    assert copied.train.args == (copied,)  # type: ignore[attr-defined]
    copied.eval()
    copied.train()
    assert evaluating(copied) == ["0", "0.0", "0.1", "0.2"]
    set_frozen(copied, 0)
    model.train(False)
    assert copied.training


@pytest.mark.parametrize(
    ("iteration", "trains", "held"), [(4, ["2"], ["0", "1"]), (5, ["1", "2"], ["0"]), (9, ["0", "1", "2"], [])]
)
def test_set_frozen_follows_the_iteration_alone(
    iteration: int, trains: Sequence[str], held: Sequence[str]
) -> None:
    for earlier in (0, 4, 8, 20):  # also backwards
        model = net()
        freeze(model, [(r"^1\.", 5), (r"^[01]\.", 9)])
        set_frozen(model, earlier)
        set_frozen(model, iteration)
        assert sorted({name[0] for name in trained(model)}) == trains
        assert [name for name in evaluating(model) if len(name) == 1] == held
    assert [next_change(model, t) for t in (0, 4, 5, 8, 9)] == [5, 5, 9, 9, None]


def test_set_frozen_returns_the_parameters_that_begin_to_train() -> None:
    model = net()
    freeze(model, [(r"^1\.", 5), (r"^[01]\.", 9)])
    assert model.trains_later == {name for name, _ in model.named_parameters() if name[0] in "01"}
    assert set_frozen(model, 4) == []
    begun = set_frozen(model, 5)
    assert [id(each) for each in begun] == [id(each) for each in model[1].parameters()]
    assert set_frozen(model, 5) == []


def test_hold_modules_sets_modes_and_leaves_gradients_as_they_are() -> None:
    model = net()
    freeze(model, [(r"^0\.", 5)])
    model.requires_grad_(False)  # as a moving average
    hold_modules(model, 4)
    assert evaluating(model) == ["0", "0.0", "0.1", "0.2"]
    hold_modules(model, 5)
    assert (evaluating(model), trained(model)) == ([], [])
    model.eval()
    hold_modules(model, 4)
    hold_modules(model, 5)
    assert len(evaluating(model)) == len([*model.modules()])


def test_parameters_frozen_by_the_model_itself_never_train() -> None:
    model = net()
    model[0].requires_grad_(False)
    freeze(model, [(r"^[01]\.", 5)])
    assert evaluating(model)[0] == "0"
    set_frozen(model, 5)
    assert trained(model)[0] == "1.0.weight"
    assert [name for name in evaluating(model) if len(name) == 1] == ["0"]


def test_a_shared_parameter_is_frozen_by_its_first_name() -> None:
    model = net()
    model[1][0] = model[2][1] = nn.Linear(4, 4)
    freeze(model, [(r"^1\.0", None)])
    assert evaluating(model) == ["1.0", "2", "2.0"]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            [("^haed", None)],
            r"freeze: entry 1, MATCH '\^haed': matches no trainable parameter; the nearest names are .*",
        ),
        (
            [(r"^[01]\.", None), (r"^1\.", 5)],
            r"freeze: entry 2, MATCH '\^1\\\\.': entry 1 above it matches all of its parameters, such as"
            " 1.0.weight; put this entry first",
        ),
        (
            [(".", None)],
            r"freeze: freezes every parameter in the first update, so nothing would train; leave out the last"
            r" layer, 2.1: '\^\(\?!2.1\\.\)'",
        ),
        ([(r"^0\.", None), (".", 100)], "freeze: freezes every parameter in the first update, so .*"),
    ],
)
def test_freeze_refuses_rules_without_effect_and_a_model_that_would_not_train(
    rules: list[tuple[str, int | None]], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        freeze(net(), rules)


def test_build_model_freezes_and_refuses_a_duration_with_a_unit() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 10, "MODEL.IN_CHANNELS", 1, "MODEL.FREEZE", "^block"])
    assert trained(build_model(cfg)) == ["fc.weight", "fc.bias"]
    cfg.merge_from_list(["MODEL.FREEZE", [{"MATCH": "^block", "UNTIL": "2ep"}]])
    with pytest.raises(ConfigError, match="UNTIL is '2ep'; give a number of updates, or let warmstart.engine.res"):
        build_model(cfg)
