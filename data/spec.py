"""What a config says of its data: sizes, transforms, classes; nothing is read that is known from the registry."""

from __future__ import annotations

import math
import os
from functools import reduce

import torch

from warmstart.config import CfgNode, ConfigError

from .datasets.entries import DatasetEntry, EntryLike, entry_of
from .datasets.image_heads import extremes
from .datasets.names import named_sets
from .datasets.registry import DatasetInfo, dataset_info
from .transforms.image import Entry, ImageTransform, build_transform
from .transforms.mixup import split_mixing

# In the environment of a process that sees no device but its own: the number of that one, there.
OWN_DEVICE = "WARMSTART_DEVICE"

_MeanStd = tuple[tuple[float, ...], tuple[float, ...]]

# Images of unknown size are taken to be at least this large when transforms are tried.
_LARGE, _ODD = (1024, 1024), (1100, 1301)


def training_sets(cfg: CfgNode) -> list[DatasetEntry]:
    """Return the entries of DATASETS.TRAIN, in order.

    Raises:
        ConfigError: what `entry_of` raises.

    >>> from warmstart.config import get_cfg
    >>> [*map(str, training_sets(get_cfg()))]
    ['digits_train']
    """
    return [entry_of(each, cfg.DATASETS.ROOT, cfg.label("DATASETS.TRAIN")) for each in cfg.DATASETS.TRAIN]


def named_test_sets(cfg: CfgNode) -> dict[str, DatasetEntry]:
    """Return the entries of DATASETS.TEST by the names under which they are scored, in order.

    Raises:
        ConfigError: what `named_sets` raises.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["DATASETS.TEST", "imagefolder:a/val, imagefolder:b/val, real=imagefolder:c/val"])
    >>> [*named_test_sets(cfg)]
    ['a_val', 'b_val', 'real']
    """
    return named_sets(cfg.DATASETS.TEST, cfg.DATASETS.ROOT, cfg.label("DATASETS.TEST"))


def named_test_set(cfg: CfgNode, name: EntryLike) -> DatasetEntry:
    """Return the test set whose scores are called `name`; if there is none, the entry that `name` itself is.

    Raises:
        ConfigError: what `named_test_sets` raises.
    """
    found = named_test_sets(cfg).get(name) if isinstance(name, str) else None
    return found or entry_of(name, cfg.DATASETS.ROOT, cfg.label("DATASETS.TEST"))


def train_info(cfg: CfgNode) -> DatasetInfo:
    """Return what is known of the training set; for several joined end to end, of the whole.

    Sizes add up, mean and std are those of the whole.

    Raises:
        ConfigError: unknown names, sets that do not go together, and what `dataset_info` raises.

    >>> from warmstart.config import get_cfg
    >>> train_info(get_cfg()).size
    1437
    """
    label = cfg.label("DATASETS.TRAIN")
    if not cfg.DATASETS.TRAIN:
        raise ConfigError(f"{label}: names no data set; give at least one")
    place = cfg.DATASETS.ROOT, cfg.DATASETS.DOWNLOAD, label, cfg.DATASETS.CACHE
    names = training_sets(cfg)
    infos = [dataset_info(name, *place) for name in names]
    for name, info in zip(names, infos, strict=True):
        require_like(infos[0], info, label, str(names[0]), str(name))
    return reduce(_joined, infos)


def input_shape(cfg: CfgNode) -> tuple[int, int, int]:
    """Return (C, H, W) of a training image after INPUT.TRANSFORMS_TRAIN: what the model is given.

    H and W are 1024 where the images' size is not known and no transform sets it.

    Raises:
        ConfigError: what `train_info` and `ImageTransform.output_shape` raise.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["INPUT.TRANSFORMS_TRAIN", "[{RandomCrop: {size: 6}}]"])
    >>> input_shape(cfg)
    (1, 6, 6)
    """
    info = train_info(cfg)
    return output_shape(cfg, "TRANSFORMS_TRAIN", info, info)


def device_of(cfg: CfgNode) -> str:
    """Return the device that MODEL.DEVICE means on this machine: cpu, cuda or cuda:N.

    Where a launcher has started several processes, each has its own.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["MODEL.DEVICE", "cuda:1"])
    >>> device_of(cfg)
    'cuda:1'
    """
    wants_cuda = cfg.MODEL.DEVICE == "auto" and torch.cuda.is_available()
    name = "cuda" if wants_cuda else str(cfg.MODEL.DEVICE).replace("auto", "cpu")
    own = os.environ.get(OWN_DEVICE, os.environ.get("LOCAL_RANK"))
    return name if name != "cuda" or own is None else f"cuda:{own}"


def image_transform(cfg: CfgNode, name: str, train: DatasetInfo, normalise: bool = True) -> ImageTransform:
    """Return what INPUT.TRANSFORMS_TRAIN or INPUT.TRANSFORMS_TEST does, and the normalisation behind it.

    Args:
        cfg: the config.
        name: TRANSFORMS_TRAIN or TRANSFORMS_TEST.
        train: of the training set.
        normalise: whether INPUT.MEAN and INPUT.STD are applied; else images are only made float in [0, 1].

    Raises:
        ConfigError: a name or an argument is unknown or wrong.
    """
    mean = train.mean or (0.0,) if cfg.INPUT.MEAN is None else cfg.INPUT.MEAN
    std = train.std or (1.0,) if cfg.INPUT.STD is None else cfg.INPUT.STD
    mean, std = (mean, std) if normalise else ((0.0,), (1.0,))
    return build_transform(image_entries(cfg, name), mean, std, cfg.label(f"INPUT.{name}"))


def image_entries(cfg: CfgNode, name: str) -> list[Entry]:
    """Return the transforms of images among INPUT.TRANSFORMS_TRAIN or INPUT.TRANSFORMS_TEST."""
    entries = cfg.INPUT[name]
    return split_mixing(entries, cfg.label(f"INPUT.{name}"))[0] if name == "TRANSFORMS_TRAIN" else list(entries)


def output_shape(
    cfg: CfgNode, transforms: str, train: DatasetInfo, info: DatasetInfo, normalise: bool = True
) -> tuple[int, int, int]:
    """Return (C, H, W) of what TRANSFORMS_TRAIN or TRANSFORMS_TEST makes of an image of the data set of `info`.

    Raises:
        ConfigError: what `ImageTransform.output_shape` raises.
    """
    label = cfg.label(f"INPUT.{transforms}")
    transform = image_transform(cfg, transforms, train, normalise)
    return transform.output_shape(info.channels, info.image_size or _LARGE, label)


def known_shape(
    cfg: CfgNode, transforms: str, train: DatasetInfo, info: DatasetInfo
) -> tuple[int, int, int] | None:
    """Return what `output_shape` does; None where the images differ in size, also behind the transforms.

    Raises:
        ConfigError: what `ImageTransform.output_shape` raises.
    """
    label, transform = cfg.label(f"INPUT.{transforms}"), image_transform(cfg, transforms, train)
    sizes = info.known_sizes or (_LARGE, _ODD)
    shapes = {transform.output_shape(info.channels, size, label) for size in sizes}
    return shapes.pop() if len(shapes) == 1 else None


def require_one_size(
    cfg: CfgNode, key: str, transforms: str, train: DatasetInfo, info: DatasetInfo, name: str
) -> None:
    """Raise ConfigError where images differ in size behind the transforms, and so make no batch.

    Args:
        cfg: the config.
        key: DATASETS.TRAIN or DATASETS.TEST, which names the data set.
        transforms: TRANSFORMS_TRAIN or TRANSFORMS_TEST.
        train: of the training set.
        info: of the data set.
        name: the data set's.
    """
    label, transform = cfg.label(f"INPUT.{transforms}"), image_transform(cfg, transforms, train)
    first: dict[bool, tuple[str, str]] = {}
    for size in info.known_sizes:
        shape = transform.output_shape(info.channels, size, label)
        before, after = ("x".join(map(str, each)) for each in (size, shape[1:]))
        # Grouping keeps images at least as wide as high apart from the others.
        group = cfg.DATALOADER.ASPECT_RATIO_GROUPING and size[1] >= size[0]
        other = first.setdefault(group, (before, after))
        if other[1] != after:
            raise ConfigError(
                f"{cfg.label(key)}: images of {name} differ in size, also behind INPUT.{transforms}: those of"
                f" {other[0]} become {other[1]}, those of {before} become {after}; end INPUT.{transforms} with"
                " {Resize: {size: [224, 224]}} or a crop"
            )


def num_outputs(cfg: CfgNode, train: DatasetInfo) -> int:
    """Return the outputs of the classifier: MODEL.NUM_CLASSES or, where that is 0, the training set's classes.

    Raises:
        ConfigError: they are fewer than the training set's classes.
    """
    outputs: int = cfg.MODEL.NUM_CLASSES or train.num_classes
    if outputs < train.num_classes:
        raise ConfigError(
            f"{cfg.label('MODEL.NUM_CLASSES')}: {outputs} outputs are too few for the {train.num_classes} classes"
            " of the training set; give 0 to take its number"
        )
    return outputs


def require_like(one: DatasetInfo, other: DatasetInfo, label: str, one_name: str, other_name: str) -> None:
    """Raise ConfigError if two data sets differ in channels, targets or classes; `label` is of the second."""
    if one.channels != other.channels:
        raise ConfigError(
            f"{label}: images of {other_name} have {other.channels} channel(s), those of {one_name}"
            f" {one.channels}; choose sets that agree"
        )
    if _target_form(one) and _target_form(other) and _target_form(one) != _target_form(other):
        raise ConfigError(
            f"{label}: targets of {other_name} are {_target_form(other)}, those of {one_name} {_target_form(one)};"
            " choose sets that agree"
        )
    if one.classes and other.classes and one.classes != other.classes:
        raise ConfigError(
            f"{label}: the classes of {other_name} are not those of {one_name}, so labels would mean different"
            " things; choose sets that agree"
        )


def _target_form(info: DatasetInfo) -> str:
    """Return what targets are, in words; "" if the data set does not tell."""
    if info.num_values:
        return f"{info.num_values} numbers each" if info.num_values > 1 else "a number each"
    return "class indices" if info.num_classes else ""


def _joined(one: DatasetInfo, other: DatasetInfo) -> DatasetInfo:
    size = one.size + other.size
    share = one.size / size
    # The E[x] and E[x^2] of all pixels are the sets', weighted by their share of the images.
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
    )


def _joined_statistics(share: float, one: _MeanStd, other: _MeanStd) -> _MeanStd:
    """Return mean and standard deviation of two sets joined, of which the first is `share`; () if one has none.

    >>> _joined_statistics(0.5, ((1.0,), (0.0,)), ((3.0,), (0.0,)))
    ((2.0,), (1.0,))
    """
    mean = tuple(share * a + (1 - share) * b for a, b in zip(one[0], other[0], strict=False))
    # The variance within the sets, and that between their means: nothing is subtracted that is almost equal.
    variances = [
        share * s * s + (1 - share) * t * t + share * (1 - share) * (a - b) ** 2
        for a, s, b, t in zip(*one, *other, strict=False)
    ]
    return mean, tuple(map(math.sqrt, variances))
