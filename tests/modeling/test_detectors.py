"""torchvision's detectors, built from a config."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision.models

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.modeling import build_model, check_images, check_model, parameter_bytes
from warmstart.modeling.contract import AnyTask

from .detections import batch_of


class Detection(AnyTask):
    """What a task for detection asks of its model."""

    extra_outputs = 1


class Keypoints(Detection):
    """What a task for five keypoints asks of its model."""

    model_arguments = {"masks": False, "num_keypoints": 5}  # noqa: RUF012


def configured(name: str, *overrides: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NAME", name, "MODEL.NUM_CLASSES", 2, "MODEL.IN_CHANNELS", 3, *overrides])
    return cfg


def on_meta(name: str, *overrides: Any, task: AnyTask = Detection()) -> Any:  # noqa: B008
    """Build the model without memory for its weights."""
    with torch.device("meta"):
        return build_model(configured(name, *overrides), task=task)


@pytest.mark.parametrize(
    ("name", "head", "outputs"),
    [
        ("fasterrcnn_resnet50_fpn", "roi_heads.box_predictor.cls_score", 3),
        ("fasterrcnn_resnet50_fpn_v2", "roi_heads.box_predictor.cls_score", 3),
        ("fasterrcnn_mobilenet_v3_large_fpn", "roi_heads.box_predictor.cls_score", 3),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", "roi_heads.box_predictor.cls_score", 3),
        ("maskrcnn_resnet50_fpn", "roi_heads.mask_predictor.mask_fcn_logits", 3),
        ("maskrcnn_resnet50_fpn_v2", "roi_heads.mask_predictor.mask_fcn_logits", 3),
        ("retinanet_resnet50_fpn", "head.classification_head.cls_logits", 9 * 3),
        ("retinanet_resnet50_fpn_v2", "head.classification_head.cls_logits", 9 * 3),
        ("fcos_resnet50_fpn", "head.classification_head.cls_logits", 3),
        ("ssd300_vgg16", "head.classification_head.module_list.0", 4 * 3),
        ("ssdlite320_mobilenet_v3_large", "head.classification_head.module_list.0.1", 6 * 3),
    ],
)
def test_build_model_gives_each_detector_an_output_for_the_background(name: str, head: str, outputs: int) -> None:
    module = on_meta(name).get_submodule(head)
    assert module.weight.shape[0] == outputs


def test_build_model_gives_the_keypoint_rcnn_the_tasks_number_of_keypoints() -> None:
    model = on_meta("keypointrcnn_resnet50_fpn", task=Keypoints())
    assert model.roi_heads.keypoint_predictor.out_channels == 5
    message = r"^MODEL.ARGS.num_keypoints \(override\): it follows from MODEL.TASK and the training set; leave it"
    with pytest.raises(ConfigError, match=message):
        check_model(configured("keypointrcnn_resnet50_fpn", "MODEL.ARGS.num_keypoints", 4), Keypoints())


def test_build_model_builds_a_detector_with_torchvisions_names_and_weights() -> None:
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    torch.manual_seed(0)
    model = build_model(configured(name), task=Detection())
    torch.manual_seed(0)
    published = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=3)
    assert list(model.state_dict()) == list(published.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), published.parameters(), strict=True))
    images, targets = batch_of(2)
    losses = []
    for each in (model, published):
        torch.manual_seed(1)
        losses.append(each(images, targets))
    assert losses[0] == losses[1]


def test_arguments_reach_torchvisions_classes_and_the_transform_inside() -> None:
    overrides = ["MODEL.ARGS", "{min_size: [640, 800], max_size: 1000, rpn_nms_thresh: 0.6, size_divisible: 64}"]
    model = on_meta("fasterrcnn_resnet50_fpn", *overrides)
    transform = model.transform
    assert [*transform.min_size] == [640, 800]
    assert (transform.max_size, transform.size_divisible, model.rpn.nms_thresh) == (1000, 64, 0.6)


@pytest.mark.parametrize(
    ("arguments", "name", "message"),
    [
        (
            "{min_size: big}",
            "min_size",
            "expected a whole number of pixels above 0, or a list of them; got 'big'$",
        ),
        ("{min_size: []}", "min_size", "expected a whole number of pixels above 0"),
        ("{image_mean: [0.5]}", "image_mean", r"expected 3 numbers, one for each channel; got \[0.5\]$"),
        ("{image_std: [0, 1, 1]}", "image_std", "expected 3 numbers, one for each channel, none of them 0; got"),
        ("{bbox_reg_weights: 10}", "bbox_reg_weights", "expected four numbers; got 10$"),
    ],
)
def test_check_model_refuses_values_that_torchvision_would_fail_on_later(
    arguments: str, name: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^MODEL.ARGS.{name} \(override\): {message}"):
        check_model(configured("fasterrcnn_resnet50_fpn", "MODEL.ARGS", arguments))


def test_a_detector_takes_images_of_one_channel() -> None:
    model = on_meta("ssd300_vgg16", "MODEL.IN_CHANNELS", 1)
    assert model.backbone.features[0].in_channels == 1
    assert model.transform.image_mean == [pytest.approx((0.48235 + 0.45882 + 0.40784) / 3)]
    assert model.transform.image_std == [pytest.approx(1 / 255)]


def test_check_images_tries_a_detectors_backbone_in_training_mode() -> None:
    cfg = configured("ssdlite320_mobilenet_v3_large")
    check_images(cfg, (3, 64, 64), "INPUT.X", 2, True, Detection())
    with pytest.raises(ConfigError, match="fails on 1 image of 3x64x64: Expected more than 1 value per channel"):
        check_images(cfg, (3, 64, 64), "INPUT.X", 1, True, Detection())


def test_parameter_bytes_count_the_tasks_outputs() -> None:
    cfg = configured("small_rcnn")
    assert parameter_bytes(cfg, Detection()) - parameter_bytes(cfg) == 4 * 5 * 129
