"""Decoding of image files into RGB tensors."""

from __future__ import annotations

import io
import os
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from warmstart.config import open_regular

# Formats that PIL decodes itself. For EPS it starts Ghostscript, which would execute the file as a program.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF", "ICO", "TGA")


class UnreadableImageError(OSError):
    """A file is not an image that can be decoded completely; the message says why."""


def read_image(path: str | os.PathLike[str], decoder: str = "torchvision") -> Tensor:
    """Return the image in a file as RGB (3, H, W), uint8.

    The pixels equal the result of PIL's `convert("RGB")`, except with nvjpeg, whose pixels may differ slightly.
    Transparency is dropped, and the EXIF orientation is ignored.

    Args:
        path: path of the file.
        decoder: torchvision: torchvision.io for JPEG files, which takes 30 % less time than PIL. nvjpeg: the
            same on the current CUDA device, to which the image is returned. pil: PIL. Files in other formats and
            CMYK JPEG files are always decoded by PIL.

    Raises:
        UnreadableImageError: the file is not an image, is truncated or damaged.
        OSError: it cannot be opened, or is not a regular file.
    """
    with open_regular(path) as file:
        return decode_image(np.fromfile(file, np.uint8), decoder)


def decode_image(content: npt.NDArray[np.uint8], decoder: str = "torchvision") -> Tensor:
    """Return the image in the bytes of a file, (size,), as `read_image` does.

    Raises:
        UnreadableImageError: the bytes are not an image, are truncated or damaged.
    """
    image = None
    if decoder != "pil" and content[:3].tobytes() == b"\xff\xd8\xff":
        image = _jpeg(torch.from_numpy(content), "cuda" if decoder == "nvjpeg" else "cpu")
    if image is None:
        image = _any_kind(content)
    return image.to("cuda") if decoder == "nvjpeg" else image


def _jpeg(content: Tensor, device: str) -> Tensor | None:
    """Return the image in a JPEG file; None if PIL must decode it or report what is wrong with it."""
    try:
        from torchvision.io import decode_jpeg

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torchvision 0.29 calls it deprecated
            image: Tensor = decode_jpeg(content, device=device)
    except (ImportError, RuntimeError):
        return None
    if len(image) == 4:  # CMYK: the libraries convert it to RGB differently
        return None
    return image.expand(3, -1, -1)


def _any_kind(content: npt.NDArray[np.uint8]) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]  # not every release of PIL has AVIF
    try:
        with Image.open(io.BytesIO(content.tobytes()), formats=formats) as picture:
            pixels = np.array(picture.convert("RGB"))
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("it is not an image in a format that PIL decodes itself") from error
    except Exception as error:  # damaged files make PIL raise errors of every kind
        raise UnreadableImageError(" ".join(str(error).split()) or type(error).__name__) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def to_tensor(image: Any) -> Tensor:
    """Return a copy of an image as a tensor (C, H, W).

    Args:
        image: a PIL image, an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W).

    >>> to_tensor(np.zeros((4, 6, 3), np.uint8)).shape
    torch.Size([3, 4, 6])
    """
    if isinstance(image, Tensor):
        return image.clone() if image.ndim == 3 else image.clone()[None]
    array = torch.from_numpy(np.array(image))
    return array.permute(2, 0, 1) if array.ndim == 3 else array[None]
