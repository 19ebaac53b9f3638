"""Loaders built from a config, and the checks that need no training data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch.utils.data import ConcatDataset

from warmstart.config import CfgNode, ConfigError

from .batch import SampleTask
from .datasets.entries import DatasetEntry, EntryLike, check_parts, is_files
from .datasets.info import DatasetInfo, require_testable
from .datasets.registry import MapDataset, is_users_own
from .datasets.unreadable import first_readable, read_sample
from .device import pins_memory
from .loaders.base import TrainLoader
from .loaders.build_backend import choose_backend, not_resident, resident_samples
from .loaders.build_workers import num_workers
from .loaders.keyed_dataset import KeyedSamples, Unreadable, make_sample
from .loaders.mixed import MixedTrainLoader
from .loaders.resident import ResidentEvalLoader, ResidentTrainLoader
from .loaders.worker import EvalLoader, WorkerLoader, WorkerTrainLoader
from .memory import free_memory, gigabytes
from .sampling.build import build_groups, build_order, check_sampler
from .spec import DataSpec, data_spec, device_of, num_outputs
from .transforms.image import has_spatial_targets
from .transforms.mixup import build_mixing, split_mixing
from .transforms.registry import NEED_TARGETS, check_transforms

_PER_SAMPLE = 200  # bytes of a sample in a batch besides its pixels: its index, its label


def build_train_loader(cfg: CfgNode, task: SampleTask, rank: int = 0, world_size: int = 1) -> TrainLoader:
    """Return the endless stream over DATASETS.TRAIN; several sets are concatenated.

    Reads DATASETS, INPUT, DATALOADER, SEED, SOLVER.IMS_PER_BATCH, SOLVER.MAX_ITER, MODEL.DEVICE,
    MODEL.NUM_CLASSES.

    Args:
        cfg: the config.
        task: makes samples and batches of what the data sets return.
        rank: of this process. Each rank loads its share of every batch, with the same images and random numbers as
            in the full batch: the shares of all ranks, concatenated, are the batch of a single process.
        world_size: how many processes train together.

    Raises:
        ConfigError: unknown names, missing or wrong files, transforms that do not fit, a batch that cannot be
            divided evenly among the ranks.
    """
    data, batch_size = data_spec(cfg), cfg.SOLVER.IMS_PER_BATCH
    if batch_size % world_size:
        raise ConfigError(
            f"{cfg.label('SOLVER.IMS_PER_BATCH')}: {batch_size} images cannot be shared evenly by {world_size}"
            f" processes; give a multiple of {world_size}"
        )
    share = batch_size // world_size
    slots = list(range(rank * share, (rank + 1) * share))
    _, mixing = split_mixing(cfg.INPUT.TRANSFORMS_TRAIN, cfg.label("INPUT.TRANSFORMS_TRAIN"))
    # Each image is mixed with the previous one; for the first of a share that is on another rank.
    lent = [(slots[0] - 1) % batch_size] if mixing and world_size > 1 else []
    names, dataset = data.training_sets, _dataset(data, "TRAIN", data.training_sets)
    order = build_order(cfg, dataset, data.train)
    options = {"seed": cfg.SEED, "batch_size": batch_size, "slots": [*lent, *slots], "stream": order}
    loader: TrainLoader
    if choose_backend(cfg, data, task) == "resident":
        samples = resident_samples(cfg, data, task, "TRAIN", dataset, names)
        loader = ResidentTrainLoader(dataset, samples, **options)
    else:
        planned = cfg.SOLVER.MAX_ITER if isinstance(cfg.SOLVER.MAX_ITER, int) else None  # not resolved yet: "90ep"
        loaded = _worker_loader(cfg, data, task, "TRAIN", dataset, names)
        loader = WorkerTrainLoader(loaded, **options, planned=planned)
    if not mixing:
        return loader
    classes = num_outputs(cfg, data.train)
    return MixedTrainLoader(loader, build_mixing(mixing, classes), classes, lent=len(lent))


def build_test_loader(
    cfg: CfgNode, task: SampleTask, name: EntryLike, rank: int = 0, world_size: int = 1
) -> EvalLoader | ResidentEvalLoader:
    """Return the loader that yields every sample of the data set `name` once, in order.

    With DATALOADER.ASPECT_RATIO_GROUPING all images that are at least as wide as high come first.

    Reads DATASETS, INPUT, DATALOADER, SEED, TEST.IMS_PER_BATCH, MODEL.DEVICE, MODEL.NUM_CLASSES.

    Args:
        cfg: the config.
        task: makes samples and batches of what the data set returns.
        name: of the data set, as in its scores; or an entry as in DATASETS.TEST.
        rank: of this process. The ranks take the batches of a single process in turn; a rank may get none.
        world_size: how many processes evaluate together.

    Raises:
        ConfigError: unknown name, missing or wrong files, transforms that do not fit.
    """
    data = data_spec(cfg)
    entry, size = data.test_set(name), cfg.TEST.IMS_PER_BATCH
    dataset = _dataset(data, "TEST", (entry,))
    if choose_backend(cfg, data, task) == "resident":
        samples = resident_samples(cfg, data, task, "TEST", dataset, (entry,))
        options = {"seed": cfg.SEED, "batch_size": size, "rank": rank, "world_size": world_size}
        return ResidentEvalLoader(dataset, samples, **options)
    groups = build_groups(cfg, dataset, "DATASETS.TEST")
    loader = _worker_loader(cfg, data, task, "TEST", dataset, (entry,))
    return EvalLoader(loader, batch_size=size, groups=groups, rank=rank, world_size=world_size)


def check_data(cfg: CfgNode, data: DataSpec, task: SampleTask, world_size: int = 1) -> None:
    """Raise ConfigError for everything that can be refused before training data is read.

    That is: unknown data sets and transforms, wrong arguments of transforms, whatever DATALOADER.BACKEND resident
    does not support, transforms that fail on the images or leave them at different sizes, INPUT.MEAN and INPUT.STD
    of a wrong length, a batch that does not fit into memory, and test sets that do not match the training set.
    Of data sets whose info is not registered (`npz:PATH`, `imagefolder:PATH`) the first, middle and last image and
    the headers of up to 10,000 files are read.

    Args:
        cfg: the config.
        data: its data sets.
        task: makes samples and batches of what the data sets return.
        world_size: how many processes will train together.
    """
    for key in ("TRAIN", "TEST"):
        check_transforms(data.image_transforms(key), cfg.label(f"INPUT.TRANSFORMS_{key}"))
    _check_decoder(cfg)
    _check_mean(cfg)
    _check_format(cfg, data)
    _check_classes(cfg, data, task)
    check_parts(data.training_sets, data.test_sets.values(), cfg.label("DATASETS.TEST"))
    check_sampler(cfg, data.train)
    _check_mixing(cfg, task)
    _check_sample(cfg, data, task)
    # A task that sets its own number of outputs decides by itself which class indices it accepts.
    classes = math.inf if task.num_outputs else num_outputs(cfg, data.train)
    trained_on = data.output_shape("TRAIN", data.train, task.normalise)
    _check_batch(cfg, trained_on, data.train.size, world_size)
    if not task.any_size and world_size < cfg.SOLVER.IMS_PER_BATCH:
        _require_one_size(cfg, data, "TRAIN", data.train, " + ".join(map(str, data.training_sets)))
    for name in data.test_sets:
        _check_test_set(cfg, data, task, name, classes, trained_on[0])
    if cfg.DATALOADER.BACKEND == "resident":
        label, problems = cfg.label("DATALOADER.BACKEND"), not_resident(cfg, data, task)
        if problems:
            raise ConfigError([f"{label}: resident is not possible: {each}; use worker" for each in problems])


def _check_test_set(
    cfg: CfgNode, data: DataSpec, task: SampleTask, name: str, classes: float, channels: int
) -> None:
    """Raise ConfigError if a test set does not match the training set.

    Args:
        cfg: the config.
        data: its data sets.
        task: its task.
        name: of the test set.
        classes: how many the model distinguishes.
        channels: of the training images after the transforms.
    """
    info, entry = data.tests[name], data.test_sets[name]
    label = cfg.label("DATASETS.TEST")
    try:
        require_testable(data.train, info, label, str(entry))
    except ConfigError as error:
        if cfg.is_set("DATASETS.TEST"):
            raise
        raise ConfigError(
            f"{error}; DATASETS.TEST is not set, so this is its default: name your test set, hold out a share of"
            " the training set (docs/DATA.md), or give [] for none"
        ) from None
    if info.num_classes > classes:
        raise ConfigError(f"{label}: {entry} has {info.num_classes} classes, the model only {classes}")
    if not task.any_size and cfg.TEST.IMS_PER_BATCH > 1:
        _require_one_size(cfg, data, "TEST", info, str(entry))
    tested_on = data.output_shape("TEST", info, task.normalise)
    if tested_on[0] != channels:
        raise ConfigError(
            f"{cfg.label('INPUT.TRANSFORMS_TEST')}: images of {entry} end with {tested_on[0]} channel(s),"
            f" the training set's with {channels}; give both the same Grayscale or RGB"
        )


def _require_one_size(cfg: CfgNode, data: DataSpec, key: str, info: DatasetInfo, name: str) -> None:
    """Raise ConfigError if images differ in size after the transforms, so that they cannot form a batch.

    Args:
        cfg: the config.
        data: its data sets.
        key: TRAIN or TEST: which data sets and transforms.
        info: of the data set.
        name: the data set's.
    """
    transforms, transform = f"TRANSFORMS_{key}", data.transform(key)
    label = cfg.label(f"INPUT.{transforms}")
    first: dict[bool, tuple[str, str]] = {}
    for size in info.known_sizes:
        shape = transform.output_shape(info.channels, size, label)
        before, after = ("x".join(map(str, each)) for each in (size, shape[1:]))
        # With grouping, landscape and square images never share a batch with portrait ones.
        group = cfg.DATALOADER.ASPECT_RATIO_GROUPING and size[1] >= size[0]
        other = first.setdefault(group, (before, after))
        if other[1] != after:
            raise ConfigError(
                f"{cfg.label(f'DATASETS.{key}')}: images of {name} differ in size even after INPUT.{transforms}:"
                f" {other[0]} becomes {other[1]}, {before} becomes {after}; end INPUT.{transforms} with"
                " {Resize: {size: [224, 224]}} or a crop"
            )


def _check_mixing(cfg: CfgNode, task: SampleTask) -> None:
    label = cfg.label("INPUT.TRANSFORMS_TRAIN")
    _, mixing = split_mixing(cfg.INPUT.TRANSFORMS_TRAIN, label)
    if mixing and not task.mixes:
        raise ConfigError(
            f"{label}: {mixing[0][0]} mixes class indices, which MODEL.TASK {cfg.MODEL.TASK} does not have as"
            " targets; leave it out"
        )


def _check_sample(cfg: CfgNode, data: DataSpec, task: SampleTask) -> None:
    """Raise ConfigError if a task makes an invalid sample, or transforms do not support its targets.

    The first sample is read if it has objects, or if user-defined code or spatial transforms are involved.
    """
    is_users_task = not type(task).__module__.startswith("warmstart.")
    for key, sets in (("TRAIN", data.training_sets), ("TEST", [*data.test_sets.values()])):
        transform = data.transform(key)
        spatial = [name for name, _ in transform.steps if name in NEED_TARGETS]
        for entry in sets[:1]:
            if not (spatial or data.info(key, entry).annotations or transform.is_users_own or is_users_task):
                continue
            dataset, label = data.build(key, entry), cfg.label(f"INPUT.TRANSFORMS_{key}")
            image, target = first_readable(partial(read_sample, dataset), 0, len(dataset), str(entry))[0]
            sample = make_sample(task, image, target, f"{entry}: sample 0")
            if spatial and not has_spatial_targets(sample):
                why = f"changes boxes or key points, and samples of MODEL.TASK {cfg.MODEL.TASK} have none"
                raise ConfigError(f"{label}: {spatial[0]} {why}; leave it out")
            transform.check_targets(sample, label, scored=key == "TEST")


def _check_batch(cfg: CfgNode, shape: tuple[int, int, int], size: int, world_size: int) -> None:
    """Raise ConfigError if a rank's share of a batch, of images of this shape, does not fit into memory."""
    images = cfg.SOLVER.IMS_PER_BATCH // world_size
    needed, free = images * (4 * math.prod(shape) + _PER_SAMPLE), free_memory()
    if needed > free:
        raise ConfigError(
            f"{cfg.label('SOLVER.IMS_PER_BATCH')}: {images:,} images of {'x'.join(map(str, shape))} need"
            f" {gigabytes(needed)} of memory, and {gigabytes(free)} are free; set it lower: the training"
            f" set has {size:,} images"
        )


def _check_mean(cfg: CfgNode) -> None:
    """Raise ConfigError if INPUT.MEAN is of pixel values from 0 to 255."""
    if cfg.INPUT.MEAN is not None and max(cfg.INPUT.MEAN, default=0) > 1:
        values = ",".join(f"{value / 255:.3g}" for value in cfg.INPUT.MEAN)
        raise ConfigError(
            f"{cfg.label('INPUT.MEAN')}: it is of images in [0, 1], not of pixel values up to 255; divide it, and"
            f" INPUT.STD, by 255: INPUT.MEAN {values}"
        )


def _check_decoder(cfg: CfgNode) -> None:
    if cfg.INPUT.DECODER != "nvjpeg":
        return
    label = cfg.label("INPUT.DECODER")
    if not device_of(cfg).startswith("cuda") or not torch.cuda.is_available():
        raise ConfigError(f"{label}: nvjpeg decodes on a CUDA device, and the run has none; use torchvision")
    if cfg.DATALOADER.NUM_WORKERS:
        raise ConfigError(f"{label}: nvjpeg decodes in the training process; set DATALOADER.NUM_WORKERS 0")


def _check_format(cfg: CfgNode, data: DataSpec) -> None:
    """Raise ConfigError if INPUT.FORMAT is L, but a data set does not read image files and returns colours."""
    for key, entry, info in data.each if cfg.INPUT.FORMAT == "L" else ():
        if info.channels != 1:
            raise ConfigError(
                f"{cfg.label('INPUT.FORMAT')}: L reads image files as grey, but {entry} of DATASETS.{key} returns"
                f" images of {info.channels} channels; use the transform Grayscale instead"
            )


def _check_classes(cfg: CfgNode, data: DataSpec, task: SampleTask) -> None:
    """Raise ConfigError if the images to classify are all of one class."""
    if data.train.num_classes == 1 and not task.num_outputs and all(map(is_files, data.training_sets)):
        names = " + ".join(map(str, data.training_sets))
        raise ConfigError(
            f"{cfg.label('DATASETS.TRAIN')}: {names} has one class only, {(*data.train.classes, '0')[0]}; a"
            " classifier needs images of two classes or more, each in a folder of its own or with its own label"
        )


def _dataset(data: DataSpec, key: str, names: Sequence[DatasetEntry]) -> MapDataset:
    sets: list[Any] = [data.build(key, name) for name in names]
    return cast(MapDataset, ConcatDataset(sets) if len(sets) > 1 else sets[0])


def _worker_loader(
    cfg: CfgNode, data: DataSpec, task: SampleTask, key: str, dataset: MapDataset, names: Sequence[DatasetEntry]
) -> WorkerLoader:
    transform, training = data.transform(key, task.normalise), key == "TRAIN"
    skip: Unreadable = "replace" if training else "leave out"
    samples = KeyedSamples(
        dataset,
        task,
        transform,
        seed=cfg.SEED,
        name=" + ".join(map(str, names)),
        seed_everything=transform.is_users_own or any(is_users_own(name) for name in names),
        on_cuda=cfg.INPUT.DECODER == "nvjpeg",
        unreadable="raise" if cfg.DATALOADER.UNREADABLE == "raise" else skip,
    )
    pin_memory = pins_memory(device_of(cfg)) and not samples.on_cuda
    return WorkerLoader(samples, num_workers=num_workers(cfg, data), pin_memory=pin_memory, training=training)
