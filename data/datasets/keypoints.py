"""What the keypoints of a data set mean: names, skeleton, sides and tolerances."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from warmstart.config import did_you_mean

from .objects import KeypointInfo

# COCO's 17 keypoints of people, with the tolerances that its evaluation publishes:
# https://cocodataset.org/#keypoints-eval
_COCO = {
    "nose": 0.026,
    "left_eye": 0.025,
    "right_eye": 0.025,
    "left_ear": 0.035,
    "right_ear": 0.035,
    "left_shoulder": 0.079,
    "right_shoulder": 0.079,
    "left_elbow": 0.072,
    "right_elbow": 0.072,
    "left_wrist": 0.062,
    "right_wrist": 0.062,
    "left_hip": 0.107,
    "right_hip": 0.107,
    "left_knee": 0.087,
    "right_knee": 0.087,
    "left_ankle": 0.089,
    "right_ankle": 0.089,
}
_SIGMA = 0.05  # of a keypoint that nothing is known of: between COCO's eyes and wrists
_SIDES = {"left": "right", "right": "left"}
_SIDE = re.compile("left|right", re.IGNORECASE)


def keypoint_info(
    names: Sequence[Any], skeleton: Any = (), flip_pairs: Any = None, sigmas: Any = ()
) -> tuple[KeypointInfo, list[str]]:
    """Return the keypoints of a set, and what a user should know about what is assumed of them, a sentence each.

    Args:
        names: of the K keypoints.
        skeleton: pairs of names, or of indices from 0.
        flip_pairs: likewise; None: of names that differ in left and right.
        sigmas: K positive numbers; (): COCO's for its 17 names, 0.05 for others.

    Raises:
        ValueError: a value is not of this form.

    >>> keypoint_info(["nose", "left_eye", "right_eye"])[0].flip_pairs
    ((1, 2),)
    """
    names = [*map(str, names)] if isinstance(names, (list, tuple)) else []
    if not names or len({*names}) < len(names):
        raise ValueError("keypoint_names: give a list of different names, such as [nose, left_eye, right_eye]")
    notes = []
    if flip_pairs is None:
        flip_pairs = _sides(names)
        if not flip_pairs and len(names) > 1:
            notes.append(
                "no names of keypoints differ in left and right, so that a horizontal flip exchanges none; give"
                " flip_pairs: [[A, B], ...] if it should, or flip_pairs: []"
            )
    if not sigmas:
        sigmas = [*_COCO.values()] if names == [*_COCO] else [_SIGMA] * len(names)
        if names != [*_COCO]:
            notes.append(f"sigmas of keypoints are not known, so that all are {_SIGMA}; give sigmas: [...]")
    positive = isinstance(sigmas, (list, tuple)) and all(_is_positive(sigma) for sigma in sigmas)
    if not positive or len(sigmas) != len(names):
        raise ValueError(f"sigmas: {sigmas!r} are not {len(names)} numbers above 0, one a keypoint")
    pairs = _pairs("flip_pairs", flip_pairs, names)
    flipped = [place for pair in pairs for place in pair]
    if len({*flipped}) < len(flipped):
        raise ValueError(f"flip_pairs: {flip_pairs!r} has a keypoint twice; each is in one pair at most")
    return KeypointInfo(tuple(names), _pairs("skeleton", skeleton, names), pairs, tuple(map(float, sigmas))), notes


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _sides(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of names that differ in left and right.

    >>> _sides(["left_hip", "Right Knee", "right_hip", "Left Knee", "left_ear"])
    [(0, 2), (1, 3)]
    """
    places = {name.lower(): place for place, name in enumerate(names)}
    mirrored = [_SIDE.sub(lambda side: _SIDES[side[0].lower()], name.lower()) for name in names]
    found = [(place, places[name]) for place, name in enumerate(mirrored) if name in places]
    return [(one, other) for one, other in found if one < other]


def _pairs(option: str, pairs: Any, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return pairs of keypoints as pairs of indices."""
    found = []
    for pair in pairs if isinstance(pairs, (list, tuple)) else [pairs]:
        places = []
        for each in pair if isinstance(pair, (list, tuple)) else ():
            if isinstance(each, str) and each not in names:
                hint = did_you_mean(each, names, f"; there are {', '.join(names)}")
                raise ValueError(f"{option}: there is no keypoint {each!r}{hint}")
            places.append(names.index(each) if isinstance(each, str) else each)
        valid = all(type(place) is int and 0 <= place < len(names) for place in places)
        if len(places) != 2 or places[0] == places[1] or not valid:
            raise ValueError(
                f"{option}: {pair!r} is not a pair of keypoints; give two names, or two indices from 0 to"
                f" {len(names) - 1}"
            )
        found.append((places[0], places[1]))
    return tuple(found)
