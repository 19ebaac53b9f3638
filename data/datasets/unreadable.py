"""Unreadable samples: the errors that mark them, their files, and the samples that replace them."""

from __future__ import annotations

import bisect
import errno
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch.utils.data import ConcatDataset

from warmstart.config import ConfigError

T = TypeVar("T")

_IN_A_ROW = 100  # unreadable samples after which the files are not to blame
_OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class UnreadableSample(Exception):  # for the loader; users see a ConfigError or a warning
    """A sample's file cannot be read.

    Args:
        index: of the sample.
        file: its file; "" if it has none.
        reason: why it cannot be read.

    >>> print(UnreadableSample(7, "dogs/7.png", "image file is truncated"))
    sample 7 (dogs/7.png) cannot be read: image file is truncated
    """

    def __init__(self, index: int, file: str, reason: str) -> None:
        self.index, self.reason = index, reason
        super().__init__(f"sample {index}{f' ({file})' if file else ''} cannot be read: {reason}")


def read_sample(dataset: Any, index: int) -> tuple[Any, Any]:
    """Return (image, target) of a data set.

    Raises:
        ConfigError: the data set returns something else.
        UnreadableSample: its file is missing or damaged: the data set has raised an OSError, as PIL and
            `read_image` do. Any other error is a bug in somebody's code, and is passed through.
    """
    try:
        sample = dataset[index]
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise
        reason = " ".join(str(error.strerror or error).split())
        raise UnreadableSample(index, sample_path(dataset, index) or str(error.filename or ""), reason) from error
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        found = f"{len(sample)} values" if isinstance(sample, (tuple, list)) else f"a {type(sample).__name__}"
        raise ConfigError(f"{type(dataset).__name__}: sample {index} is {found}; return (image, target)")
    image, target = sample
    return image, target


def first_readable(read: Callable[[int], T], index: int, size: int, name: str) -> tuple[T, list[UnreadableSample]]:
    """Return the first readable sample from `index` on, and the errors of the samples before it.

    Args:
        read: returns a sample by its index, or raises UnreadableSample.
        index: where to begin; the last sample is followed by the first.
        size: samples in the data set.
        name: the data set's name, for messages.

    Raises:
        ConfigError: a hundred in a row cannot be read.

    >>> first_readable("abc".__getitem__, 1, 3, "letters")
    ('b', [])
    """
    unread: list[UnreadableSample] = []
    for step in range(min(size, _IN_A_ROW)):
        try:
            return read((index + step) % size), unread
        except UnreadableSample as error:
            unread.append(error)
    raise ConfigError(
        f"{name}: none of the {len(unread)} samples from {index} on can be read; check that the drive is mounted "
        f"({unread[-1]})"
    )


def sample_path(dataset: Any, index: int) -> str:
    """Return a sample's file if the data set has pairs (file, label) as `samples`, like torchvision's; else "".

    >>> from types import SimpleNamespace
    >>> folder = SimpleNamespace(samples=[("cats/1.png", 0), ("dogs/7.png", 1)])
    >>> sample_path(folder, 1), sample_path([5, 6], 1)
    ('dogs/7.png', '')
    """
    if isinstance(dataset, ConcatDataset):
        part = bisect.bisect_right(dataset.cumulative_sizes, index)
        first = dataset.cumulative_sizes[part - 1] if part else 0
        return sample_path(dataset.datasets[part], index - first)
    samples = getattr(dataset, "samples", None)
    pair = samples[index] if isinstance(samples, Sequence) and index < len(samples) else None
    path = pair[0] if isinstance(pair, (list, tuple)) and pair else None
    return str(path) if isinstance(path, (str, os.PathLike)) else ""
