"""Detectors in half precision, and on images without objects."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from warmstart.modeling.detector_parts import GuardedRoIHeads, finish_detector
from warmstart.modeling.small_rcnn import small_rcnn

from .detections import batch_of


def small_retinanet() -> Any:
    """Return torchvision's RetinaNet on a small backbone."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=8, padding=1), torch.nn.ReLU())
    body.out_channels = 8
    anchors = AnchorGenerator(((24,),), ((1.0,),))
    model = torchvision.models.detection.RetinaNet(
        body, 3, min_size=96, max_size=96, anchor_generator=anchors, score_thresh=0.0
    )
    return finish_detector(model)


def empty_batch(count: int) -> tuple[list[Tensor], list[dict[str, Any]]]:
    return batch_of(count, objects=0, keypoints=3)


def test_losses_are_0_with_gradients_where_there_is_neither_an_object_nor_a_proposal() -> None:
    torch.manual_seed(0)
    model: Any = small_rcnn(3, 3, masks=True, num_keypoints=3)
    model.rpn.score_thresh = 2.0  # no proposal at all
    images, targets = empty_batch(2)
    losses = model(images, targets)
    assert {name: loss.item() for name, loss in losses.items() if name not in ("loss_objectness",)} == {
        "loss_classifier": 0.0,
        "loss_box_reg": 0.0,
        "loss_mask": 0.0,
        "loss_keypoint": 0.0,
        "loss_rpn_box_reg": 0.0,
    }
    assert losses["loss_objectness"].item() == pytest.approx(math.log(2), rel=0.1)
    sum(losses.values()).backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in model.parameters())


def test_torchvisions_loss_is_nan_where_ours_is_0() -> None:
    model: Any = small_rcnn(3, 3)
    model.rpn.score_thresh = 2.0
    images, targets = empty_batch(1)
    features = model.backbone(torch.stack(images))
    arguments = features, [torch.zeros(0, 4)], [(96, 96)], targets
    theirs = super(GuardedRoIHeads, model.roi_heads).forward(*arguments)[1]
    assert theirs["loss_classifier"].isnan()
    assert theirs["loss_box_reg"].isnan()
    assert model.roi_heads(*arguments)[1]["loss_classifier"] == 0


@pytest.mark.parametrize("objects", [0, 2])
def test_a_guarded_detector_has_torchvisions_losses_wherever_there_are_proposals(objects: int) -> None:
    torch.manual_seed(0)
    model: Any = small_rcnn(3, 3, masks=True)
    plain = copy.deepcopy(model)
    heads = torchvision.models.detection.roi_heads.RoIHeads.__new__(
        torchvision.models.detection.roi_heads.RoIHeads
    )
    vars(heads).update(vars(plain.roi_heads))
    plain.roi_heads = heads
    losses = []
    for each in (model, plain):
        torch.manual_seed(1)
        losses.append(each(*batch_of(2, objects=objects)))
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "build",
    [lambda: small_rcnn(3, 3, masks=True, num_keypoints=3, box_score_thresh=0.0), small_retinanet],
    ids=["rcnn", "retinanet"],
)
def test_boxes_and_losses_are_float32_under_autocast(build: Any) -> None:
    torch.manual_seed(0)
    model = build()
    images, targets = batch_of(2, keypoints=3)
    found = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = model.train()(images, targets)
            with torch.no_grad():
                detections = model.eval()(images)
        found.append((losses, detections))
    for losses, detections in found:
        assert {value.dtype for value in losses.values()} == {torch.float32}
        assert {detections[0][name].dtype for name in detections[0] if name != "labels"} == {torch.float32}
    for name, loss in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], loss, rtol=0.05, atol=0.02)
    anchors = model.anchor_generator if hasattr(model, "anchor_generator") else model.rpn.anchor_generator
    assert {each.dtype for each in anchors.cell_anchors} == {torch.float32}


def test_boxes_under_autocast_are_not_rounded_to_half_precision() -> None:
    torch.manual_seed(0)
    model = small_rcnn(3, 3, box_score_thresh=0.0, min_size=600, max_size=600).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        boxes = model([torch.rand(3, 600, 600)])[0]["boxes"]
    inside = boxes[(boxes > 300) & (boxes < 599)]
    assert len(inside) > 20
    assert (inside.bfloat16().float() != inside).float().mean() > 0.9  # which are 2 pixels apart up here


def test_a_finished_detector_can_be_copied_and_pickled() -> None:
    model = small_rcnn(3, 3).eval()
    images, _ = batch_of(1)
    expected = model(images)[0]["boxes"]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.autocast("cpu", torch.bfloat16):
            assert other(images)[0]["boxes"].dtype == torch.float32
        assert torch.equal(other(images)[0]["boxes"], expected)
