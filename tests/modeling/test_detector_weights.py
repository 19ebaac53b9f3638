"""Weights for detectors."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection import _utils, retinanet, ssd
from torchvision.ops import FrozenBatchNorm2d

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.modeling import build_model, pretrained, published_weights, weights_path
from warmstart.modeling.contract import AnyTask
from warmstart.modeling.detector_weights import _choose_outputs, detector_filter
from warmstart.modeling.fitting import WeightsFile, fit_weights
from warmstart.modeling.small_rcnn import small_rcnn


def configured(name: str, weights: Path | str, *overrides: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NAME", name, "MODEL.NUM_CLASSES", 2, "MODEL.IN_CHANNELS", 3, *overrides])
    cfg.merge_from_list(["MODEL.WEIGHTS", str(weights)])
    return cfg


class Masks(AnyTask):
    """What a task for masks of two classes asks of its model."""

    extra_outputs = 1
    model_arguments = {"masks": True}  # noqa: RUF012
    classes = ("dog", "ant")


def test_weights_of_another_number_of_classes_leave_the_heads_to_be_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = small_rcnn(6, 3, masks=True)
    torch.save(old.state_dict(), tmp_path / "old.pth")
    with caplog.at_level(logging.INFO, logger="warmstart"):
        model: Any = build_model(configured("small_rcnn", tmp_path / "old.pth"), task=Masks())
    assert caplog.messages == [
        f"loaded 49/55 tensors from {tmp_path}/old.pth; skipped: roi_heads.box_predictor.cls_score.weight (6, 128)"
        " does not fit (3, 128), roi_heads.box_predictor.cls_score.bias (6,) does not fit (3,),"
        " roi_heads.box_predictor.bbox_pred.weight (24, 128) does not fit (12, 128) and 3 more like it"
    ]
    assert torch.equal(model.rpn.head.cls_logits.weight, old.rpn.head.cls_logits.weight)


def test_a_checkpoint_gives_the_outputs_of_its_classes_by_their_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old: Any = small_rcnn(5, 3, masks=True)
    file = tmp_path / "model_final.pth"
    content = {"model": old.state_dict(), "classes": ["ant", "bee", "cat", "dog"], "iteration": 3}
    torch.save(content, file)
    with caplog.at_level(logging.INFO, logger="warmstart"):
        model: Any = build_model(configured("small_rcnn", file), task=Masks())
    assert caplog.messages == [
        f"the heads begin with the outputs of the 2 classes, found by name among the 4 of {file}",
        f"loaded 55/55 tensors from {file}",
    ]
    rows = [0, 4, 1]  # background, dog, ant
    features = torch.rand(7, 128)
    scores, boxes = model.roi_heads.box_predictor(features)
    old_scores, old_boxes = old.roi_heads.box_predictor(features)
    torch.testing.assert_close(scores, old_scores[:, rows])
    torch.testing.assert_close(boxes, old_boxes.unflatten(1, (5, 4))[:, rows].flatten(1))
    assert torch.equal(
        model.roi_heads.mask_predictor.mask_fcn_logits.weight,
        old.roi_heads.mask_predictor.mask_fcn_logits.weight[rows],
    )


@pytest.mark.parametrize("classes", [["ant", "wasp"], ["ant", "dog"], []])
def test_outputs_stay_as_they_are_unless_all_classes_are_known_in_another_order(classes: list[str]) -> None:
    old = small_rcnn(3, 3)
    file = WeightsFile(Path("model_final.pth"), {"model": old.state_dict(), "classes": ["ant", "dog"]})
    found = old.state_dict()
    converted = detector_filter(old, "small_rcnn", file, classes)(found)
    assert all(converted[name] is found[name] for name in found)


@pytest.mark.parametrize(
    "head",
    [
        lambda count: retinanet.RetinaNetHead(8, 3, count).classification_head,
        lambda count: ssd.SSDHead([8], [4], count).classification_head,
    ],
)
def test_outputs_of_heads_that_predict_for_anchors_are_chosen_for_each_anchor(head: Any) -> None:
    old, new, features = head(5), head(3), [torch.rand(1, 8, 4, 4)]
    tensors = {f"head.classification_head.{name}": value for name, value in old.state_dict().items()}
    _choose_outputs(tensors, [0, 4, 1], 5)
    new.load_state_dict({name.removeprefix("head.classification_head."): value for name, value in tensors.items()})
    torch.testing.assert_close(new(features), old(features)[..., [0, 4, 1]])


def test_published_weights_give_the_outputs_of_their_classes_by_name(tmp_path: Path) -> None:
    weights = torchvision.models.get_model_weights("ssd300_vgg16").COCO_V1
    categories = weights.meta["categories"]
    values = torch.arange(91.0).repeat(4)  # of four anchors
    name = "head.classification_head.module_list.0.bias"
    file = WeightsFile(tmp_path / weights.url.rpartition("/")[2], {name: values})
    chosen = detector_filter(nn.Module(), "ssd300_vgg16", file, ["zebra", "person"])({name: values})[name]
    assert chosen.tolist() == [0, categories.index("zebra"), 1] * 4


@pytest.mark.parametrize(
    ("name", "file", "folds"),
    [
        ("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", True),
        ("fcos_resnet50_fpn", "fcos_resnet50_fpn_coco-99b0c9b7.pth", False),
        ("fasterrcnn_resnet50_fpn", "mine.pth", False),
    ],
)
def test_norms_of_coco_v1_compute_what_they_do_without_eps(name: str, file: str, folds: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.Sequential(FrozenBatchNorm2d(4))
    for buffer in theirs.buffers():
        buffer.copy_(torch.rand(4) + 0.1)
    theirs[0].running_var[0] = 1e-30  # torchvision's weights have such
    theirs[0].weight[0] = 1e-15
    ours = nn.Sequential(FrozenBatchNorm2d(4))
    convert = detector_filter(ours, name, WeightsFile(Path(file), None), ())
    fit_weights(ours, WeightsFile(Path(file), theirs.state_dict()), "W", convert=convert)
    images = torch.rand(2, 4, 3, 3)
    if folds:
        _utils.overwrite_eps(theirs, 0.0)
    assert torch.equal(ours(images), theirs(images))


def test_old_names_are_read_from_files_without_versions() -> None:
    old: Any = small_rcnn(3, 3, masks=True)
    state = OrderedDict(old.state_dict())  # without versions
    for new_name, old_name in (("rpn.head.conv.0.0", "rpn.head.conv"), ("mask_head.1.0", "mask_head.mask_fcn2")):
        for kind in ("weight", "bias"):
            prefix = "" if new_name.startswith("rpn") else "roi_heads."
            state[f"{prefix}{old_name}.{kind}"] = state.pop(f"{prefix}{new_name}.{kind}")
    model: Any = small_rcnn(3, 3, masks=True)
    file = WeightsFile(Path("old.pth"), state)
    report = fit_weights(model, file, "W", convert=detector_filter(model, "small_rcnn", file, ()))
    assert report == "loaded 55/55 tensors from old.pth"
    assert torch.equal(model.roi_heads.mask_head[1][0].weight, old.roi_heads.mask_head[1][0].weight)


def test_a_classifiers_weights_fill_the_backbone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classifier = torchvision.models.mobilenet_v3_large(num_classes=3)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    cfg = configured("fasterrcnn_mobilenet_v3_large_320_fpn", f"backbone:{tmp_path / 'classifier.pth'}")
    with caplog.at_level(logging.INFO, logger="warmstart"):
        model: Any = build_model(cfg)
    assert caplog.messages[0].startswith(
        f"backbone: loaded 262/262 tensors from {tmp_path}/classifier.pth; skipped: "
    )
    ours, theirs = model.backbone.body.state_dict(), classifier.features.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert isinstance(model.backbone.body["0"][1], FrozenBatchNorm2d)
    with pytest.raises(ConfigError, match=r"^MODEL.WEIGHTS \(override\): no parameter of .* fits the model: "):
        build_model(configured("fasterrcnn_mobilenet_v3_large_320_fpn", tmp_path / "classifier.pth"))


def test_names_of_published_weights_are_the_detectors_and_those_of_its_backbone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert published_weights("fcos_resnet50_fpn") == [
        "COCO_V1",
        "DEFAULT",
        "backbone:IMAGENET1K_V1",
        "backbone:IMAGENET1K_V2",
        "backbone:DEFAULT",
    ]
    monkeypatch.setattr(pretrained, "download", lambda remote, label: Path(remote.name))
    paths = {
        ("ssd300_vgg16", "COCO_V1"): "ssd300_vgg16_coco-b556d3b4.pth",
        ("ssd300_vgg16", "backbone:IMAGENET1K_FEATURES"): "vgg16_features-amdegroot-88682ab5.pth",
        ("fcos_resnet50_fpn", "backbone:DEFAULT"): "resnet50-11ad3fa6.pth",
        ("fasterrcnn_mobilenet_v3_large_fpn", "DEFAULT"): "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth",
    }
    assert {each: str(weights_path(each[1], each[0], "W")) for each in paths} == paths
    message = "^W: fcos_resnet50_fpn has no published weights called IMAGENET1K_V1; did you mean backbone:I"
    with pytest.raises(ConfigError, match=message):
        weights_path("IMAGENET1K_V1", "fcos_resnet50_fpn", "W")
