"""The classifier: dropout in front of it and its initialization, what they change and what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import efficientnet_b0, googlenet, resnet18, squeezenet1_0

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.modeling import build_model
from warmstart.modeling.head import DropoutLinear, reset_classifier, set_dropout


def configured(*overrides: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 7, "MODEL.IN_CHANNELS", 3, *overrides])
    return cfg


def test_dropout_linear_is_dropout_and_a_linear_layer() -> None:
    linear, inputs = nn.Linear(100, 3), torch.ones(5, 100)
    layer = DropoutLinear(linear, 0.2)
    torch.manual_seed(0)
    expected = linear(nn.Dropout(0.2)(inputs))
    torch.manual_seed(0)
    assert torch.equal(layer(inputs), expected)
    assert not torch.equal(expected, linear(inputs))
    assert torch.equal(layer.eval()(inputs), linear(inputs))
    assert layer.weight is linear.weight


def test_dropout_linear_takes_a_layer_without_bias() -> None:
    assert DropoutLinear(nn.Linear(4, 2, bias=False), 0.2)(torch.ones(1, 4)).shape == (1, 2)


@pytest.mark.parametrize(
    ("model", "layer", "kind"),
    [
        (resnet18(num_classes=7), "fc", "DropoutLinear"),
        (efficientnet_b0(num_classes=7), "classifier.0", "Dropout"),
        (googlenet(num_classes=7, init_weights=False), "dropout", "Dropout"),
        (squeezenet1_0(num_classes=7), "classifier.0", "Dropout"),
    ],
    ids=["resnet18", "efficientnet_b0", "googlenet", "squeezenet1_0"],
)
def test_set_dropout_changes_one_layer_and_no_name(model: nn.Module, layer: str, kind: str) -> None:
    names = [name for name, _ in model.named_parameters()]
    set_dropout(model, 0.37, 7)
    changed = [(n, type(m).__name__) for n, m in model.named_modules() if getattr(m, "p", None) == 0.37]
    assert changed == [(layer, kind)]
    assert [name for name, _ in model.named_parameters()] == names


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("test_vit", ["head_drop"]),
        ("test_resnet", ["fc"]),
        ("test_convnext", ["head.drop"]),
        ("test_efficientnet", ["classifier"]),
        ("levit_128s", ["head.drop", "head_dist.drop"]),
        pytest.param("crossvit_9_240", ["head.0", "head.1"], marks=pytest.mark.slow),
    ],
)
def test_set_dropout_reaches_each_classifier_of_timms_models(name: str, layers: list[str]) -> None:
    pytest.importorskip("timm")
    with torch.device("meta"):
        model = build_model(configured("MODEL.NAME", f"timm:{name}", "MODEL.HEAD.dropout", 0.37))
    assert [n for n, m in model.named_modules() if getattr(m, "p", None) == 0.37] == layers


def test_build_model_applies_dropout_without_changing_the_initial_weights() -> None:
    states = []
    for dropout in ([], ["MODEL.HEAD", "{dropout: 0.2}"]):
        torch.manual_seed(0)
        states.append(build_model(configured("MODEL.STEM", "small", *dropout)).state_dict())
    assert [*states[0]] == [*states[1]]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"dropuot": 0.2}, "override: unknown key MODEL.HEAD.dropuot; did you mean MODEL.HEAD.dropout"),
        (
            {"dropout": "no"},
            "MODEL.HEAD.dropout .*: expected null or a number of at least 0 and below 1; got 'no'",
        ),
        ({"dropout": 1}, "MODEL.HEAD.dropout .*: expected null or a number of at least 0 and below 1; got 1"),
    ],
)
def test_the_config_refuses_a_head_that_it_does_not_know(head: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        configured("MODEL.HEAD", head)


def test_the_head_of_the_config_outlives_another_model() -> None:
    cfg = configured("MODEL.HEAD", "{dropout: 0.3}")
    cfg.merge_from_list(["MODEL.NAME", "resnet18"])
    assert build_model(cfg).fc.p == 0.3


def test_build_model_refuses_dropout_where_it_has_no_place() -> None:
    pytest.importorskip("timm")
    conv = nn.Sequential(nn.Conv2d(3, 7, 1), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(ValueError, match="^the classifier of Sequential is a convolution without dropout$"):
        set_dropout(conv, 0.2, 7)
    with (
        pytest.raises(
            ConfigError, match=r"^MODEL.HEAD.dropout \(override\): timm:dpn68 refuses it: the classifier"
        ),
        torch.device("meta"),
    ):
        build_model(configured("MODEL.NAME", "timm:dpn68", "MODEL.HEAD.dropout", 0.2))
    with pytest.raises(ValueError, match="^Sequential does not end in a layer with 9 outputs$"):
        set_dropout(conv, 0.2, 9)


@pytest.mark.parametrize("classes", [2, 7])
def test_build_model_starts_a_new_classifier_on_loaded_weights_with_small_outputs(
    tmp_path: Path, classes: int
) -> None:
    torch.save(efficientnet_b0(num_classes=5).state_dict(), tmp_path / "five.pth")
    cfg = configured("MODEL.NAME", "efficientnet_b0", "MODEL.WEIGHTS", str(tmp_path / "five.pth"))
    cfg.MODEL.NUM_CLASSES = classes
    torch.manual_seed(0)
    layer = build_model(cfg).classifier[1]
    drawn = torch.rand(1)
    assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not layer.bias.any()
    torch.manual_seed(0)
    cfg.MODEL.WEIGHTS = ""
    assert build_model(cfg).classifier[1].weight.std() > 0.1  # the model's own initialization
    assert torch.equal(torch.rand(1), drawn)  # later draws are the same


def test_build_model_keeps_a_classifier_that_the_weights_fit(tmp_path: Path) -> None:
    torch.save(resnet18(num_classes=7).state_dict(), tmp_path / "seven.pth")
    model = build_model(configured("MODEL.NAME", "resnet18", "MODEL.WEIGHTS", str(tmp_path / "seven.pth")))
    assert torch.equal(model.fc.weight, torch.load(tmp_path / "seven.pth")["fc.weight"])


def test_reset_classifier_resets_the_convolution_of_squeezenet_alone() -> None:
    model = squeezenet1_0(num_classes=7)
    before = {name: value.clone() for name, value in model.named_parameters()}
    reset_classifier(model, 7)
    changed = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert changed == ["classifier.1.weight"]  # its bias was 0 already
