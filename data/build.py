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
from .cached import FolderImages
from .datasets import (
    DatasetInfo,
    MapDataset,
    build_dataset,
    checked_label,
    dataset_info,
    is_in_memory,
    is_users_own,
)
from .loader import EvalLoader, TrainLoader, WorkerLoader, WorkerTrainLoader
from .mixing import MixedTrainLoader, build_mixing, split_mixing
from .resident import ResidentEvalLoader, ResidentSamples, ResidentTrainLoader
from .samples import KeyedSamples, Unreadable
from .store import Steps, resident_bytes, stages, total_memory
from .transforms import Entry, ImageTransform, build_transform, check_transforms

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
    names, batch_size = cfg.DATASETS.TRAIN, cfg.SOLVER.IMS_PER_BATCH
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
    if choose_backend(cfg) == "resident":
        loader = ResidentTrainLoader(dataset, _resident(cfg, "TRANSFORMS_TRAIN", dataset, names), **options)
    else:
        loader = WorkerTrainLoader(_worker_loader(cfg, "TRANSFORMS_TRAIN", dataset, names), **options)
    if not mixing:
        return loader
    return MixedTrainLoader(loader, build_mixing(mixing, _num_classes(cfg, train_info(cfg))), lent=len(lent))


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
    dataset, size = _dataset(cfg, "DATASETS.TEST", (name,)), cfg.TEST.IMS_PER_BATCH
    if choose_backend(cfg) == "resident":
        samples = _resident(cfg, "TRANSFORMS_TEST", dataset, (name,))
        return ResidentEvalLoader(samples, seed=cfg.SEED, batch_size=size)
    groups = build_groups(cfg, dataset, "DATASETS.TEST")
    return EvalLoader(_worker_loader(cfg, "TRANSFORMS_TEST", dataset, (name,)), batch_size=size, groups=groups)


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
    for name in ("TRANSFORMS_TRAIN", "TRANSFORMS_TEST"):
        check_transforms(_entries(cfg, name), cfg.label(f"INPUT.{name}"))
    train = train_info(cfg)
    check_sampler(cfg, train)
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
    if cfg.DATALOADER.BACKEND == "resident":
        label = cfg.label("DATALOADER.BACKEND")
        problems = [f"{label}: resident is not possible: {problem}; use worker" for problem in not_resident(cfg)]
        if problems:
            raise ConfigError(problems)


def choose_backend(cfg: CfgNode) -> str:
    """Return worker or resident: DATALOADER.BACKEND, where that is auto the faster of those that can do it.

    Resident, where each data set is one array, each transform has a form for batches, and all images take at most
    a quarter of the device's memory.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> choose_backend(cfg)
    'resident'
    >>> cfg.merge_from_list(["INPUT.TRANSFORMS_TRAIN", "[RandAugment]"])
    >>> choose_backend(cfg), not_resident(cfg)
    ('worker', ['RandAugment works image by image only'])
    """
    if cfg.DATALOADER.BACKEND != "auto":
        return str(cfg.DATALOADER.BACKEND)
    return "worker" if not_resident(cfg) or _too_large(cfg) else "resident"


def not_resident(cfg: CfgNode) -> list[str]:
    """Return what keeps the data sets of a config from being resident: [] where nothing does.

    A folder is only looked through, and later converted, where DATALOADER.BACKEND asks for it.
    """
    problems = []
    for name in dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        if _is_folder(name) and cfg.DATALOADER.BACKEND != "resident":
            problems.append(f"{name} is converted only where DATALOADER.BACKEND is resident")
        elif not _is_folder(name) and not is_in_memory(name):
            problems.append(f"{name} is not a data set of one array")
    for key in ("TRANSFORMS_TRAIN", "TRANSFORMS_TEST"):
        for name, step in _transform(cfg, key, train_info(cfg)).steps:
            try:
                batched_form(name, step)
            except NoBatchedForm as error:
                problems.append(str(error))
    if not problems:
        try:
            _resident_bytes(cfg)
        except ValueError as error:
            problems.append(str(error))
    return problems


def describe_loader(cfg: CfgNode) -> str:
    """Return which loader a config gets, and what it takes or why it is not the faster one.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["MODEL.DEVICE", "cpu"])
    >>> describe_loader(cfg)
    'resident: 0.1 MB on cpu'
    """
    problems = not_resident(cfg)
    if not problems:
        megabytes = f"{_resident_bytes(cfg) / 1e6:,.1f} MB on {_device(cfg)}"
        if choose_backend(cfg) == "resident":
            return f"resident: {megabytes}"
        problems.append(f"takes {megabytes}")
    return f"worker, {cfg.DATALOADER.NUM_WORKERS} processes (resident: {'; '.join(problems)})"


def _too_large(cfg: CfgNode) -> bool:
    return _resident_bytes(cfg) > total_memory(_device(cfg)) // 4


def _resident_bytes(cfg: CfgNode) -> int:
    """Return what the resident images of all data sets take."""
    train, size = train_info(cfg), 0
    joined = [("TRAIN", cfg.DATASETS.TRAIN), *(("TEST", (name,)) for name in cfg.DATASETS.TEST)]
    for key, names in joined:
        once, steps = _split_steps(names, _transform(cfg, f"TRANSFORMS_{key}", train).steps)
        for name in names:
            place = cfg.DATASETS.ROOT, cfg.DATASETS.DOWNLOAD, cfg.label(f"DATASETS.{key}")
            if _is_folder(name):
                folder = FolderImages(build_dataset(name, *place), once, cfg.DATASETS.CACHE)
                size += resident_bytes(len(folder), folder.shape, steps)
            else:
                info = dataset_info(name, *place)
                assert info.image_size is not None, "images of one array"
                size += resident_bytes(info.size, (info.channels, *info.image_size), steps)
    return size


def _is_folder(name: str) -> bool:
    return name.startswith("imagefolder:")


def _split_steps(names: Sequence[str], steps: Steps) -> tuple[Steps, Steps]:
    """Return what is done to the images of folders before they are cached, and what is left to do.

    Folders joined with arrays are cached as they are: an array has no such step done.
    """
    count = len(stages(steps).once) if all(map(_is_folder, names)) else 0
    return steps[:count], steps[count:]


def _device(cfg: CfgNode) -> str:
    wants_cuda = cfg.MODEL.DEVICE == "auto" and torch.cuda.is_available()
    return "cuda" if wants_cuda else str(cfg.MODEL.DEVICE).replace("auto", "cpu")


def _dataset(cfg: CfgNode, key: str, names: Sequence[str]) -> MapDataset:
    parts = [build_dataset(name, cfg.DATASETS.ROOT, cfg.DATASETS.DOWNLOAD, cfg.label(key)) for name in names]
    return ConcatDataset(parts) if len(parts) > 1 else parts[0]  # type: ignore[arg-type]


def _worker_loader(cfg: CfgNode, transforms: str, dataset: MapDataset, names: Sequence[str]) -> WorkerLoader:
    train = train_info(cfg)
    transform = _transform(cfg, transforms, train)
    skip: Unreadable = "replace" if transforms == "TRANSFORMS_TRAIN" else "leave out"
    samples = KeyedSamples(
        dataset,
        transform,
        seed=cfg.SEED,
        num_classes=_num_classes(cfg, train),
        name=" + ".join(names),
        seed_everything=transform.is_users_own or any(is_users_own(name) for name in names),
        unreadable="raise" if cfg.DATALOADER.UNREADABLE == "raise" else skip,
    )
    pin_memory = _device(cfg).startswith("cuda") and torch.cuda.is_available()
    return WorkerLoader(samples, num_workers=cfg.DATALOADER.NUM_WORKERS, pin_memory=pin_memory)


def _resident(cfg: CfgNode, transforms: str, dataset: MapDataset, names: Sequence[str]) -> ResidentSamples:
    train = train_info(cfg)
    transform = _transform(cfg, transforms, train)
    once, steps = _split_steps(names, transform.steps)
    label = cfg.label("DATALOADER.BACKEND")
    sets = dataset.datasets if isinstance(dataset, ConcatDataset) else [dataset]
    try:
        parts = [
            FolderImages(part, once, cfg.DATASETS.CACHE).load() if _is_folder(name) else as_tensors(part)
            for name, part in zip(names, sets, strict=True)
        ]
    except ValueError as error:
        raise ConfigError(f"{label}: resident is not possible: {error}; use worker") from error
    except OSError as error:
        cache = cfg.label("DATASETS.CACHE")
        raise ConfigError(
            f"{cache}: {error.filename} cannot be written: {error.strerror}; name a folder with room for it"
        ) from error
    labels = torch.cat([each for _, each in parts])
    classes = _num_classes(cfg, train)
    for index in (labels >= classes).nonzero()[:1].flatten().tolist():
        checked_label(int(labels[index]), classes, f"{' + '.join(names)}: sample {index}")
    images = [each for each, _ in parts]
    try:
        return ResidentSamples(images, labels, steps, transform.mean, transform.std, _device(cfg))
    except (MemoryError, ValueError) as error:
        raise ConfigError(f"{label}: {error}; use worker") from None


def _transform(cfg: CfgNode, name: str, train: DatasetInfo) -> ImageTransform:
    mean = train.mean or (0.0,) if cfg.INPUT.MEAN is None else cfg.INPUT.MEAN
    std = train.std or (1.0,) if cfg.INPUT.STD is None else cfg.INPUT.STD
    return build_transform(_entries(cfg, name), mean, std, cfg.label(f"INPUT.{name}"))


def _entries(cfg: CfgNode, name: str) -> list[Entry]:
    """Return the transforms of images among INPUT.TRANSFORMS_TRAIN or INPUT.TRANSFORMS_TEST."""
    entries = cfg.INPUT[name]
    return split_mixing(entries, cfg.label(f"INPUT.{name}"))[0] if name == "TRANSFORMS_TRAIN" else list(entries)


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
