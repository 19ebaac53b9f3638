"""Sizes of images from the heads of their files, without reading a pixel."""

from __future__ import annotations

import warnings
from typing import IO, Any

from warmstart.config import open_regular

from .decode import read_image
from .unreadable import sample_path

Size = tuple[int, int]  # (height, width)

_LOOKED_AT = 1000  # files of a data set


def head_size(file: IO[bytes]) -> Size:
    """Return (height, width) of the image in an open file.

    Raises:
        OSError: it is no image of a kind that PIL knows, or one of more pixels than PIL reads.
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
    """Return the sizes of a data set's images: of all, or of 1,000 evenly spaced ones.

    Files that are no images are passed over. A data set with a method `size_of`, as shards have, is asked; others
    are looked at where `read_image` reads their files, since another function may give images of other sizes.

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
        except OSError:  # for the loader to say
            continue
    return sizes


def extremes(sizes: set[Size]) -> tuple[Size, ...]:
    """Return the smallest and the largest size, the widest and the highest: what transforms must cope with.

    >>> extremes({(10, 10), (20, 30), (30, 20), (40, 40)})
    ((10, 10), (20, 30), (30, 20), (40, 40))
    """
    ordered = sorted(sizes)
    by = (lambda size: size[0] * size[1], lambda size: size[1] / size[0])
    return tuple(sorted({choose(ordered, key=key) for key in by for choose in (min, max)}))
