"""Objects in an image, as data sets for detection, instance segmentation and keypoint detection return them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from warmstart.config import ConfigError, did_you_mean

Segmentation = list[list[float]] | dict[str, Any] | npt.NDArray[np.uint8]

_KEYS = ("boxes", "labels", "masks", "keypoints", "iscrowd", "area", "image_id")  # of a target as a dict
_LONGEST = 60  # characters of a value in a message


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

    def __post_init__(self) -> None:
        """Raise ValueError if a shape does not fit the number of labels."""
        n, points = len(self.labels), self.keypoints
        shapes = {"labels": (n,), "boxes": (n, 4), "iscrowd": (n,), "area": (n,), "ids": (n,)}
        for name, shape in shapes.items():
            found = np.shape(getattr(self, name))
            if found != shape:
                raise ValueError(f"{name} have the shape {found}; with {n} labels it must be {shape}")
        if self.segmentations is not None and len(self.segmentations) != n:
            raise ValueError(f"there are {len(self.segmentations)} segmentations for {n} labels")
        if points is not None and (points.ndim != 3 or points.shape[::2] != (n, 3)):
            raise ValueError(f"keypoints have the shape {points.shape}; with {n} labels it must be ({n}, K, 3)")

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.labels)

    @staticmethod
    def from_target(target: Any, size: tuple[int, int], where: str) -> Objects:
        """Return the objects of a target that a data set returned: `Objects`, or torchvision's dict.

        The dict has "boxes" (n, 4), x0, y0, x1, y1, and "labels" (n,), class indices from 0; optionally "masks"
        (n, H, W) of 0 and 1, "keypoints" (n, K, 3), "iscrowd" (n,), and "area" (n,), by default of the masks or
        boxes. Values are tensors, arrays or lists; "image_id" is allowed and not used.

        Args:
            target: in one of these forms.
            size: (H, W) of the image.
            where: the sample, for messages: "mine: sample 7".

        Raises:
            ConfigError: it has another form, or does not fit the image.

        >>> objects = Objects.from_target({"boxes": [[0, 0, 4, 2]], "labels": [1]}, (8, 6), "mine: sample 7")
        >>> objects.boxes.tolist(), objects.labels.tolist(), objects.area.tolist(), objects.iscrowd.tolist()
        ([[0.0, 0.0, 4.0, 2.0]], [1], [8.0], [False])
        >>> Objects.from_target({"boxes": [[5, 5, 4, 8]], "labels": [1]}, (8, 6), "mine: sample 7")
        Traceback (most recent call last):
        warmstart.config.errors.ConfigError: mine: sample 7: boxes[0] is [5, 5, 4, 8]; a box is x0, y0, x1, y1 \
with x0 <= x1 and y0 <= y1
        """
        size = (int(size[0]), int(size[1]))
        try:
            found = target if isinstance(target, Objects) else _from_dict(target, size, where)
            if tuple(found.size) != size:
                raise ValueError(f"the image is {_by(size)}, and its objects are of one that is {_by(found.size)}")
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
        return found


def annotations_of(targets: Sequence[Any]) -> tuple[str, ...]:
    """Return which of boxes, masks and keypoints all of these targets have; () if they are other than objects.

    >>> annotations_of([{"boxes": [], "labels": []}]), annotations_of([3])
    (('boxes',), ())
    """
    keys = {"boxes": "boxes", "segmentations": "masks", "keypoints": "keypoints"}
    known = {*keys.values()}
    for target in targets:
        if isinstance(target, Objects):
            known &= {name for key, name in keys.items() if getattr(target, key) is not None}
        else:
            known &= {*target} if isinstance(target, Mapping) and {"boxes", "labels"} <= target.keys() else set()
    return tuple(name for name in keys.values() if name in known)


def _from_dict(target: Any, size: tuple[int, int], name: str) -> Objects:
    if not isinstance(target, Mapping) or not {"boxes", "labels"} <= target.keys():
        found = f"a dict of {', '.join(map(str, target))}" if isinstance(target, Mapping) else _shown(target)
        raise ValueError(f'its target is {found}; return Objects, or a dict with "boxes" (n, 4) and "labels" (n,)')
    for key in target:
        if key not in _KEYS:
            hint = did_you_mean(str(key), _KEYS, f"; known are {', '.join(_KEYS)}")
            raise ValueError(f"its target has an unknown key {key!r}{hint}")
    labels = _array(target, "labels", "iu", (-1,))
    n = len(labels)
    boxes = _array(target, "boxes", "iuf", (n, 4)).astype(np.float64)
    for place in np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))[:1]:
        box = _shown(target["boxes"][int(place)])
        raise ValueError(f"boxes[{place}] is {box}; a box is x0, y0, x1, y1 with x0 <= x1 and y0 <= y1")
    masks = _array(target, "masks", "biu", (n, *size)) if "masks" in target else None
    if masks is not None and n and not 0 <= masks.min() <= masks.max() <= 1:
        raise ValueError(f"masks have the values {masks.min()} to {masks.max()}; return 0 and 1")
    keypoints = _array(target, "keypoints", "iuf", (n, -1, 3)) if "keypoints" in target else None
    if keypoints is not None and not np.isin(keypoints[:, :, 2], (0, 1, 2)).all():
        raise ValueError("keypoints are x, y, visibility: 0 not labelled, 1 hidden, 2 visible; one has another")
    if "area" in target:
        area = _array(target, "area", "iuf", (n,))
    else:
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) if masks is None else masks.sum(axis=(1, 2))
    return Objects(
        boxes=boxes,
        labels=labels.astype(np.int64),
        size=size,
        iscrowd=_array(target, "iscrowd", "biu", (n,)).astype(bool) if "iscrowd" in target else np.zeros(n, bool),
        area=area.astype(np.float64),
        ids=np.zeros(n, np.int64),
        segmentations=None if masks is None else [*masks.astype(np.uint8)],
        keypoints=None if keypoints is None else keypoints.astype(np.float64),
        name=name,
    )


def _array(target: Mapping[str, Any], key: str, kinds: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return an entry of a target as an array of such numbers and of this shape, in which -1 is any length."""
    value = target[key]
    layout = getattr(getattr(value, "format", None), "name", "XYXY")  # of torchvision's BoundingBoxes
    if layout != "XYXY":
        raise ValueError(f"{key} have the format {layout}; return XYXY: x0, y0, x1, y1")
    try:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    except (TypeError, ValueError):  # lists of unequal lengths
        array = np.empty(1, object)
    if not array.size and shape[0] < 1:  # of an image without objects, such as an empty list
        array = np.empty(array.shape if array.ndim == len(shape) else [max(each, 0) for each in shape], np.int64)
    fits = array.ndim == len(shape) and all(a in (b, -1) for a, b in zip(shape, array.shape, strict=True))
    if array.dtype.kind not in kinds or not fits or not np.isfinite(array).all():
        wanted = ", ".join("n" if each < 0 else str(each) for each in shape)
        numbers = "finite numbers" if "f" in kinds else "whole numbers"
        found = f"{array.dtype} of shape {array.shape}" if array.dtype.kind in "biufc" else _shown(value)
        raise ValueError(f"{key} are {found}; return {numbers} of shape ({wanted})")
    return array


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} (height x width)"


def _shown(value: Any) -> str:
    text = " ".join(repr(value.tolist() if hasattr(value, "tolist") else value).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
