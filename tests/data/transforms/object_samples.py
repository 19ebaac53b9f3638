"""Samples of drawn shapes, as tasks make them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from warmstart.data import Objects, Sample
from warmstart.data.datasets.shapes import Shapes
from warmstart.data.transforms.objects import OBJECT_ENTRIES, frame_of, points_in


def sample_of(image: Any, objects: Objects) -> Sample:
    """Return a sample as tasks make it."""
    size = objects.size
    assert objects.keypoints is not None
    assert objects.segmentations is not None
    masks = np.array(objects.segmentations, np.uint8).reshape(-1, *size)
    return {
        "image": tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)),
        "boxes": tv_tensors.BoundingBoxes(
            torch.from_numpy(objects.boxes).float(), format="XYXY", canvas_size=size
        ),
        "labels": torch.from_numpy(objects.labels),
        "iscrowd": torch.from_numpy(objects.iscrowd),
        "area": torch.from_numpy(objects.area).float(),
        "masks": tv_tensors.Mask(torch.from_numpy(masks)),
        "keypoints": points_in(torch.from_numpy(objects.keypoints[..., :2]).float(), size),
        "visibility": torch.from_numpy(objects.keypoints[..., 2]).long(),
        "frame": frame_of(size),
        "original": objects,
    }


def shape_sample(index: int = 0, size: int | tuple[int, int] = 96) -> Sample:
    """Return image `index` of the drawn shapes as a sample."""
    return sample_of(*Shapes("train", index + 1, size)[index])


def rows(sample: Sample) -> set[int]:
    """Return the numbers of objects that the entries of a sample have."""
    return {len(sample[name]) for name in OBJECT_ENTRIES}
