"""Small data sets of objects, and detections in them, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from warmstart.data import DatasetInfo, KeypointInfo, Objects

CORNERS = KeypointInfo(("top", "left", "right"), ((0, 1), (0, 2)), ((1, 2),), (0.05, 0.05, 0.05))


def objects(
    boxes: list[list[float]], labels: list[int], size: tuple[int, int] = (48, 64), **entries: Any
) -> Objects:
    """Return objects with a mask, the upper half of the box, and three keypoints each."""
    array = np.array(boxes, np.float64).reshape(-1, 4)
    masks = np.zeros((len(array), *size), np.uint8)
    points = np.zeros((len(array), 3, 3))
    for mask, point, (x0, y0, x1, y1) in zip(masks, points, array, strict=True):
        mask[int(y0) : int((y0 + y1) / 2), int(x0) : int(x1)] = 1
        point[:] = [[(x0 + x1) / 2, y0, 2], [x0, y1, 2], [x1, y1, 1]]
    columns: dict[str, Any] = {
        "boxes": array,
        "labels": np.array(labels, np.int64),
        "size": size,
        "iscrowd": np.zeros(len(array), bool),
        "area": np.prod(array[:, 2:] - array[:, :2], axis=1),
        "ids": np.zeros(len(array), np.int64),
        "segmentations": [*masks],
        "keypoints": points,
    }
    return Objects(**columns | entries)


def info(**entries: Any) -> DatasetInfo:
    """Return the info on a set of objects of two classes."""
    known = {"annotations": ("boxes", "masks", "keypoints"), "keypoints": CORNERS, "classes": ("disc", "bar")}
    return DatasetInfo(**{"size": 4, "num_classes": 2, "channels": 3, "image_size": (48, 64)} | known | entries)


def perfect(found: Objects, score: float = 1.0) -> dict[str, torch.Tensor]:
    """Return the detections of a model that makes no mistake, labels from 1."""
    kept = ~found.iscrowd
    masks = np.array(found.segmentations or np.zeros((0, *found.size)), np.float32)
    return {
        "boxes": torch.from_numpy(found.boxes[kept].astype(np.float32)),
        "labels": torch.from_numpy(found.labels[kept] + 1),
        "scores": torch.full((int(kept.sum()),), score),
        "masks": torch.from_numpy(masks[kept])[:, None],
        "keypoints": torch.from_numpy(np.asarray(found.keypoints)[kept].astype(np.float32)),
    }
