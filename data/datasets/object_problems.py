"""What is noteworthy about the objects of an image: boxes, masks and keypoints that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .masks import run_lengths
from .objects import Objects, Segmentation

_SLACK = 1.0  # pixels by which boxes and masks may be larger than each other or the image: rounding of tools


class ObjectProblem(NamedTuple):
    """Something about an object that a user should look at; training is possible all the same.

    Attributes:
        kind: "no area", "outside", "mask", "keypoints" or "copy".
        place: of the object in its image.
        text: what it is, with the id of the annotation and the values.
    """

    kind: str
    place: int
    text: str


def object_problems(objects: Objects) -> list[ObjectProblem]:
    """Return what is noteworthy about the objects of an image, in their order; some microseconds an object.

    - no area: a box without width or height.
    - outside: a box that is more than a pixel outside the image.
    - mask: a mask that is empty, or whose extent differs by more than a pixel from the box.
    - keypoints: a labelled keypoint outside the image.
    - copy: the same box and class as an earlier object.

    >>> target = {"boxes": [[0, 0, 4, 2], [3, 3, 3, 9.5]], "labels": [0, 0]}
    >>> for problem in object_problems(Objects.from_target(target, (8, 8), "image 7")):
    ...     print(problem.kind, "|", problem.text)
    no area | object 1 of image 7 has the box 3, 3, 3, 9.5
    outside | object 1 of image 7 has the box 3, 3, 3, 9.5, and the image is 8x8 (height x width)
    """
    return sorted(_problems(objects), key=lambda problem: problem.place)


def _problems(objects: Objects) -> Iterator[ObjectProblem]:
    height, width = objects.size
    image, boxes = np.array([width, height, width, height]), objects.boxes
    by = f"and the image is {height}x{width} (height x width)"
    for place in np.flatnonzero((boxes[:, 2:] <= boxes[:, :2]).any(axis=1)).tolist():
        yield ObjectProblem("no area", place, _text(objects, place))
    for place in np.flatnonzero(((boxes < -_SLACK) | (boxes > image + _SLACK)).any(axis=1)).tolist():
        yield ObjectProblem("outside", place, f"{_text(objects, place)}, {by}")
    for place, segmentation in enumerate(objects.segmentations or ()):
        extent = _extent(segmentation)
        if extent is None or (np.abs(extent - boxes[place]) > _SLACK).any():
            found = "is empty" if extent is None else f"has the extent {_shown(extent)}"
            yield ObjectProblem("mask", place, f"{_text(objects, place)}, and its mask {found}")
    if objects.keypoints is not None:
        x, y, visibility = np.moveaxis(objects.keypoints, 2, 0)
        far = (visibility > 0) & ((x < 0) | (y < 0) | (x > width) | (y > height))
        for place in np.flatnonzero(far.any(axis=1)).tolist():
            point = int(far[place].argmax())
            at = f"{x[place, point]:g}, {y[place, point]:g}"
            yield ObjectProblem("keypoints", place, f"{_text(objects, place)} and keypoint {point} at {at}, {by}")
    rows = [(*box, label) for box, label in zip(boxes.tolist(), objects.labels.tolist(), strict=True)]
    first: dict[tuple[float, ...], int] = {}
    for place, row in enumerate(rows):
        if first.setdefault(row, place) != place:
            yield ObjectProblem("copy", place, f"{_text(objects, place)}, as {_name(objects, first[row])} has")


def _extent(segmentation: Segmentation) -> npt.NDArray[np.float64] | None:
    """Return x0, y0, x1, y1 of a mask without drawing it; None if it is empty."""
    if isinstance(segmentation, list):
        points = np.array([value for polygon in segmentation for value in polygon], np.float64).reshape(-1, 2)
        return np.concatenate([points.min(axis=0), points.max(axis=0)]) if len(points) else None
    if isinstance(segmentation, np.ndarray):
        filled = segmentation
    else:
        counts = segmentation["counts"]
        runs = run_lengths(counts.decode("ascii") if isinstance(counts, bytes) else counts)
        filled = np.repeat(np.arange(len(runs)) % 2, runs).reshape(segmentation["size"][::-1]).T
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1.0]) if len(rows) else None


def _text(objects: Objects, place: int) -> str:
    return f"{_name(objects, place)} of {objects.name} has the box {_shown(objects.boxes[place])}"


def _name(objects: Objects, place: int) -> str:
    number = int(objects.ids[place])
    return f"annotation {number}" if number else f"object {place}"


def _shown(box: npt.NDArray[np.float64]) -> str:
    return ", ".join(f"{value:g}" for value in box)
