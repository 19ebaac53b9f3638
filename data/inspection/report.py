"""What the facts about all samples of a data set add up to."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .facts import Facts, Shape, Values
from .objects import ObjectsReport, ObjectTally

Size = tuple[int, int]  # (height, width)


class Trouble(NamedTuple):
    """A sample that something is wrong with: its file (or "sample 7"), and what."""

    file: str
    reason: str


class Numbers(NamedTuple):
    """The values of one number of the targets over a data set."""

    name: str
    least: float
    mean: float
    greatest: float


@dataclass(frozen=True)
class SetReport:
    """What was found out about a data set by reading every sample.

    Args:
        key: TRAIN or TEST.
        name: of the set, in messages and scores.
        size: samples, readable or not.
        classes: names of the classes, or their indices as text; () if targets are not class indices.
        counts: samples of each class, readable or not; images with objects of the class.
        numbers: of the targets, if they are not class indices.
        channels: number of readable images by their number of channels.
        stored: number of image files by how they store an image, in PIL's words (RGB, L, RGBA, CMYK, I;16).
        sizes: (height, width) of the image of least area, of the one in the middle, and of the greatest; () if no
            image is readable.
        mean: of each channel over all images, which count equally, in [0, 1]; () if they differ in channels.
        std: standard deviation of each channel.
        unreadable: samples whose files are missing or damaged.
        wrong: samples whose target the task refuses.
        failed: samples on whose image a transform fails.
        results: number of images by their shape after the transforms.
        enlarged: files of images that are lower or narrower than after the transforms.
        copies: groups of files with equal pixels.
        disputed: those of `copies` that have several class indices.
        digests: the samples of each hash of pixels, for comparison with other sets.
        file: returns the file of a sample.
        root: the path of the set; "" if it has none.
        objects: what is known of the objects in images; None if targets are of another kind.
    """

    key: str
    name: str
    size: int
    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    numbers: tuple[Numbers, ...] = ()
    channels: dict[int, int] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)
    sizes: tuple[Size, ...] = ()
    mean: Values = ()
    std: Values = ()
    unreadable: tuple[Trouble, ...] = ()
    wrong: tuple[Trouble, ...] = ()
    failed: tuple[Trouble, ...] = ()
    results: dict[Shape, int] = field(default_factory=dict)
    enlarged: tuple[str, ...] = ()
    copies: tuple[tuple[str, ...], ...] = ()
    disputed: tuple[tuple[str, ...], ...] = ()
    digests: dict[bytes, list[int]] = field(default_factory=dict, repr=False)
    file: Callable[[int], str] = field(default=str, repr=False)
    root: str = ""
    objects: ObjectsReport | None = None

    @property
    def empty(self) -> tuple[str, ...]:
        """The classes without a sample."""
        return self._classes_of(0)

    @property
    def single(self) -> tuple[str, ...]:
        """The classes with one sample."""
        return self._classes_of(1)

    @property
    def imbalance(self) -> float:
        """How many times as many samples the largest class has as the smallest that has any; 1 without classes."""
        present = [count for count in self.counts if count]
        return max(present) / min(present) if present else 1.0

    def shared_with(self, other: SetReport) -> list[tuple[str, str]]:
        """Return the images of this set that are in another one, too: their files there and here."""
        return [
            (self.file(index), other.file(other.digests[digest][0]))
            for digest, indices in self.digests.items()
            if digest in other.digests
            for index in indices
        ]

    def _classes_of(self, count: int) -> tuple[str, ...]:
        return tuple(name for name, found in zip(self.classes, self.counts, strict=True) if found == count)


def report_of(
    facts: Iterable[Facts],
    key: str,
    name: str,
    *,
    classes: Sequence[str] = (),
    num_classes: int = 0,
    labels: Sequence[int] | None = None,
    numbers: Sequence[Numbers] = (),
    file: Callable[[int], str] = "sample {}".format,
    root: str = "",
) -> SetReport:
    """Return the report of a data set; the facts are read once and not kept.

    Args:
        facts: of every sample.
        key: TRAIN or TEST.
        name: of the set.
        classes: their names; () if they have none.
        num_classes: how many classes there are, at least.
        labels: of all samples, for those that cannot be read; None if they are not known.
        numbers: of the targets, if they are not class indices.
        file: returns the file of a sample.
        root: the path of the set.

    >>> same = Facts(0, shape=(1, 4, 6), digest=b"a", mean=(0.5,), square=(0.5,), label=1, result=(1, 8, 8))
    >>> facts = [same, same._replace(sample=1), Facts(2, "truncated")]
    >>> report = report_of(facts, "TRAIN", "x", classes=["a", "b"])
    >>> report.counts, report.empty, report.mean, report.std, report.copies
    ((0, 2), ('a',), (0.5,), (0.5,), (('sample 0', 'sample 1'),))
    >>> report.unreadable[0].reason, report.sizes[1], report.enlarged
    ('truncated', (4, 6), ('sample 0', 'sample 1'))
    """
    tally = _Tally(file, labels)
    for each in facts:
        tally.add(each)
    known = 0 if numbers else max([num_classes, len(classes), *(label + 1 for label in tally.labels)])
    names = [*map(str, classes), *map(str, range(len(classes), known))]
    copies = {digest: indices for digest, indices in tally.digests.items() if len(indices) > 1}
    as_files = {digest: tuple(map(file, indices)) for digest, indices in copies.items()}
    return SetReport(
        key=key,
        name=name,
        size=tally.size,
        classes=tuple(names),
        counts=tuple(tally.labels[label] for label in range(known)),
        numbers=tuple(numbers),
        channels=dict(tally.channels),
        stored=dict(tally.stored.most_common()),
        sizes=_extremes_and_median(tally.sizes),
        mean=tally.mean,
        std=tally.std,
        unreadable=tuple(tally.unreadable),
        wrong=tuple(tally.wrong),
        failed=tuple(tally.failed),
        results=dict(tally.results.most_common()),
        enlarged=tuple(tally.enlarged),
        copies=tuple(as_files.values()),
        disputed=tuple(as_files[digest] for digest in copies if len(tally.labels_of[digest]) > 1),
        digests=dict(tally.digests),
        file=file,
        root=root,
        objects=tally.objects.report(known),
    )


class _Tally:
    """The sums, counts and lists of a report while its samples are read."""

    def __init__(self, file: Callable[[int], str], labels: Sequence[int] | None) -> None:
        self._file, self._labels = file, labels
        self.size = 0
        self.labels: Counter[int] = Counter()
        self.objects = ObjectTally()
        self.channels: Counter[int] = Counter()
        self.stored: Counter[str] = Counter()
        self.sizes: Counter[Size] = Counter()
        self.results: Counter[Shape] = Counter()
        self.unreadable: list[Trouble] = []
        self.wrong: list[Trouble] = []
        self.failed: list[Trouble] = []
        self.enlarged: list[str] = []
        self.digests: defaultdict[bytes, list[int]] = defaultdict(list)
        self.labels_of: defaultdict[bytes, set[int | None]] = defaultdict(set)
        self._sums: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}  # by the number of channels

    def add(self, facts: Facts) -> None:
        self.size += 1
        label = facts.label
        if label is None and facts.unreadable and self._labels is not None:
            label = self._labels[facts.sample]
        if label is not None and label >= 0 and not facts.wrong:
            self.labels[label] += 1
        if facts.objects is not None:
            self.labels.update({*facts.objects.labels})
            self.objects.add(facts.objects, facts.result and facts.result[1:])
        if facts.unreadable:
            self.unreadable.append(Trouble(self._file(facts.sample), facts.unreadable))
            return
        channels, *size = facts.shape
        self.channels[channels] += 1
        self.sizes[(size[0], size[1])] += 1
        if facts.stored:
            self.stored[facts.stored] += 1
        self.digests[facts.digest].append(facts.sample)
        self.labels_of[facts.digest].add(facts.label)
        count, mean, square = self._sums.get(len(facts.mean), (0, np.zeros(1), np.zeros(1)))
        self._sums[len(facts.mean)] = (count + 1, mean + facts.mean, square + facts.square)
        self._add_result(facts)

    def _add_result(self, facts: Facts) -> None:
        if facts.wrong:
            self.wrong.append(Trouble(self._file(facts.sample), facts.wrong))
        if facts.failed:
            self.failed.append(Trouble(self._file(facts.sample), facts.failed))
        if facts.result is not None:
            self.results[facts.result] += 1
            if facts.shape[1] < facts.result[1] or facts.shape[2] < facts.result[2]:
                self.enlarged.append(self._file(facts.sample))

    @property
    def mean(self) -> Values:
        if len(self._sums) != 1:
            return ()
        ((count, mean, _),) = self._sums.values()
        return tuple((mean / count).tolist())

    @property
    def std(self) -> Values:
        if len(self._sums) != 1:
            return ()
        ((count, _, square),) = self._sums.values()
        pairs = zip((square / count).tolist(), self.mean, strict=True)
        return tuple(math.sqrt(max(0.0, each - mean**2)) for each, mean in pairs)


def _extremes_and_median(sizes: Counter[Size]) -> tuple[Size, ...]:
    """Return the sizes of least, median and greatest area.

    >>> _extremes_and_median(Counter({(2, 2): 1, (9, 9): 2, (3, 3): 5}))
    ((2, 2), (3, 3), (9, 9))
    """
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    seen, half = 0, sizes.total() / 2
    for size in ordered:
        seen += sizes[size]
        if seen >= half:
            return ordered[0], size, ordered[-1]
    return ()
