"""The classes of the objects in each image of a data set, without reading images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, Subset


class ObjectLabels(NamedTuple):
    """The objects of all images, without crowd regions.

    Attributes:
        images: int64 (M,), the index of each object's image, in increasing order.
        labels: int64 (M,), the class of each object.
    """

    images: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]

    def taken(self, indices: npt.NDArray[np.int64]) -> ObjectLabels:
        """Return the objects of the images with these indices, which are numbered from 0 in this order.

        >>> labels = ObjectLabels(np.array([0, 0, 2]), np.array([5, 6, 7]))
        >>> labels.taken(np.array([2, 1, 0]))
        ObjectLabels(images=array([0, 2, 2]), labels=array([7, 5, 6]))
        """
        begins, ends = (np.searchsorted(self.images, indices, side) for side in ("left", "right"))
        counts = ends - begins
        places = np.repeat(begins - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        return ObjectLabels(np.repeat(np.arange(len(indices)), counts), self.labels[places])


def object_labels_of(dataset: Any) -> ObjectLabels:
    """Return a data set's attribute `object_labels`, looking into ConcatDataset and Subset.

    Raises:
        LookupError: it has none.

    >>> from warmstart.data.datasets.shapes import Shapes
    >>> object_labels_of(Subset(Shapes("test", 8), [6, 7])).images
    array([0, 0, 0, 0, 1, 1, 1, 1])
    """
    if isinstance(dataset, ConcatDataset):
        parts = [object_labels_of(part) for part in dataset.datasets]
        begins = [0, *dataset.cumulative_sizes]
        images = np.concatenate([part.images + begin for part, begin in zip(parts, begins, strict=False)])
        return ObjectLabels(images, np.concatenate([part.labels for part in parts]))
    if isinstance(dataset, Subset):
        return object_labels_of(dataset.dataset).taken(np.asarray(dataset.indices, np.int64))
    if not hasattr(dataset, "object_labels"):
        raise LookupError(
            "an attribute object_labels of two arrays (M,): the index of each object's image, in increasing order,"
            " and the class of each object"
        )
    return ObjectLabels(*(np.asarray(each, np.int64) for each in dataset.object_labels))
