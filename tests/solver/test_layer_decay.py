from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.modeling import build_model
from warmstart.solver import build_optimizer, check_solver
from warmstart.solver.layer_decay import layer_ids, layer_rates

Cfg = Callable[..., CfgNode]


def small_transformer() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=4
    )


def model_of(name: str) -> nn.Module:
    return small_transformer() if name == "vit" else torchvision.models.get_model(name)


# The last layer, and one parameter of each kind of place with its layer.
LAYERS: dict[str, tuple[int, dict[str, int]]] = {
    "resnet18": (
        9,
        {
            "conv1.weight": 0,
            "bn1.bias": 0,
            "layer1.0.conv1.weight": 1,
            "layer1.1.bn2.weight": 2,
            "layer2.0.downsample.0.weight": 3,
            "layer4.1.conv2.weight": 8,
            "fc.bias": 9,
        },
    ),
    "resnet50": (17, {"bn1.weight": 0, "layer3.5.conv3.weight": 13, "layer4.0.conv1.weight": 14, "fc.weight": 17}),
    "vit": (
        4,
        {
            "class_token": 0,
            "conv_proj.weight": 0,
            "encoder.pos_embedding": 0,
            "encoder.layers.encoder_layer_0.ln_1.weight": 1,
            "encoder.layers.encoder_layer_2.mlp.3.bias": 3,
            "encoder.ln.weight": 4,
            "heads.head.weight": 4,
        },
    ),
    "swin_t": (
        13,
        {
            "features.0.0.weight": 0,
            "features.0.2.bias": 0,
            "features.1.1.mlp.0.weight": 2,
            "features.2.reduction.weight": 3,
            "features.3.0.attn.qkv.weight": 3,
            "features.5.5.norm2.weight": 10,
            "features.6.norm.weight": 11,
            "features.7.1.attn.relative_position_bias_table": 12,
            "norm.weight": 13,
            "head.bias": 13,
        },
    ),
    "swin_v2_t": (13, {"features.1.0.attn.logit_scale": 1, "features.6.reduction.weight": 11, "head.weight": 13}),
    "convnext_tiny": (
        19,
        {
            "features.0.0.weight": 0,
            "features.1.2.layer_scale": 3,
            "features.2.1.weight": 4,
            "features.3.0.block.0.weight": 4,
            "features.5.8.block.5.bias": 15,
            "features.6.0.weight": 16,
            "features.7.2.block.0.bias": 18,
            "classifier.0.weight": 19,
            "classifier.2.weight": 19,
        },
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_parameter_has_one_layer_that_grows_with_depth(name: str) -> None:
    model = model_of(name)
    last, expected = LAYERS[name]
    ids = layer_ids(model, "SOLVER.LAYER_DECAY")
    assert {key: ids[key] for key in expected} == expected
    names = [name for name, _ in model.named_parameters()]
    assert list(ids) == names
    assert set(ids.values()) == set(range(last + 1))
    # torchvision registers modules in the order of their use, but for what a module holds itself.
    modules = [ids[name] for name in names if name not in ("class_token", "encoder.pos_embedding")]
    assert modules == sorted(modules)


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "swin_t"])
def test_a_classifier_with_a_small_stem_has_the_same_layers(name: str) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(
        ["MODEL.NAME", name, "MODEL.NUM_CLASSES", 4, "MODEL.IN_CHANNELS", 1, "MODEL.STEM", "small"]
    )
    ours = layer_ids(build_model(cfg), "")
    assert ours == layer_ids(torchvision.models.get_model(name), "")


def test_rates_fall_from_the_head_to_the_stem() -> None:
    rates = layer_rates(small_transformer(), 0.5, "SOLVER.LAYER_DECAY")
    assert rates["heads.head.weight"] == ("layer04", 1.0)
    assert rates["encoder.layers.encoder_layer_1.mlp.0.weight"] == ("layer02", 0.25)
    assert rates["class_token"] == ("layer00", 0.0625)


class WithExtra(torchvision.models.ResNet):
    def __init__(self) -> None:
        super().__init__(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
        self.extra = nn.Linear(2, 2)


def test_layer_ids_assign_parameters_of_a_subclass_to_the_head() -> None:
    ids = layer_ids(WithExtra(), "SOLVER.LAYER_DECAY")
    assert (ids["extra.weight"], ids["fc.weight"], ids["layer4.0.conv1.weight"]) == (5, 5, 4)


# ---------------------------------------------------------------- from a config


def groups(cfg: CfgNode, model: nn.Module) -> dict[str, dict[str, Any]]:
    found = build_optimizer(cfg, model).param_groups
    assert len({group["name"] for group in found}) == len(found)
    return {group["name"]: group for group in found}


def test_groups_of_a_config(cfg_with: Cfg) -> None:
    model = small_transformer()
    found = groups(cfg_with(OPTIMIZER="AdamW", BASE_LR=1.0, LAYER_DECAY=0.5, WEIGHT_DECAY=0.1), model)
    assert {name: (group["lr"], group["weight_decay"]) for name, group in found.items()} == {
        "layer04": (1.0, 0.1),  # first, so that its rate is recorded as lr
        "layer04 norm": (1.0, 0.0),
        "layer00": (0.0625, 0.1),
        "layer01": (0.125, 0.1),
        "layer01 norm": (0.125, 0.0),
        "layer02": (0.25, 0.1),
        "layer02 norm": (0.25, 0.0),
        "layer03": (0.5, 0.1),
        "layer03 norm": (0.5, 0.0),
    }
    names = [name for group in found.values() for name in group["param_names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def test_param_groups_rules_apply_after_layer_decay(cfg_with: Cfg) -> None:
    rules = [
        {"MATCH": r"\.mlp\.", "LR_FACTOR": 10, "NAME": "mlp"},
        {"MATCH": r"^heads", "LR_FACTOR": 2, "NAME": "head"},
        {"MATCH": r"\.self_attention\.", "LR": 0.3, "NAME": "attention"},
    ]
    cfg = cfg_with(OPTIMIZER="AdamW", BASE_LR=1.0, LAYER_DECAY=0.5, PARAM_GROUPS=rules)
    rates = {name: group["lr"] for name, group in groups(cfg, small_transformer()).items()}
    assert [rates[name] for name in ("mlp layer01", "mlp layer03", "head", "attention")] == [1.25, 5.0, 2.0, 0.3]


def test_layer_decay_1_is_off(cfg_with: Cfg) -> None:
    model = torchvision.models.resnet18()
    assert list(groups(cfg_with(LAYER_DECAY=1), copy.deepcopy(model))) == ["default", "norm"]


MESSAGE = (
    r"SOLVER.LAYER_DECAY \(override\): not supported for {}; set it to 1, or use a model of timm, or "
    "torchvision's ConvNeXt, ResNet, SwinTransformer, VisionTransformer$"
)


def with_decay(name: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.LAYER_DECAY", 0.7, "MODEL.NAME", name])
    return cfg


def test_another_model_of_torchvisions_is_refused_before_it_is_built() -> None:
    check_solver(with_decay("wide_resnet50_2"))
    with pytest.raises(ConfigError, match=MESSAGE.format("vgg11")):
        check_solver(with_decay("vgg11"))


def test_a_registered_model_is_refused_when_it_is_built() -> None:
    cfg = with_decay("small_cnn")
    check_solver(cfg)
    with pytest.raises(ConfigError, match=MESSAGE.format("Linear")):
        build_optimizer(cfg, nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_layer_rates_of_timms_models_are_timms(name: str) -> None:
    """The oracle are the parameter groups of timm's own optimizers."""
    timm, optim = (pytest.importorskip(each) for each in ("timm", "timm.optim"))
    model = timm.create_model(name, num_classes=4)
    groups = optim.param_groups_layer_decay(model, layer_decay=0.7)
    expected = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    rates = layer_rates(model, 0.7, "SOLVER.LAYER_DECAY")
    found = {id(parameter): rates[key].factor for key, parameter in model.named_parameters()}
    assert found == pytest.approx(expected)
    assert len(set(found.values())) > 3


def test_layer_rates_refuses_a_model_of_timm_without_layers() -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model("pit_ti_224")
    with pytest.raises(
        ConfigError, match="^SOLVER.LAYER_DECAY: not supported for PoolingVisionTransformer; set it"
    ):
        layer_rates(model, 0.7, "SOLVER.LAYER_DECAY")
