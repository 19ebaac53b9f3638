"""Objects in Ultralytics' format: a data.yaml, and a text file of objects beside each image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from warmstart.config import read_small_text

from .image_heads import known_sizes
from .keypoints import keypoint_info
from .listed_files import refuse
from .masks import polygon_area
from .object_images import ObjectImages
from .packed_objects import PackedObjects, Row, as_text
from .yolo_file import YoloFile, read_yolo

_PARTS = ("train", "val", "test")
_SLACK = 0.01  # by which rounding may move coordinates over the border


def build_yolo(path: str, download: bool, part: str = "train", sigmas: Sequence[float] = ()) -> ObjectImages:
    """Build from a data.yaml as Ultralytics' tools read and write it.

    A line of a text file is an object: its class, then x, y, width and height of its box, with the centre as x and
    y; or a polygon x, y, x, y ... of its mask; all as shares of the image's width and height. With `kpt_shape` the
    keypoints follow the box. An image without a text file has no objects.

    Args:
        path: the data.yaml.
        download: not used.
        part: train, val or test.
        sigmas: the tolerance of each keypoint; (): COCO's for its 17, 0.05 for others.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the content of a file is wrong, or images are missing.
    """
    if part not in _PARTS:
        raise ValueError(f"part: {part!r} is not a part; choose train, val or test")
    about = read_yolo(Path(path).expanduser(), part)
    sizes = known_sizes(about.images)
    rows, problems, missing = [], [], 0
    for index, image in enumerate(about.images):
        labels = label_file(image)
        try:
            rows += _rows(index, labels, about, sizes[index])
        except FileNotFoundError:
            missing += 1
        except (OSError, ValueError) as error:
            problems.append(f"{labels}: {error}")
    refuse(problems, "files")
    if missing == len(about.images):
        raise ValueError(
            f"none of {missing:,} images has a file of objects; {label_file(about.images[0])} is missing"
        )
    info, notes = None, list[str]()
    if about.num_keypoints:
        names = about.keypoint_names or [f"keypoint {place}" for place in range(about.num_keypoints)]
        info, notes = keypoint_info(names, (), about.flip_pairs, sigmas)
    elif sigmas:
        raise ValueError("sigmas: the file has no kpt_shape, so that they have no effect; leave them out")
    packed = PackedObjects.of(rows, len(about.images), about.num_keypoints)
    return ObjectImages(about.root, about.images, sizes, packed, about.classes, keypoint_info=info, notes=notes)


def label_file(image: str) -> str:
    """Return the text file with the objects of an image: in labels/ instead of the last images/ of its path.

    >>> label_file("pets/images/train/1.jpg"), label_file("pets/1.jpg")
    ('pets/labels/train/1.txt', 'pets/1.txt')
    """
    stem, images, labels = os.path.splitext(image)[0], f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
    return f"{labels.join(stem.rsplit(images, 1))}.txt"


def _rows(index: int, path: str, about: YoloFile, size: npt.NDArray[np.int64]) -> list[Row]:
    """Return the objects that a text file lists."""
    rows = []
    for number, line in enumerate(read_small_text(path, 2**26).splitlines(), start=1):
        try:
            values = [_number(word) for word in line.split()]
            if values:
                rows.append(_row(index, values, about, size))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return rows


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{word!r} is not a number; a line is the index of the class and numbers") from None


def _row(index: int, values: Sequence[float], about: YoloFile, size: npt.NDArray[np.int64]) -> Row:
    """Return the object that a line describes by its numbers."""
    label, coordinates = values[0], values[1:]
    height, width = size.tolist() if size.any() else (1, 1)  # a damaged image, which nobody will see
    last, count, dims = len(about.classes) - 1, about.num_keypoints, about.keypoint_dims
    if not (0 <= label <= last and label == int(label)):
        raise ValueError(f"its class is {label:g}; with {last + 1} names classes run from 0 to {last}")
    is_polygon = not count and len(coordinates) >= 6 and len(coordinates) % 2 == 0
    if len(coordinates) != 4 + count * dims and not is_polygon:
        needed = f"class, box and {count} keypoints are {5 + count * dims}"
        plain = "a class and a box are 5, a class and a polygon 7, 9, 11 ..."
        raise ValueError(f"it has {len(values)} numbers; {needed if count else plain}")
    if is_polygon:
        points = _pixels(np.reshape(coordinates, (-1, 2)), width, height)
        polygon = points.ravel().tolist()
        box = (*points.min(axis=0), *points.max(axis=0))
        return Row(index, int(label), box, polygon_area(polygon), segmentation=as_text([polygon]))
    (x, y), (w, h) = _pixels(np.reshape(coordinates[:4], (2, 2)), width, height).tolist()
    keypoints = np.zeros((count, 3))
    if count:
        given = np.reshape(coordinates[4:], (count, dims))
        keypoints[:, :2] = _pixels(given[:, :2], width, height)
        # Without visibility a point at the origin counts as not labelled.
        keypoints[:, 2] = given[:, 2] if dims == 3 else 2 * given.any(axis=1)
    if not np.isin(keypoints[:, 2], (0, 1, 2)).all():
        raise ValueError("the visibility of a keypoint is 0 (not labelled), 1 (hidden) or 2 (visible)")
    box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    return Row(index, int(label), box, w * h, keypoints=keypoints.ravel().tolist())


def _pixels(shares: npt.NDArray[np.float64], width: int, height: int) -> npt.NDArray[np.float64]:
    """Return points (n, 2) in pixels; raise ValueError if they are not shares of the image's width and height."""
    for share in shares[~((shares >= -_SLACK) & (shares <= 1 + _SLACK))][:1]:
        raise ValueError(
            f"{share:g} is not from 0 to 1; coordinates are shares of the image's width and height: divide pixels"
            " by these"
        )
    return shares * (width, height)
