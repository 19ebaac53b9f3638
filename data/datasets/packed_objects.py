"""The objects of all images of a data set in a few arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .objects import Objects

_ENCODER = json.JSONEncoder(separators=(",", ":"))


class Row(NamedTuple):
    """An object as a file lists it.

    Attributes:
        image: index of its image.
        label: class index, from 0.
        box: x0, y0, x1, y1 in pixels.
        area: in pixels.
        iscrowd: whether it is a region of many objects.
        id: of the annotation; 0 if it has none.
        segmentation: polygons or RLE as JSON; "" if it has none.
        keypoints: 3K numbers, x, y and visibility of each; () if it has none.
    """

    image: int
    label: int
    box: Sequence[float]
    area: float
    iscrowd: bool = False
    id: int = 0
    segmentation: str = ""
    keypoints: Sequence[float] = ()


@dataclass(frozen=True)
class PackedObjects:
    """The objects of N images, M in all, sorted by image.

    Arrays, whose elements have no reference counts: their memory does not grow with the number of workers.

    Args:
        ends: int64 (N,), how many objects the images up to this one have.
        labels: int64 (M,).
        boxes: float64 (M, 4).
        area: float64 (M,).
        iscrowd: bool (M,).
        ids: int64 (M,).
        keypoints: float64 (M, K, 3); K is 0 without keypoints.
        texts: uint8, the segmentations as JSON, one after the other.
        text_ends: int64 (M,), the end of each object's text in `texts`.

    >>> triangle = Row(0, 1, (1, 1, 2, 2), 0.5, segmentation="[[1, 1, 2, 1, 2, 2]]")
    >>> packed = PackedObjects.of([Row(1, 0, (0, 0, 2, 2), 4.0, id=8), triangle], 3)
    >>> packed.ends.tolist(), packed.labels.tolist(), packed.taken(np.array([2, 1])).ids.tolist()
    ([1, 2, 2], [1, 0], [8])
    >>> packed.objects(0, (4, 4), "image 7", masks=True).segmentations
    [[[1, 1, 2, 1, 2, 2]]]
    """

    ends: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    area: npt.NDArray[np.float64]
    iscrowd: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.int64]
    keypoints: npt.NDArray[np.float64]
    texts: npt.NDArray[np.uint8]
    text_ends: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        """Raise ValueError if the arrays do not belong together."""
        m = len(self.labels)
        lengths = {len(getattr(self, each.name)) for each in fields(self) if each.name not in ("ends", "texts")}
        ends = [(self.ends, m), (self.text_ends, len(self.texts))]
        if lengths != {m} or any((np.diff(each, prepend=0, append=last) < 0).any() for each, last in ends):
            raise ValueError("its arrays do not belong together")

    @classmethod
    def of(cls, rows: Sequence[Row], num_images: int, num_keypoints: int = 0) -> PackedObjects:
        """Return the objects of rows in any order; the objects of an image stay in theirs."""
        images = np.array([row.image for row in rows], np.int64)
        rows = [rows[place] for place in np.argsort(images, kind="stable")]
        texts = [row.segmentation.encode("ascii") for row in rows]
        keypoints = np.zeros((len(rows), num_keypoints * 3))
        for place, row in enumerate(rows):
            if row.keypoints:
                keypoints[place] = row.keypoints
        return cls(
            ends=np.cumsum(np.bincount(images, minlength=num_images)),
            labels=np.array([row.label for row in rows], np.int64),
            boxes=np.array([row.box for row in rows], np.float64).reshape(-1, 4),
            area=np.array([row.area for row in rows], np.float64),
            iscrowd=np.array([row.iscrowd for row in rows], bool),
            ids=np.array([row.id for row in rows], np.int64),
            keypoints=keypoints.reshape(len(rows), num_keypoints, 3),
            texts=np.frombuffer(b"".join(texts), np.uint8),
            text_ends=np.cumsum([len(text) for text in texts], dtype=np.int64),
        )

    @property
    def images(self) -> npt.NDArray[np.int64]:
        """The image of each object, (M,)."""
        return np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))

    @property
    def has_mask(self) -> npt.NDArray[np.bool_]:
        """Whether each object has a segmentation, (M,)."""
        return np.diff(self.text_ends, prepend=0) > 0

    @property
    def digest(self) -> str:
        """A hash of the objects; their ids do not count."""
        found = hashlib.sha256()
        for each in fields(self):
            if each.name != "ids":
                found.update(np.ascontiguousarray(getattr(self, each.name)).data)
        return found.hexdigest()

    def objects(
        self, index: int, size: tuple[int, int], name: str, *, masks: bool = False, keypoints: bool = False
    ) -> Objects:
        """Return the objects of an image.

        Args:
            index: of the image.
            size: its (H, W).
            name: for messages.
            masks: whether objects have segmentations.
            keypoints: whether they have keypoints.
        """
        each = slice(*self._span(index))
        return Objects(
            boxes=self.boxes[each].copy(),
            labels=self.labels[each].copy(),
            size=size,
            iscrowd=self.iscrowd[each].copy(),
            area=self.area[each].copy(),
            ids=self.ids[each].copy(),
            segmentations=[self._segmentation(place) for place in range(each.start, each.stop)] if masks else None,
            keypoints=self.keypoints[each].copy() if keypoints else None,
            name=name,
        )

    def taken(self, indices: npt.NDArray[np.int64]) -> PackedObjects:
        """Return the objects of these images, in this order."""
        spans = [self._span(index) for index in indices]
        text_spans = [(self._text_begin(begin), self._text_begin(end)) for begin, end in spans]
        lengths = np.diff(self.text_ends, prepend=0)
        return PackedObjects(
            ends=np.cumsum([end - begin for begin, end in spans], dtype=np.int64),
            **{
                each.name: _joined(getattr(self, each.name), spans)
                for each in fields(self)
                if each.name not in ("ends", "texts", "text_ends")
            },
            texts=_joined(self.texts, text_spans),
            text_ends=np.cumsum(_joined(lengths, spans)),
        )

    def renumbered(self, numbers: npt.NDArray[np.int64]) -> PackedObjects:
        """Return the same objects with a new number for each class."""
        return replace(self, labels=numbers[self.labels])

    def _span(self, index: int) -> tuple[int, int]:
        return int(self.ends[index - 1]) if index else 0, int(self.ends[index])

    def _text_begin(self, place: int) -> int:
        return int(self.text_ends[place - 1]) if place else 0

    def _segmentation(self, place: int) -> Any:
        return json.loads(self.texts[self._text_begin(place) : self._text_begin(place + 1)].tobytes())


def as_text(segmentation: Any) -> str:
    """Return polygons or an RLE as JSON, for `Row`."""
    return _ENCODER.encode(segmentation)


def _joined(array: npt.NDArray[Any], spans: Sequence[tuple[int, int]]) -> npt.NDArray[Any]:
    """Return the elements of an array in these spans; copied once, whatever their number."""
    return np.concatenate([array[:0], *(array[begin:end] for begin, end in spans)])
