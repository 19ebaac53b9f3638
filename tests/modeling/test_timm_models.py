"""timm's models: names, arguments, data configs, weights."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import nn

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.modeling import build_input_defaults, build_model, check_images, check_model, load_weights
from warmstart.modeling.catalog import check_name
from warmstart.modeling.pretrained import find_remote
from warmstart.modeling.timm_models import timm_filter, timm_input, timm_weights

from ..weights_server import Answer, WeightsServer

timm = pytest.importorskip("timm")


def configured(*overrides: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 10, "MODEL.IN_CHANNELS", 3, *overrides])
    return cfg


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_resnet.r160_in1k"])
def test_build_model_builds_timms_model_as_timm_does(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(configured("MODEL.NAME", f"timm:{name}"))
    torch.manual_seed(0)
    expected = timm.create_model(name, num_classes=10).state_dict()
    assert [*model.state_dict()] == [*expected]
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


def test_build_model_passes_channels_and_arguments_to_timm() -> None:
    overrides = ["MODEL.NAME", "timm:test_vit", "MODEL.IN_CHANNELS", 1, "MODEL.ARGS", {"img_size": 32}]
    model = build_model(configured(*overrides))
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_build_model_downloads_nothing_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr("socket.socket.connect", refuse)
    build_model(configured("MODEL.NAME", "timm:test_vit"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnett50", "timm has no model called 'resnett50'; did you mean 'timm:resnet50'?"),
        ("timm:", "timm has no model called ''; `python -c \"import timm;"),
        ("timm:hf-hub:timm/resnet18", "timm has no model called 'hf-hub:timm/resnet18'; `python"),
        (
            "timm:resnet50.a1_in2k",
            "timm has no weights called 'a1_in2k' for resnet50; did you mean 'a1_in1k'? It has",
        ),
        ("timm:test_resnet.zzz", "timm has no weights called 'zzz' for test_resnet. It has: r160_in1k"),
        ("resnetv2_50d", "resnetv2_50d is a model of timm; write timm:resnetv2_50d"),
        ("fcn_resnet50", "fcn_resnet50 is a model for semantic segmentation, and none of"),
        ("r3d_18", "r3d_18 is a model for videos, and none of"),
    ],
)
def test_check_name_refuses_a_name_with_what_to_type(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(f'MODEL.NAME: {message}')}"):
        check_name(name, "MODEL.NAME")


def test_check_name_gives_the_command_that_installs_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ConfigError,
        match=r"^MODEL.NAME: timm:resnet18 needs the package timm, which is not installed; pip install"
        r" 'warmstart\[timm\]'$",
    ):
        check_name("timm:resnet18", "MODEL.NAME")
    with pytest.raises(ConfigError, match="^MODEL.NAME: no model is called 'resnetv2_50d'"):
        check_name("resnetv2_50d", "MODEL.NAME")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("test_vit", {"img_sise": 64}, "timm:test_vit takes no argument 'img_sise'; did you mean 'img_size'?"),
        ("test_vit", {"drop_path_rate": "no"}, "timm:test_vit expects a number; got 'no'"),
        ("test_vit", {"block_fn": "Block"}, "timm:test_vit takes no argument 'block_fn'"),
        ("test_byobnet", {"features_only": True}, "the model would have no classifier; remove it"),
        ("test_byobnet", {"checkpoint_path": "w.pth"}, "set MODEL.WEIGHTS to the file instead"),
        ("test_resnet", {"pretrained": True}, "set MODEL.WEIGHTS DEFAULT instead"),
        ("test_resnet", {"in_chans": 1}, "set MODEL.IN_CHANNELS instead"),
    ],
)
def test_check_model_refuses_arguments_that_timm_does_not_take(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"MODEL.ARGS.{next(iter(arguments))} .*: {re.escape(message)}"):
        check_model(configured("MODEL.NAME", f"timm:{name}", "MODEL.ARGS", arguments))


def test_build_model_reports_values_that_timm_refuses() -> None:
    cfg = configured("MODEL.NAME", "timm:test_byobnet", "MODEL.ARGS", {"zebra": 1})
    check_model(cfg)  # the class takes any keyword
    with pytest.raises(ConfigError, match="^MODEL.ARGS: timm:test_byobnet refuses it: .*zebra"):
        build_model(cfg)


def test_build_model_refuses_an_encoder_without_classifier() -> None:
    cfg = configured("MODEL.NAME", "timm:qwen3_vit_88m_enc")
    with (
        pytest.raises(ConfigError, match="^MODEL.NAME .*: timm:qwen3_vit_88m_enc has no classifier; choose"),
        torch.device("meta"),
    ):
        build_model(cfg)


def test_check_model_refuses_the_small_stem_of_timms_models() -> None:
    cfg = configured("MODEL.NAME", "timm:test_resnet", "MODEL.STEM", "small")
    with pytest.raises(
        ConfigError, match="^MODEL.STEM .*: timm:test_resnet has no form for images of up to 32x32"
    ):
        check_model(cfg)


def test_check_images_tries_timms_models() -> None:
    cfg = configured("MODEL.NAME", "timm:vit_tiny_patch16_224")
    check_images(cfg, (3, 224, 224), "INPUT.TRANSFORMS_TEST")
    with pytest.raises(
        ConfigError, match="timm:vit_tiny_patch16_224 fails on 2 images of 3x64x64: .*; change their"
    ):
        check_images(cfg, (3, 64, 64), "INPUT.TRANSFORMS_TEST")


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet50.a1_in1k", "vit_base_patch16_224.mae"])
def test_timm_input_agrees_with_timms_data_config(name: str) -> None:
    config = timm.data.resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    found = timm_input(f"timm:{name}", {})
    assert (found.mean, found.std, found.interpolation) == (config["mean"], config["std"], config["interpolation"])
    assert found.size == config["input_size"][1:]
    resize = timm.data.create_transform(**config).transforms[0]
    assert found.resize == (resize.size, resize.size)


def test_timm_input_is_known_for_all_models() -> None:
    for name in timm.list_models():
        found = timm_input(f"timm:{name}", {})
        assert len(found.mean) == len(found.std) == 3
        assert min(*found.size, *found.resize) > 0


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        (
            "timm:resnet50.a1_in1k",
            {"size": 224, "interpolation": "bicubic"},
            [{"size": 235, "interpolation": "bicubic"}, {"size": 224}],
        ),
        (
            "timm:dm_nfnet_f0",  # squashed
            {"size": 192, "interpolation": "bicubic"},
            [{"size": [213, 213], "interpolation": "bicubic"}, {"size": 192}],
        ),
    ],
)
def test_build_input_defaults_are_timms_data_config(name: str, train: Any, test: Any) -> None:
    found = build_input_defaults(configured("MODEL.NAME", name))
    assert found is not None
    assert found.source == name
    assert found.values["TRANSFORMS_TRAIN"] == (("RandomResizedCrop", train),)
    assert found.values["TRANSFORMS_TEST"] == (("Resize", test[0]), ("CenterCrop", test[1]))


def test_find_remote_knows_the_weights_of_all_of_timms_models() -> None:
    names = timm.list_pretrained()
    assert len(names) > 1500
    for name in names:
        remote = find_remote("DEFAULT", f"timm:{name}", "MODEL.WEIGHTS")
        assert remote is not None
        assert remote.url.startswith("https://")
        assert Path(remote.name).suffix in (".safetensors", ".bin", ".pth", ".pt", ".tar", ".npz", ".pkl"), name


def test_find_remote_refuses_default_weights_of_a_model_without() -> None:
    name = next(name for name in timm.list_models() if not timm_weights(f"timm:{name}"))
    with pytest.raises(ConfigError, match=f"^MODEL.WEIGHTS: timm has no weights for timm:{name}; name a file$"):
        find_remote("DEFAULT", f"timm:{name}", "MODEL.WEIGHTS")


def test_build_model_loads_timms_own_weights(
    server: WeightsServer, hub: Path, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    published = timm.create_model("test_resnet")
    answer = Answer(save(published.state_dict()))
    server.answers["/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"] = answer
    model = build_model(configured("MODEL.NAME", "timm:test_resnet", "MODEL.WEIGHTS", "DEFAULT"))
    assert torch.equal(model.conv1[0].weight, published.conv1[0].weight)
    assert "loaded 75/77 tensors" in logged[-1].getMessage()
    assert server.asked == ["/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"]


def test_build_model_resizes_the_position_embedding_of_a_published_file(tmp_path: Path, logged: list[Any]) -> None:
    """160 pixels are 10x10 patches, 96 pixels are 6x6; timm's own loading is the oracle."""
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=10).state_dict(), tmp_path / "w.pth")
    weights = ["MODEL.WEIGHTS", str(tmp_path / "w.pth")]
    model = build_model(configured("MODEL.NAME", "timm:test_vit", "MODEL.ARGS", {"img_size": 96}, *weights))
    options = {"pretrained_cfg_overlay": {"file": str(tmp_path / "w.pth"), "num_classes": 10}}
    expected = timm.create_model("test_vit", pretrained=True, num_classes=10, img_size=96, **options)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in expected.state_dict().items())
    assert logged[-1].getMessage().startswith("loaded 80/80 tensors")


def test_timm_filter_leaves_a_file_that_it_cannot_convert(tmp_path: Path) -> None:
    assert timm_filter(timm.create_model("test_resnet")) is None
    assert timm_filter(nn.Linear(1, 1)) is None
    convert = timm_filter(timm.create_model("test_vit"))
    assert convert is not None
    assert convert({"pos_embed": None}) == {"pos_embed": None}


def test_build_model_takes_a_file_with_a_prefix_that_timms_conversion_does_not_know(tmp_path: Path) -> None:
    own = timm.create_model("convnext_atto", num_classes=10).state_dict()
    own = {name: torch.randn_like(tensor) for name, tensor in own.items()}
    torch.save({f"module.{name}": tensor for name, tensor in own.items()}, tmp_path / "w.pth")
    model = build_model(configured("MODEL.NAME", "timm:convnext_atto", "MODEL.WEIGHTS", str(tmp_path / "w.pth")))
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())


def test_load_weights_reads_the_file_that_timms_saver_writes(tmp_path: Path) -> None:
    """With its command line, an argparse.Namespace, and the moving average."""
    from argparse import Namespace

    from timm.utils import CheckpointSaver, ModelEmaV3

    old, new = (timm.create_model("test_resnet", num_classes=10) for _ in range(2))
    average = ModelEmaV3(old)
    optimizer = torch.optim.SGD(old.parameters(), 0.1)
    saver = CheckpointSaver(
        old,
        optimizer,
        args=Namespace(model="test_resnet", lr=0.1),
        model_ema=average,
        checkpoint_dir=str(tmp_path),
    )
    saver.save_checkpoint(0, metric=0.5)
    said = load_weights(new, tmp_path / "last.pth.tar")
    assert said == f"loaded 77/77 tensors from the model in {tmp_path / 'last.pth.tar'}"
    assert torch.equal(new.fc.weight, old.fc.weight)
    said = load_weights(new, tmp_path / "last.pth.tar", entry="ema")
    assert said == f"loaded 77/77 tensors from the moving average in {tmp_path / 'last.pth.tar'}"
