"""The data sets of a config: sizes, classes, transforms."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any, NamedTuple

from warmstart.config import CfgNode, ConfigError

from .datasets.decode import DEFAULT_READING, Reading
from .datasets.entries import DatasetEntry, EntryLike, entry_of
from .datasets.info import DatasetInfo, joined, require_like
from .datasets.names import named_sets
from .datasets.part import with_classes
from .datasets.registry import MapDataset, build_dataset, dataset_info, is_users_own
from .device import OWN_DEVICE, accelerator
from .transforms.image import ImageTransform, build_transform
from .transforms.mixup import split_mixing
from .transforms.registry import Entry

# Sizes on which transforms are tried when the images' size is unknown.
_LARGE, _ODD = (1024, 1024), (1100, 1301)


class _Keys(NamedTuple):
    """The values of DATASETS.TRAIN and INPUT.TRANSFORMS_TRAIN, or of the same keys for TEST, with their labels."""

    sets: Sequence[EntryLike]
    label: str
    transforms: Sequence[Entry]
    transforms_label: str


@dataclass(frozen=True)
class DataSpec:
    """The data sets of a config, what is known of them, and the shapes of their images after the transforms.

    `data_spec` returns it for a config. Each fact is looked up once, when it is first needed: pass the object on
    instead of asking the config again. Nothing is read of a data set whose info is registered. In the methods,
    `key` is TRAIN or TEST, and selects the transforms.

    Args:
        keys: by TRAIN and TEST.
        place: DATASETS.ROOT, DATASETS.DOWNLOAD and DATASETS.CACHE.
        mean: INPUT.MEAN; None: of the training set.
        std: INPUT.STD; None: of the training set.
        reading: INPUT.DECODER and INPUT.FORMAT.
    """

    keys: Mapping[str, _Keys]
    place: tuple[str, bool, str]
    mean: Sequence[float] | None
    std: Sequence[float] | None
    reading: Reading = DEFAULT_READING

    @cached_property
    def training_sets(self) -> list[DatasetEntry]:
        """The entries of DATASETS.TRAIN, in order.

        Raises:
            ConfigError: what `entry_of` raises.
        """
        return [entry_of(each, self.place[0], self.keys["TRAIN"].label) for each in self.keys["TRAIN"].sets]

    @cached_property
    def test_sets(self) -> dict[str, DatasetEntry]:
        """The entries of DATASETS.TEST by the names under which they are scored, in order.

        Raises:
            ConfigError: what `named_sets` raises.
        """
        return named_sets(self.keys["TEST"].sets, self.place[0], self.keys["TEST"].label)

    @cached_property
    def train(self) -> DatasetInfo:
        """What is known of the training set; several sets count as one: sizes add up, mean and std are joint.

        Raises:
            ConfigError: unknown names, sets that do not go together, and what `dataset_info` raises.
        """
        label, names = self.keys["TRAIN"].label, self.training_sets
        if not names:
            raise ConfigError(f"{label}: names no data set; give at least one")
        infos = [self.info("TRAIN", name) for name in names]
        for name, info in zip(names, infos, strict=True):
            require_like(infos[0], info, label, str(names[0]), str(name))
        return reduce(joined, infos)

    @cached_property
    def tests(self) -> dict[str, DatasetInfo]:
        """What is known of each test set, by its name.

        Raises:
            ConfigError: unknown names, and what `dataset_info` raises.
        """
        return {name: self.info("TEST", entry) for name, entry in self.test_sets.items()}

    @cached_property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a training image after INPUT.TRANSFORMS_TRAIN: the model's input.

        H and W are 1024 if the images' size is not known and no transform sets it.

        Raises:
            ConfigError: what `train` and `ImageTransform.output_shape` raise.
        """
        return self.output_shape("TRAIN", self.train)

    @cached_property
    def content(self) -> dict[str, list[dict[str, Any]]]:
        """What the data sets hold, wherever their files are: a checkpoint keeps it, and a resume compares it.

        By TRAIN and TEST an entry for each set: its `text` and `options` in the config, its `name` in scores (""
        for TRAIN), `size`, `classes` and `digest`, which is "" for sets that are known by their name, and for
        those of a user-defined kind with options, which may change the images.

        Raises:
            ConfigError: what `train` and `tests` raise.
        """
        found: dict[str, list[dict[str, Any]]] = {"TRAIN": [], "TEST": []}
        for key, entry, info in self.each:
            name = entry.name if key == "TEST" else ""
            digest = "" if entry.options and is_users_own(entry) else info.digest
            values = {"text": str(replace(entry, name="")), "options": dict(entry.options), "name": name}
            found[key].append(values | {"size": info.size, "classes": list(info.classes), "digest": digest})
        return found

    @cached_property
    def each(self) -> list[tuple[str, DatasetEntry, DatasetInfo]]:
        """(TRAIN or TEST, entry, info) of each data set, in order.

        Raises:
            ConfigError: what `dataset_info` raises.
        """
        entries = [("TRAIN", self.training_sets), ("TEST", [*self.test_sets.values()])]
        return [(key, entry, self.info(key, entry)) for key, sets in entries for entry in sets]

    def build(self, key: str, entry: DatasetEntry) -> MapDataset:
        """Return a data set of TRAIN or TEST; a test set's labels are numbered as the training set's classes.

        Raises:
            ConfigError: what `build_dataset` and `train` raise.
        """
        root, download, cache = self.place
        dataset = build_dataset(entry, root, download, self.keys[key].label, cache, self.reading)
        found: MapDataset = with_classes(dataset, self.train.classes) if key == "TEST" else dataset
        return found

    def test_set(self, name: EntryLike) -> DatasetEntry:
        """Return the test set whose scores are called `name`; if there is none, `name` itself as an entry.

        Raises:
            ConfigError: what `test_sets` and `entry_of` raise.
        """
        found = self.test_sets.get(name) if isinstance(name, str) else None
        return found or entry_of(name, self.place[0], self.keys["TEST"].label)

    def transform(self, key: str, normalise: bool = True) -> ImageTransform:
        """Return the transforms of single images, with the normalisation at the end.

        Args:
            key: TRAIN or TEST.
            normalise: whether INPUT.MEAN and INPUT.STD are applied; otherwise images only become floats in [0, 1].

        Raises:
            ConfigError: a name or an argument is unknown or wrong.
        """
        mean = self.train.mean or (0.0,) if self.mean is None else self.mean
        std = self.train.std or (1.0,) if self.std is None else self.std
        mean, std = (mean, std) if normalise else ((0.0,), (1.0,))
        return build_transform(self.image_transforms(key), mean, std, self.keys[key].transforms_label)

    def image_transforms(self, key: str) -> list[Entry]:
        """Return the transforms of single images as the config names them; others mix the images of a batch.

        Raises:
            ConfigError: what `split_mixing` raises.
        """
        entries, label = self.keys[key].transforms, self.keys[key].transforms_label
        return split_mixing(entries, label)[0] if key == "TRAIN" else list(entries)

    def output_shape(self, key: str, info: DatasetInfo, normalise: bool = True) -> tuple[int, int, int]:
        """Return (C, H, W) of an image of the data set of `info` after the transforms.

        Raises:
            ConfigError: what `ImageTransform.output_shape` raises.
        """
        size, label = info.image_size or _LARGE, self.keys[key].transforms_label
        return self.transform(key, normalise).output_shape(info.channels, size, label)

    def known_shape(self, key: str, info: DatasetInfo) -> tuple[int, int, int] | None:
        """Return what `output_shape` does; None if the images differ in size even after the transforms.

        Raises:
            ConfigError: what `ImageTransform.output_shape` raises.
        """
        label, transform = self.keys[key].transforms_label, self.transform(key)
        sizes = info.known_sizes or (_LARGE, _ODD)
        shapes = {transform.output_shape(info.channels, size, label) for size in sizes}
        return shapes.pop() if len(shapes) == 1 else None

    def info(self, key: str, entry: DatasetEntry) -> DatasetInfo:
        """Return what is known of a data set of TRAIN or TEST.

        Raises:
            ConfigError: what `dataset_info` raises.
        """
        root, download, cache = self.place
        return dataset_info(entry, root, download, self.keys[key].label, cache, self.reading.mode)


def data_spec(cfg: CfgNode) -> DataSpec:
    """Return the data sets of a config, resolved or not.

    >>> from warmstart.config import get_cfg
    >>> data = data_spec(get_cfg())
    >>> data.train.size, data.input_shape, [*data.test_sets]
    (1437, (1, 8, 8), ['digits_test'])
    """
    keys = {}
    for key in ("TRAIN", "TEST"):
        transforms = cfg.INPUT[f"TRANSFORMS_{key}"], cfg.label(f"INPUT.TRANSFORMS_{key}")
        keys[key] = _Keys(cfg.DATASETS[key], cfg.label(f"DATASETS.{key}"), *transforms)
    place = cfg.DATASETS.ROOT, cfg.DATASETS.DOWNLOAD, cfg.DATASETS.CACHE
    return DataSpec(keys, place, cfg.INPUT.MEAN, cfg.INPUT.STD, Reading(cfg.INPUT.DECODER, cfg.INPUT.FORMAT))


def named_test_sets(cfg: CfgNode) -> dict[str, DatasetEntry]:
    """Return `DataSpec.test_sets` of a config.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["DATASETS.TEST", "imagefolder:a/val, imagefolder:b/val, real=imagefolder:c/val"])
    >>> [*named_test_sets(cfg)]
    ['a_val', 'b_val', 'real']
    """
    return data_spec(cfg).test_sets


def train_info(cfg: CfgNode) -> DatasetInfo:
    """Return `DataSpec.train` of a config.

    >>> from warmstart.config import get_cfg
    >>> train_info(get_cfg()).size
    1437
    """
    return data_spec(cfg).train


def device_of(cfg: CfgNode) -> str:
    """Return the device that MODEL.DEVICE selects on this machine: cpu, or an accelerator such as cuda or cuda:N.

    If a launcher has started several processes, each has its own device.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["MODEL.DEVICE", "cuda:1"])
    >>> device_of(cfg)
    'cuda:1'
    """
    name = str(cfg.MODEL.DEVICE)
    name = accelerator() or "cpu" if name == "auto" else name
    own = os.environ.get(OWN_DEVICE, os.environ.get("LOCAL_RANK"))
    return name if name in ("cpu", "mps") or ":" in name or own is None else f"{name}:{own}"


def num_outputs(cfg: CfgNode, train: DatasetInfo) -> int:
    """Return a classifier's outputs: MODEL.NUM_CLASSES or, if it is 0, the classes of the training set.

    Raises:
        ConfigError: MODEL.NUM_CLASSES is lower than the training set's number of classes.
    """
    outputs: int = cfg.MODEL.NUM_CLASSES or train.num_classes
    if outputs < train.num_classes:
        raise ConfigError(
            f"{cfg.label('MODEL.NUM_CLASSES')}: {outputs} outputs are too few for the {train.num_classes} classes"
            " of the training set; give 0 to take its number"
        )
    return outputs
