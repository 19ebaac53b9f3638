"""Parts of data sets: a share held out by a hash of the samples' names, and labels numbered as in another set."""

from __future__ import annotations

import hashlib
import os
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import ArrayDataset
from .image_files import shown
from .object_images import ObjectImages
from .object_labels import ObjectLabels
from .objects import Objects
from .targets import read_targets
from .unreadable import sample_path

_OF_EACH = ("targets", "labels", "sizes", "rows")  # attributes with one entry per sample
_TAKEN = ("names", "object_labels", "samples", "size_of")  # those that are taken from the data set's own
_SHARED = ("root", "notes", "loader", "reading", "annotations", "keypoint_info")


def hash_of(name: str) -> float:
    """Return a number in [0, 1) that depends on a sample's name alone, evenly distributed over names.

    The first 8 bytes of the SHA-256 of the name in UTF-8, in Unicode's form NFC, with "/" between its parts, as a
    big-endian integer, divided by 2**64: the same on every machine.

    >>> round(hash_of("cat/1.jpg"), 4), round(hash_of("dog/1.jpg"), 4)
    (0.3878, 0.7131)
    """
    text = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64


def sample_names(dataset: Any) -> list[str]:
    """Return a name for each sample: from `names`; else its file, relative to `root`; else its index, as text.

    >>> sample_names([5, 6])
    ['0', '1']
    """
    return _given_names(dataset) or [*map(str, range(len(dataset)))]


def _given_names(dataset: Any) -> list[str]:
    """Return the names of the samples; [] if they have none."""
    names = getattr(dataset, "names", None)
    if isinstance(names, (list, tuple)) and len(names) == len(dataset):
        return [*map(str, names)]
    if isinstance(getattr(dataset, "root", None), (str, os.PathLike)) and sample_path(dataset, 0):
        paths = (sample_path(dataset, index) for index in range(len(dataset)))
        return [os.path.relpath(path, dataset.root).replace(os.sep, "/") for path in paths]
    return []


def held_out(dataset: Any, share: float) -> npt.NDArray[np.bool_]:
    """Return which samples belong to the test part, (N,): those whose name has a hash below `share`."""
    return np.array([hash_of(name) < share for name in sample_names(dataset)], bool)


def part_of(dataset: Any, share: float, part: str) -> Any:
    """Return the samples of a part, in order; classes keep their numbers, also those that the part lacks.

    Args:
        dataset: a data set.
        share: of the samples that are held out for testing, above 0 and below 1.
        part: train or test.

    Raises:
        ValueError: the part is empty.
    """
    members = held_out(dataset, share) == (part == "test")
    if not members.any():
        raise ValueError(
            f"holdout: {share:g} of {len(dataset):,} samples leaves none for the {part} part; take another share"
        )
    found = _taken(dataset, np.flatnonzero(members), None, tuple(map(str, getattr(dataset, "classes", ()))))
    found.warnings = [*getattr(found, "warnings", ()), *_missing_classes(dataset, members, found, part)]
    return found


def with_classes(dataset: Any, classes: Sequence[str]) -> Any:
    """Return a data set whose labels are numbered as in `classes`, if these contain all of its own; else itself.

    >>> digits = ArrayDataset(np.zeros((2, 4, 4), np.uint8), np.array([0, 1]), ("cat", "fox"))
    >>> with_classes(digits, ["cat", "dog", "fox"]).labels.tolist()
    [0, 2]
    """
    own = tuple(map(str, getattr(dataset, "classes", ())))
    num_classes = getattr(dataset, "num_classes", len(own))
    if not own or num_classes != len(own) or own == tuple(classes) or not {*own} <= {*classes}:
        return dataset
    numbers = np.array([[*classes].index(name) for name in own])
    return _taken(dataset, np.arange(len(dataset)), numbers, tuple(classes))


def _taken(
    dataset: Any, indices: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64] | None, classes: tuple[str, ...]
) -> Any:
    if isinstance(dataset, ObjectImages):
        return dataset.taken(indices, numbers, classes)
    if not isinstance(dataset, ArrayDataset):
        return Part(dataset, indices, numbers, classes)
    labels = dataset.labels[indices]
    taken = ArrayDataset(dataset.images[indices], labels if numbers is None else numbers[labels], classes)
    taken.num_classes = len(classes) if numbers is not None else dataset.num_classes
    return taken


def _missing_classes(dataset: Any, members: npt.NDArray[np.bool_], found: Any, part: str) -> list[str]:
    """Return a sentence about the classes of which a part has no sample, if there are any."""
    names = [*map(str, getattr(dataset, "classes", ()))]
    if isinstance(dataset, ObjectImages):
        missing = np.flatnonzero(np.array(dataset.object_counts, bool) & (np.array(found.object_counts) == 0))
    else:
        missing = _missing_labels(read_targets(dataset), members, bool(names))
    if not len(missing):
        return []
    other, verb = ("test", "learned") if part == "train" else ("train", "tested")
    listed = shown([names[label] if names else str(label) for label in missing], 10)
    them = "the class is" if len(missing) == 1 else "these are"
    return [f"the {part} part has no image of {listed}: all are in the {other} part, so that {them} not {verb}"]


def _missing_labels(
    targets: npt.NDArray[Any] | None, members: npt.NDArray[np.bool_], named: bool
) -> npt.NDArray[np.int64]:
    """Return the class indices that no member has."""
    none = np.empty(0, np.int64)
    if targets is None or targets.ndim > 1 or targets.dtype != np.int64 or targets.min() < 0:
        return none
    if not named and len(np.unique(targets)) <= targets.max():  # numbers rather than classes, such as ages
        return none
    return np.setdiff1d(targets, targets[members])


class Part:
    """Samples of another data set, by index.

    Args:
        dataset: the samples.
        indices: which of them, in order.
        numbers: the new number of each class; None: as before.
        classes: names of the classes by their new numbers.
    """

    def __init__(
        self,
        dataset: Any,
        indices: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.int64] | None,
        classes: tuple[str, ...],
    ) -> None:
        self._dataset, self._indices, self._numbers = dataset, indices, numbers
        self.classes = classes
        own = getattr(dataset, "num_classes", len(classes))
        self.num_classes = own if numbers is None else len(classes)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return (image, target) with the new number of its class."""
        image, target = self._dataset[int(self._indices[index])]
        return image, self._numbered(target)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the data set that holds for a part of it, too."""
        if name.startswith("_") or name not in (
            *_OF_EACH,
            *_SHARED,
            "names",
            "object_labels",
            "samples",
            "size_of",
        ):
            raise AttributeError(name)
        found = getattr(self._dataset, name)
        if name == "size_of":
            return lambda index: found(int(self._indices[index]))
        if name == "object_labels":
            images, labels = found.taken(self._indices)
            return ObjectLabels(images, self._numbered(labels))
        if name == "samples":
            return _Samples(self, found)
        if name == "names":
            return [found[index] for index in self._indices]
        if name in _OF_EACH:
            taken = np.asarray(found)[self._indices]
            return self._numbered(taken) if name in ("targets", "labels") else taken
        return found

    def _numbered(self, target: Any) -> Any:
        if self._numbers is None or target is None:
            return target
        if isinstance(target, Objects):
            return replace(target, labels=self._numbers[target.labels])
        if isinstance(target, Mapping):  # torchvision's form of objects
            return {**target, "labels": self._numbers[np.asarray(target["labels"], np.int64)]}
        numbered = self._numbers[target]
        return int(numbered) if np.ndim(numbered) == 0 else numbered


class _Samples(Sequence[tuple[str, Any]]):
    def __init__(self, part: Part, samples: Any) -> None:
        self._part, self._samples = part, samples

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        path, target = self._samples[int(self._part._indices[index])]
        return path, self._part._numbered(target)


def digest_of(dataset: Any) -> str:
    """Return a hash of a data set's names and labels, wherever its files are; "" if its samples have no names.

    Of an array the pixels count instead of names, of shards the places of the images in their archives.

    >>> digits = ArrayDataset(np.zeros((2, 4, 4), np.uint8), np.array([0, 1]))
    >>> len(digest_of(digits)), digest_of([1, 2])
    (32, '')
    """
    found = hashlib.sha256()
    rows, targets = getattr(dataset, "rows", None), read_targets(dataset)
    if rows is not None:
        found.update(np.ascontiguousarray(rows).tobytes())
    elif isinstance(dataset, ArrayDataset):
        found.update(f"{dataset.images.shape} {zlib.crc32(np.ascontiguousarray(dataset.images).data)}".encode())
    else:
        names = _given_names(dataset)
        if not names:
            return ""
        text = unicodedata.normalize("NFC", "\0".join(names))  # a combining mark does not combine with "\0"
        found.update(text.encode("utf-8", "surrogateescape") + b"\0")
    found.update(getattr(dataset, "objects_digest", "").encode())
    if targets is not None:
        found.update(str(targets.shape).encode() + np.ascontiguousarray(targets).tobytes())
    return found.hexdigest()[:32]
