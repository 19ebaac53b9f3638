"""Boxes, masks and keypoints that do not fit an image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from warmstart.data import Objects, encode_mask, object_problems


def objects_with(boxes: Any, **more: Any) -> Objects:
    target = {"boxes": boxes, "labels": [0] * len(boxes)}
    found = Objects.from_target(target, (8, 10), "image 3 (a.png)")
    return replace(found, ids=np.arange(4, 4 + len(boxes)), **more)


def found(objects: Objects) -> list[str]:
    middle = f" of {objects.name} has the box"
    return [f"{kind}: {text.replace(middle, '')}" for kind, _, text in object_problems(objects)]


def test_object_problems_of_sound_objects_are_none() -> None:
    square = np.zeros((8, 10), np.uint8)
    square[2:4, 1:6] = 1
    shapes: list[Any] = [
        square,
        encode_mask(square),
        {
            "size": [8, 10],
            "counts": np.diff(np.flatnonzero(np.diff(square.T.ravel(), prepend=0)), prepend=0).tolist(),
        },
        [[1, 2, 6, 2, 6, 4, 1, 4]],
    ]
    shapes[2]["counts"].append(80 - sum(shapes[2]["counts"]))
    boxes = [[1, 2, 6, 4], [1, 2, 6, 4.5], [0.5, 2, 6, 4], [1, 2.5, 6, 4]]
    assert found(objects_with(boxes, segmentations=shapes, keypoints=np.full((4, 2, 3), 2.0))) == []
    assert found(objects_with([])) == []


IMAGE = ", and the image is 8x10 (height x width)"


@pytest.mark.parametrize(
    ("boxes", "more", "problems"),
    [
        (
            [[0, 0, 4, 4], [3, 3, 3, 9.5]],
            {},
            ["no area: annotation 5 3, 3, 3, 9.5", f"outside: annotation 5 3, 3, 3, 9.5{IMAGE}"],
        ),
        ([[0, -1, 4, 4], [0, -1.5, 4, 4]], {}, [f"outside: annotation 5 0, -1.5, 4, 4{IMAGE}"]),
        (
            [[0, 0, 4, 4], [1, 1, 5, 5]],
            {"segmentations": [np.zeros((8, 10), np.uint8), [[1, 1, 5, 1, 5, 3]]]},
            [
                "mask: annotation 4 0, 0, 4, 4, and its mask is empty",
                "mask: annotation 5 1, 1, 5, 5, and its mask has the extent 1, 1, 5, 3",
            ],
        ),
        (
            [[0, 0, 4, 4]],
            {"keypoints": np.array([[[-5, 0, 0], [1, 1, 2], [2, 8.5, 1]]])},
            [f"keypoints: annotation 4 0, 0, 4, 4 and keypoint 2 at 2, 8.5{IMAGE}"],
        ),
        ([[0, 0, 4, 4]] * 2, {}, ["copy: annotation 5 0, 0, 4, 4, as annotation 4 has"]),
    ],
)
def test_object_problems_name_what_does_not_fit(boxes: Any, more: Any, problems: list[str]) -> None:
    assert found(objects_with(boxes, **more)) == problems
