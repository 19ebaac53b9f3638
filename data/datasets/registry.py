"""The registry of data sets: names, builders, and what is known of a data set without building it."""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from warmstart.config import ConfigError

from ..seeds import random_numbers_kept
from .decode import DEFAULT_READING, Reading, set_reading, to_tensor
from .entries import DatasetEntry, EntryLike, check_options, entry_of, path_beside, registered_names, unknown_entry
from .image_heads import extremes, head_sizes
from .info import DatasetInfo
from .objects import annotations_of
from .part import digest_of, part_of
from .targets import read_targets, target_statistics
from .unreadable import first_readable, read_sample

logger = logging.getLogger(__name__)


class MapDataset(Protocol):
    """What a builder returns: samples by index, as a torch.utils.data.Dataset has them."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int, /) -> tuple[Any, Any]:
        """Return (image, target).

        The image is a PIL image, an array (H, W) or (H, W, C), or a uint8 tensor (C, H, W). The target is whatever
        the task expects, such as a class index for classification.
        """


Builder = Callable[..., MapDataset]  # (root, download), the cache if it is registered as `cached`, and options


@dataclass(frozen=True)
class _Registered:
    builder: Builder
    info: DatasetInfo | None
    in_memory: bool
    cached: bool


_REGISTRY: dict[str, _Registered] = {}

_MOST_CLASSES = 10**6  # above it, labels of a set that does not say how many classes it has are not counted


def register_dataset(
    name: str, builder: Builder, info: DatasetInfo | None = None, *, in_memory: bool = False, cached: bool = False
) -> None:
    """Make `name` usable in DATASETS.TRAIN and DATASETS.TEST.

    Args:
        name: the name; a name that ends in a colon, such as "npz:", matches every name that begins with it.
        builder: called with (root, download), which are DATASETS.ROOT and DATASETS.DOWNLOAD; for a name with a
            colon, root is the path that the user wrote. Its other parameters are options, as in
            {mine: {path: PATH, option: value}} or {name: {option: value}}, and are checked against its signature;
            no option may be called `path` or `name`. Returns a data set with `__len__` and
            `__getitem__(i) -> (image, label)`; raises FileNotFoundError if files are missing.
        info: properties of the data set without options; None: found by building it when they are needed.
        in_memory: whether the builder returns an `ArrayDataset`, which DATALOADER.BACKEND resident requires.
        cached: whether the builder is called with a third argument, DATASETS.CACHE.

    Raises:
        ConfigError: the name is taken, or contains "=" or a colon before its end.

    >>> register_dataset("npz:", print)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: a data set called 'npz:' is registered already; choose another name
    """
    if "=" in name or ":" in name[:-1] or name in ("", ":"):
        raise ConfigError(f"no entry of DATASETS.TRAIN could name a data set called {name!r}; choose another name")
    if name in _REGISTRY:
        raise ConfigError(f"a data set called {name!r} is registered already; choose another name")
    _REGISTRY[name] = _Registered(builder, info, in_memory, cached)


def dataset_names() -> list[str]:
    """Return all names, sorted; names that take a path are given as `npz:PATH`.

    >>> [name for name in dataset_names() if name.startswith(("digits", "npz"))]
    ['digits_attributes_test', 'digits_attributes_train', 'digits_numbers_test', 'digits_numbers_train', \
'digits_test', 'digits_train', 'npz:PATH']
    """
    return registered_names(_REGISTRY)


def is_users_own(name: EntryLike) -> bool:
    """Return whether code outside this package builds the data set.

    >>> is_users_own("digits_train")
    False
    """
    return not _look_up(entry_of(name), "data set").builder.__module__.startswith("warmstart.data.")


def is_in_memory(name: EntryLike) -> bool:
    """Return whether the data set is built as a single array of images.

    >>> is_in_memory("digits_train"), is_in_memory("imagefolder:cats")
    (True, False)
    """
    return _look_up(entry_of(name), "data set").in_memory


def dataset_info(
    name: EntryLike,
    root: str,
    download: bool = False,
    label: str = "data set",
    cache: str = "",
    mode: str = "RGB",
) -> DatasetInfo:
    """Return the properties of the data set `name`; nothing is read if they are registered.

    Args:
        name: a registered name, or an entry as DATASETS.TRAIN takes it.
        root: the folder that holds data sets, DATASETS.ROOT.
        download: whether a data set that must be built may be downloaded.
        label: the key that holds the name, for messages.
        cache: DATASETS.CACHE.
        mode: INPUT.FORMAT, the channels of image files.

    Raises:
        ConfigError: unknown name or option; files are missing or invalid if it must be built.

    >>> dataset_info("cifar10_test", root="nowhere").size
    10000
    """
    entry = entry_of(name, str(root), label)
    found = _look_up(entry, label)
    return _info_of(found, entry) or _info_by_looking(found, entry, str(root), download, label, cache, mode)


def build_dataset(
    name: EntryLike,
    root: str,
    download: bool = False,
    label: str = "data set",
    cache: str = "",
    reading: Reading = DEFAULT_READING,
) -> MapDataset:
    """Return the data set `name`, read from the folder `root`.

    Args:
        name: a registered name, or an entry as DATASETS.TRAIN takes it.
        root: the folder that holds data sets, DATASETS.ROOT.
        download: whether the builder may download missing files.
        label: the key that holds the name, for messages.
        cache: DATASETS.CACHE.
        reading: decoder and channels of image files.

    Raises:
        ConfigError: unknown name or option, missing files, invalid content, or no samples.

    >>> image, digit = build_dataset("digits_test", root="nowhere")[0]
    >>> image.shape, digit
    ((8, 8), 7)
    """
    entry = entry_of(name, str(root), label)
    found, place = _look_up(entry, label), root if entry.path is None else entry.path
    try:
        dataset = found.builder(place, download, *([cache] if found.cached else []), **entry.options)
        set_reading(dataset, reading)
        if entry.holdout:
            dataset = part_of(dataset, entry.holdout, entry.part)
    except FileNotFoundError as error:
        fix = "; set DATASETS.ROOT to its folder or DATASETS.DOWNLOAD true"
        fix = fix if entry.path is None else path_beside(place)
        raise ConfigError(
            f"{label}: {entry} was not found in {Path(place).expanduser().absolute()} ({error}){fix}"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{label}: {entry} cannot be read: {error}") from error
    size, info = len(dataset), _info_of(found, entry)
    if info is not None and size != info.size:
        raise ConfigError(
            f"{label}: {entry} holds {size:,} samples where {info.size:,} are expected; its files are incomplete"
        )
    if not size:
        raise ConfigError(f"{label}: {entry} holds no samples")
    return dataset


def checked_label(value: Any, num_classes: int, where: str) -> int:
    """Return a sample's label as an int from 0 to num_classes - 1.

    Raises:
        ConfigError: it is not an integer, or out of range; `where` names the sample.

    >>> checked_label(10, 10, "mine: sample 7")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: mine: sample 7 has label 10; with 10 classes labels run from 0 to 9
    """
    try:
        label = operator.index(value)
    except TypeError:
        raise ConfigError(f"{where} has label {value!r}; labels are whole numbers") from None
    if not 0 <= label < num_classes:
        raise ConfigError(
            f"{where} has label {label}; with {num_classes} classes labels run from 0 to {num_classes - 1}"
        )
    return label


def _look_up(entry: DatasetEntry, label: str) -> _Registered:
    """Return the registration that an entry refers to.

    Raises:
        ConfigError: there is none, or its builder does not take the options.
    """
    found = _REGISTRY.get(entry.kind if entry.path is None else f"{entry.kind}:")
    if found is None or entry.path == "":
        raise unknown_entry(entry, _REGISTRY, label)
    check_options(entry, found.builder, 3 if found.cached else 2, label)
    return found


def _info_of(found: _Registered, entry: DatasetEntry) -> DatasetInfo | None:
    """Return the registered info; None for an entry with options, which may change it."""
    return None if entry.options or entry.holdout else found.info


# Cached: a folder of a million files is listed once per run.
@functools.cache
def _info_by_looking(
    found: _Registered, entry: DatasetEntry, root: str, download: bool, label: str, cache: str, mode: str
) -> DatasetInfo:
    dataset = build_dataset(entry, root, download, label, cache, Reading(mode=mode))
    for level, name in ((logging.INFO, "notes"), (logging.WARNING, "warnings")):
        for note in getattr(dataset, name, ()):
            logger.log(level, "%s: %s: %s", label, entry, note)
    info = _look_at(dataset, f"{label}: {entry}")
    if entry.path is None:
        # Registered sets are known by name. A part of one is normalised as the full set is.
        kept = found.info if found.info and not entry.options else info
        return replace(info, digest="", mean=kept.mean, std=kept.std)
    return info


def _look_at(dataset: MapDataset, where: str) -> DatasetInfo:
    """Derive a data set's info from its attributes, three of its images, and the headers of others."""
    places = (0, len(dataset) // 2, len(dataset) - 1)
    read = functools.partial(_read_at, dataset)
    with random_numbers_kept(everything=True):  # damaged files are passed over here; the loader reports them
        found = [first_readable(read, place, len(dataset), where)[0] for place in places]
        shapes = [tuple(to_tensor(image).shape) for image, _, _ in found]
    classes = tuple(map(str, getattr(dataset, "classes", ())))
    num_classes = getattr(dataset, "num_classes", len(classes))
    sizes = {(shape[1], shape[2]) for shape in shapes} | head_sizes(dataset)
    return DatasetInfo(
        size=len(dataset),
        num_classes=num_classes,
        channels=shapes[0][0],
        image_size=next(iter(sizes)) if len(sizes) == 1 else None,
        classes=classes,
        sizes=extremes(sizes) if len(sizes) > 1 else (),
        **_value_info(dataset, [(index, target) for _, target, index in found], where, num_classes),
        digest=digest_of(dataset),
        annotations=tuple(getattr(dataset, "annotations", annotations_of([target for _, target, _ in found]))),
        keypoints=getattr(dataset, "keypoint_info", None),
        object_counts=tuple(getattr(dataset, "object_counts", ())),
    )


def _read_at(dataset: MapDataset, index: int) -> tuple[Any, Any, int]:
    return (*read_sample(dataset, index), index)


def _value_info(dataset: MapDataset, found: list[tuple[int, Any]], where: str, num_classes: int) -> dict[str, Any]:
    """Return num_values, value_mean, value_std, class_counts if known; `found` holds (index, target) pairs."""
    try:
        targets = read_targets(dataset)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    # The attribute may differ from the samples' targets: a target_transform may change them.
    if targets is None or not all(_same(target, targets[index]) for index, target in found):
        return {}
    mean, std = target_statistics(targets)
    is_index = targets.ndim == 1 and targets.dtype.kind == "i"
    counts: tuple[int, ...] = ()
    if is_index and targets.min() >= 0 and targets.max() < (num_classes or _MOST_CLASSES):
        counts = tuple(np.bincount(targets, minlength=num_classes).tolist())
    values = {"num_values": 0 if is_index else len(mean), "value_mean": mean, "value_std": std}
    return values | {"class_counts": counts}


def _same(target: Any, number: Any) -> bool:
    try:
        return bool(np.allclose(np.asarray(target, np.float64), number))
    except (TypeError, ValueError, RuntimeError):
        return False
