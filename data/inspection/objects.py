"""What is known of the objects in images: counts, sizes, and boxes, masks and keypoints that do not fit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..batch import Sample
from ..datasets.object_problems import object_problems
from ..datasets.objects import Objects

#: What `object_problems` finds, in words that come after a count.
PROBLEMS = {
    "no area": "without area, left out of training",
    "outside": "with a box that is partly outside the image",
    "mask": "whose mask is empty or differs from the box",
    "keypoints": "with a keypoint outside the image",
    "copy": "with the box and the class of another one",
}


class ObjectFacts(NamedTuple):
    """What is known of the objects in one image.

    Attributes:
        labels: class indices, without crowd regions.
        crowd: number of crowd regions.
        problems: kind and text of each object that something is noteworthy about.
        sides: square root of the area of each box after the transforms, in pixels, without crowd regions.
    """

    labels: tuple[int, ...]
    crowd: int = 0
    problems: tuple[tuple[str, str], ...] = ()
    sides: tuple[float, ...] = ()


def object_facts(target: Any, size: tuple[int, int], where: str) -> ObjectFacts | None:
    """Return the facts about the objects of a target; None if it is another kind of target.

    Args:
        target: what the data set returned.
        size: (H, W) of the image.
        where: the sample, for messages.

    Raises:
        ConfigError: the objects do not fit the image.

    >>> object_facts({"boxes": [[0, 0, 4, 2], [1, 1, 1, 3]], "labels": [0, 2]}, (8, 8), "image 7")
    ObjectFacts(labels=(0, 2), crowd=0, problems=(('no area', 'object 1 of image 7 has the box 1, 1, 1, 3'),), \
sides=())
    """
    if not isinstance(target, Objects) and not (isinstance(target, Mapping) and "boxes" in target):
        return None
    objects = Objects.from_target(target, size, where)
    return ObjectFacts(
        labels=tuple(objects.labels[~objects.iscrowd].tolist()),
        crowd=int(objects.iscrowd.sum()),
        problems=tuple((problem.kind, problem.text) for problem in object_problems(objects)),
    )


def sides_of(sample: Sample) -> tuple[float, ...]:
    """Return the square root of the area of each box of a finished sample, without crowd regions.

    >>> import torch
    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 2.0, 8.0]])
    >>> sides_of({"boxes": boxes, "iscrowd": torch.tensor([True, False])})
    (4.0,)
    """
    boxes = sample["boxes"][~sample["iscrowd"]].as_subclass(Tensor)
    return tuple((boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt().tolist())


@dataclass(frozen=True)
class ObjectsReport:
    """What the facts about the objects of a data set add up to.

    Args:
        counts: objects of each class, without crowd regions.
        crowd: number of crowd regions.
        without: number of images without objects.
        problems: the texts about noteworthy objects by their kind.
        sides: float32 (n,), square root of the area of each box after the transforms, in pixels.
        images: float32 (n, 2), height and width of the image of each after the transforms.
    """

    counts: tuple[int, ...] = ()
    crowd: int = 0
    without: int = 0
    problems: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sides: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32), repr=False)
    images: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32), repr=False)


class ObjectTally:
    """The sums and lists of a report while images are read."""

    def __init__(self) -> None:
        self.labels: Counter[int] = Counter()
        self._crowd, self._without, self._images = 0, 0, 0
        self._problems: defaultdict[str, list[str]] = defaultdict(list)
        self._sides: list[npt.NDArray[np.float32]] = []

    def add(self, facts: ObjectFacts, image: Sequence[int] | None) -> None:
        """Add an image, whose size (H, W) after the transforms is `image`; None if that is not known."""
        self._images += 1
        self.labels.update(facts.labels)
        self._crowd += facts.crowd
        self._without += not facts.labels and not facts.crowd
        for kind, text in facts.problems:
            self._problems[kind].append(text)
        if image is not None:
            self._sides.append(np.array([(side, *image) for side in facts.sides], np.float32).reshape(-1, 3))

    def report(self, num_classes: int) -> ObjectsReport | None:
        """Return the report; None if no image had objects as its target."""
        if not self._images:
            return None
        rows = np.concatenate([np.zeros((0, 3), np.float32), *self._sides])
        return ObjectsReport(
            counts=tuple(self.labels[label] for label in range(num_classes)),
            crowd=self._crowd,
            without=self._without,
            problems={kind: tuple(self._problems[kind]) for kind in PROBLEMS if kind in self._problems},
            sides=rows[:, 0],
            images=rows[:, 1:],
        )
