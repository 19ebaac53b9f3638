"""Models built from a config."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from torch import nn

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.modeling import build_model, catalog, check_model, register_model
from warmstart.modeling.contract import AnyTask


def configured(*overrides: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 10, "MODEL.IN_CHANNELS", 1, *overrides])
    return cfg


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_REGISTRY", dict(catalog._REGISTRY))


def test_build_model_builds_the_small_cnn_by_default() -> None:
    model = build_model(configured())
    assert type(model).__name__ == "SmallCNN"
    assert model.training
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


class Needs(AnyTask):
    """What a task asks of its model."""

    def __init__(self, extra_outputs: int = 0, family: str = "", **arguments: Any) -> None:
        self.extra_outputs, self.model_family, self.model_arguments = extra_outputs, family, arguments


def test_build_model_adds_the_tasks_extra_outputs_to_the_classes() -> None:
    assert build_model(configured(), task=Needs(extra_outputs=1))(torch.zeros(2, 1, 8, 8)).shape == (2, 11)


def test_build_model_passes_those_of_the_tasks_arguments_that_the_builder_takes(own_registry: None) -> None:
    def keyed(num_classes: int, in_channels: int, num_keypoints: int, **more: Any) -> nn.Module:
        assert not more
        return nn.Linear(num_keypoints, num_classes)

    register_model("keyed", keyed)
    model = build_model(configured("MODEL.NAME", "keyed"), task=Needs(num_keypoints=5, masks=True))
    assert (model.in_features, model.out_features) == (5, 10)
    with pytest.raises(
        ConfigError,
        match=r"^MODEL.ARGS.num_keypoints \(override\): it follows from MODEL.TASK and the training set; leave it",
    ):
        check_model(
            configured("MODEL.NAME", "keyed", "MODEL.ARGS.num_keypoints", 3), Needs(num_keypoints=5, masks=True)
        )


@pytest.mark.parametrize("stem", ["standard", "auto"])
def test_build_model_builds_torchvisions_model_as_published(stem: str) -> None:
    torch.manual_seed(0)
    model = build_model(configured("MODEL.NAME", "resnet18", "MODEL.IN_CHANNELS", 3, "MODEL.STEM", stem))
    torch.manual_seed(0)
    published = torchvision.models.resnet18(num_classes=10)
    assert list(model.state_dict()) == list(published.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), published.parameters(), strict=True))


def test_build_model_gives_the_same_model_for_the_same_seed() -> None:
    cfg = configured("MODEL.NAME", "mobilenet_v3_small", "MODEL.STEM", "small")
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_model(cfg).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_build_model_sets_the_channels_last_memory_format() -> None:
    states = []
    for last in (False, True):
        torch.manual_seed(3)
        states.append(build_model(configured("MODEL.NAME", "resnet18", "MODEL.CHANNELS_LAST", last)).state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name])
    weight = "layer1.0.conv1.weight"
    assert [state[weight].stride() for state in states] == [(576, 9, 3, 1), (576, 1, 192, 64)]


def test_build_model_applies_the_small_stem_channels_and_arguments() -> None:
    overrides = ["MODEL.NAME", "resnet18", "MODEL.STEM", "small", "MODEL.ARGS.zero_init_residual", "true"]
    model = build_model(configured(*overrides))
    assert model.conv1.weight.shape == (64, 1, 3, 3)
    assert torch.equal(model.layer1[0].bn2.weight, torch.zeros(64))
    assert model.fc.out_features == 10


def test_a_registered_model_gets_sizes_and_arguments(own_registry: None) -> None:
    def flat(num_classes: int, in_channels: int, size: int = 8) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * size * size, num_classes))

    register_model("flat", flat)
    cfg = configured("MODEL.NAME", "flat", "MODEL.STEM", "small")
    cfg.merge_from_list(["MODEL.ARGS.size", 4])
    model = build_model(cfg)
    assert model[1].weight.shape == (10, 16)
    assert model(torch.zeros(2, 1, 4, 4)).shape == (2, 10)


def test_model_arguments_may_have_any_name(own_registry: None) -> None:
    def named(num_classes: int, in_channels: int, name: str, label: str, function: str) -> nn.Module:
        return nn.Linear(in_channels, len(name + label + function))

    register_model("named", named)
    cfg = configured("MODEL.NAME", "named", "MODEL.ARGS", "{name: a, label: b, function: c}")
    assert build_model(cfg).out_features == 3


def test_a_registered_builder_must_return_a_module(own_registry: None) -> None:
    register_model("none", lambda num_classes, in_channels: None)
    message = r"^MODEL.NAME \(override\): the builder of none must return a torch.nn.Module; got a NoneType$"
    with pytest.raises(ConfigError, match=message):
        build_model(configured("MODEL.NAME", "none"))


def test_build_model_refuses_lazy_modules(own_registry: None) -> None:
    register_model(
        "lazy", lambda num_classes, in_channels: nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
    )
    message = r"^MODEL.NAME \(override\): the shape of 1.weight in lazy is not known before a first batch; name"
    with pytest.raises(ConfigError, match=message):
        build_model(configured("MODEL.NAME", "lazy"))


@pytest.mark.need("D10")
def test_build_model_loads_weights_and_reports_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = build_model(configured("MODEL.NUM_CLASSES", 5))
    torch.save({"model": old.state_dict(), "iteration": 7}, tmp_path / "old.pth")
    with caplog.at_level(logging.INFO, logger="warmstart"):
        model = build_model(configured("MODEL.WEIGHTS", str(tmp_path / "old.pth")))
    assert caplog.messages == [
        f"loaded 15/17 tensors from {tmp_path / 'old.pth'}; skipped: fc.weight (5, 64) does not fit (10, 64),"
        " fc.bias (5,) does not fit (10,)"
    ]
    assert torch.equal(model.block1[0].weight, old.block1[0].weight)


@pytest.mark.parametrize("key", ["MODEL.NUM_CLASSES", "MODEL.IN_CHANNELS"])
def test_build_model_refuses_sizes_that_are_not_filled_in(key: str) -> None:
    message = (
        rf"^{key} \(override\): is 0; give the number, or let warmstart.engine.resolve_config take it from the tr"
    )
    with pytest.raises(ConfigError, match=message):
        build_model(configured(key, 0))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.ARGS.norm", "bach"], "^MODEL.ARGS.norm: expected one of batch, group, none; got 'bach'$"),
        (
            ["MODEL.NAME", "resnet18", "MODEL.ARGS.groups", 2],
            "^MODEL.ARGS: resnet18 refuses it: BasicBlock only supports groups=1 and base_width=64$",
        ),
        (
            ["MODEL.NAME", "resnet18", "MODEL.ARGS.replace_stride_with_dilation", "[false, false, true]"],
            "^MODEL.ARGS: resnet18 refuses it: Dilation > 1 not supported in BasicBlock$",
        ),
    ],
)
def test_build_model_reports_values_that_the_model_refuses(overrides: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(configured(*overrides))


def test_a_model_without_a_small_form_is_refused_before_it_is_built() -> None:
    with pytest.raises(
        ConfigError, match=r"^MODEL.STEM \(override\): vit_b_16 has no form for images of up to 32x32"
    ):
        check_model(configured("MODEL.NAME", "vit_b_16", "MODEL.STEM", "small"))


def test_missing_weights_are_refused_if_needed_and_before_the_model_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cfg = configured("MODEL.WEIGHTS", "none.pth")
    assert build_model(cfg, weights=False).training
    monkeypatch.setattr("warmstart.modeling.build._build", None)
    with pytest.raises(ConfigError, match=r"^MODEL.WEIGHTS \(override\): no such file: none.pth$"):
        build_model(cfg)


def test_an_unknown_name_is_refused_before_anything_is_built() -> None:
    for function in (check_model, build_model):
        with pytest.raises(
            ConfigError, match=r"^MODEL.NAME \(override\): no model is called 'resnet19'; did you mean 'resnet18'"
        ):
            function(configured("MODEL.NAME", "resnet19"))


def test_registered_models_do_not_import_torchvision() -> None:
    code = (
        "import sys; from warmstart.config import get_cfg; from warmstart.modeling import build_model\n"
        "cfg = get_cfg(); cfg.merge_from_list(['MODEL.NUM_CLASSES', 2, 'MODEL.IN_CHANNELS', 1])\n"
        "build_model(cfg); print('torchvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
