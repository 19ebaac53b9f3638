"""Drawn shapes: a data set for detection, masks, keypoints and semantic segmentation without any file.

An image is a function of (part, index, size) in integer arithmetic: its pixels are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..seeds import splitmix64
from .object_labels import ObjectLabels
from .objects import KeypointInfo, Objects

SHAPE_CLASSES = ("circle", "square", "triangle", "star")
SHAPE_KEYPOINTS = KeypointInfo(
    names=("top", "left", "right"), skeleton=((0, 1), (0, 2)), flip_pairs=((1, 2),), sigmas=(0.05, 0.05, 0.05)
)
_PARTS = ("train", "test")
_SMALLEST, _LARGEST = 32, 4096  # pixels of a side
_CANDIDATES = 8  # shapes that are tried for the 1 to 5 places in an image

_UNIT = 32  # coordinates are in 1/32 pixel, with the origin at the outer corner of the top left pixel
_ONE = 1024  # the length of a direction
_STEP = 3  # degrees between two directions
# No product is near a half, so that every machine rounds to the same integers.
_DIRECTIONS = [
    (round(_ONE * math.cos(math.radians(angle))), round(_ONE * math.sin(math.radians(angle))))
    for angle in range(0, 360, _STEP)
]
_MOST_TURN = 10  # directions by which a shape is turned at most: 30 degrees


class _Outline(NamedTuple):
    """A shape of radius 1: the points that are on the inner side of at least `needed` of the lines.

    Attributes:
        normals: degrees, clockwise from the right, of the lines' outward normals; () for a circle.
        distance: of the lines from the centre, in 1/1024.
        needed: in how many half-planes a point of the shape must be.
        keypoints: (degrees, distance from the centre in 1/1024) of the top, the left and the right.
    """

    normals: tuple[int, ...]
    distance: int
    needed: int
    keypoints: tuple[tuple[int, int], ...]


_OUTLINES = (
    _Outline((), 0, 0, ((270, _ONE), (180, _ONE), (0, _ONE))),
    _Outline((0, 90, 180, 270), 724, 4, ((270, 724), (180, 724), (0, 724))),
    _Outline((90, 210, 330), 512, 3, ((270, _ONE), (150, _ONE), (30, _ONE))),
    # Each tip of a pentagram is beyond one of its five lines.
    _Outline((54, 126, 198, 270, 342), 316, 4, ((270, _ONE), (198, _ONE), (342, _ONE))),
)


class _Shape(NamedTuple):
    """A shape: its label, radius and centre in 1/32 pixel, turn in directions, and colour."""

    label: int
    radius: int
    x: int
    y: int
    turn: int
    colour: tuple[int, int, int]


class Shapes:
    """Images of one to five circles, squares, triangles and stars on a textured background; one in 50 has none.

    Shapes are turned by up to 30 degrees, cover each other in part and may reach beyond the image. Boxes, masks
    and areas are of the visible part. Each shape has the keypoints top, left and right, which turn with it:
    corners of triangles, tips of stars, middles of a square's sides, and the extremes of circles. A keypoint that
    another shape covers has visibility 1, and one outside the image is not labelled.

    Args:
        part: train or test, which have different images.
        number: how many images; the first ones are the same for every number.
        size: pixels of a side, from 32 to 4096, or [least, most] for images whose height and width are drawn from
            this range. Radii are from 1/12 to 1/4 of the shorter side.

    Raises:
        ValueError: an argument is out of range.

    >>> image, objects = Shapes("test", number=2, size=96)[0]
    >>> image.shape, objects.labels, objects.boxes[0]
    ((96, 96, 3), array([2, 2, 0, 3, 2]), array([41.,  0., 74., 31.]))
    """

    classes = SHAPE_CLASSES
    annotations = ("boxes", "masks", "keypoints")
    keypoint_info = SHAPE_KEYPOINTS

    def __init__(self, part: str, number: int, size: int | Sequence[int] = 96) -> None:
        if part not in _PARTS:
            raise ValueError(f"part is train or test; got {part!r}")
        if number < 1:
            raise ValueError(f"number is how many images are drawn, at least 1; got {number}")
        sides = list(size) if isinstance(size, Sequence) else [size, size]
        if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
            raise ValueError(f"size is the pixels of a side, such as 96, or [least, most]; got {size!r}")
        self._least, self._most = sides
        if not _SMALLEST <= self._least <= self._most <= _LARGEST:
            raise ValueError(f"size is from {_SMALLEST} to {_LARGEST} pixels, the least first; got {size!r}")
        self._key, self._number = splitmix64(0, _PARTS.index(part)), number

    def __len__(self) -> int:
        """Return the number of images."""
        return self._number

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint8], Objects]:
        """Return the image, (H, W, 3), and its objects; masks are arrays (H, W)."""
        words = self._words(index)
        size = self._size(words)
        shapes = _shapes(words, size)
        owners = _owners(shapes, size)
        image = _background(words, size)
        covered = owners > 0
        for channel, levels in zip(image, zip(*(shape.colour for shape in shapes), strict=True), strict=False):
            np.copyto(channel, np.array([0, *levels], np.uint8)[owners], where=covered)
        image += _bytes(splitmix64(int(words[0]), 1), image.size).reshape(image.shape) >> 3
        return image.transpose(1, 2, 0), _objects(shapes, owners, f"image {index}")

    def semantic(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the class of each pixel plus 1, and 0 for the background: uint8 (H, W)."""
        words = self._words(index)
        size = self._size(words)
        shapes = _shapes(words, size)
        numbers = np.array([0, *(shape.label + 1 for shape in shapes)], np.uint8)
        return numbers[_owners(shapes, size)]

    def size_of(self, index: int) -> tuple[int, int]:
        """Return (H, W) of an image without drawing it."""
        return self._size(self._words(index))

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(H, W) of each image: int64 (N, 2)."""
        return np.array([self.size_of(index) for index in range(self._number)], np.int64)

    @cached_property
    def object_labels(self) -> ObjectLabels:
        """The image and the class of each object."""
        shapes = [_shapes(words, self._size(words)) for words in map(self._words, range(self._number))]
        images = np.repeat(np.arange(self._number), [len(each) for each in shapes])
        return ObjectLabels(images, np.array([shape.label for each in shapes for shape in each], np.int64))

    @property
    def object_counts(self) -> tuple[int, ...]:
        """The number of objects of each class."""
        return tuple(np.bincount(self.object_labels.labels, minlength=len(SHAPE_CLASSES)).tolist())

    def _words(self, index: int) -> npt.NDArray[np.uint64]:
        """Return all random numbers of an image but its texture: two for the image, two for each candidate."""
        if not 0 <= index < self._number:
            raise IndexError(f"image {index} of {self._number}")
        return _random(splitmix64(self._key, index), 2 + 2 * _CANDIDATES)

    def _size(self, words: npt.NDArray[np.uint64]) -> tuple[int, int]:
        word, choices = int(words[0]), self._most - self._least + 1
        return self._least + _below(choices, word), self._least + _below(choices, word >> 16)


def build_shapes(
    root: str, download: bool, part: str = "train", number: int = 512, size: int | list[int] = 96
) -> Shapes:
    """Return the data set `shapes`; nothing is read, so `root` and `download` have no effect.

    Raises:
        ValueError: an option is out of range.
    """
    return Shapes(part, number, size)


def _random(key: int, count: int) -> npt.NDArray[np.uint64]:
    """Return the first outputs of splitmix64 seeded with `key`: uint64 (count,)."""
    z = np.arange(1, count + 1, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(key)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def _bytes(key: int, count: int) -> npt.NDArray[np.uint8]:
    """Return random bytes, (count,), the same in either byte order."""
    return _random(key, -(-count // 8)).astype("<u8", copy=False).view(np.uint8)[:count]


def _below(bound: int, bits: int) -> int:
    """Return an integer from 0 to bound - 1 for the lowest 16 bits."""
    return (bits & 0xFFFF) * bound >> 16


def _shapes(words: npt.NDArray[np.uint64], size: tuple[int, int]) -> list[_Shape]:
    """Return the shapes of an image from the largest to the smallest, the order in which they are drawn."""
    height, width = size
    word = int(words[1])
    wanted = 0 if _below(50, word) == 0 else 1 + _below(5, word >> 16)
    least = min(size) * _UNIT // 12
    found: list[_Shape] = []
    for place, look in words[2:].reshape(-1, 2).tolist():
        radius = least + _below(2 * least, place)
        x, y = (
            radius // 2 + _below(side * _UNIT - radius, place >> bits)
            for side, bits in ((width, 16), (height, 32))
        )
        # So far from the others that something of each remains visible.
        if len(found) < wanted and all(
            25 * ((x - other.x) ** 2 + (y - other.y) ** 2) >= 9 * (radius + other.radius) ** 2 for other in found
        ):
            label = _below(len(SHAPE_CLASSES), place >> 48)
            turn = _below(2 * _MOST_TURN + 1, look) - _MOST_TURN if _OUTLINES[label].normals else 0
            # Darker or lighter than every background; noise of up to 31 is added later.
            channels = (_below(128, look >> bits) for bits in (16, 32, 48))
            red, green, blue = (level if level < 64 else level + 96 for level in channels)
            found.append(_Shape(label, radius, x, y, turn, (red, green, blue)))
    return sorted(found, key=lambda shape: -shape.radius)


def _owners(shapes: list[_Shape], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return for each pixel which shape is visible there, from 1, and 0 for the background: uint8 (H, W)."""
    height, width = size
    owners = np.zeros(size, np.uint8)
    for number, shape in enumerate(shapes, 1):
        top, bottom = max(0, (shape.y - shape.radius) // _UNIT), min(height, (shape.y + shape.radius) // _UNIT + 1)
        left, right = max(0, (shape.x - shape.radius) // _UNIT), min(width, (shape.x + shape.radius) // _UNIT + 1)
        dy = np.arange(top, bottom) * _UNIT + (_UNIT // 2 - shape.y)
        dx = np.arange(left, right) * _UNIT + (_UNIT // 2 - shape.x)
        outline = _OUTLINES[shape.label]
        if outline.normals:
            along_x, along_y = np.array([_direction(normal, shape.turn) for normal in outline.normals]).T[
                ..., None
            ]
            far = (along_y * dy)[..., None] + (along_x * dx)[:, None]  # (lines, H, W)
            inside = (far <= shape.radius * outline.distance).sum(axis=0) >= outline.needed
        else:
            inside = (dy * dy)[:, None] + dx * dx <= shape.radius**2
        owners[top:bottom, left:right][inside] = number
    return owners


def _direction(degrees: int, turn: int) -> tuple[int, int]:
    return _DIRECTIONS[(degrees // _STEP + turn) % len(_DIRECTIONS)]


def _background(words: npt.NDArray[np.uint64], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return a gradient between four colours with blocks in other shades: uint8 (3, H, W), from 64 to 142."""
    height, width = size
    rows, columns = -(-height // 8), -(-width // 8)
    content = _bytes(splitmix64(int(words[0]), 0), 12 + rows * columns)
    # Each product is below 2^15. The last axis is the longest, because numpy loops over it.
    top, bottom = (content[:12] >> 2).astype(np.uint16).reshape(2, 2, 3, 1) + np.uint16(64)  # 64 to 127
    down, right = ((np.arange(side) * 256 // (side - 1)).astype(np.uint16) for side in size)
    edges = (top * (256 - down) + bottom * down) >> 8  # (2, 3, H), of the left and right edge
    left, far = edges[..., None]
    gradient = (left * (256 - right) + far * right) >> 8
    blocks = (content[12:] >> 4).reshape(rows, columns)
    texture = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    image: npt.NDArray[np.uint8] = gradient.astype(np.uint8) + texture
    return image


def _objects(shapes: list[_Shape], owners: npt.NDArray[np.uint8], name: str) -> Objects:
    """Return the annotations of shapes of which each has a pixel in `owners`, (H, W)."""
    height, width = owners.shape
    count = len(shapes)
    masks = (owners == np.arange(1, count + 1, dtype=np.uint8)[:, None, None]).astype(np.uint8)
    boxes = np.zeros((count, 4))
    keypoints = np.zeros((count, len(SHAPE_KEYPOINTS.names), 3))
    for number, (shape, mask) in enumerate(zip(shapes, masks, strict=True)):
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        boxes[number] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        for point, (degrees, distance) in enumerate(_OUTLINES[shape.label].keypoints):
            along_x, along_y = _direction(degrees, shape.turn)
            x = shape.x + (along_x * distance * shape.radius >> 20)
            y = shape.y + (along_y * distance * shape.radius >> 20)
            if 0 <= x < width * _UNIT and 0 <= y < height * _UNIT:
                is_covered = owners[y // _UNIT, x // _UNIT] > number + 1
                keypoints[number, point] = x / _UNIT, y / _UNIT, 1 if is_covered else 2
    return Objects(
        boxes=boxes,
        labels=np.array([shape.label for shape in shapes], np.int64),
        size=(height, width),
        iscrowd=np.zeros(count, np.bool_),
        area=masks.sum(axis=(1, 2), dtype=np.float64),
        ids=np.zeros(count, np.int64),
        segmentations=list(masks),
        keypoints=keypoints,
        name=name,
    )
