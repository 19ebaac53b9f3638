"""What is known of a data set without reading its images, and whether two data sets go together."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from warmstart.config import ConfigError

from .image_files import shown
from .image_heads import extremes
from .objects import KeypointInfo

_LISTED = 10  # names in a message
_NUMBER = re.compile("0|[1-9][0-9]{0,6}")  # as class indices are written
_MeanStd = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class DatasetInfo:
    """Properties of a data set that determine the model and the length of a run.

    Args:
        size: number of samples.
        num_classes: labels run from 0 to num_classes - 1; 0 if there are no classes or their number is unknown.
        channels: 1 for grey, 3 for RGB images.
        image_size: (H, W); None if images differ in size.
        sizes: the extremes of the known sizes, if images differ in size.
        mean: mean of each channel over the training set, for images in [0, 1]; () if unknown.
        std: standard deviation of each channel; () if unknown.
        classes: names of the classes, or of the numbers of a target; () if they have none.
        num_values: how many numbers a target has; 0 if targets are class indices or unknown.
        value_mean: mean of each number over all targets, with class indices taken as numbers; () if unknown.
        value_std: population standard deviation of each number; () if unknown.
        class_counts: number of samples of each class, in the order of labels; () if unknown.
        digest: a hash of the samples' names and labels, as `digest_of` returns it; "" if the set is registered by
            name.
        annotations: what is known of the objects in each image: "boxes", "masks", "keypoints"; () if targets are
            other than objects.
        keypoints: the keypoints of each object; None without keypoints.
        object_counts: number of objects of each class, without crowd regions; () if unknown.
    """

    size: int
    num_classes: int
    channels: int
    image_size: tuple[int, int] | None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    num_values: int = 0
    value_mean: tuple[float, ...] = ()
    value_std: tuple[float, ...] = ()
    class_counts: tuple[int, ...] = ()
    digest: str = field(default="", compare=False)
    annotations: tuple[str, ...] = ()
    keypoints: KeypointInfo | None = None
    object_counts: tuple[int, ...] = ()

    @property
    def known_sizes(self) -> tuple[tuple[int, int], ...]:
        """The sizes that transforms must handle, as far as they are known."""
        return self.sizes or ((self.image_size,) if self.image_size else ())


def require_testable(train: DatasetInfo, test: DatasetInfo, label: str, name: str) -> None:
    """Raise ConfigError if a test set differs from the training set in channels or targets, or has other classes.

    It may lack classes, except if targets are numbers.

    Args:
        train: the training set.
        test: the test set.
        label: of the test sets' key.
        name: the test set's.
    """
    other = [each for each in test.classes if each not in train.classes]
    if other and train.channels == test.channels and train.num_classes == len(train.classes):
        which = "a class" if len(other) == 1 else "classes"
        raise ConfigError(
            f"{label}: {name} has {which} that the training set does not have: {shown(other, 10)}; the training"
            f" set has {shown(train.classes, 10)}"
        )
    is_part = test.num_classes == len(test.classes) and not other
    like = replace(test, classes=train.classes) if is_part else test
    require_like(train, like, label, "the training set", name)


def require_like(one: DatasetInfo, other: DatasetInfo, label: str, one_name: str, other_name: str) -> None:
    """Raise ConfigError if two data sets differ in channels, targets or classes; `label` is the second one's."""
    if one.channels != other.channels:
        raise ConfigError(
            f"{label}: images of {other_name} have {other.channels} channel(s), but images of {one_name} have"
            f" {one.channels}; choose sets that agree"
        )
    forms = _target_form(one), _target_form(other)
    if all(forms) and forms[0] != forms[1]:
        lists = "; the whole numbers of a csv column are numbers, not indices, with label: [COLUMN]"
        raise ConfigError(
            f"{label}: targets of {other_name} are {forms[1]}, but targets of {one_name} are {forms[0]}; choose"
            f" sets that agree{lists if {'class indices', 'a number each'} == {*forms} else ''}"
        )
    keypoints = [replace(info.keypoints, skeleton=()) for info in (one, other) if info.keypoints]
    if len(keypoints) == 2 and keypoints[0] != keypoints[1]:
        raise ConfigError(
            f"{label}: keypoints of {other_name} differ from keypoints of {one_name} in names, flip_pairs or"
            " sigmas; choose sets that agree, or give both the same options"
        )
    if one.classes and other.classes and one.classes != other.classes:
        raise ConfigError(
            f"{label}: the classes of {other_name} differ from the classes of {one_name}, so labels would mean"
            f" different things{_differences(one.classes, other.classes)}; choose sets that agree"
        )
    for named, unnamed, name in ((one, other, other_name), (other, one, one_name)):
        number = None if unnamed.classes or not unnamed.num_classes else _misplaced(named.classes)
        if number is not None and number < unnamed.num_classes:
            names = ", ".join(named.classes) if len(named.classes) <= _LISTED else f"{named.classes[0]}, ..."
            raise ConfigError(
                f"{label}: {name} has class indices, and the classes of the set that it goes with are named by"
                f" other numbers: the class called {number} has index {named.classes.index(str(number))}; name the"
                f" classes of both, in a csv file by the option classes: [{names}]"
            )


def _misplaced(classes: Sequence[str]) -> int | None:
    """Return a number that is the name of a class with another index; None if there is none.

    >>> _misplaced(["0", "1", "10", "2"]), _misplaced(["0", "1", "x"])
    (2, None)
    """
    numbers = (int(name) for index, name in enumerate(classes) if _NUMBER.fullmatch(name) and name != str(index))
    return min(numbers, default=None)


def _differences(one: Sequence[str], other: Sequence[str]) -> str:
    """Return in words which names only one of two sets has; "" if they differ in order alone."""
    only = sorted({*one} ^ {*other})
    return f" ({shown(only)} only in one of them)" if only else ""


def _target_form(info: DatasetInfo) -> str:
    """Return in words what the targets are; "" if that is unknown."""
    if info.annotations:
        return "objects in an image"
    if info.num_values:
        return f"{info.num_values} numbers each" if info.num_values > 1 else "a number each"
    return "class indices" if info.num_classes else ""


def joined(one: DatasetInfo, other: DatasetInfo) -> DatasetInfo:
    """Return what is known of two data sets that are one after the other.

    >>> one = DatasetInfo(1, 2, channels=1, image_size=(8, 8), mean=(0.0,), std=(0.0,))
    >>> both = joined(one, DatasetInfo(3, 4, channels=1, image_size=(8, 9), mean=(1.0,), std=(0.0,)))
    >>> both.size, both.num_classes, both.image_size, both.mean
    (4, 4, None, (0.75,))
    """
    size = one.size + other.size
    share = one.size / size
    # E[x] and E[x^2] over all pixels are the averages over the sets, weighted by their share of the images.
    mean = tuple(share * a + (1 - share) * b for a, b in zip(one.mean, other.mean, strict=False))
    squares = [[s * s + m * m for m, s in zip(info.mean, info.std, strict=False)] for info in (one, other)]
    variances = (share * a + (1 - share) * b - m * m for a, b, m in zip(*squares, mean, strict=False))
    std = tuple(math.sqrt(max(0.0, variance)) for variance in variances)
    values = (one.value_mean, one.value_std), (other.value_mean, other.value_std)
    value_mean, value_std = _joined_statistics(share, *values)
    both = {*one.known_sizes, *other.known_sizes}
    same_size = one.image_size == other.image_size and one.image_size is not None
    return DatasetInfo(
        size=size,
        num_classes=max(one.num_classes, other.num_classes),
        channels=one.channels,
        image_size=one.image_size if same_size else None,
        mean=mean,
        std=std,
        classes=one.classes or other.classes,
        sizes=() if same_size or not (one.known_sizes and other.known_sizes) else extremes(both),
        num_values=one.num_values or other.num_values,
        value_mean=value_mean,
        value_std=value_std,
        annotations=tuple(each for each in one.annotations if each in other.annotations),
        keypoints=one.keypoints or other.keypoints,
        class_counts=_summed(one.class_counts, other.class_counts),
        object_counts=_summed(one.object_counts, other.object_counts),
    )


def _summed(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """Return the counts of two joined sets; () if one is unknown.

    >>> _summed((1, 2), (3, 4, 5)), _summed((), (3,))
    ((4, 6, 5), ())
    """
    return tuple(map(sum, zip_longest(one, other, fillvalue=0))) if one and other else ()


def _joined_statistics(share: float, one: _MeanStd, other: _MeanStd) -> _MeanStd:
    """Return mean and standard deviation of two joined sets; the first has `share` of the samples. () if unknown.

    >>> _joined_statistics(0.5, ((1.0,), (0.0,)), ((3.0,), (0.0,)))
    ((2.0,), (1.0,))
    """
    mean = tuple(share * a + (1 - share) * b for a, b in zip(one[0], other[0], strict=False))
    # The variance within the sets plus the variance between their means: without cancellation.
    variances = [
        share * s * s + (1 - share) * t * t + share * (1 - share) * (a - b) ** 2
        for a, s, b, t in zip(*one, *other, strict=False)
    ]
    return mean, tuple(map(math.sqrt, variances))
