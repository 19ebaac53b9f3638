"""What `warmstart check-data` says about the objects of a data set, and about their sizes for the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from warmstart.data import PROBLEMS, ObjectsReport
from warmstart.modeling import AnchorSizes


def describe_objects(objects: ObjectsReport | None) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (name, text, objects) for each kind of objects that something is noteworthy about.

    >>> for found in describe_objects(ObjectsReport(problems={"no area": ("annotation 7 of image 1",)})):
    ...     print(found)
    ('no area', '1 object without area, left out of training', ['annotation 7 of image 1'])
    """
    for kind, texts in objects.problems.items() if objects is not None else ():
        yield kind, f"{len(texts):,} object{'s' * (len(texts) > 1)} {PROBLEMS[kind]}", [*texts]


def describe_box_sizes(objects: ObjectsReport | None, anchors: AnchorSizes | None) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of lines about the sizes of boxes, and about those that the model is not made for.

    Args:
        objects: of a data set; None if its targets are of another kind.
        anchors: of the model; None if they are not known.
    """
    sides = box_sizes(objects, anchors)
    if not sides:
        return
    text = f"sides of {sides['least']:.3g} to {sides['greatest']:.3g} pixels, median {sides['median']:.3g}"
    if anchors is None:
        yield "boxes", f"{text}, after the transforms"
        return
    yield "boxes", f"{text}, as the model resizes images; its anchors {anchors.least:g} to {anchors.greatest:g}"
    for key, than, size in (
        ("below_stride", "smaller than its finest stride", anchors.stride),
        ("above_anchors", "larger than its largest anchors", anchors.greatest),
    ):
        if sides[key]:
            yield "", f"{_percent(sides[key])} are {than}, {size:g} pixels"


def box_sizes(objects: ObjectsReport | None, anchors: AnchorSizes | None) -> dict[str, float]:
    """Return the sizes of boxes in pixels, and the shares of those that the model is not made for.

    A size is the square root of the area.

    >>> objects = ObjectsReport(sides=np.float32([2, 30, 60]), images=np.float32([[48, 48]] * 3))
    >>> box_sizes(objects, AnchorSizes(12, 48, stride=8, min_size=96, max_size=192))["above_anchors"]
    0.6666666666666666
    """
    if objects is None or not len(objects.sides):
        return {}
    sides = objects.sides if anchors is None else objects.sides * anchors.scales(objects.images)
    found = {"least": sides.min(), "median": np.median(sides), "greatest": sides.max()}
    if anchors is not None:
        found["below_stride"] = (sides < anchors.stride).mean()
        found["above_anchors"] = (sides > anchors.greatest).mean()
    return {name: float(value) for name, value in found.items()}


def objects_as_dict(objects: ObjectsReport, classes: Sequence[str], anchors: AnchorSizes | None) -> dict[str, Any]:
    """Return everything that was found as plain values for JSON.

    Args:
        objects: of a data set.
        classes: their names.
        anchors: of the model; None if they are not known.
    """
    return {
        "classes": dict(zip(classes, objects.counts, strict=True)),
        "crowd_regions": objects.crowd,
        "images_without_objects": objects.without,
        "problems": {kind: list(texts) for kind, texts in objects.problems.items()},
        "box_sides": box_sizes(objects, anchors),
    }


def _percent(share: float) -> str:
    """Return a share as a percentage that is never rounded to 0.

    >>> _percent(0.0001), _percent(0.256)
    ('less than 1 %', '26 %')
    """
    return f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
