"""The small R-CNN."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from warmstart.config import ConfigError
from warmstart.modeling import takes_targets
from warmstart.modeling.small_rcnn import small_rcnn

from .detections import batch_of

BOX_LOSSES = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}


@pytest.mark.parametrize(
    ("arguments", "losses", "outputs"),
    [
        ({}, set(), {}),
        ({"norm": "batch", "width": 8}, set(), {}),
        ({"masks": True}, {"loss_mask"}, {"masks": (1, 96, 96)}),
        ({"num_keypoints": 5}, {"loss_keypoint"}, {"keypoints": (5, 3), "keypoints_scores": (5,)}),
    ],
)
def test_small_rcnn_returns_losses_in_training_and_detections_in_evaluation(
    arguments: dict[str, Any], losses: set[str], outputs: dict[str, tuple[int, ...]]
) -> None:
    torch.manual_seed(0)
    model = small_rcnn(3, 3, **{"box_score_thresh": 0.0, "box_detections_per_img": 4, **arguments})
    images, targets = batch_of(2, keypoints=5)
    found = model(images, targets)
    assert found.keys() == BOX_LOSSES | losses
    sum(found.values()).backward()
    assert all(each.grad is not None for each in model.parameters())
    with torch.no_grad():
        detections = model.eval()(images)
    assert {name: value.shape for name, value in detections[0].items()} == {
        **{"boxes": (4, 4), "labels": (4,), "scores": (4,)},
        **{name: (4, *shape) for name, shape in outputs.items()},
    }
    assert {*detections[0]["labels"].tolist()} <= {1, 2}
    assert takes_targets(model)


def test_small_rcnn_takes_images_of_one_channel_and_several_sizes() -> None:
    model = small_rcnn(2, 1, min_size=[64, 96], max_size=128).eval()
    detections = model([torch.rand(1, 50, 90), torch.rand(1, 120, 70)])
    assert len(detections) == 2
    assert (model.transform.min_size, model.transform.max_size) == ([64, 96], 128)


def test_small_rcnn_has_the_same_weights_for_the_same_seed() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(small_rcnn(4, 3, masks=True, num_keypoints=2).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "layer"}, "^MODEL.ARGS.norm: expected one of group, batch; got 'layer'$"),
        ({"width": 12}, "^MODEL.ARGS.width: expected a multiple of 8; got 12$"),
        ({"anchor_sizes": (8, 16)}, r"^MODEL.ARGS.anchor_sizes: expected three numbers; got \[8, 16\]$"),
    ],
)
def test_small_rcnn_refuses_other_values(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_rcnn(3, 3, **arguments)
