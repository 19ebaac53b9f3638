"""Matching of detections with objects, and PASCAL VOC's average precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from warmstart.tasks.box_matching import match, overlapping, voc_average_precision
from warmstart.tasks.coco_scores import Table


def table(rows: list[tuple[int, int, list[float], float]], crowd: tuple[int, ...] = ()) -> Table:
    """Rows are (image, label, box, score)."""
    boxes = np.array([row[2] for row in rows], float).reshape(-1, 4)
    iscrowd = np.isin(np.arange(len(rows)), crowd)
    columns = [np.array([row[place] for row in rows]) for place in (0, 1, 3)]
    image, label, score = columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2].astype(float)
    return Table(image, label, boxes, score, np.ones(len(rows)), iscrowd)


BOX = [0.0, 0.0, 10.0, 10.0]


def test_overlaps_are_those_of_torchvision() -> None:
    rng = np.random.default_rng(0)
    corner = rng.random((60, 2)) * 20
    boxes = np.concatenate([corner, corner + rng.random((60, 2)) * 20], axis=1)
    image, label = rng.integers(0, 4, 60), rng.integers(0, 2, 60)
    zeros = np.zeros(60, bool)
    whole = Table(image, label, boxes, np.ones(60), np.ones(60), zeros)
    one, two = whole.select(np.arange(30)), whole.select(np.arange(30, 60))
    pairs = overlapping(one, two, 0.25, with_label=True)
    iou = box_iou(torch.from_numpy(one.boxes), torch.from_numpy(two.boxes)).numpy()
    same = (one.image[:, None] == two.image) & (one.label[:, None] == two.label)
    expected = np.argwhere((iou >= 0.25) & same)
    found = np.stack([pairs.detection, pairs.truth], axis=1)
    assert sorted(found.tolist()) == expected.tolist()
    np.testing.assert_allclose(pairs.iou, iou[pairs.detection, pairs.truth])


def test_an_object_is_found_once_by_the_highest_score() -> None:
    found = table([(1, 0, BOX, 0.5), (1, 0, BOX, 0.9), (2, 0, BOX, 0.9)])
    assert match(found, table([(1, 0, BOX, 1.0)])).truth.tolist() == [-1, 0, -1]


def test_a_detection_takes_an_object_of_its_own_class_first() -> None:
    truths = table([(1, 1, BOX, 1.0), (1, 0, [0.0, 0.0, 10.0, 8.0], 1.0)])
    assert match(table([(1, 0, BOX, 0.5)]), truths).truth.tolist() == [1]
    assert match(table([(1, 2, BOX, 0.5)]), truths).truth.tolist() == [0]


def test_detections_in_crowd_regions_are_not_wrong() -> None:
    truths = table([(1, 0, [0.0, 0.0, 40.0, 40.0], 1.0)], crowd=(0,))
    matches = match(table([(1, 0, BOX, 0.5), (1, 0, [36.0, 36.0, 60.0, 60.0], 0.5)]), truths)
    assert (matches.truth.tolist(), matches.ignored.tolist()) == ([-1, -1], [True, False])


@pytest.mark.parametrize(
    ("hits", "objects", "area", "eleven"),
    [
        ([1, 1], 2, 1.0, 1.0),
        ([1, 0, 1], 2, 1 / 2 + 1 / 2 * 2 / 3, (6 + 5 * 2 / 3) / 11),
        ([0, 1], 2, 1 / 4, 6 / 11 / 2),
        ([0], 1, 0.0, 0.0),
        ([], 1, 0.0, 0.0),
    ],
)
def test_voc_average_precision(hits: list[int], objects: int, area: float, eleven: float) -> None:
    places = iter(range(objects))
    truths = table([(image, 0, BOX, 1.0) for image in range(objects)])
    rows = []
    for rank, hit in enumerate(hits):
        box = BOX if hit else [50.0, 50.0, 60.0, 60.0]
        rows.append((next(places) if hit else 0, 0, box, 1.0 - rank / 10))
    found = table(rows)  # type: ignore[arg-type]
    assert voc_average_precision(truths, found, 1) == pytest.approx([area])
    assert voc_average_precision(truths, found, 1, points=11) == pytest.approx([eleven])


def test_voc_ignores_difficult_objects_and_classes_without_objects() -> None:
    truths = table([(1, 0, BOX, 1.0), (1, 0, [20.0, 20.0, 30.0, 30.0], 1.0)], crowd=(1,))
    found = table([(1, 0, [20.0, 20.0, 30.0, 30.0], 0.9), (1, 0, BOX, 0.5), (1, 1, BOX, 0.5)])
    one, two = voc_average_precision(truths, found, 2)
    assert (one, math.isnan(two)) == (1.0, True)


def test_voc_counts_a_second_detection_of_an_object_as_wrong() -> None:
    truths = table([(1, 0, BOX, 1.0), (2, 0, BOX, 1.0)])
    found = table([(1, 0, BOX, 0.9), (1, 0, BOX, 0.8), (2, 0, BOX, 0.7)])
    assert voc_average_precision(truths, found, 1) == pytest.approx([1 / 2 + 1 / 2 * 2 / 3])
