"""The order of training samples, built from DATALOADER's keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from warmstart.config import CfgNode, ConfigError, gathering

from ..datasets.info import DatasetInfo
from ..datasets.object_labels import object_labels_of
from ..datasets.registry import MapDataset
from .stream import GroupedStream, Groups, SampleOrder, SampleStream
from .weights import (
    aspect_groups,
    check_weights,
    class_repeats,
    labels_of,
    object_repeat_factors,
    read_weights,
    repeat_factors,
)

_REPEAT, _WEIGHTED = "RepeatFactorTrainingSampler", "WeightedTrainingSampler"
# Keys that only one sampler reads, and their values if they are not set.
_OWNED = {
    "REPEAT_THRESHOLD": (_REPEAT, 0.0),
    "REPEAT_SQRT": (_REPEAT, True),
    "CLASS_WEIGHTS": (_WEIGHTED, ()),
    "SAMPLE_WEIGHTS": (_WEIGHTED, ""),
}
_NO_OBJECTS = "no image of the training set has an object, so that none remains; check DATASETS.TRAIN"


def check_sampler(cfg: CfgNode, train: DatasetInfo) -> None:
    """Raise ConfigError, with all mistakes at once, if DATALOADER's keys contradict each other or the data set.

    Reads the file of weights, but nothing from the data set: its size and classes are in `train`.
    """
    node = cfg.DATALOADER
    problems = [
        f"{cfg.label(f'DATALOADER.{key}')}: only {owner} reads it, and DATALOADER.SAMPLER_TRAIN is"
        f" {node.SAMPLER_TRAIN}; change the sampler, or remove this key"
        for key, (owner, unset) in _OWNED.items()
        if node[key] != unset and owner != node.SAMPLER_TRAIN
    ]
    if node.SAMPLER_TRAIN == _REPEAT and not node.REPEAT_THRESHOLD:
        problems.append(
            f"{cfg.label('DATALOADER.SAMPLER_TRAIN')}: {_REPEAT} needs DATALOADER.REPEAT_THRESHOLD, the share of"
            " all images below which a class is repeated, such as 0.05"
        )
    if node.CLASS_WEIGHTS and node.SAMPLE_WEIGHTS:
        problems.append(f"{cfg.label('DATALOADER.SAMPLE_WEIGHTS')}: CLASS_WEIGHTS is set too; give one of them")
    counts_classes = node.SAMPLER_TRAIN == _REPEAT or (node.SAMPLER_TRAIN == _WEIGHTED and not node.SAMPLE_WEIGHTS)
    if counts_classes and not train.num_classes:
        has = "numbers as targets" if train.num_values else "no known number of classes"
        problems.append(
            f"{cfg.label('DATALOADER.SAMPLER_TRAIN')}: {node.SAMPLER_TRAIN} needs the class of each sample, but"
            f" the training set has {has}; use TrainingSampler, or {_WEIGHTED} with DATALOADER.SAMPLE_WEIGHTS"
        )
    elif train.annotations and node.SAMPLER_TRAIN == _WEIGHTED and not node.SAMPLE_WEIGHTS:
        problems.append(
            f"{cfg.label('DATALOADER.SAMPLER_TRAIN')}: {_WEIGHTED} needs one class for each image, and these have"
            f" several objects; use {_REPEAT}, or give DATALOADER.SAMPLE_WEIGHTS"
        )
    elif node.CLASS_WEIGHTS:
        with gathering(problems):
            _class_weights(cfg, train)
    problems += _problems_of_filter(cfg, train)
    with gathering(problems):
        _sample_weights(cfg, train)
    if problems:
        raise ConfigError(problems)


def build_order(cfg: CfgNode, dataset: MapDataset, train: DatasetInfo) -> SampleOrder:
    """Return the order of training samples that DATALOADER.SAMPLER_TRAIN and ASPECT_RATIO_GROUPING ask for.

    Raises:
        ConfigError: `check_sampler` raises it, or the data set lacks the labels or sizes that are needed.
    """
    check_sampler(cfg, train)
    repeats = _repeats(cfg, dataset, train)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        repeats = _without_empty(cfg, dataset, repeats)
    groups = build_groups(cfg, dataset, "DATASETS.TRAIN")
    if groups and all(repeats is None or repeats[group].any() for group in groups):
        return GroupedStream(cfg.SEED, cfg.SOLVER.IMS_PER_BATCH, groups, repeats)
    return SampleStream(cfg.SEED, len(dataset), repeats)


def build_groups(cfg: CfgNode, dataset: MapDataset, key: str) -> Groups | None:
    """Return the two groups of samples if ASPECT_RATIO_GROUPING is on and there are images of both shapes.

    Raises:
        ConfigError: the sizes of the images of the data set, which `key` names, are not known.
    """
    if not cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        return None
    with _told(f"{cfg.label(key)}: DATALOADER.ASPECT_RATIO_GROUPING"):
        return aspect_groups(dataset)


def _repeats(cfg: CfgNode, dataset: MapDataset, train: DatasetInfo) -> npt.NDArray[np.float64] | None:
    """Return how often each sample occurs in a pass, on average; None: once."""
    node = cfg.DATALOADER
    if node.SAMPLER_TRAIN == "TrainingSampler":
        return None
    sample_weights = _sample_weights(cfg, train)
    if sample_weights is not None:
        return sample_weights * (len(dataset) / float(sample_weights.sum()))
    with _told(f"{cfg.label('DATASETS.TRAIN')}: {node.SAMPLER_TRAIN}"):
        if train.annotations:
            objects = object_labels_of(dataset)
            return object_repeat_factors(objects, len(dataset), node.REPEAT_THRESHOLD, node.REPEAT_SQRT)
        labels = labels_of(dataset, train.num_classes)
    if node.SAMPLER_TRAIN == _REPEAT:
        return repeat_factors(labels, node.REPEAT_THRESHOLD, node.REPEAT_SQRT)
    weights = _class_weights(cfg, train)
    missing = np.flatnonzero((weights > 0) & (np.bincount(labels, minlength=len(weights)) == 0))
    if node.CLASS_WEIGHTS and len(missing):
        label = cfg.label("DATALOADER.CLASS_WEIGHTS")
        raise ConfigError(f"{label}: class {missing[0]} has a weight, but no sample; give it 0")
    return class_repeats(labels, weights)


def _problems_of_filter(cfg: CfgNode, train: DatasetInfo) -> list[str]:
    label = cfg.label("DATALOADER.FILTER_EMPTY_ANNOTATIONS")
    if not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        return []
    if not train.annotations:
        return [f"{label}: it is for training sets with objects in the images; remove it"]
    return [f"{label}: {_NO_OBJECTS}"] if train.object_counts and not any(train.object_counts) else []


def _without_empty(
    cfg: CfgNode, dataset: MapDataset, repeats: npt.NDArray[np.float64] | None
) -> npt.NDArray[np.float64]:
    """Return the factors of images with objects, and 0 for the others."""
    label = cfg.label("DATALOADER.FILTER_EMPTY_ANNOTATIONS")
    with _told(label):
        images = object_labels_of(dataset).images
    kept = np.zeros(len(dataset))
    kept[images] = 1.0 if repeats is None else repeats[images]
    if not kept.any():
        raise ConfigError(f"{label}: {_NO_OBJECTS}")
    return kept


def _class_weights(cfg: CfgNode, train: DatasetInfo) -> npt.NDArray[np.float64]:
    """Return one weight per class; none if the training set has no classes, which `check_sampler` reports."""
    if not train.num_classes:
        return np.ones(0)
    weights = cfg.DATALOADER.CLASS_WEIGHTS or (1.0,) * train.num_classes
    with _refused(cfg.label("DATALOADER.CLASS_WEIGHTS")):
        return check_weights(weights, train.num_classes, "class")


def _sample_weights(cfg: CfgNode, train: DatasetInfo) -> npt.NDArray[np.float64] | None:
    """Return one weight per sample; None if DATALOADER.SAMPLE_WEIGHTS is not set."""
    path = cfg.DATALOADER.SAMPLE_WEIGHTS
    if not path:
        return None
    with _refused(f"{cfg.label('DATALOADER.SAMPLE_WEIGHTS')}: {path}"):
        return check_weights(read_weights(Path(path).expanduser()), train.size, "sample")


@contextmanager
def _refused(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ConfigError(f"{what}: no such file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{what}: {error}") from None


@contextmanager
def _told(who: str) -> Iterator[None]:
    """Raise ConfigError if a data set lacks what `who` needs to know without decoding images."""
    try:
        yield
    except LookupError as error:
        raise ConfigError(f"{who} needs information that the data set lacks; give it {error.args[0]}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{who}: {error}") from None
