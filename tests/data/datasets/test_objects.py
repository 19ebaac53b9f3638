"""Objects in images: their shapes, and targets as dicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from warmstart.config import ConfigError
from warmstart.data import Objects

TARGET = {"boxes": [[0.0, 0.0, 4.0, 2.0], [1.5, 1.0, 3.0, 5.0]], "labels": [1, 0]}


def objects_of(**changes: Any) -> Objects:
    return Objects.from_target(TARGET | changes, (8, 6), "mine: sample 7")


def test_from_target_reads_boxes_and_labels() -> None:
    objects = objects_of()
    assert (objects.boxes.dtype, objects.labels.dtype, objects.ids.tolist()) == (np.float64, np.int64, [0, 0])
    assert objects.boxes.tolist() == TARGET["boxes"]
    assert (len(objects), objects.size, objects.name) == (2, (8, 6), "mine: sample 7")
    assert (objects.labels.tolist(), objects.area.tolist()) == ([1, 0], [8.0, 6.0])
    assert (objects.iscrowd.tolist(), objects.segmentations, objects.keypoints) == ([False, False], None, None)


def test_from_target_reads_everything_of_tensors() -> None:
    masks = torch.zeros(2, 8, 6, dtype=torch.bool)
    masks[0, :2, :4] = masks[1, 1:5, 2] = True
    boxes = tv_tensors.BoundingBoxes(TARGET["boxes"], format="XYXY", canvas_size=(8, 6))
    points = torch.tensor([[[1.0, 1.0, 2.0]], [[0.0, 0.0, 0.0]]])
    objects = objects_of(boxes=boxes, masks=masks, keypoints=points, iscrowd=torch.tensor([0, 1]), image_id=3)
    assert objects.area.tolist() == [8.0, 4.0]
    assert objects.iscrowd.tolist() == [False, True]
    assert objects.keypoints is not None
    assert objects.keypoints.tolist() == points.tolist()
    assert objects.segmentations is not None
    assert all(np.array_equal(a, b) for a, b in zip(objects.segmentations, masks.numpy(), strict=True))
    assert objects_of(area=[3, 4.5]).area.tolist() == [3.0, 4.5]


def test_from_target_accepts_images_without_objects() -> None:
    objects = objects_of(boxes=[], labels=[], masks=torch.zeros(0, 8, 6), keypoints=[])
    assert (len(objects), objects.boxes.shape, objects.segmentations) == (0, (0, 4), [])


def test_from_target_returns_objects_unchanged() -> None:
    objects = objects_of()
    assert Objects.from_target(objects, (8, 6), "mine: sample 7") is objects
    with pytest.raises(ConfigError, match="the image is 6x8 .* and its objects are of one that is 8x6"):
        Objects.from_target(objects, (6, 8), "mine: sample 7")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": [[0, 0, 4, 2]]}, r"boxes are int64 of shape \(1, 4\); return finite numbers of shape \(2, 4\)"),
        ({"boxes": [[0, 0, 4, 2], [0]]}, r"boxes are \[\[0, 0, 4, 2\], \[0\]\]; return finite"),
        ({"boxes": [[0, 0, 4, float("nan")]] * 2}, "return finite numbers of shape"),
        ({"boxes": [[0, 0, 4, 2], [5, 5, 4, 8]]}, r"boxes\[1\] is \[5, 5, 4, 8\]; a box is x0, y0, x1, y1"),
        ({"labels": [0.5, 1]}, r"labels are float64 of shape \(2,\); return whole numbers of shape \(n\)"),
        ({"masks": np.zeros((2, 6, 8))}, r"masks are float64 .*; return whole numbers of shape \(2, 8, 6\)"),
        ({"masks": np.full((2, 8, 6), 255, np.uint8)}, "masks have the values 255 to 255; return 0 and 1"),
        ({"keypoints": [[[1, 1]], [[2, 2]]]}, r"keypoints are .*; return finite numbers of shape \(2, n, 3\)"),
        ({"keypoints": [[[1, 1, 3]], [[2, 2, 1]]]}, "keypoints are x, y, visibility"),
        ({"mask": 1}, "unknown key 'mask'; did you mean 'masks'"),
        ({"scores": 1}, "unknown key 'scores'; known are boxes, labels, masks"),
        (
            {"boxes": tv_tensors.BoundingBoxes(TARGET["boxes"], format="XYWH", canvas_size=(8, 6))},
            "boxes have the format XYWH; return XYXY",
        ),
    ],
)
def test_from_target_refuses_other_forms(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"mine: sample 7: .*{message}"):
        objects_of(**changes)


@pytest.mark.parametrize(("target", "found"), [(3, "3"), ({"boxes": []}, "a dict of boxes"), ([], r"\[\]")])
def test_from_target_refuses_other_targets(target: Any, found: str) -> None:
    with pytest.raises(ConfigError, match=f"mine: its target is {found}; return Objects, or a dict with"):
        Objects.from_target(target, (8, 6), "mine")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("boxes", np.zeros((1, 4)), r"boxes have the shape \(1, 4\); with 2 labels it must be \(2, 4\)"),
        ("segmentations", [], "there are 0 segmentations for 2 labels"),
        ("keypoints", np.zeros((2, 5, 2)), r"keypoints have the shape \(2, 5, 2\); with 2 labels"),
    ],
)
def test_objects_have_values_for_each_label(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objects(**(vars(objects_of()) | {field: value}))
