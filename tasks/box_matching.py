"""Overlaps of detected boxes with objects, over many images at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .coco_scores import Array, Table


class Pairs(NamedTuple):
    """Pairs of a detection and an object that share a key.

    Args:
        detection: (P,), places of detections, increasing.
        truth: (P,), places of objects.
        iou: (P,), intersection over union of the boxes; of a crowd region intersection over the detection's area.
    """

    detection: Array
    truth: Array
    iou: Array


def overlapping(detections: Table, truths: Table, least: float, with_label: bool) -> Pairs:
    """Return the pairs of a detection and an object in one image whose overlap is at least `least`.

    Args:
        detections: D of them.
        truths: G of them.
        least: of the intersection over union, above 0.
        with_label: whether both must be of one class.

    >>> found = Table(*map(np.array, ([1, 2], [0, 0], [[0.0, 0.0, 10.0, 10.0]] * 2, [0.5, 0.9], [0, 0], [0, 0])))
    >>> real = Table(*map(np.array, ([2], [0], [[0.0, 0.0, 10.0, 5.0]], [1.0], [50.0], [False])))
    >>> [each.tolist() for each in overlapping(found, real, 0.5, with_label=True)]
    [[1], [0], [0.5]]
    """
    most = 1 + max([0, *detections.label.tolist(), *truths.label.tolist()])
    keys = [each.image * most + each.label if with_label else each.image for each in (detections, truths)]
    order = np.argsort(keys[1], kind="stable")
    begin, end = (np.searchsorted(keys[1][order], keys[0], side) for side in ("left", "right"))
    counts = end - begin
    detection = np.repeat(np.arange(len(detections)), counts)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # among a detection's pairs
    truth = order[np.repeat(begin, counts) + place]
    a, b = detections.boxes[detection], truths.boxes[truth]
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    common = np.prod(np.maximum(sides, 0), axis=1)
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (a, b)]
    union = np.where(truths.iscrowd[truth], areas[0], areas[0] + areas[1] - common)
    iou = common / np.maximum(union, np.finfo(float).tiny)
    chosen = iou >= least
    return Pairs(detection[chosen], truth[chosen], iou[chosen])


class Matches(NamedTuple):
    """Which detection found which object.

    Args:
        truth: (D,), the place of the object that each detection found; -1 for none.
        ignored: (D,), whether it found none, but half of it is in a crowd region, so that it is not wrong either.
    """

    truth: Array
    ignored: Array


def match(detections: Table, truths: Table, least: float = 0.5) -> Matches:
    """Return which detection found which object, whatever their classes.

    In the order of decreasing scores each detection takes an object that is left and that it overlaps by at least
    `least`: one of its own class if there is one, else the one that it overlaps most.

    Args:
        detections: those above some score.
        truths: objects and crowd regions in the same images.
        least: of the intersection over union.

    >>> found = Table(*map(np.array, ([1, 1], [0, 1], [[0.0, 0.0, 9.0, 9.0]] * 2, [0.5, 0.9], [0, 0], [0, 0])))
    >>> match(found, found.select(np.array([0]))).truth.tolist()
    [-1, 0]
    """
    pairs = overlapping(detections, truths, least, with_label=False)
    crowd = truths.iscrowd.astype(bool)[pairs.truth]
    same = detections.label[pairs.detection] == truths.label[pairs.truth]
    order = np.lexsort((-pairs.iou, ~same, pairs.detection, -detections.score[pairs.detection]))
    order = order[~crowd[order]]
    found, taken = np.full(len(detections), -1), np.zeros(len(truths), bool)
    for detection, truth in zip(pairs.detection[order].tolist(), pairs.truth[order].tolist(), strict=True):
        if found[detection] < 0 and not taken[truth]:
            found[detection], taken[truth] = truth, True
    ignored = np.zeros(len(detections), bool)
    ignored[pairs.detection[crowd]] = True
    return Matches(found, ignored & (found < 0))


def voc_average_precision(truths: Table, detections: Table, num_classes: int, points: int = 0) -> list[float]:
    """Return PASCAL VOC's average precision at an intersection over union of 0.5, of each class.

    Each detection belongs to the object of its class that it overlaps most; of several at one object the one with
    the highest score is right, the others are wrong. Objects with `iscrowd`, VOC's difficult ones, count neither
    way. Boxes are continuous: the development kit's one pixel is not added to their sides.

    Args:
        truths: objects.
        detections: in the same images.
        num_classes: K.
        points: 0: the area below the precision envelope, as in VOC since 2010; 11: the mean of the envelope at
            recalls 0, 0.1, ... 1, as in VOC 2007.

    Returns:
        K numbers; NaN for a class without objects.

    >>> found = Table(*map(np.array, ([1, 1], [0, 0], [[0.0, 0.0, 9.0, 9.0]] * 2, [0.5, 0.9], [0, 0], [0, 0])))
    >>> real = found.select(np.array([0]))
    >>> voc_average_precision(real, found, num_classes=2)
    [1.0, nan]
    """
    pairs = overlapping(detections, truths, 0.5, with_label=True)
    # The best pair of each detection is the last one by overlap; of equal overlaps the first object counts.
    order = np.lexsort((-pairs.truth, pairs.iou, pairs.detection))
    best = np.full(len(detections), -1)
    best[pairs.detection[order]] = pairs.truth[order]
    crowd = truths.iscrowd.astype(bool)
    ranking = np.argsort(-detections.score, kind="stable")
    target = best[ranking]
    is_hit = target >= 0
    ignored = is_hit & crowd[target] if len(truths) else is_hit
    right = np.zeros(len(target), bool)
    right[np.unique(np.where(is_hit, target, -1), return_index=True)[1]] = True  # the first one at each object
    right &= is_hit & ~ignored
    found = []
    for k in range(num_classes):
        own = (detections.label[ranking] == k) & ~ignored
        objects = int(((truths.label == k) & ~crowd).sum())
        found.append(_area(right[own], objects, points) if objects else float("nan"))
    return found


def _area(right: Array, objects: int, points: int) -> float:
    """Return the average precision of detections in decreasing order of their scores."""
    hits = np.cumsum(right)
    recall = np.concatenate([[0.0], hits / objects, [1.0]])
    precision = np.concatenate([[0.0], hits / np.arange(1, len(right) + 1), [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if points:
        at = np.searchsorted(recall[1:-1], np.linspace(0, 1, points), side="left")
        return float(np.mean(np.concatenate([envelope[1:-1], [0.0]])[at]))
    return float(np.sum(np.diff(recall) * envelope[1:]))
