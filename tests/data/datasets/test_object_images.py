"""Detection sets of every origin: what is known of them, which go together, and parts of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from warmstart.config import ConfigError
from warmstart.data import DatasetInfo, KeypointInfo, Objects, build_dataset, dataset_info, register_dataset
from warmstart.data.datasets.info import joined, require_like, require_testable
from warmstart.data.datasets.part import digest_of, with_classes


class Mine:
    """A user-defined set, with targets in either form."""

    classes = ("cat", "fox")

    def __init__(self, root: str, download: bool, form: str = "dict") -> None:
        self.form, self.decoded = form, 0

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        self.decoded += 1
        target = {"boxes": [[0, 0, 4, 4]], "labels": [index % 2], "masks": np.ones((1, 8, 10), np.uint8)}
        if self.form == "objects":
            return np.zeros((8, 10, 3), np.uint8), Objects.from_target(target, (8, 10), f"image {index}")
        return np.zeros((8, 10, 3), np.uint8), target


@pytest.mark.parametrize("form", ["dict", "objects"])
def test_user_defined_sets_are_known_by_their_first_targets(form: str) -> None:
    register_dataset("mine", Mine)
    info = dataset_info({"mine": {"form": form}}, "")
    assert (info.size, info.num_classes, info.classes) == (9, 2, ("cat", "fox"))
    assert (info.annotations, info.keypoints, info.object_counts, info.class_counts) == (
        ("boxes", "masks"),
        None,
        (),
        (),
    )
    assert info.image_size == (8, 10)


@pytest.mark.parametrize("form", ["dict", "objects"])
def test_user_defined_sets_are_numbered_as_other_classes_and_split(form: str) -> None:
    register_dataset("mine", Mine)
    entry = {"mine": {"form": form, "holdout": 0.5, "part": "test"}}
    found = with_classes(build_dataset(entry, ""), ["ant", "fox", "cat"])
    targets = [found[index][1] for index in range(len(found))]
    labels = [target.labels if form == "objects" else target["labels"] for target in targets]
    assert [label.tolist() for label in labels] == [[2], [1], [1], [2], [1], [2]]
    assert dataset_info(entry, "").annotations == ("boxes", "masks")


def test_user_defined_sets_say_what_they_have() -> None:
    class Said(Mine):
        annotations = ("boxes",)
        object_counts = (4, 5)
        keypoint_info = KeypointInfo(("nose",))

    register_dataset("said", Said)
    info = dataset_info("said", "")
    assert (info.annotations, info.object_counts, info.keypoints) == (("boxes",), (4, 5), KeypointInfo(("nose",)))


def info_of(*classes: str, **more: Any) -> DatasetInfo:
    return DatasetInfo(9, len(classes), 3, (8, 8), classes=classes, **({"annotations": ("boxes",)} | more))


def test_require_testable_accepts_a_test_set_that_lacks_classes() -> None:
    require_testable(info_of("cat", "fox"), info_of("fox"), "DATASETS.TEST", "val")
    with pytest.raises(ConfigError, match="val has a class that the training set does not have: dog"):
        require_testable(info_of("cat", "fox"), info_of("dog"), "DATASETS.TEST", "val")


def test_require_like_refuses_class_indices_beside_objects() -> None:
    with pytest.raises(ConfigError, match="targets of val are class indices, but targets of train are objects"):
        require_like(info_of("cat"), info_of("cat", annotations=()), "K", "train", "val")


def test_require_like_compares_keypoints_but_not_their_skeletons() -> None:
    points = KeypointInfo(("a", "b"), skeleton=((0, 1),), sigmas=(0.1, 0.1))
    one, other = info_of("cat", keypoints=points), replace(points, sigmas=(0.1, 0.2))
    require_like(one, info_of("cat", keypoints=replace(points, skeleton=())), "K", "train", "val")
    require_like(one, info_of("cat"), "K", "train", "val")
    with pytest.raises(ConfigError, match="K: keypoints of val differ from keypoints of train in names, flip"):
        require_like(one, info_of("cat", keypoints=other), "K", "train", "val")


def test_joined_sets_have_what_both_have() -> None:
    one = info_of("cat", "fox", annotations=("boxes", "masks"), object_counts=(1, 2))
    both = joined(one, info_of("cat", "fox", annotations=("boxes", "keypoints"), object_counts=(3, 4)))
    assert (both.annotations, both.object_counts, both.size) == (("boxes",), (4, 6), 18)
    assert joined(one, info_of("cat", "fox")).object_counts == ()


def test_digest_follows_what_keypoints_mean(write_coco: Callable[..., dict[str, Any]], coco_content: Any) -> None:
    coco_content["categories"][0] |= {"keypoints": ["left_ear", "right_ear"]}
    options: list[dict[str, Any]] = [{}, {"sigmas": [1, 1]}, {"flip_pairs": []}]
    assert len({digest_of(build_dataset(write_coco(**more), "")) for more in options}) == 3
