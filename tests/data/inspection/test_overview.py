"""What the log of a run tells about its training set."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from warmstart.config import CfgNode
from warmstart.data import DatasetInfo, describe_training_set

Configured = Callable[..., CfgNode]


def logged_of(cfg: CfgNode, targets: list[Any], classes: tuple[str, ...]) -> tuple[str, list[str]]:
    info = DatasetInfo(len(targets), len(classes), 3, None, classes=classes, sizes=((20, 30), (60, 50)))
    dataset = SimpleNamespace(targets=targets)
    sized = type("Sized", (SimpleNamespace,), {"__len__": lambda self: len(targets)})(**vars(dataset))
    return describe_training_set(cfg, SimpleNamespace(train=info), sized)  # type: ignore[arg-type]


def test_describe_training_set_tells_balance_and_sizes(configured: Configured) -> None:
    line, warnings = logged_of(configured(), [0, 0, 0, 1, 2, 2], ("cat", "dog", "fox"))
    assert line == "classes of 1 (dog) to 3 (cat) images; sizes 20x30 to 60x50 before the transforms"
    assert warnings == []


def test_describe_training_set_tells_that_classes_have_one_size(configured: Configured) -> None:
    line, _ = logged_of(configured(), [0, 1, 1, 0], ("cat", "dog"))
    assert line.startswith("2 images of each class; sizes ")


def test_describe_training_set_warns_of_empty_and_very_uneven_classes(configured: Configured) -> None:
    assert logged_of(configured(), [0] * 20 + [2] * 2, ("cat", "dog", "fox"))[1] == [
        "DATASETS.TRAIN: 1 class has no images and cannot be learned: dog",
        "DATASETS.TRAIN: the largest class has 10 times the images of the smallest; DATALOADER.SAMPLER_TRAIN"
        " WeightedTrainingSampler draws all equally often",
    ]
    balanced = configured("DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler")
    assert logged_of(balanced, [0] * 20 + [1] * 2, ("cat", "dog"))[1] == []


@pytest.mark.parametrize("targets", [[0.5, 1.5], [[0, 1], [1, 0]], ["cat", "dog"], [-1, 0]])
def test_describe_training_set_counts_class_indices_alone(configured: Configured, targets: list[Any]) -> None:
    assert logged_of(configured(), targets, ("cat", "dog"))[0] == "sizes 20x30 to 60x50 before the transforms"
