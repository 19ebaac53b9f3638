"""The trial of a model on the size of its images, before anything is written and without random numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.modeling import build_model, catalog, check_images, parameter_bytes, register_model


def configured(*overrides: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 10, "MODEL.IN_CHANNELS", 3, *overrides])
    return cfg


@pytest.mark.parametrize(
    ("name", "size", "batch", "trains", "reason"),
    [
        ("vit_b_16", 64, 2, False, "Wrong image height! Expected 224 but got 64!"),
        ("inception_v3", 64, 2, True, ".* Output size is too small"),
        ("small_cnn", 1, 2, True, ".* Output size is too small"),
        ("resnet18", 32, 1, True, "Expected more than 1 value per channel when training, .*"),
    ],
)
def test_check_images_reports_the_models_error(
    name: str, size: int, batch: int, trains: bool, reason: str
) -> None:
    images = f"{batch} image{'s' * (batch > 1)} of 3x{size}x{size}"
    message = rf"^MODEL.NAME \(override\): {name} fails on {images}: {reason}; change their size in INPUT.X, "
    with pytest.raises(ConfigError, match=message):
        check_images(configured("MODEL.NAME", name), (3, size, size), "INPUT.X", batch, trains)


@pytest.mark.parametrize("trains", [True, False])
def test_check_images_uses_no_random_numbers_and_no_memory(trains: bool) -> None:
    before = torch.get_rng_state()
    cfg = configured("MODEL.NAME", "mobilenet_v3_small", "MODEL.NUM_CLASSES", 10**9)
    check_images(cfg, (3, 10**5, 10**5), "INPUT.X", trains=trains)
    assert torch.equal(torch.get_rng_state(), before)


def test_check_images_passes_on_a_models_own_message() -> None:
    with pytest.raises(ConfigError, match="^MODEL.NAME: speed_net needs images of at least 9x9 pixels, but these"):
        check_images(configured("MODEL.NAME", "speed_net"), (3, 8, 8), "INPUT.X", trains=True)


def test_check_images_does_not_try_user_defined_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_REGISTRY", dict(catalog._REGISTRY))
    register_model("mine", lambda num_classes, in_channels: pytest.fail("was built"))
    check_images(configured("MODEL.NAME", "mine"), (3, 8, 8), "INPUT.X")
    assert parameter_bytes(configured("MODEL.NAME", "mine")) == 0


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_parameter_bytes_equal_those_of_the_built_model(name: str) -> None:
    model: nn.Module = build_model(configured("MODEL.NAME", name))
    assert parameter_bytes(configured("MODEL.NAME", name)) == 4 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("words", [("MODEL.NUM_CLASSES", 10**18), ("MODEL.ARGS.width", 10**18)])
def test_sizes_beyond_torchs_integers_are_refused_in_one_sentence(words: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match="^MODEL.ARGS: small_cnn refuses it: Storage size calculation over"):
        build_model(configured(*words))
