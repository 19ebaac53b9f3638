"""Annotations in COCO's format, checked one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .masks import polygon_area, run_lengths
from .packed_objects import Row, as_text

_LARGEST = 1e12  # far above any coordinate or area in pixels
_LONGEST = 80  # characters of a value in a message


class RowReader:
    """Makes rows of annotations.

    Args:
        images: by id.
        labels: class indices by the ids of the categories that are used.
        names: of all categories, by id.
        num_keypoints: that an object has.

    Attributes:
        files: names of the image files.
        sizes: (height, width) of each image; (0, 0) if it is not stated.

    Raises:
        ValueError: an image has no name, or another size.
    """

    def __init__(
        self, images: Mapping[int, Any], labels: Mapping[int, int], names: Mapping[int, str], num_keypoints: int
    ) -> None:
        self._places = {each: place for place, each in enumerate(images)}
        self._labels, self._names, self._num_keypoints = labels, names, num_keypoints
        self.files: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        for each, image in images.items():
            file, size = image.get("file_name"), (image.get("height") or 0, image.get("width") or 0)
            if not isinstance(file, str) or not file:
                raise ValueError(f"image {each} has the file_name {file!r}; give the name of its file")
            if not all(type(side) is int and 0 <= side < 2**31 for side in size):
                raise ValueError(
                    f"image {each} ({file}) has height {size[0]!r} and width {size[1]!r}; give pixels"
                )
            self.files.append(file)
            self.sizes.append(size if all(size) else (0, 0))

    def where(self, annotation: Mapping[str, Any]) -> str:
        """Return the name of an annotation, for messages."""
        image, name = annotation.get("image_id"), f"annotation {annotation['id']}"
        if type(image) is int and image in self._places:
            return f"{name} of image {image} ({self.files[self._places[image]]})"
        return name

    def row(self, annotation: Mapping[str, Any]) -> Row | None:
        """Return an annotation as a row; None if its category is not used.

        Raises:
            ValueError: something about it is wrong.
        """
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if type(image) is not int or image not in self._places:
            raise ValueError(f"image_id {short(image)} is not the id of an image")
        if type(category) is not int or category not in self._names:
            raise ValueError(f"category_id {short(category)} is not the id of a category")
        if category not in self._labels:
            return None
        place = self._places[image]
        x, y, width, height = _box(annotation.get("bbox"))
        crowd = annotation.get("iscrowd") or 0
        if crowd not in (0, 1):
            raise ValueError(f"iscrowd is {short(crowd)}; it is 0 or 1")
        shape, area = _segmentation(annotation.get("segmentation"), self.sizes[place]), annotation.get("area")
        if area is None:
            area = _area(shape) if shape else width * height
        elif not are_numbers([area]) or area < 0:
            raise ValueError(f"area is {short(area)}; it is a number from 0, or missing")
        return Row(
            place,
            self._labels[category],
            (x, y, x + width, y + height),
            float(area),
            iscrowd=bool(crowd),
            id=annotation["id"],
            segmentation=as_text(shape) if shape else "",
            keypoints=self._keypoints(annotation.get("keypoints")),
        )

    def _keypoints(self, values: Any) -> Sequence[float]:
        if not values or not self._num_keypoints:
            return ()
        count = 3 * self._num_keypoints
        if not isinstance(values, list) or len(values) != count or not are_numbers(values):
            found = f"{len(values)} values" if isinstance(values, list) and len(values) != count else short(values)
            raise ValueError(
                f"keypoints are {found}; {self._num_keypoints} keypoints need {count} numbers: x, y and visibility"
                " of each"
            )
        if not {*values[2::3]} <= {0, 1, 2}:
            raise ValueError("the visibility of a keypoint is 0 (not labelled), 1 (hidden) or 2 (visible)")
        return values


def _box(box: Any) -> tuple[float, float, float, float]:
    if not isinstance(box, list) or len(box) != 4 or not are_numbers(box):
        raise ValueError(f"bbox is {short(box)}; it is 4 finite numbers: x, y, width, height")
    x, y, width, height = map(float, box)
    if width < 0 or height < 0:
        raise ValueError(f"bbox is {short(box)}; COCO's boxes are x, y, width, height, with sizes from 0")
    return x, y, width, height


def _segmentation(value: Any, size: tuple[int, int]) -> list[list[float]] | dict[str, Any] | None:
    """Return polygons or an RLE; None if there is none."""
    if value in (None, []):
        return None
    if isinstance(value, dict):
        return _rle(value, size)
    for polygon in value if isinstance(value, list) else [value]:
        if not isinstance(polygon, list) or not are_numbers(polygon):
            raise ValueError(f"its segmentation has {short(polygon)}; a polygon is a list [x, y, x, y, ...]")
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"it has a polygon of {len(polygon)} numbers; three points or more have x and y each")
    found: list[list[float]] = value
    return found


def _rle(value: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    stated = value.get("size")
    if stated != [*size] and size != (0, 0):
        raise ValueError(f"its RLE has the size {short(stated)}; the image has {[*size]}")
    if not isinstance(stated, list) or len(stated) != 2 or {*map(type, stated)} != {int}:
        raise ValueError(f"its RLE has the size {short(stated)}; it is [height, width]")
    try:
        covered = run_lengths(value.get("counts")).sum()
    except ValueError as error:
        raise ValueError(f"its RLE has {error}") from None
    if covered != stated[0] * stated[1]:
        raise ValueError(f"its RLE covers {covered:,} pixels; the image has {stated[0] * stated[1]:,}")
    return {"size": stated, "counts": value["counts"]}


def _area(shape: list[list[float]] | dict[str, Any]) -> float:
    if isinstance(shape, dict):
        return float(run_lengths(shape["counts"])[1::2].sum())
    return sum(map(polygon_area, shape))


def are_numbers(values: Sequence[Any]) -> bool:
    """Return whether all are finite numbers that pixels may have.

    >>> are_numbers([1, 0.5]), are_numbers([1, True]), are_numbers([float("nan")])
    (True, False, False)
    """
    if not {*map(type, values)} <= {int, float}:
        return False
    # NaN, which min and max may pass over, is in the sum.
    return not values or (min(values) > -_LARGEST and max(values) < _LARGEST and not math.isnan(sum(values)))


def short(value: Any) -> str:
    """Return a value for a message."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
