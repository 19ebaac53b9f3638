"""The choice between the worker loader and the resident loader, and the resident images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.utils.data import ConcatDataset

from warmstart.config import CfgNode, ConfigError

from ..batch import SampleTask
from ..datasets.arrays import as_tensors
from ..datasets.cache_dir import cache_folder
from ..datasets.decode import Reading
from ..datasets.entries import DatasetEntry, is_files
from ..datasets.registry import MapDataset, build_dataset, is_in_memory
from ..memory import total_memory
from ..spec import DataSpec, device_of
from ..transforms.batched import NoBatchedForm, batched_form
from .build_workers import describe_workers
from .crop_store import Steps, resident_bytes, stages
from .folder_cache import FolderImages
from .resident import ResidentSamples


def choose_backend(cfg: CfgNode, data: DataSpec, task: SampleTask) -> str:
    """Return worker or resident: DATALOADER.BACKEND, or for auto the faster one that is possible.

    Auto means resident if nothing prevents it, all images take at most a quarter of the device's memory, and
    folders are converted already or can be.
    """
    if cfg.DATALOADER.BACKEND != "auto":
        return str(cfg.DATALOADER.BACKEND)
    return "worker" if not_resident(cfg, data, task) or _not_by_itself(cfg, data) else "resident"


def not_resident(cfg: CfgNode, data: DataSpec, task: SampleTask) -> list[str]:
    """Return the reasons why the data sets of a config cannot be resident; [] if they can."""
    if not task.resident:
        return [f"MODEL.TASK {cfg.MODEL.TASK} loads sample by sample"]
    names = [*data.training_sets, *data.test_sets.values()]
    other = dict.fromkeys(name.text for name in names if not is_in_memory(name) and not is_files(name))
    problems = [f"{text} is not a data set of one array" for text in other]
    for key in ("TRAIN", "TEST"):
        for name, step in data.transform(key).steps:
            try:
                batched_form(name, step)
            except NoBatchedForm as error:
                problems.append(str(error))
    if not problems:
        problems = list(dict.fromkeys(image.problem for image in _resident_images(cfg, data) if image.problem))
    if cfg.INPUT.DECODER == "nvjpeg" and any(map(is_files, names)):
        problems.append("INPUT.DECODER nvjpeg reads every file again for each batch")
    if not problems and cfg.DATALOADER.UNREADABLE == "skip" and any(map(is_files, data.training_sets)):
        problems.append("DATALOADER.UNREADABLE skip passes over files during training")
    return problems


def describe_loader(cfg: CfgNode, data: DataSpec, task: SampleTask) -> str:
    """Return which loader a config uses, with its memory or workers, and why it is not the faster one."""
    problems = not_resident(cfg, data, task)
    if choose_backend(cfg, data, task) == "resident":
        return f"resident, {_megabytes(cfg, data)}"
    problems = problems or _not_by_itself(cfg, data)
    why = f" (resident: {'; '.join(problems)})" if problems else ""
    return f"worker, {describe_workers(cfg, data)}{why}"


def _not_by_itself(cfg: CfgNode, data: DataSpec) -> list[str]:
    """Return the reasons why `auto` does not choose a resident loader although it is possible."""
    images = _resident_images(cfg, data)
    problems = []
    if sum(image.bytes for image in images) > total_memory(device_of(cfg)) // 4:
        problems.append(f"takes {_megabytes(cfg, data)}, more than a quarter of its memory")
    if not all(image.has_room for image in images):
        problems.append(f"DATASETS.CACHE, {cache_folder(cfg.DATASETS.CACHE)}, cannot be written or is full")
    return problems


def _megabytes(cfg: CfgNode, data: DataSpec) -> str:
    return f"{sum(image.bytes for image in _resident_images(cfg, data)) / 1e6:,.1f} MB on {device_of(cfg)}"


class _Images(NamedTuple):
    """Requirements of a data set's images for being resident."""

    bytes: int = 0
    problem: str = ""  # why they cannot be resident
    has_room: bool = True  # whether the cache has room for converted images


def _resident_images(cfg: CfgNode, data: DataSpec) -> list[_Images]:
    """Return the `_Images` of each data set."""
    found = []
    joined = [("TRAIN", data.training_sets), *(("TEST", [name]) for name in data.test_sets.values())]
    for key, names in joined:
        once, steps = _split_steps(names, data.transform(key).steps)
        for name in names:
            if is_files(name):
                place = cfg.DATASETS.ROOT, cfg.DATASETS.DOWNLOAD, cfg.label(f"DATASETS.{key}"), cfg.DATASETS.CACHE
                pipeline = _Pipeline(repr((once, steps)), once, steps)
                found.append(_look_at_folder(name, place, data.reading, pipeline))
            else:
                info = data.info(key, name)
                assert info.image_size is not None, "images of one array"
                found.append(_Images(resident_bytes(info.size, (info.channels, *info.image_size), steps)))
    return found


@dataclass(frozen=True)
class _Pipeline:
    """The transforms before images are cached and those after; `known` identifies a pipeline."""

    known: str
    once: Steps = field(compare=False)
    rest: Steps = field(compare=False)


# Cached: a folder of a million files is listed once per run.
@functools.cache
def _look_at_folder(
    name: DatasetEntry, place: tuple[str, bool, str, str], reading: Reading, pipeline: _Pipeline
) -> _Images:
    try:
        folder = FolderImages(build_dataset(name, *place, reading), pipeline.once, place[-1])
        return _Images(resident_bytes(len(folder), folder.shape, pipeline.rest), has_room=folder.has_room())
    except ValueError as error:
        return _Images(problem=str(error))


def _split_steps(names: Sequence[DatasetEntry], steps: Steps) -> tuple[Steps, Steps]:
    """Return the steps that are applied to the images of folders before they are cached, and the remaining steps.

    Folders joined with arrays are cached untransformed, because all steps remain to be applied to arrays.
    """
    count = len(stages(steps).once) if all(map(is_files, names)) else 0
    return steps[:count], steps[count:]


def resident_samples(
    cfg: CfgNode, data: DataSpec, task: SampleTask, key: str, dataset: MapDataset, names: Sequence[DatasetEntry]
) -> ResidentSamples:
    """Return the images of a data set on MODEL.DEVICE; folders that are not converted yet are converted.

    Args:
        cfg: the config.
        data: its data sets.
        task: checks the targets.
        key: TRAIN or TEST.
        dataset: the samples; several data sets are joined.
        names: the entries of the joined data sets.

    Raises:
        ConfigError: they cannot be resident, a target is wrong, or memory or DATASETS.CACHE has no room.
    """
    transform = data.transform(key, task.normalise)
    once, steps = _split_steps(names, transform.steps)
    label = cfg.label("DATALOADER.BACKEND")
    sets = dataset.datasets if isinstance(dataset, ConcatDataset) else [dataset]
    try:
        parts = [
            FolderImages(part, once, cfg.DATASETS.CACHE).load() if is_files(name) else as_tensors(part)
            for name, part in zip(names, sets, strict=True)
        ]
    except ValueError as error:
        raise ConfigError(f"{label}: resident is not possible: {error}; use worker") from error
    except OSError as error:
        cache = cfg.label("DATASETS.CACHE")
        raise ConfigError(
            f"{cache}: {error.filename} cannot be written: {error.strerror}; name a folder with room for it"
        ) from error
    targets = task.resident_targets(torch.cat([each for _, each in parts]), " + ".join(map(str, names)))
    images = [each for each, _ in parts]
    try:
        return ResidentSamples(
            *(images, targets, steps, transform.mean, transform.std, device_of(cfg)),
            memory_format=torch.channels_last if cfg.MODEL.CHANNELS_LAST else torch.contiguous_format,
        )
    except (MemoryError, ValueError) as error:
        raise ConfigError(f"{label}: {error}; use worker") from None
