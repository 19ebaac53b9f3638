"""Builds data sets, transforms and loaders from a config."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch.utils.data import ConcatDataset

from warmstart.config import CfgNode, ConfigError

from .arrays import as_tensors
from .batched import NoBatchedForm, batched_form
from .build_sampler import build_groups, build_order, check_sampler
from .datasets import (
    DatasetInfo,
    MapDataset,
    build_dataset,
    checked_label,
    dataset_info,
    is_in_memory,
    is_users_own,
)
from .loader import EvalLoader, KeyedSamples, TrainLoader, WorkerLoader, WorkerTrainLoader
from .resident import ResidentEvalLoader, ResidentSamples, ResidentTrainLoader
from .transforms import ImageTransform, build_transform, check_transforms

# Images of unknown size are taken to be at least this large when transforms are tried.
_LARGE = (1024, 1024)


def build_train_loader(cfg: CfgNode, rank: int = 0, world_size: int = 1) -> TrainLoader:
    """Return the endless stream over DATASETS.TRAIN, several sets joined end to end.

    Reads DATASETS, INPUT, DATALOADER, SEED, SOLVER.IMS_PER_BATCH, MODEL.DEVICE, MODEL.NUM_CLASSES.

    Args:
        cfg: the config.
        rank: which of `world_size` processes this one is. It is given its part of each batch, images and random
            numbers as they stand in the whole one: those of all ranks, joined, are the batch of one process.
        world_size: how many processes train together.

    Raises:
        ConfigError: unknown names, missing or wrong files, transforms that do not fit, a batch that cannot be
            shared out evenly.

    >>> from warmstart.config import get_cfg
    >>> loader = build_train_loader(get_cfg())
    >>> images, labels = next(loader.batches(start=1000))
    >>> images.shape, images.dtype, labels.dtype
    (torch.Size([16, 1, 8, 8]), torch.float32, torch.int64)
    """
    keys, batch_size = ("DATASETS.TRAIN", "TRANSFORMS_TRAIN"), cfg.SOLVER.IMS_PER_BATCH
    if batch_size % world_size:
        raise ConfigError(
            f"{cfg.label('SOLVER.IMS_PER_BATCH')}: {batch_size} images cannot be shared evenly by {world_size}"
            f" processes; give a multiple of {world_size}"
        )
    dataset = _dataset(cfg, keys[0], cfg.DATASETS.TRAIN)
    options = {"seed": cfg.SEED, "batch_size": batch_size, "rank": rank, "world_size": world_size}
    options["stream"] = build_order(cfg, dataset, train_info(cfg))
    if cfg.DATALOADER.BACKEND == "resident":
        return ResidentTrainLoader(dataset, _resident(cfg, *keys, dataset), **options)
    return WorkerTrainLoader(_worker_loader(cfg, *keys, dataset, cfg.DATASETS.TRAIN), **options)


def build_test_loader(cfg: CfgNode, name: str) -> EvalLoader | ResidentEvalLoader:
    """Return the loader that gives every sample of the data set `name` once, in order.

    With DATALOADER.ASPECT_RATIO_GROUPING all images at least as wide as high come first.

    Reads DATASETS, INPUT, DATALOADER, SEED, TEST.IMS_PER_BATCH, MODEL.DEVICE, MODEL.NUM_CLASSES.

    Raises:
        ConfigError: unknown name, missing or wrong files, transforms that do not fit.

    >>> from warmstart.config import get_cfg
    >>> [len(labels) for _, labels in build_test_loader(get_cfg(), "digits_test")]
    [256, 104]
    """
    keys, size = ("DATASETS.TEST", "TRANSFORMS_TEST"), cfg.TEST.IMS_PER_BATCH
    dataset = _dataset(cfg, keys[0], (name,))
    if cfg.DATALOADER.BACKEND == "resident":
        return ResidentEvalLoader(_resident(cfg, *keys, dataset), seed=cfg.SEED, batch_size=size)
    groups = build_groups(cfg, dataset, keys[0])
    return EvalLoader(_worker_loader(cfg, *keys, dataset, (name,)), batch_size=size, groups=groups)


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
    infos = [dataset_info(name, cfg.DATASETS.ROOT, cfg.DATASETS.DOWNLOAD, label) for name in cfg.DATASETS.TRAIN]
    for name, info in zip(cfg.DATASETS.TRAIN, infos, strict=True):
        _require_like(infos[0], info, label, cfg.DATASETS.TRAIN[0], name)
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
    return _shape(cfg, "TRANSFORMS_TRAIN", info, info)


def check_data(cfg: CfgNode) -> None:
    """Raise ConfigError for all that can be refused before training data is read.

    Names of data sets and transforms, transforms' arguments, what DATALOADER.BACKEND resident cannot do,
    transforms that fail on images of such a size, INPUT.MEAN and INPUT.STD of a wrong length, test sets that the
    training set does not prepare for.
    Data sets whose info is not registered (`npz:PATH`, `imagefolder:PATH`) are looked at.
    """
    for key in ("INPUT.TRANSFORMS_TRAIN", "INPUT.TRANSFORMS_TEST"):
        check_transforms(cfg.INPUT[key.removeprefix("INPUT.")], cfg.label(key))
    train = train_info(cfg)
    check_sampler(cfg, train)
    if cfg.DATALOADER.BACKEND == "resident":
        _check_resident(cfg)
    classes = _num_classes(cfg, train)
    trained_on = _shape(cfg, "TRANSFORMS_TRAIN", train, train)
    label = cfg.label("DATASETS.TEST")
    for name in cfg.DATASETS.TEST:
        info = dataset_info(name, cfg.DATASETS.ROOT, cfg.DATASETS.DOWNLOAD, label)
        _require_like(train, info, label, "the training set", name)
        if info.num_classes > classes:
            raise ConfigError(f"{label}: {name} has {info.num_classes} classes, the model only {classes}")
        tested_on = _shape(cfg, "TRANSFORMS_TEST", train, info)
        if tested_on[0] != trained_on[0]:
            raise ConfigError(
                f"{cfg.label('INPUT.TRANSFORMS_TEST')}: images of {name} end with {tested_on[0]} channel(s),"
                f" the training set's with {trained_on[0]}"
            )


def _dataset(cfg: CfgNode, key: str, names: Sequence[str]) -> MapDataset:
    parts = [build_dataset(name, cfg.DATASETS.ROOT, cfg.DATASETS.DOWNLOAD, cfg.label(key)) for name in names]
    return ConcatDataset(parts) if len(parts) > 1 else parts[0]  # type: ignore[arg-type]


def _worker_loader(
    cfg: CfgNode, key: str, transforms: str, dataset: MapDataset, names: Sequence[str]
) -> WorkerLoader:
    train = train_info(cfg)
    transform = _transform(cfg, transforms, train)
    samples = KeyedSamples(
        dataset,
        transform,
        seed=cfg.SEED,
        num_classes=_num_classes(cfg, train),
        name=" + ".join(names),
        seed_everything=transform.is_users_own or any(is_users_own(name) for name in names),
    )
    wants_cuda = cfg.MODEL.DEVICE == "auto" or cfg.MODEL.DEVICE.startswith("cuda")
    return WorkerLoader(
        samples, num_workers=cfg.DATALOADER.NUM_WORKERS, pin_memory=wants_cuda and torch.cuda.is_available()
    )


def _resident(cfg: CfgNode, key: str, transforms: str, dataset: MapDataset) -> ResidentSamples:
    train = train_info(cfg)
    images, labels = as_tensors(dataset)
    classes = _num_classes(cfg, train)
    for index in (labels >= classes).nonzero()[:1].flatten().tolist():
        checked_label(int(labels[index]), classes, f"{cfg.label(key)}: sample {index}")
    transform = _transform(cfg, transforms, train)
    wants_cuda = cfg.MODEL.DEVICE == "auto" and torch.cuda.is_available()
    device = "cuda" if wants_cuda else cfg.MODEL.DEVICE.replace("auto", "cpu")
    try:
        return ResidentSamples(images, labels, transform.steps, transform.mean, transform.std, device)
    except MemoryError as error:
        raise ConfigError(f"{cfg.label('DATALOADER.BACKEND')}: {error}; use worker") from None


def _check_resident(cfg: CfgNode) -> None:
    """Raise ConfigError where DATALOADER.BACKEND resident cannot do what the rest of the config asks for."""
    label, problems = cfg.label("DATALOADER.BACKEND"), []
    for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        if not is_in_memory(name):
            problems.append(f"{label}: resident takes data sets of one array, which {name} is not; use worker")
    for key in ("TRANSFORMS_TRAIN", "TRANSFORMS_TEST"):
        for name, step in _transform(cfg, key, train_info(cfg)).steps:
            try:
                batched_form(name, step)
            except NoBatchedForm as error:
                problems.append(f"{label}: resident cannot do INPUT.{key}: {error}; leave it out, or use worker")
    if problems:
        raise ConfigError(problems)


def _transform(cfg: CfgNode, name: str, train: DatasetInfo) -> ImageTransform:
    mean = train.mean or (0.0,) if cfg.INPUT.MEAN is None else cfg.INPUT.MEAN
    std = train.std or (1.0,) if cfg.INPUT.STD is None else cfg.INPUT.STD
    return build_transform(cfg.INPUT[name], mean, std, cfg.label(f"INPUT.{name}"))


def _shape(cfg: CfgNode, transforms: str, train: DatasetInfo, info: DatasetInfo) -> tuple[int, int, int]:
    label = cfg.label(f"INPUT.{transforms}")
    return _transform(cfg, transforms, train).output_shape(info.channels, info.image_size or _LARGE, label)


def _num_classes(cfg: CfgNode, train: DatasetInfo) -> int:
    outputs: int = cfg.MODEL.NUM_CLASSES or train.num_classes
    if outputs < train.num_classes:
        raise ConfigError(
            f"{cfg.label('MODEL.NUM_CLASSES')}: {outputs} outputs are too few for the {train.num_classes} classes"
            " of the training set; give 0 to take its number"
        )
    return outputs


def _require_like(one: DatasetInfo, other: DatasetInfo, label: str, one_name: str, other_name: str) -> None:
    if one.channels != other.channels:
        raise ConfigError(
            f"{label}: images of {other_name} have {other.channels} channel(s), those of {one_name}"
            f" {one.channels}; choose sets that agree"
        )
    if one.classes and other.classes and one.classes != other.classes:
        raise ConfigError(
            f"{label}: the classes of {other_name} are not those of {one_name}, so labels would mean different"
            " things; choose sets that agree"
        )


def _joined(one: DatasetInfo, other: DatasetInfo) -> DatasetInfo:
    size = one.size + other.size
    share = one.size / size
    # The whole's E[x] and E[x^2] are the parts', weighted by their share of the images.
    mean = tuple(share * a + (1 - share) * b for a, b in zip(one.mean, other.mean, strict=False))
    squares = [[s * s + m * m for m, s in zip(info.mean, info.std, strict=False)] for info in (one, other)]
    std = tuple(math.sqrt(share * a + (1 - share) * b - m * m) for a, b, m in zip(*squares, mean, strict=False))
    return DatasetInfo(
        size=size,
        num_classes=max(one.num_classes, other.num_classes),
        channels=one.channels,
        image_size=one.image_size if one.image_size == other.image_size else None,
        mean=mean,
        std=std,
        classes=one.classes or other.classes,
    )
