"""What the reports of data sets mean for a run: mistakes that end it, and keys that would help."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from warmstart.config import CfgNode, ConfigError

from ..datasets.image_files import shown
from ..spec import DataSpec
from .report import SetReport, Trouble

_UNEVEN = 2.0  # ratio of class sizes from which another sampler is suggested
_FEW = 10.0  # ratio from which equal shares repeat the images of the smallest class too often
_MOST_WEIGHTS = 20  # classes whose weights can be typed
_SHOWN = 3  # files in a message


class Suggestion(NamedTuple):
    """Keys to type, and the reason in words."""

    keys: str
    reason: str


def some_of(items: Sequence[str]) -> str:
    """Return the first items of a list as text, and the number of the others.

    >>> some_of(["a", "b"]), some_of("abcdef")
    ('a, b', 'a, b, c and 3 more')
    """
    return shown(items, _SHOWN)


def as_text(troubles: Sequence[Trouble]) -> str:
    """Return the first troubles of a list, and the number of the others.

    >>> as_text([Trouble("a.jpg", "truncated")])
    'a.jpg (truncated)'
    """
    return some_of([f"{file} ({reason})" for file, reason in troubles])


def check_reports(
    cfg: CfgNode, reports: Sequence[SetReport], accepted: bool = True, any_size: bool = False
) -> None:
    """Raise ConfigError, with all problems at once, for what was found in a data set and would end a run.

    Reads DATALOADER, SOLVER.IMS_PER_BATCH and TEST.IMS_PER_BATCH.

    Args:
        cfg: the config.
        reports: of its data sets.
        accepted: whether the checks before training have accepted the config; otherwise nothing is said about
            transforms, because those checks have found what is wrong with them.
        any_size: whether images of a batch may differ in size.
    """
    if problems := [problem for report in reports for problem in _problems(cfg, report, accepted, any_size)]:
        raise ConfigError(problems)


def _problems(cfg: CfgNode, report: SetReport, accepted: bool, any_size: bool) -> Iterator[str]:
    sets = cfg.label(f"DATASETS.{report.key}")
    count, of_all = len(report.unreadable), f"of {report.size:,} images of {report.name}"
    if count == report.size:
        yield f"{sets}: no image of {report.name} can be read: {as_text(report.unreadable)}"
    elif count and cfg.DATALOADER.UNREADABLE == "raise":
        yield (
            f"{sets}: {count:,} {of_all} cannot be read: {as_text(report.unreadable)}; repair or delete them, or"
            " set DATALOADER.UNREADABLE skip"
        )
    if report.wrong:
        yield f"{sets}: {len(report.wrong):,} {of_all} have a wrong target: {as_text(report.wrong)}"
    if report.objects is not None and not any(report.objects.counts):
        yield f"{sets}: no image of {report.name} has an object"
    if not accepted:
        return
    transforms = cfg.label(f"INPUT.TRANSFORMS_{report.key}")
    if report.failed:
        yield (
            f"{transforms}: fails on {len(report.failed):,} {of_all}: {as_text(report.failed)}; begin it with"
            " {Resize: {size: [256, 256]}}, or leave these images out"
        )
    batch_size = cfg.SOLVER.IMS_PER_BATCH if report.key == "TRAIN" else cfg.TEST.IMS_PER_BATCH
    grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    if len(report.results) > 1 and batch_size > 1 and not grouped and not any_size:
        shapes = [f"{'x'.join(map(str, shape))} ({images:,})" for shape, images in report.results.items()]
        yield (
            f"{transforms}: images of {report.name} differ in size after it: {some_of(shapes)}; end it with"
            " {Resize: {size: [224, 224]}} or a crop"
        )


def describe_advice(
    cfg: CfgNode, data: DataSpec, reports: Sequence[SetReport], normalise: bool = True
) -> list[Suggestion]:
    """Return the keys that the reports suggest to set; none that the config sets already.

    Args:
        cfg: the config.
        data: its data sets.
        reports: of all its data sets.
        normalise: whether the task applies INPUT.MEAN and INPUT.STD.
    """
    train = [report for report in reports if report.key == "TRAIN"]
    found = []
    unreadable = sum(len(report.unreadable) for report in reports)
    if unreadable and cfg.DATALOADER.UNREADABLE == "raise":
        files = "file" if unreadable == 1 else "files"
        found.append(Suggestion("DATALOADER.UNREADABLE skip", f"passes over {unreadable:,} unreadable {files}"))
    found += _balance(cfg, train)
    size = sum(report.size for report in train)
    if train and size < cfg.SOLVER.IMS_PER_BATCH:
        found.append(Suggestion(f"SOLVER.IMS_PER_BATCH {size}", "a larger batch holds images more than once"))
    mean, std = _joint(train)
    if mean and min(std) > 0 and normalise and cfg.INPUT.MEAN is cfg.INPUT.STD is None and not _has_mean(data):
        text = " ".join(
            f"INPUT.{key} {','.join(f'{each:.3g}' for each in values)}"
            for key, values in (("MEAN", mean), ("STD", std))
        )
        if not cfg.MODEL.WEIGHTS:  # a pretrained model needs the values that it was trained with
            found.append(Suggestion(text, "computed over the training images"))
    return found


def _has_mean(data: DataSpec) -> bool:
    """Return whether the training set is registered with mean and std, which are the defaults then."""
    try:
        return bool(data.train.mean)
    except ConfigError:
        return False


def _joint(reports: Sequence[SetReport]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of the images of several sets; [] if they differ in channels.

    >>> one, other = (SetReport("TRAIN", "x", 1, channels={1: 1}, mean=(m,), std=(0.0,)) for m in (0.25, 0.75))
    >>> _joint([one, other])
    ([0.5], [0.25])
    """
    if len({len(report.mean) for report in reports}) != 1:
        return [], []
    counts = np.array([sum(report.channels.values()) for report in reports], np.float64)
    means, stds = (np.array(values) for values in zip(*((each.mean, each.std) for each in reports), strict=True))
    shares = counts / max(counts.sum(), 1)
    mean = shares @ means
    variance = shares @ (np.square(stds) + np.square(means)) - np.square(mean)
    return mean.tolist(), np.sqrt(np.maximum(variance, 0)).tolist()


def is_balanced(sampler: str, task_args: Mapping[str, Any]) -> bool:
    """Return whether something is done about classes of uneven sizes.

    Args:
        sampler: DATALOADER.SAMPLER_TRAIN.
        task_args: MODEL.TASK_ARGS.

    >>> is_balanced("TrainingSampler", {}), is_balanced("TrainingSampler", {"class_weights": "balanced"})
    (False, True)
    """
    return sampler != "TrainingSampler" or bool(task_args.get("class_weights"))


def _balance(cfg: CfgNode, train: Sequence[SetReport]) -> list[Suggestion]:
    """Return what helps against classes of uneven sizes, unless the config has another sampler already."""
    classes = max((len(report.counts) for report in train), default=0)
    counts = [
        sum(report.counts[place] for report in train if place < len(report.counts)) for place in range(classes)
    ]
    present = [count for count in counts if count]
    if (
        not present
        or is_balanced(cfg.DATALOADER.SAMPLER_TRAIN, cfg.MODEL.TASK_ARGS)
        or max(present) < _UNEVEN * min(present)
    ):
        return []
    ratio = max(present) / min(present)
    if any(report.objects is not None for report in train):
        return _repeats(present, sum(report.size for report in train)) if ratio >= _FEW else []
    keys, how = "DATALOADER.SAMPLER_TRAIN WeightedTrainingSampler", "draws all classes equally often"
    if ratio > _FEW and classes <= _MOST_WEIGHTS:  # half-way between equal and natural shares
        weights = [math.sqrt(count / max(present)) for count in counts]
        keys += f" DATALOADER.CLASS_WEIGHTS {','.join(f'{each:.3g}' for each in weights)}"
        how = "draws each class by the square root of its size"
    return [Suggestion(keys, f"{how}: the largest has {ratio:.3g} times the images of the smallest")]


def _repeats(counts: Sequence[int], size: int) -> list[Suggestion]:
    """Return what helps against classes that few of `size` images have objects of.

    >>> _repeats([4, 100, 900], 1000)[0].keys
    'DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler DATALOADER.REPEAT_THRESHOLD 0.1'
    """
    share, ratio = sorted(counts)[len(counts) // 2] / size, max(counts) / min(counts)
    keys = f"DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler DATALOADER.REPEAT_THRESHOLD {share:.2g}"
    reason = f"repeats images of rare classes: the most frequent is in {ratio:.3g} times the images of the rarest"
    return [Suggestion(keys, reason)]
