"""What is known of the training images without reading them, for the log of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Subset

from warmstart.config import CfgNode

from ..datasets.targets import read_targets
from ..spec import DataSpec
from .advice import is_balanced, some_of

_VERY_UNEVEN = 10.0  # ratio of class sizes from which the log warns


def describe_training_set(cfg: CfgNode, data: DataSpec, dataset: Any) -> tuple[str, list[str]]:
    """Return a line about the balance of the classes and the sizes of the images, and warnings.

    Reads DATASETS.TRAIN, DATALOADER.SAMPLER_TRAIN and MODEL.TASK_ARGS. No image is read.

    Args:
        cfg: the config.
        data: its data sets.
        dataset: the training set, several sets joined.

    Returns:
        The line, "" if nothing is known; and one sentence for each warning: classes without images, and a largest
        class with ten times the images of the smallest, if the config does nothing about it.

    >>> from warmstart.config import get_cfg
    >>> from warmstart.data import build_dataset, data_spec
    >>> cfg = get_cfg()
    >>> describe_training_set(cfg, data_spec(cfg), build_dataset("digits_train", "nowhere"))
    ('classes of 137 (4) to 153 (5) images', [])
    """
    counts, train, label = _counts(dataset, data.train.num_classes), data.train, cfg.label("DATASETS.TRAIN")
    names = [*train.classes, *map(str, range(len(train.classes), len(counts)))]
    parts, warnings = [], []
    if counts:
        least, most = (choose(range(len(counts)), key=counts.__getitem__) for choose in (min, max))
        uneven = f"classes of {counts[least]:,} ({names[least]}) to {counts[most]:,} ({names[most]}) images"
        parts.append(uneven if counts[least] < counts[most] else f"{counts[most]:,} images of each class")
        empty = [name for name, count in zip(names, counts, strict=True) if not count]
        ratio = counts[most] / min(count for count in counts if count)
        if empty:
            have = "class has" if len(empty) == 1 else "classes have"
            warnings.append(f"{label}: {len(empty)} {have} no images and cannot be learned: {some_of(empty)}")
        if ratio >= _VERY_UNEVEN and not is_balanced(cfg.DATALOADER.SAMPLER_TRAIN, cfg.MODEL.TASK_ARGS):
            warnings.append(
                f"{label}: the largest class has {ratio:.3g} times the images of the smallest;"
                " DATALOADER.SAMPLER_TRAIN WeightedTrainingSampler draws all equally often"
            )
    if len(train.known_sizes) > 1:
        ordered = sorted(train.known_sizes, key=lambda size: size[0] * size[1])
        first, last = ("x".join(map(str, size)) for size in (ordered[0], ordered[-1]))
        parts.append(f"sizes {first} to {last} before the transforms")
    return "; ".join(parts), warnings


def _counts(dataset: Any, num_classes: int) -> Sequence[int]:
    """Return the number of samples of each class; () if labels are not known without reading samples."""
    try:
        labels = None if _changes_targets(dataset) or not num_classes else read_targets(dataset)
    except ValueError:  # the loader names the sample
        return ()
    if labels is None or labels.ndim != 1 or labels.dtype.kind != "i" or not len(labels) or labels.min() < 0:
        return ()
    counts: list[int] = np.bincount(labels, minlength=num_classes).tolist()
    return counts


def _changes_targets(dataset: Any) -> bool:
    """Return whether a user-defined function changes the targets that the data set lists."""
    if isinstance(dataset, ConcatDataset):
        return any(map(_changes_targets, dataset.datasets))
    if isinstance(dataset, Subset):
        return _changes_targets(dataset.dataset)
    return getattr(dataset, "target_transform", None) is not None
