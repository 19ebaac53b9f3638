"""Builds data sets, transforms and loaders from a config."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import ConcatDataset

from warmstart.config import CfgNode, ConfigError

from .batch import SampleTask
from .datasets.decode import read_image
from .datasets.entries import DatasetEntry, EntryLike
from .datasets.registry import MapDataset, build_dataset, dataset_info, is_users_own
from .datasets.unreadable import first_readable, read_sample
from .datasets.webdataset import ShardedImages
from .loaders.base import TrainLoader
from .loaders.build_backend import choose_backend, not_resident, resident_samples
from .loaders.build_workers import num_workers
from .loaders.keyed_dataset import KeyedSamples, Unreadable, make_sample
from .loaders.mixed import MixedTrainLoader
from .loaders.resident import ResidentEvalLoader, ResidentTrainLoader
from .loaders.worker import EvalLoader, WorkerLoader, WorkerTrainLoader
from .memory import free_memory, gigabytes
from .sampling.build import build_groups, build_order, check_sampler
from .spec import (
    device_of,
    image_entries,
    image_transform,
    named_test_set,
    named_test_sets,
    num_outputs,
    output_shape,
    require_like,
    require_one_size,
    train_info,
    training_sets,
)
from .transforms.image import NEED_TARGETS, check_transforms, has_spatial_targets
from .transforms.mixup import build_mixing, split_mixing

_PER_SAMPLE = 200  # bytes that a sample of a batch takes beside its pixels: its place, its label


def build_train_loader(cfg: CfgNode, task: SampleTask, rank: int = 0, world_size: int = 1) -> TrainLoader:
    """Return the endless stream over DATASETS.TRAIN, several sets joined end to end.

    Reads DATASETS, INPUT, DATALOADER, SEED, SOLVER.IMS_PER_BATCH, MODEL.DEVICE, MODEL.NUM_CLASSES.

    Args:
        cfg: the config.
        task: makes samples and batches of what the data sets return.
        rank: which of `world_size` processes this one is. It is given its part of each batch, images and random
            numbers as they stand in the whole one: those of all ranks, joined, are the batch of one process.
        world_size: how many processes train together.

    Raises:
        ConfigError: unknown names, missing or wrong files, transforms that do not fit, a batch that cannot be
            shared out evenly.
    """
    names, batch_size = training_sets(cfg), cfg.SOLVER.IMS_PER_BATCH
    if batch_size % world_size:
        raise ConfigError(
            f"{cfg.label('SOLVER.IMS_PER_BATCH')}: {batch_size} images cannot be shared evenly by {world_size}"
            f" processes; give a multiple of {world_size}"
        )
    part = batch_size // world_size
    slots = list(range(rank * part, (rank + 1) * part))
    _, mixing = split_mixing(cfg.INPUT.TRANSFORMS_TRAIN, cfg.label("INPUT.TRANSFORMS_TRAIN"))
    # Each image is mixed with the one before it, which for a part's first one another process has.
    lent = [(slots[0] - 1) % batch_size] if mixing and world_size > 1 else []
    dataset = _dataset(cfg, "DATASETS.TRAIN", names)
    options = {"seed": cfg.SEED, "batch_size": batch_size, "slots": [*lent, *slots]}
    options["stream"] = build_order(cfg, dataset, train_info(cfg))
    loader: TrainLoader
    if choose_backend(cfg, task) == "resident":
        samples = resident_samples(cfg, task, "TRANSFORMS_TRAIN", dataset, names)
        loader = ResidentTrainLoader(dataset, samples, **options)
    else:
        loader = WorkerTrainLoader(_worker_loader(cfg, task, "TRANSFORMS_TRAIN", dataset, names), **options)
    if not mixing:
        return loader
    return MixedTrainLoader(loader, build_mixing(mixing, num_outputs(cfg, train_info(cfg))), lent=len(lent))


def build_test_loader(
    cfg: CfgNode, task: SampleTask, name: EntryLike, rank: int = 0, world_size: int = 1
) -> EvalLoader | ResidentEvalLoader:
    """Return the loader that gives every sample of the data set `name` once, in order.

    With DATALOADER.ASPECT_RATIO_GROUPING all images at least as wide as high come first.

    Reads DATASETS, INPUT, DATALOADER, SEED, TEST.IMS_PER_BATCH, MODEL.DEVICE, MODEL.NUM_CLASSES.

    Args:
        cfg: the config.
        task: makes samples and batches of what the data set returns.
        name: of the data set, as in its scores; or an entry as DATASETS.TEST takes it.
        rank: which of `world_size` processes this one is: they take the batches in turn, whole ones, which are
            those of one process. Some may have none.
        world_size: how many processes evaluate together.

    Raises:
        ConfigError: unknown name, missing or wrong files, transforms that do not fit.
    """
    name = named_test_set(cfg, name)
    dataset, size = _dataset(cfg, "DATASETS.TEST", (name,)), cfg.TEST.IMS_PER_BATCH
    if choose_backend(cfg, task) == "resident":
        samples = resident_samples(cfg, task, "TRANSFORMS_TEST", dataset, (name,))
        return ResidentEvalLoader(samples, seed=cfg.SEED, batch_size=size, rank=rank, world_size=world_size)
    groups = build_groups(cfg, dataset, "DATASETS.TEST")
    loader = _worker_loader(cfg, task, "TRANSFORMS_TEST", dataset, (name,))
    return EvalLoader(loader, batch_size=size, groups=groups, rank=rank, world_size=world_size)


def check_data(cfg: CfgNode, task: SampleTask, world_size: int = 1) -> None:
    """Raise ConfigError for all that can be refused before training data is read.

    Names of data sets and transforms, transforms' arguments, what DATALOADER.BACKEND resident cannot do,
    transforms that fail on images of such a size or leave a batch with images of several, INPUT.MEAN and INPUT.STD
    of a wrong length, a batch that memory has no room for, test sets that the training set does not prepare for.
    Data sets whose info is not registered (`npz:PATH`, `imagefolder:PATH`) are looked at: their first, middle and
    last image, and the heads of 1,000 files.

    Args:
        cfg: the config.
        task: makes samples and batches of what the data sets return.
        world_size: how many processes will train together.
    """
    for name in ("TRANSFORMS_TRAIN", "TRANSFORMS_TEST"):
        check_transforms(image_entries(cfg, name), cfg.label(f"INPUT.{name}"))
    _check_decoder(cfg)
    train = train_info(cfg)
    check_sampler(cfg, train)
    _check_mixing(cfg, task)
    _check_sample(cfg, task)
    # What a task with a number of outputs of its own takes of the class indices is its affair.
    classes = math.inf if task.num_outputs else num_outputs(cfg, train)
    trained_on = output_shape(cfg, "TRANSFORMS_TRAIN", train, train, task.normalise)
    _check_batch(cfg, trained_on, train.size, world_size)
    if world_size < cfg.SOLVER.IMS_PER_BATCH:
        names = " + ".join(map(str, training_sets(cfg)))
        require_one_size(cfg, "DATASETS.TRAIN", "TRANSFORMS_TRAIN", train, train, names)
    label = cfg.label("DATASETS.TEST")
    for test in named_test_sets(cfg).values():
        name = str(test)
        info = dataset_info(test, cfg.DATASETS.ROOT, cfg.DATASETS.DOWNLOAD, label, cfg.DATASETS.CACHE)
        require_like(train, info, label, "the training set", name)
        if info.num_classes > classes:
            raise ConfigError(f"{label}: {name} has {info.num_classes} classes, the model only {classes}")
        if cfg.TEST.IMS_PER_BATCH > 1:
            require_one_size(cfg, "DATASETS.TEST", "TRANSFORMS_TEST", train, info, name)
        tested_on = output_shape(cfg, "TRANSFORMS_TEST", train, info, task.normalise)
        if tested_on[0] != trained_on[0]:
            raise ConfigError(
                f"{cfg.label('INPUT.TRANSFORMS_TEST')}: images of {name} end with {tested_on[0]} channel(s),"
                f" the training set's with {trained_on[0]}"
            )
    if cfg.DATALOADER.BACKEND == "resident":
        label = cfg.label("DATALOADER.BACKEND")
        problems = [
            f"{label}: resident is not possible: {problem}; use worker" for problem in not_resident(cfg, task)
        ]
        if problems:
            raise ConfigError(problems)


def _check_mixing(cfg: CfgNode, task: SampleTask) -> None:
    label = cfg.label("INPUT.TRANSFORMS_TRAIN")
    _, mixing = split_mixing(cfg.INPUT.TRANSFORMS_TRAIN, label)
    if mixing and not task.mixes:
        raise ConfigError(
            f"{label}: {mixing[0][0]} mixes class indices, which MODEL.TASK {cfg.MODEL.TASK} does not have as"
            " targets; leave it out"
        )


def _check_sample(cfg: CfgNode, task: SampleTask) -> None:
    """Raise ConfigError if a sample of a user's task is none, or transforms do not go together with its targets.

    The first sample is read for it where other code than this package's makes samples or transforms them.
    """
    is_users_task = not type(task).__module__.startswith("warmstart.")
    for key, sets in (("TRAIN", training_sets(cfg)), ("TEST", [*named_test_sets(cfg).values()])):
        transforms = f"TRANSFORMS_{key}"
        transform = image_transform(cfg, transforms, train_info(cfg))
        spatial = [name for name, _ in transform.steps if name in NEED_TARGETS]
        for entry in sets[:1] if spatial or transform.is_users_own or is_users_task else ():
            dataset, label = _dataset(cfg, f"DATASETS.{key}", (entry,)), cfg.label(f"INPUT.{transforms}")
            image, target = first_readable(partial(read_sample, dataset), 0, len(dataset), str(entry))[0]
            sample = make_sample(task, image, target, f"{entry}: sample 0")
            if spatial and not has_spatial_targets(sample):
                raise ConfigError(
                    f"{label}: {spatial[0]} changes boxes or key points, and samples of MODEL.TASK"
                    f" {cfg.MODEL.TASK} have none; leave it out"
                )
            transform.check_targets(sample, label)


def _check_batch(cfg: CfgNode, shape: tuple[int, int, int], size: int, world_size: int) -> None:
    """Raise ConfigError where a process has no memory for its part of a batch, whose images have this shape."""
    images = cfg.SOLVER.IMS_PER_BATCH // world_size
    needed, free = images * (4 * math.prod(shape) + _PER_SAMPLE), free_memory()
    if needed > free:
        raise ConfigError(
            f"{cfg.label('SOLVER.IMS_PER_BATCH')}: {images:,} images of {'x'.join(map(str, shape))} need"
            f" {gigabytes(needed)} of memory, and {gigabytes(free)} are free; set it lower: the training"
            f" set has {size:,} images"
        )


def _check_decoder(cfg: CfgNode) -> None:
    if cfg.INPUT.DECODER != "nvjpeg":
        return
    label = cfg.label("INPUT.DECODER")
    if not device_of(cfg).startswith("cuda") or not torch.cuda.is_available():
        raise ConfigError(f"{label}: nvjpeg decodes on a CUDA device, and the run has none; use torchvision")
    if cfg.DATALOADER.NUM_WORKERS:
        raise ConfigError(f"{label}: nvjpeg decodes in the training process; set DATALOADER.NUM_WORKERS 0")


def _dataset(cfg: CfgNode, key: str, names: Sequence[DatasetEntry]) -> MapDataset:
    place = cfg.DATASETS.ROOT, cfg.DATASETS.DOWNLOAD, cfg.label(key), cfg.DATASETS.CACHE
    parts: list[Any] = [build_dataset(name, *place) for name in names]
    for part in parts:
        if isinstance(part, ShardedImages):
            part.decoder = cfg.INPUT.DECODER
        if getattr(part, "loader", None) is read_image:  # a user's own ImageFolder keeps its own
            part.loader = partial(read_image, decoder=cfg.INPUT.DECODER)
    dataset: MapDataset = ConcatDataset(parts) if len(parts) > 1 else parts[0]
    return dataset


def _worker_loader(
    cfg: CfgNode, task: SampleTask, transforms: str, dataset: MapDataset, names: Sequence[DatasetEntry]
) -> WorkerLoader:
    transform = image_transform(cfg, transforms, train_info(cfg), task.normalise)
    training = transforms == "TRANSFORMS_TRAIN"
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
    pin_memory = device_of(cfg).startswith("cuda") and torch.cuda.is_available() and not samples.on_cuda
    return WorkerLoader(samples, num_workers=num_workers(cfg), pin_memory=pin_memory, training=training)
