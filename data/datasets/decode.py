"""Images from their files, as RGB tensors."""

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

# What PIL decodes itself. For EPS it starts Ghostscript, which runs the program that such a file is.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF", "ICO", "TGA")


class UnreadableImageError(OSError):
    """A file is no image that can be decoded whole; the message says why."""


def read_image(path: str | os.PathLike[str], decoder: str = "torchvision") -> Tensor:
    """Return the image in a file as RGB (3, H, W), uint8.

    What comes out is what PIL's `convert("RGB")` gives, with each decoder but nvjpeg, whose pixels may differ a
    little: transparency is dropped, and the orientation in a camera's notes is not looked at.

    Args:
        path: of the file.
        decoder: torchvision: torchvision.io for JPEG files, which takes 30 % less time than PIL. nvjpeg: the
            same on the current CUDA device, where the image then lies. pil: PIL. Other files, and JPEG files of
            four colours, are PIL's in any case.

    Raises:
        UnreadableImageError: the file is no image, is cut short or damaged.
        OSError: it cannot be opened, or is no regular file.
    """
    with open_regular(path) as file:
        return decode_image(np.fromfile(file, np.uint8), decoder)


def decode_image(content: npt.NDArray[np.uint8], decoder: str = "torchvision") -> Tensor:
    """Return the same for the bytes of such a file, (size,).

    Raises:
        UnreadableImageError: they are no image, are cut short or damaged.
    """
    image = None
    if decoder != "pil" and content[:3].tobytes() == b"\xff\xd8\xff":
        image = _jpeg(torch.from_numpy(content), "cuda" if decoder == "nvjpeg" else "cpu")
    if image is None:
        image = _any_kind(content)
    return image.to("cuda") if decoder == "nvjpeg" else image


def _jpeg(content: Tensor, device: str) -> Tensor | None:
    """Return the image in a JPEG file; None where it is for PIL to decode, or to say what is wrong with it."""
    try:
        from torchvision.io import decode_jpeg

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torchvision 0.29 calls it deprecated
            image: Tensor = decode_jpeg(content, device=device)
    except (ImportError, RuntimeError):
        return None
    if len(image) == 4:  # CMYK: each library has its own formula
        return None
    return image.expand(3, -1, -1)


def _any_kind(content: npt.NDArray[np.uint8]) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]  # which AVIF is not with each release
    try:
        with Image.open(io.BytesIO(content.tobytes()), formats=formats) as picture:
            pixels = np.array(picture.convert("RGB"))
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("it is no image of a kind that PIL decodes itself") from error
    except Exception as error:  # damaged files bring PIL to errors of every kind
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
