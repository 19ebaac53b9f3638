"""Image files with objects in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .decode import UnreadableImageError, read_image
from .image_files import FileList, shown
from .image_heads import Size
from .object_labels import ObjectLabels
from .objects import KeypointInfo, Objects
from .packed_objects import PackedObjects


class ObjectImages(FileList):
    """Image files with objects in them, by index.

    Args:
        root: the folder that names of samples are relative to.
        files: the paths.
        sizes: int64 (N, 2), (height, width) of each image, upright; (0, 0) if it cannot be read.
        packed: the objects.
        classes: names of the classes.
        keypoint_info: the keypoints of each object; None if they have none.
        notes: what a user should know, a sentence each.
        warnings: what a user should correct, a sentence each.
        image_ids: in the annotation file; () if images have no numbers there.
        category_ids: the id of each class in the annotation file, -1 if it lacks the class; () if classes have no
            ids there.

    Attributes:
        annotations: what is known of the objects: "boxes", "masks", "keypoints".
        object_counts: number of objects of each class, without crowd regions.
    """

    def __init__(
        self,
        root: str | Path,
        files: Sequence[str],
        sizes: npt.NDArray[np.int64],
        packed: PackedObjects,
        classes: Sequence[str],
        *,
        keypoint_info: KeypointInfo | None = None,
        notes: Sequence[str] = (),
        warnings: Sequence[str] = (),
        image_ids: Sequence[int] = (),
        category_ids: Sequence[int] = (),
    ) -> None:
        super().__init__(root, files, classes, len(classes), notes)
        self.sizes, self.packed, self.keypoint_info = sizes, packed, keypoint_info
        self.image_ids, self.category_ids = np.array(image_ids, np.int64), tuple(category_ids)
        counted = packed.labels[~packed.iscrowd]
        self.object_counts = tuple(np.bincount(counted, minlength=len(classes)).tolist())
        self._masks = bool(packed.has_mask.all())
        kinds = {"boxes": True, "masks": self._masks, "keypoints": keypoint_info is not None}
        self.annotations = tuple(kind for kind, known in kinds.items() if known)
        self._given = list(notes), list(warnings)
        self.notes += self._own_notes()
        self.warnings = [*warnings, *self._own_warnings()]

    def __getitem__(self, index: int) -> tuple[Tensor, Objects]:
        """Return the image, (3, H, W) or (1, H, W), uint8, and its objects.

        Raises:
            OSError: the file is missing or damaged, or has another size than the annotations say.
        """
        image = read_image(self._files[index], *self.reading)
        found, size = (image.shape[1], image.shape[2]), self.size_of(index)
        if found != size:
            turned = found == size[::-1]
            hint = "; annotations are of the image as its EXIF orientation turns it" if turned else ""
            raise UnreadableImageError(
                f"it is {found[0]}x{found[1]} (height x width), but its annotations say"
                f" {size[0]}x{size[1]}{hint}; correct the size, or scale its annotations"
            )
        return image, self.objects(index)

    def objects(self, index: int) -> Objects:
        """Return the objects of an image, which is not read."""
        file = self._name(self._files[index])
        name = f"image {self.image_ids[index]} ({file})" if len(self.image_ids) else file
        keypoints = self.keypoint_info is not None
        return self.packed.objects(index, self.size_of(index), name, masks=self._masks, keypoints=keypoints)

    @property
    def object_labels(self) -> ObjectLabels:
        """The image and the class of each object, without crowd regions."""
        counted = ~self.packed.iscrowd
        return ObjectLabels(self.packed.images[counted], self.packed.labels[counted])

    def size_of(self, index: int) -> Size:
        """Return (height, width) of an image."""
        height, width = self.sizes[index].tolist()
        return height, width

    @property
    def objects_digest(self) -> str:
        """A hash of all objects and of what keypoints mean, wherever the files are."""
        return hashlib.sha256(f"{self.packed.digest} {self.keypoint_info}".encode()).hexdigest()

    def taken(
        self, indices: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64] | None, classes: Sequence[str]
    ) -> ObjectImages:
        """Return the images with these indices, with a new number for each class if `numbers` are given."""
        packed, ids = self.packed.taken(indices), self.category_ids
        if numbers is not None:
            packed = packed.renumbered(numbers)
            of_label = dict(zip(numbers.tolist(), ids, strict=False))
            ids = tuple(of_label.get(label, -1) for label in range(len(classes))) if ids else ()
        found = ObjectImages(
            self.root,
            [self._files[index] for index in indices.tolist()],
            self.sizes[indices],
            packed,
            classes,
            keypoint_info=self.keypoint_info,
            notes=self._given[0],
            warnings=self._given[1],
            image_ids=self.image_ids[indices].tolist() if len(self.image_ids) else (),
            category_ids=ids,
        )
        found.reading = self.reading
        return found

    def _own_notes(self) -> Iterator[str]:
        empty = int((np.diff(self.packed.ends, prepend=0) == 0).sum())
        if empty:
            yield f"{empty:,} of {len(self):,} images have no objects"
        unused = [name for name, count in zip(self.classes, self.object_counts, strict=True) if not count]
        if unused:
            yield f"{len(unused):,} of {len(self.classes):,} classes have no objects: {shown(unused)}"

    def _own_warnings(self) -> Iterator[str]:
        boxes, has_mask = self.packed.boxes, self.packed.has_mask
        flat = np.flatnonzero((boxes[:, 2:] <= boxes[:, :2]).any(axis=1))
        if len(flat):
            count = f"{len(flat):,} of {len(boxes):,} boxes have no area and are left out of training"
            yield f"{count}; the first is {self._object_name(flat[0])}"
        without = np.flatnonzero(~has_mask)
        if 0 < len(without) < len(has_mask):
            yield (
                f"{len(without):,} of {len(has_mask):,} objects have no segmentation, so that masks are not"
                f" used; the first is {self._object_name(without[0])}"
            )

    def _object_name(self, place: int) -> str:
        image, number = int(self.packed.images[place]), int(self.packed.ids[place])
        return f"{f'annotation {number}' if number else 'an object'} of {self.objects(image).name}"
