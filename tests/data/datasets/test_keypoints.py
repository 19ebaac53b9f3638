"""What keypoints mean: names, sides, tolerances, and one sentence for each mistake."""

from __future__ import annotations

from typing import Any

import pytest

from warmstart.data import KeypointInfo
from warmstart.data.datasets.keypoints import keypoint_info

NAMES = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee"),
    *("left_ankle", "right_ankle"),
)


def test_keypoint_info_knows_the_sigmas_of_coco() -> None:
    info, notes = keypoint_info(NAMES)
    assert info.flip_pairs == ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))
    assert info.sigmas[:7] == (0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079)
    assert sum(info.sigmas) == pytest.approx(1.138)
    assert notes == []


def test_keypoint_info_says_what_it_assumes() -> None:
    info, notes = keypoint_info(["a", "b"])
    assert info == KeypointInfo(("a", "b"), sigmas=(0.05, 0.05))
    assert [note.split(",")[0] for note in notes] == [
        "no names of keypoints differ in left and right",
        "sigmas of keypoints are not known",
    ]
    assert keypoint_info(["a", "b"], flip_pairs=[], sigmas=[0.1, 0.1])[1] == []


def test_keypoint_info_takes_pairs_of_names_and_indices() -> None:
    info, _ = keypoint_info(["a", "b", "c"], [["a", "b"], [1, 2]], [["c", "a"]], [0.1, 0.2, 1])
    assert info == KeypointInfo(("a", "b", "c"), ((0, 1), (1, 2)), ((2, 0),), (0.1, 0.2, 1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": []}, "keypoint_names: give a list of different names"),
        ({"names": ["a", "a"]}, "keypoint_names: give a list of different names"),
        ({"sigmas": [0.1]}, r"sigmas: \[0.1\] are not 3 numbers above 0"),
        ({"sigmas": [0.1, 0, 0.1]}, "are not 3 numbers above 0"),
        ({"skeleton": [[0, 3]]}, r"skeleton: \[0, 3\] is not a pair of keypoints; .* from 0 to 2"),
        ({"skeleton": [0, 1]}, "skeleton: 0 is not a pair of keypoints"),
        ({"skeleton": 1}, "skeleton: 1 is not a pair of keypoints"),
        ({"flip_pairs": [["left_eyes", "nose"]]}, "flip_pairs: there is no keypoint 'left_eyes'; did you mean"),
        ({"flip_pairs": [[0, 1], [1, 2]]}, "has a keypoint twice"),
        ({"flip_pairs": [[1, 1]]}, r"\[1, 1\] is not a pair of keypoints"),
    ],
)
def test_keypoint_info_refuses_other_forms(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keypoint_info(**({"names": NAMES[:3]} | options))
