"""Objects in an image, as data sets for detection, instance segmentation and keypoint detection return them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Segmentation = list[list[float]] | dict[str, Any] | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class KeypointInfo:
    """The keypoints that each object of a data set has.

    Args:
        names: of the K keypoints, in order: ("nose", "left_eye", ...).
        skeleton: pairs of indices from 0, to draw lines between.
        flip_pairs: pairs of indices that trade places in a mirror image, such as the left and the right eye.
        sigmas: K positive numbers, the tolerance of each keypoint in COCO's object keypoint similarity.
    """

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] = ()


@dataclass(frozen=True)
class Objects:
    """The n objects of an image: the target that a data set for detection returns.

    Coordinates are pixels of the image as stored, with the origin at the outer corner of the top left pixel.

    Args:
        boxes: float64 (n, 4), x0, y0, x1, y1.
        labels: int64 (n,), class indices from 0, without background.
        size: (H, W) of the image.
        iscrowd: bool (n,), whether it is a region of many objects, used in evaluation only.
        area: float64 (n,), the area that evaluation calls small, medium or large; of masks, where there are any.
        ids: int64 (n,), annotation ids in the file, for messages; 0 where there is none.
        segmentations: n masks: polygons as lists [x, y, x, y ...], COCO's RLE {"size": [H, W], "counts": ...}, or
            an array (H, W) of 0 and 1; None if the set has no masks.
        keypoints: float64 (n, K, 3), x, y and visibility: 0 not labelled, 1 labelled but hidden, 2 visible; None
            if the set has no keypoints.
        name: the image, for messages: "image 42 (000042.jpg)".
    """

    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    size: tuple[int, int]
    iscrowd: npt.NDArray[np.bool_]
    area: npt.NDArray[np.float64]
    ids: npt.NDArray[np.int64]
    segmentations: list[Segmentation] | None = None
    keypoints: npt.NDArray[np.float64] | None = None
    name: str = field(default="", compare=False)

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.labels)
