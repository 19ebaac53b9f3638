"""The EXIF orientation of photos: how a camera was held, which decoders ignore."""

from __future__ import annotations

import io
import warnings
from typing import Any

from torch import Tensor

_TAG = 0x0112
_APP1, _START_OF_SCAN, _LONGEST = 0xE1, 0xDA, 64  # segments before the pixels; real files have about ten


def orientation_of(picture: Any) -> int:
    """Return the EXIF orientation of a PIL image, 1 to 8; 1 if there is none, or one that cannot be read.

    XMP counts if EXIF has none, as in `PIL.ImageOps.exif_transpose`. TIFF files count as upright, because PIL
    turns them itself.

    >>> from PIL import Image
    >>> orientation_of(Image.new("RGB", (4, 2)))
    1
    """
    from PIL import Image

    if picture.format == "TIFF":
        return 1
    try:
        # Not PngImageFile.getexif, which decodes all pixels to look for EXIF behind them.
        value = Image.Image.getexif(picture).get(_TAG, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # damaged EXIF makes PIL raise errors of every kind, and the pixels are intact
        return 1


def jpeg_orientation(content: Any) -> int:
    """Return the orientation of a JPEG file in memory, (size,) uint8; PIL is only asked if it has EXIF or XMP.

    >>> import numpy as np
    >>> jpeg_orientation(np.zeros(4, np.uint8))
    1
    """
    end = _end_of_metadata(content)
    if not end:
        return 1
    from PIL.JpegImagePlugin import JpegImageFile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Image.open would look for the further pictures of a file in the format MPO, behind this part of it.
            with JpegImageFile(io.BytesIO(content[:end].tobytes())) as picture:
                return orientation_of(picture)
    except Exception:
        return 1


def _end_of_metadata(content: Any) -> int:
    """Return the length of a JPEG file up to its pixels; 0 if no segment can hold EXIF or XMP data."""
    place, found = 2, False
    for _ in range(_LONGEST):
        head = content[place : place + 4].tobytes()
        if len(head) < 4 or head[0] != 0xFF:
            break
        if head[1] == _START_OF_SCAN:
            return place + 2 + int.from_bytes(head[2:], "big") if found else 0
        if head[1] == 0xFF:  # a fill byte
            place += 1
            continue
        found |= head[1] == _APP1
        place += 2 + int.from_bytes(head[2:], "big")
    return len(content) if found else 0


def upright(image: Tensor, orientation: int) -> Tensor:
    """Return an image (..., H, W) as it is meant to be seen; orientations 5 to 8 exchange height and width.

    >>> import torch
    >>> upright(torch.tensor([[1, 2], [3, 4]]), 6).tolist()  # the camera was held with its right side down
    [[3, 1], [4, 2]]
    """
    if orientation >= 5:  # stored by columns
        image = image.mT
    flipped = {2: [-1], 3: [-2, -1], 4: [-2], 6: [-1], 7: [-2, -1], 8: [-2]}.get(orientation)
    return image.flip(flipped) if flipped else image
