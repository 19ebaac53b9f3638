"""Image sizes from file headers, without decoding pixels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from warmstart.config import open_regular

from ..seeds import splitmix64
from .decode import reads_files
from .orientation import orientation_of
from .unreadable import sample_path

Size = tuple[int, int]  # (height, width)

_ALL, _DRAWN = 10_000, 1000  # up to so many files all are read, of more so many


def head_size(file: IO[bytes]) -> Size:
    """Return (height, width) of the image in an open file, upright as its EXIF orientation says.

    Raises:
        OSError: it is not an image in a format that PIL knows, or has more pixels than PIL reads.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, and the number of pixels
            with Image.open(file) as image:
                size = image.height, image.width
                return size[::-1] if orientation_of(image) >= 5 else size
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error


def head_sizes(dataset: Any) -> set[Size]:
    """Return the sizes of a data set's images: of all, or if there are more than 10,000, of 1,000 drawn by hash.

    Files that are not images are passed over. The sizes come from the data set's method `size_of` if it has one,
    as shards do, and otherwise from its files if `read_image` reads them: another loader may change the sizes.

    >>> head_sizes([1, 2, 3])
    set()
    """
    if not hasattr(dataset, "size_of") and not reads_files(dataset):
        return set()
    count, sizes = len(dataset), set()
    # Not evenly spaced: images that come in turns, such as scans of two sides, would be missed.
    drawn = range(count) if count <= _ALL else {splitmix64(0, number) % count for number in range(_DRAWN)}
    for index in sorted(drawn):
        with suppress(OSError):  # the loader will report it
            sizes.add(size_at(dataset, index))
    return sizes


def size_at(dataset: Any, index: int) -> Size:
    """Return (height, width) of an image from its header: by the data set's `size_of`, or from its file.

    Raises:
        LookupError: the data set has neither.
        OSError: the file cannot be read, or is not an image.
    """
    if hasattr(dataset, "size_of"):
        height, width = dataset.size_of(index)
        return int(height), int(width)
    path = sample_path(dataset, index)
    if not path:
        raise LookupError("an attribute sizes, (height, width) of each image")
    with open_regular(path) as file:
        return head_size(file)


def extremes(sizes: set[Size]) -> tuple[Size, ...]:
    """Return the sizes of the least and greatest area and aspect ratio: the extremes that transforms must handle.

    >>> extremes({(10, 10), (20, 30), (30, 20), (40, 40)})
    ((10, 10), (20, 30), (30, 20), (40, 40))
    """
    ordered = sorted(sizes)
    by = (lambda size: size[0] * size[1], lambda size: size[1] / size[0])
    return tuple(sorted({choose(ordered, key=key) for key in by for choose in (min, max)}))


def known_sizes(files: Sequence[str], stated: Sequence[Sequence[int]] = ()) -> npt.NDArray[np.int64]:
    """Return (height, width) of image files, (N, 2): as stated, or from their headers; (0, 0) if damaged.

    Args:
        files: the paths.
        stated: (height, width) of each, (0, 0) where it is not known; (): of none.
    """
    sizes = np.array(stated, np.int64).reshape(-1, 2) if len(stated) else np.zeros((len(files), 2), np.int64)
    for index in np.flatnonzero((sizes == 0).any(axis=1)).tolist():
        with suppress(OSError), open_regular(files[index]) as file:  # the loader will report it
            sizes[index] = head_size(file)
    return sizes
