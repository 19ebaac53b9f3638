"""The data sets of a config: sizes, classes, transforms."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import zip_longest
from typing import NamedTuple

from warmstart.config import CfgNode, ConfigError

from .datasets.entries import DatasetEntry, EntryLike, entry_of
from .datasets.image_heads import extremes
from .datasets.names import named_sets
from .datasets.registry import DatasetInfo, dataset_info
from .device import OWN_DEVICE, accelerator
from .transforms.image import Entry, ImageTransform, build_transform
from .transforms.mixup import split_mixing

_MeanStd = tuple[tuple[float, ...], tuple[float, ...]]

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
    """

    keys: Mapping[str, _Keys]
    place: tuple[str, bool, str]
    mean: Sequence[float] | None
    std: Sequence[float] | None

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
        infos = [self._info("TRAIN", name) for name in names]
        for name, info in zip(names, infos, strict=True):
            require_like(infos[0], info, label, str(names[0]), str(name))
        return reduce(_joined, infos)

    @cached_property
    def tests(self) -> dict[str, DatasetInfo]:
        """What is known of each test set, by its name.

        Raises:
            ConfigError: unknown names, and what `dataset_info` raises.
        """
        return {name: self._info("TEST", entry) for name, entry in self.test_sets.items()}

    @cached_property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a training image after INPUT.TRANSFORMS_TRAIN: the model's input.

        H and W are 1024 if the images' size is not known and no transform sets it.

        Raises:
            ConfigError: what `train` and `ImageTransform.output_shape` raise.
        """
        return self.output_shape("TRAIN", self.train)

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

    def _info(self, key: str, entry: DatasetEntry) -> DatasetInfo:
        root, download, cache = self.place
        return dataset_info(entry, root, download, self.keys[key].label, cache)


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
    return DataSpec(keys, place, cfg.INPUT.MEAN, cfg.INPUT.STD)


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


def require_like(one: DatasetInfo, other: DatasetInfo, label: str, one_name: str, other_name: str) -> None:
    """Raise ConfigError if two data sets differ in channels, targets or classes; `label` is the second one's."""
    if one.channels != other.channels:
        raise ConfigError(
            f"{label}: images of {other_name} have {other.channels} channel(s), but images of {one_name} have"
            f" {one.channels}; choose sets that agree"
        )
    if _target_form(one) and _target_form(other) and _target_form(one) != _target_form(other):
        raise ConfigError(
            f"{label}: targets of {other_name} are {_target_form(other)}, but targets of {one_name} are"
            f" {_target_form(one)}; choose sets that agree"
        )
    if one.classes and other.classes and one.classes != other.classes:
        raise ConfigError(
            f"{label}: the classes of {other_name} differ from the classes of {one_name}, so labels would mean"
            " different things; choose sets that agree"
        )


def _target_form(info: DatasetInfo) -> str:
    """Return in words what the targets are; "" if that is unknown."""
    if info.num_values:
        return f"{info.num_values} numbers each" if info.num_values > 1 else "a number each"
    return "class indices" if info.num_classes else ""


def _joined(one: DatasetInfo, other: DatasetInfo) -> DatasetInfo:
    size = one.size + other.size
    share = one.size / size
    # E[x] and E[x^2] over all pixels are the averages over the sets, weighted by their share of the images.
    mean = tuple(share * a + (1 - share) * b for a, b in zip(one.mean, other.mean, strict=False))
    squares = [[s * s + m * m for m, s in zip(info.mean, info.std, strict=False)] for info in (one, other)]
    variances = (share * a + (1 - share) * b - m * m for a, b, m in zip(*squares, mean, strict=False))
    std = tuple(math.sqrt(max(0.0, variance)) for variance in variances)
    values = (one.value_mean, one.value_std), (other.value_mean, other.value_std)
    value_mean, value_std = _joined_statistics(share, *values)
    both = {*one.known_sizes, *other.known_sizes}
    same_size = one.image_size == other.image_size and one.image_size is not None
    return DatasetInfo(
        size=size,
        num_classes=max(one.num_classes, other.num_classes),
        channels=one.channels,
        image_size=one.image_size if same_size else None,
        mean=mean,
        std=std,
        classes=one.classes or other.classes,
        sizes=() if same_size or not (one.known_sizes and other.known_sizes) else extremes(both),
        num_values=one.num_values or other.num_values,
        value_mean=value_mean,
        value_std=value_std,
        class_counts=tuple(map(sum, zip_longest(one.class_counts, other.class_counts, fillvalue=0)))
        if one.class_counts and other.class_counts
        else (),
    )


def _joined_statistics(share: float, one: _MeanStd, other: _MeanStd) -> _MeanStd:
    """Return mean and standard deviation of two joined sets; the first has `share` of the samples. () if unknown.

    >>> _joined_statistics(0.5, ((1.0,), (0.0,)), ((3.0,), (0.0,)))
    ((2.0,), (1.0,))
    """
    mean = tuple(share * a + (1 - share) * b for a, b in zip(one[0], other[0], strict=False))
    # The variance within the sets plus the variance between their means: without cancellation.
    variances = [
        share * s * s + (1 - share) * t * t + share * (1 - share) * (a - b) ** 2
        for a, s, b, t in zip(*one, *other, strict=False)
    ]
    return mean, tuple(map(math.sqrt, variances))
