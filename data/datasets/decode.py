"""Decoding of image files into tensors."""

from __future__ import annotations

import functools
import io
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from warmstart.config import open_regular

from .orientation import jpeg_orientation, orientation_of, upright

# Formats that PIL decodes itself. For EPS it starts Ghostscript, which would execute the file as a program.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF", "ICO", "TGA")
_HEIF = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"hevc", b"mif1"))


class UnreadableImageError(OSError):
    """A file is not an image that can be decoded completely; the message says why."""


class Reading(NamedTuple):
    """How image files become tensors.

    Attributes:
        decoder: INPUT.DECODER.
        mode: INPUT.FORMAT, RGB or L.
    """

    decoder: str = "torchvision"
    mode: str = "RGB"


DEFAULT_READING = Reading()


def read_image(path: str | os.PathLike[str], decoder: str = "torchvision", mode: str = "RGB") -> Tensor:
    """Return the image in a file, upright, as (3, H, W) RGB or (1, H, W) grey, uint8.

    The pixels equal the result of PIL's `exif_transpose` and `convert(mode)`, except with nvjpeg, whose pixels may
    differ slightly. Transparency is dropped, 16 bits a channel become 8 (the upper ones), and of an animation the
    first picture counts.

    Args:
        path: path of the file.
        decoder: torchvision: torchvision's decoder of JPEG files, which takes 30 % less time than PIL. nvjpeg: the
            same on the current CUDA device, to which the image is returned. pil: PIL. Files in other formats and
            CMYK JPEG files are always decoded by PIL.
        mode: RGB or L.

    Raises:
        UnreadableImageError: the file is not an image, is truncated or damaged.
        OSError: it cannot be opened, or is not a regular file.
    """
    with open_regular(path) as file:
        return decode_image(np.fromfile(file, np.uint8), decoder, mode)


def decode_image(content: npt.NDArray[np.uint8], decoder: str = "torchvision", mode: str = "RGB") -> Tensor:
    """Return the image in the bytes of a file, (size,), as `read_image` does.

    Raises:
        UnreadableImageError: the bytes are not an image, are truncated or damaged.
    """
    image = None
    if decoder != "pil" and content[:3].tobytes() == b"\xff\xd8\xff":
        image = _jpeg(content, "cuda" if decoder == "nvjpeg" else "cpu", mode)
    if image is None:
        image = _any_kind(content, mode)
    return image.to("cuda") if decoder == "nvjpeg" else image


def _jpeg(content: npt.NDArray[np.uint8], device: str, mode: str) -> Tensor | None:
    """Return the image in a JPEG file; None if PIL must decode it or report what is wrong with it."""
    decode = _jpeg_decoder(device)
    if decode is None:
        return None
    try:
        image: Tensor = decode(torch.from_numpy(content))
    except RuntimeError:
        return None
    if len(image) == 4:  # CMYK: the libraries convert it to RGB differently
        return None
    image = _grey(image) if mode == "L" and len(image) == 3 else image
    image = image.expand(1 if mode == "L" else 3, -1, -1)
    return upright(image, jpeg_orientation(content))


def _jpeg_decoder(device: str) -> Callable[[Tensor], Any] | None:
    """Return torchvision's decoder of JPEG files; None if this build of torchvision has none.

    The operator itself: torchvision 0.29 calls the function around it deprecated, with a warning for each image.
    """
    with suppress(ImportError):
        import torchvision.io  # noqa: F401  # registers the operator
    unchanged = 0  # channels as in the file
    if device == "cpu":
        decode = getattr(torch.ops.image, "decode_jpeg", None)
        return None if decode is None else lambda content: decode(content, unchanged, False)
    decode_all = getattr(torch.ops.image, "decode_jpegs_cuda", None)
    on = torch.device(device)
    return None if decode_all is None else lambda content: decode_all([content], unchanged, on)[0]


def _grey(image: Tensor) -> Tensor:
    """Return an RGB image (3, H, W) as grey (1, H, W), rounded as PIL's `convert("L")` rounds (ITU-R 601-2)."""
    red, green, blue = image.to(torch.int32)
    grey: Tensor = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return grey.to(torch.uint8)[None]


def _any_kind(content: npt.NDArray[np.uint8], mode: str) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]  # not every release of PIL has AVIF
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's doubts about metadata and size help nobody in training
            with Image.open(io.BytesIO(content.tobytes()), formats=formats) as picture:
                orientation, pixels = orientation_of(picture), _converted(picture, mode)
    except (MemoryError, UnreadableImageError):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(_unknown(content)) from error
    except Exception as error:  # damaged files make PIL raise errors of every kind
        raise UnreadableImageError(" ".join(str(error).split()) or type(error).__name__) from error
    image = torch.from_numpy(pixels)
    return upright(image.permute(2, 0, 1) if image.ndim == 3 else image[None], orientation)


def _unknown(content: npt.NDArray[np.uint8]) -> str:
    if content[4:12].tobytes() in _HEIF:
        return "it is a HEIF (HEIC) photo, which PIL does not decode; convert it to JPEG"
    return "it is not an image in a format that PIL decodes itself"


def _converted(picture: Any, mode: str) -> npt.NDArray[np.uint8]:
    """Return the pixels of a PIL image, (H, W, 3) for RGB and (H, W) for L."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        grey = (np.asarray(picture) >> 8).astype(np.uint8)  # convert() would make everything above 255 white
        return grey if mode == "L" else np.stack([grey] * 3, axis=-1)
    if picture.mode in ("I", "F"):
        lowest, highest = picture.getextrema()
        if not (lowest >= 0 and 1 < highest <= 255):
            raise UnreadableImageError(
                f"its pixels are 32-bit numbers from {lowest:g} to {highest:g}, whose brightness is not known;"
                " convert it to 8 or 16 bits a channel"
            )
    return np.array(picture.convert(mode))


def set_reading(dataset: Any, reading: Reading) -> None:
    """Let a data set of image files read them in this way: one with `reading`, or with `read_image` as its loader.

    >>> from types import SimpleNamespace
    >>> files = SimpleNamespace(loader=read_image)  # as torchvision's ImageFolder has it
    >>> set_reading(files, Reading(mode="L"))
    >>> files.loader.keywords
    {'decoder': 'torchvision', 'mode': 'L'}
    """
    if hasattr(dataset, "reading"):
        dataset.reading = reading
    elif getattr(dataset, "loader", None) is read_image:  # a user-defined loader stays
        dataset.loader = functools.partial(read_image, **reading._asdict())


def reads_files(dataset: Any) -> bool:
    """Return whether `set_reading` has an effect on a data set, so that INPUT.FORMAT decides its channels.

    >>> reads_files([1, 2])
    False
    """
    loader = getattr(dataset, "loader", None)
    return hasattr(dataset, "reading") or getattr(loader, "func", loader) is read_image


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
