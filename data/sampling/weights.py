"""Repeat factors and aspect-ratio groups of samples, from labels and sizes, without decoding images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from warmstart.config import open_regular, read_small_text

from ..datasets.arrays import ArrayDataset, read_npy
from ..datasets.image_heads import size_at
from ..datasets.object_labels import ObjectLabels
from ..datasets.registry import MapDataset, checked_label
from ..datasets.targets import of_each_sample, targets_attribute
from .stream import Groups

Floats = npt.NDArray[np.float64]

_WEIGHTS_LIMIT = 2**30  # bytes of a text file with one number per sample


def repeat_factors(labels: npt.NDArray[Any], threshold: float, root: bool = True) -> Floats:
    """Return how often each sample should occur in a pass: more than once for rare classes, once for the others.

    A class with a share f of all samples has the factor max(1, sqrt(threshold / f)); without `root`
    max(1, threshold / f), which raises rare classes to about that share.
    Source: Gupta, Dollar, Girshick, "LVIS: A dataset for large vocabulary instance segmentation", CVPR 2019.

    >>> repeat_factors(np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), threshold=0.4)[[0, 9]]
    array([1., 2.])
    """
    shares = np.bincount(labels) / len(labels)
    factors = np.maximum(1.0, threshold / np.maximum(shares, 1 / len(labels)))  # a class may have no samples
    return np.asarray((np.sqrt(factors) if root else factors)[labels])


def object_repeat_factors(objects: ObjectLabels, size: int, threshold: float, root: bool = True) -> Floats:
    """Return how often each image should occur in a pass: the highest factor among the classes of its objects.

    A class that a share f of all images has objects of has the factor max(1, sqrt(threshold / f)); without `root`
    max(1, threshold / f). Images without objects occur once. Source: as for `repeat_factors`.

    Args:
        objects: of all images.
        size: the number of images.
        threshold: the share below which a class is repeated.
        root: whether to take the square root.

    >>> objects = ObjectLabels(np.array([0, 0, 0, 1, 2]), np.array([0, 1, 1, 0, 0]))
    >>> object_repeat_factors(objects, size=4, threshold=1.0)
    array([2.        , 1.15470054, 1.15470054, 1.        ])
    """
    images, labels = np.unique(np.stack(objects), axis=1)  # each class of an image once
    factors = np.maximum(1.0, threshold * size / np.maximum(np.bincount(labels), 1))
    repeats = np.ones(size)
    np.maximum.at(repeats, images, (np.sqrt(factors) if root else factors)[labels])
    return repeats


def class_repeats(labels: npt.NDArray[Any], weights: npt.NDArray[Any]) -> Floats:
    """Return how often each sample should occur in a pass as long as the data set, for given class weights.

    Args:
        labels: (N,) integers from 0.
        weights: one number per class: how often it occurs relative to the others, whatever its number of samples.

    >>> class_repeats(np.array([0, 0, 0, 1]), np.array([1, 1])).round(2)
    array([0.67, 0.67, 0.67, 2.  ])
    """
    counts = np.bincount(labels, minlength=len(weights))
    weights = np.where(counts > 0, weights, 0)
    return np.asarray((weights / weights.sum() * len(labels) / np.maximum(counts, 1))[labels])


def read_weights(path: Path) -> Floats:
    """Return the numbers in a .npy file, or in a text file that separates them by white space.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: it holds anything but numbers.
    """
    try:
        if path.suffix == ".npy":
            with open_regular(path) as file:
                return np.array(read_npy(file, path.stat().st_size), np.float64)
    except (EOFError, TypeError, ValueError) as error:
        raise ValueError(f"it does not hold numbers alone ({error})") from None
    try:
        return np.array(read_small_text(path, limit=_WEIGHTS_LIMIT).split(), np.float64)
    except ValueError:  # its text would quote from a file that may be any
        raise ValueError("it does not hold numbers alone") from None


def check_weights(weights: npt.ArrayLike, count: int, of_what: str) -> Floats:
    """Return weights as an array; ValueError if they are not `count` finite numbers from 0, or are all 0.

    >>> check_weights([1, 2], 3, "class")
    Traceback (most recent call last):
    ValueError: 2 weights where 3 are expected, one per class
    """
    array = np.asarray(weights, np.float64)
    if array.shape != (count,):
        raise ValueError(f"{array.size:,} weights where {count:,} are expected, one per {of_what}")
    wrong = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if len(wrong):
        raise ValueError(f"{of_what} {wrong[0]} has weight {array[wrong[0]]:g}; weights are finite and 0 or more")
    if not array.any():
        raise ValueError(f"all weights are 0; give at least one {of_what} a positive weight")
    return array


def labels_of(dataset: MapDataset, num_classes: int) -> npt.NDArray[np.int64]:
    """Return the labels of all samples, from an attribute `targets`, as torchvision's data sets have, or `labels`.

    Raises:
        LookupError: the data set has neither.
        ValueError: it has another shape, or holds anything but integers from 0 to num_classes - 1.

    >>> from torch.utils.data import Subset
    >>> labels_of(Subset(ArrayDataset(np.zeros((3, 8, 8), np.uint8), np.array([4, 5, 6])), [2, 0]), 10)
    array([6, 4])
    """
    labels = of_each_sample(dataset, _labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"its labels are of type {labels.dtype}, not whole numbers")
    for index in np.flatnonzero((labels < 0) | (labels >= num_classes))[:1]:
        checked_label(int(labels[index]), num_classes, f"sample {index}")
    return labels.astype(np.int64)


def aspect_groups(dataset: MapDataset) -> Groups | None:
    """Return the indices of images at least as wide as high, and of the others; None if one group is empty.

    Sizes come from an attribute `sizes`, (height, width) per sample, or from the headers of image files.

    Raises:
        LookupError: the data set has neither.
        OSError: a file is not an image.
        ValueError: `sizes` has another shape.

    >>> aspect_groups(ArrayDataset(np.zeros((3, 8, 6), np.uint8), np.arange(3))) is None
    True
    """
    sizes = of_each_sample(dataset, _sizes)
    wide = sizes[:, 1] >= sizes[:, 0]
    return None if wide.all() or not wide.any() else (np.flatnonzero(wide), np.flatnonzero(~wide))


def _labels(dataset: Any) -> npt.NDArray[Any]:
    name = targets_attribute(dataset)
    if not name:
        raise LookupError("an attribute targets or labels, one integer per sample")
    return _of_shape(np.asarray(getattr(dataset, name)), name, (len(dataset),))


def _sizes(dataset: Any) -> npt.NDArray[Any]:
    if isinstance(dataset, ArrayDataset):
        return np.broadcast_to(dataset.images.shape[1:3], (len(dataset), 2))
    if hasattr(dataset, "sizes"):
        return _of_shape(np.asarray(dataset.sizes), "sizes", (len(dataset), 2))
    return np.array([size_at(dataset, index) for index in range(len(dataset))])


def _of_shape(values: npt.NDArray[Any], name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if values.shape != shape:
        raise ValueError(f"its attribute {name} has shape {values.shape}, not {shape}")
    return values
