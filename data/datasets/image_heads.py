"""Image sizes from file headers, without decoding pixels."""

from __future__ import annotations

import warnings
from typing import IO, Any

from warmstart.config import open_regular

from .decode import read_image
from .unreadable import sample_path

Size = tuple[int, int]  # (height, width)

_LOOKED_AT = 1000  # files per data set


def head_size(file: IO[bytes]) -> Size:
    """Return (height, width) of the image in an open file.

    Raises:
        OSError: it is not an image in a format that PIL knows, or has more pixels than PIL reads.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return image.height, image.width
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error


def head_sizes(dataset: Any) -> set[Size]:
    """Return the sizes of a data set's images: of all of them, or of 1,000 evenly spaced ones.

    Files that are not images are passed over. The sizes come from the data set's method `size_of` if it has one,
    as shards do, and otherwise from its files if `read_image` reads them: another loader may change the sizes.

    >>> head_sizes([1, 2, 3])
    set()
    """
    size_of = getattr(dataset, "size_of", None)
    if size_of is None and getattr(dataset, "loader", None) is not read_image:
        return set()
    count, sizes = len(dataset), set()
    for number in range(min(count, _LOOKED_AT)):
        index = number * count // min(count, _LOOKED_AT)
        try:
            if size_of is not None:
                sizes.add(size_of(index))
            else:
                with open_regular(sample_path(dataset, index)) as file:
                    sizes.add(head_size(file))
        except OSError:  # the loader will report it
            continue
    return sizes


def extremes(sizes: set[Size]) -> tuple[Size, ...]:
    """Return the sizes of the least and greatest area and aspect ratio: the extremes that transforms must handle.

    >>> extremes({(10, 10), (20, 30), (30, 20), (40, 40)})
    ((10, 10), (20, 30), (30, 20), (40, 40))
    """
    ordered = sorted(sizes)
    by = (lambda size: size[0] * size[1], lambda size: size[1] / size[0])
    return tuple(sorted({choose(ordered, key=key) for key in by for choose in (min, max)}))
