"""The backbones of detectors: stages, norms, and the names of classifiers' weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection import backbone_utils, ssd, ssdlite
from torchvision.ops import FrozenBatchNorm2d

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.modeling import build_model, check_model
from warmstart.modeling.detector_backbone import body_of, freeze_stages, name_in_body
from warmstart.modeling.small_rcnn import small_rcnn


def configured(name: str, *overrides: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NAME", name, "MODEL.NUM_CLASSES", 2, "MODEL.IN_CHANNELS", 3, *overrides])
    return cfg


def on_meta(name: str, *overrides: Any) -> Any:
    with torch.device("meta"):
        return build_model(configured(name, *overrides), weights=False)


def published(name: str, **arguments: Any) -> Any:
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **arguments)


def frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize(
    ("name", "classifier", "extractor", "stages"),
    [
        ("retinanet_resnet50_fpn", "resnet50", backbone_utils._resnet_fpn_extractor, 5),
        (
            "fasterrcnn_mobilenet_v3_large_fpn",
            "mobilenet_v3_large",
            lambda net, count: backbone_utils._mobilenet_extractor(net, True, count),
            6,
        ),
        ("ssd300_vgg16", "vgg16", lambda net, count: ssd._vgg_extractor(net, False, count), 5),
        (
            "ssdlite320_mobilenet_v3_large",
            "mobilenet_v3_large",
            lambda net, count: ssdlite._mobilenet_extractor(net, count, nn.BatchNorm2d),
            6,
        ),
    ],
)
def test_freeze_stages_freezes_what_torchvision_does(
    name: str, classifier: str, extractor: Any, stages: int
) -> None:
    model = on_meta(name)
    for count in (0, 1, 3, stages - 1, stages):
        freeze_stages(model, count)
        with torch.device("meta"):
            theirs = extractor(published(classifier), stages - count)
        assert frozen(body_of(model)) == frozen(getattr(theirs, "body", theirs)), count
    with pytest.raises(ValueError, match=f"^the backbone has {stages} stages, the stem among them$"):
        freeze_stages(model, stages + 1)


def test_freeze_stages_counts_the_small_rcnns_stem_and_stages() -> None:
    model = small_rcnn(3, 3)
    freeze_stages(model, 2)
    assert {name.rsplit(".", 3)[0] for name in frozen(model)} == {"backbone.body", "backbone.body.stages.0"}


@pytest.mark.parametrize(
    ("name", "classifier", "left_out"),
    [
        ("fasterrcnn_resnet50_fpn", "resnet50", {"fc.weight", "fc.bias"}),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", "mobilenet_v3_large", None),
        ("ssd300_vgg16", "vgg16", None),
        ("ssdlite320_mobilenet_v3_large", "mobilenet_v3_large", None),
    ],
)
def test_name_in_body_finds_each_of_a_classifiers_tensors(name: str, classifier: str, left_out: Any) -> None:
    body = body_of(on_meta(name))
    own = body.state_dict()
    more = {"reduced_tail": True} if name.startswith("ssdlite") else {}
    theirs = published(classifier, **more).state_dict()
    named = {each: name_in_body(body, each) for each in theirs}
    missing = {each for each in theirs if named[each] not in own}
    assert missing == (left_out or {each for each in theirs if each.startswith("classifier.")})
    assert all(own[named[each]].shape == theirs[each].shape for each in theirs.keys() - missing)
    assert len({*named.values()}) == len(named)


@pytest.mark.parametrize(
    ("name", "stages", "is_frozen"),
    [
        ("fasterrcnn_resnet50_fpn", ["conv1", "layer1"], True),
        ("maskrcnn_resnet50_fpn_v2", ["bn1", "conv1", "layer1"], False),
        ("ssd300_vgg16", ["features"], None),
        ("ssdlite320_mobilenet_v3_large", [], False),
        ("small_rcnn", [], None),
    ],
)
def test_stages_and_norms_are_frozen_as_in_torchvision_if_there_are_weights(
    name: str, stages: list[str], is_frozen: bool | None
) -> None:
    body = body_of(on_meta(name, "MODEL.WEIGHTS", "x.pth"))
    assert sorted({each.split(".")[0] for each in frozen(body)}) == stages
    kinds = {type(each) for each in body.modules() if isinstance(each, (nn.BatchNorm2d, FrozenBatchNorm2d))}
    assert kinds == {None: set(), True: {FrozenBatchNorm2d}, False: {nn.BatchNorm2d}}[is_frozen]
    random = on_meta(name)
    assert frozen(random) == set()
    assert not any(isinstance(each, FrozenBatchNorm2d) for each in random.modules())


def test_keys_freeze_stages_and_norms_without_weights() -> None:
    overrides = ["MODEL.BACKBONE.FREEZE_AT", 3, "MODEL.BACKBONE.NORM", "BN"]
    model = on_meta("fasterrcnn_resnet50_fpn", *overrides)
    body = model.train().backbone.body
    assert sorted({each.split(".")[0] for each in frozen(body)}) == ["bn1", "conv1", "layer1", "layer2"]
    assert [body.bn1.training, body.layer2.training, body.layer3.training] == [False, False, True]
    assert on_meta("fasterrcnn_resnet50_fpn", "MODEL.WEIGHTS", "x.pth", *overrides).backbone.body.bn1.eps == 1e-5
    model = on_meta("retinanet_resnet50_fpn_v2", "MODEL.BACKBONE.NORM", "FrozenBN", "MODEL.FREEZE", ["fpn"])
    assert {each.split(".")[1] for each in frozen(model)} == {"fpn"}
    assert type(model.backbone.body.layer1[0].bn1) is FrozenBatchNorm2d


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (
            "resnet18",
            ["MODEL.BACKBONE.FREEZE_AT", 2],
            r"^MODEL.BACKBONE.FREEZE_AT \(override\): it is for torchvision's detectors and small_rcnn, and"
            r" MODEL.NAME is resnet18; leave it out, or freeze parameters by their names with MODEL.FREEZE$",
        ),
        (
            "small_cnn",
            ["MODEL.BACKBONE.NORM", "BN"],
            r"^MODEL.BACKBONE.NORM \(override\): it is for torchvision",
        ),
        (
            "small_rcnn",
            ["MODEL.WEIGHTS", "backbone:IMAGENET1K_V1"],
            r"^MODEL.WEIGHTS \(override\): backbone: is for torchvision's detectors, and MODEL.NAME is small_rc",
        ),
        (
            "ssd300_vgg16",
            ["MODEL.COMPILE", "default"],
            r"^MODEL.COMPILE \(override\): ssd300_vgg16 is a detector, in which sizes follow from value",
        ),
        (
            "small_rcnn",
            ["MODEL.HEAD.dropout", 0.1],
            r"^MODEL.HEAD.dropout \(override\): small_rcnn is a detector, whose heads have no dropout; leave it",
        ),
    ],
)
def test_check_model_refuses_keys_that_are_for_other_models(name: str, overrides: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_model(configured(name, *overrides))


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        (
            "small_rcnn",
            "FREEZE_AT",
            5,
            "FREEZE_AT .*: small_rcnn refuses it: the backbone has 4 stages, the stem",
        ),
        ("ssd300_vgg16", "NORM", "FrozenBN", "NORM .*: ssd300_vgg16 refuses it: the backbone has no BatchNorm$"),
    ],
)
def test_build_model_refuses_what_a_backbone_does_not_have(name: str, key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^MODEL.BACKBONE.{message}"):
        on_meta(name, f"MODEL.BACKBONE.{key}", value)
