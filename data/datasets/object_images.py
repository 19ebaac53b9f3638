"""Image files with objects in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .decode import UnreadableImageError, read_image
from .image_files import FileList
from .image_heads import Size
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
        masks: whether objects have masks.
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
        masks: bool = False,
        keypoint_info: KeypointInfo | None = None,
        notes: Sequence[str] = (),
        warnings: Sequence[str] = (),
        image_ids: Sequence[int] = (),
        category_ids: Sequence[int] = (),
    ) -> None:
        super().__init__(root, files, classes, len(classes), notes)
        self.sizes, self.packed, self.masks = sizes, packed, masks
        self.keypoint_info, self.warnings = keypoint_info, list(warnings)
        self.image_ids, self.category_ids = np.array(image_ids, np.int64), tuple(category_ids)
        kinds = {"boxes": True, "masks": masks, "keypoints": keypoint_info is not None}
        self.annotations = tuple(kind for kind, known in kinds.items() if known)
        counted = packed.labels[~packed.iscrowd]
        self.object_counts = tuple(np.bincount(counted, minlength=len(classes)).tolist())

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
        known = {"masks": self.masks, "keypoints": self.keypoint_info is not None}
        return self.packed.objects(index, self.size_of(index), name, **known)

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
            masks=self.masks,
            keypoint_info=self.keypoint_info,
            notes=self.notes,
            image_ids=self.image_ids[indices] if len(self.image_ids) else (),
            category_ids=ids,
        )
        found.reading = self.reading
        return found
