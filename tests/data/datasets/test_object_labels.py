"""The classes of the objects in each image."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import ConcatDataset, Subset

from warmstart.data import build_dataset
from warmstart.data.datasets.object_labels import ObjectLabels, object_labels_of
from warmstart.data.datasets.shapes import Shapes

SET = Shapes("train", 60, 64)


def by_image(labels: ObjectLabels, count: int) -> list[list[int]]:
    """Return the labels of each image, in any order."""
    return [sorted(labels.labels[labels.images == image].tolist()) for image in range(count)]


EACH = [sorted(SET[index][1].labels.tolist()) for index in range(60)]


def test_object_labels_of_shapes_are_those_of_its_targets() -> None:
    assert [] in EACH
    assert by_image(object_labels_of(SET), 60) == EACH


def test_object_labels_of_joined_sets_and_parts_follow_their_images() -> None:
    chosen = [5, 40, 5, 0]
    both = ConcatDataset([SET, Subset(SET, chosen)])  # type: ignore[list-item, arg-type]
    assert by_image(object_labels_of(both), 64) == [*EACH, *(EACH[index] for index in chosen)]


def test_object_labels_of_a_holdout_are_those_of_its_images() -> None:
    entry = {"shapes": {"number": 60, "size": 64, "holdout": 0.3, "part": "test"}}
    part = build_dataset(entry, "nowhere")
    assert 5 < len(part) < 30
    expected = [sorted(part[index][1].labels.tolist()) for index in range(len(part))]
    assert by_image(object_labels_of(part), len(part)) == expected


def test_object_labels_of_nothing_are_empty() -> None:
    labels = ObjectLabels(np.empty(0, np.int64), np.empty(0, np.int64))
    assert by_image(labels.taken(np.array([1, 0])), 2) == [[], []]


def test_object_labels_of_refuses_a_set_without_them() -> None:
    with pytest.raises(LookupError, match="an attribute object_labels of two arrays"):
        object_labels_of([1, 2])
