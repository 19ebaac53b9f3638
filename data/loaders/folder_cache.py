"""A folder of images as one array: converted once, then memory-mapped from a file.

Each image equals the worker loader's image before the first random transform; it is made by the same calls.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import math
import os
import shutil
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from warmstart.config import open_regular

from ..datasets.cache_dir import cache_folder, whole_file
from ..datasets.decode import DEFAULT_READING, to_tensor
from ..datasets.image_heads import head_size
from .crop_store import Steps

logger = logging.getLogger(__name__)

_PIECE = 256  # images that are converted before they are written
_LONG = 5  # expected seconds from which a conversion is announced
_PIXELS = "upright"  # changes whenever the same files give other pixels, so that older conversions are not used
_CHECKSUM = 4  # bytes of the checksum, which follows the pixels
# Large enough for any padding, and of shapes that only a transform to a fixed size makes equal.
_ODD_SIZES = ((701, 1100), (1100, 701), (1501, 1500))


class FolderImages:
    """The images of a folder, from the current state of its files, after the transforms that treat all alike.

    Args:
        dataset: a data set with `root`, `samples`, pairs (file, label), and `targets`, as `ImageFiles` has them.
        once: (name, transform) of the leading steps that treat all images alike.
        cache: DATASETS.CACHE.

    Attributes:
        path: the file for the converted images, whether or not it exists yet.
    """

    def __init__(self, dataset: Any, once: Steps, cache: str = "") -> None:
        self._dataset, self._once = dataset, [step for _, step in once]
        self._files = _list_files([path for path, _ in dataset.samples])
        versions = [version(name) for name in ("torch", "torchvision", "pillow")]
        mode = getattr(dataset, "reading", DEFAULT_READING).mode
        known = json.dumps([self._files.digest, [repr(step) for step in self._once], versions, _PIXELS, mode])
        self.path = cache_folder(cache) / f"{hashlib.sha256(known.encode()).hexdigest()[:32]}.u8"

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._files.paths)

    @functools.cached_property
    def shape(self) -> tuple[int, int, int]:
        """Return (C, H, W), the shape of every image; at most the headers of the files are read for it.

        Raises:
            ValueError: images differ in size, or a file is not an image; the message names the first.
        """
        channels, height, width = self._image(0).shape
        shape = (channels, height, width)
        if not self._ends_with_one_size() and not self._has_size(shape):
            _require_one_size(self._files)
        return shape

    def has_room(self) -> bool:
        """Return whether the images are converted, or can be: the cache folder is writable and has room."""
        if self._has_size(self.shape):
            return True
        folder = next(each for each in self.path.absolute().parents if each.exists())
        return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= self._bytes(self.shape)

    def load(self) -> tuple[Tensor, Tensor]:
        """Return the images, (N, C, H, W) uint8, and the targets: (N,) int64 or float64, or (N, K).

        The images are memory-mapped from `path`; they are converted first if the file is missing or damaged.

        Raises:
            ValueError: images differ in size, or a file is not an image; the message names the first.
            OSError: the file cannot be written.
        """
        if not self._is_whole():
            try:
                self._convert()
            except OSError as error:  # the error of a full disk does not name the file
                raise OSError(error.errno, error.strerror, str(self.path)) from error
        # "c" (copy on write) leaves the file as it is; torch warns about read-only memory.
        images = torch.from_numpy(np.memmap(self.path, np.uint8, "c", shape=(len(self), *self.shape)))
        return images, torch.from_numpy(np.asarray(self._dataset.targets))

    def _image(self, index: int) -> Tensor:
        try:
            image = to_tensor(self._dataset[index][0])
        except (OSError, RuntimeError, SyntaxError, ValueError) as error:  # whatever a decoder raises
            raise ValueError(f"{self._files.paths[index]} cannot be read: {error}") from error
        for step in self._once:
            image = step(image)
        return image

    def _ends_with_one_size(self) -> bool:
        """Return whether the transforms return images of the same size for inputs of any size."""
        channels, sizes = len(to_tensor(self._dataset[0][0])), set()
        for size in _ODD_SIZES if self._once else ():
            image = torch.zeros(channels, *size, dtype=torch.uint8)
            for step in self._once:
                image = step(image)
            sizes.add(image.shape)
        return len(sizes) == 1

    def _has_size(self, shape: tuple[int, int, int]) -> bool:
        """Return whether the file exists and has the expected length."""
        size = self._bytes(shape) + _CHECKSUM
        return self.path.is_file() and self.path.stat().st_size == size

    def _bytes(self, shape: tuple[int, int, int]) -> int:
        return len(self) * math.prod(shape)

    def _is_whole(self) -> bool:
        if not self._has_size(self.shape):
            return False
        content = np.memmap(self.path, np.uint8, "r").data
        return zlib.crc32(content[:-_CHECKSUM]) == int.from_bytes(content[-_CHECKSUM:], "little")

    def _convert(self) -> None:
        with whole_file(self.path) as file:
            if shutil.disk_usage(self.path.parent).free < self._bytes(self.shape):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            self._write(file)

    def _write(self, file: BinaryIO) -> None:
        count, checksum, begin = len(self), 0, time.monotonic()
        for first in range(0, count, _PIECE):
            images = [self._image(index) for index in range(first, min(first + _PIECE, count))]
            for index, image in enumerate(images, start=first):
                if image.shape != self.shape:
                    raise _differ(self._files.paths, index, tuple(image.shape), self.shape)
            pixels = torch.stack(images).numpy().tobytes()
            checksum = zlib.crc32(pixels, checksum)
            file.write(pixels)
            seconds = (time.monotonic() - begin) / len(images) * count
            if first == 0 and seconds > _LONG:
                logger.info(
                    f"Converting {count:,} images of {self._dataset.root}, once: about {seconds:,.0f} s; cached in"
                    f" {self.path}"
                )
        file.write(checksum.to_bytes(_CHECKSUM, "little"))


@dataclass(frozen=True)
class _Files:
    """The current state of files: `digest` hashes their names, sizes and modification times."""

    paths: tuple[str, ...] = field(compare=False, repr=False)
    digest: str


def _list_files(paths: Sequence[str]) -> _Files:
    digest = hashlib.sha256()
    for path in paths:
        stat = os.stat(path)
        digest.update(os.fsencode(os.path.abspath(path)) + f"\0{stat.st_size} {stat.st_mtime_ns}\0".encode())
    return _Files(tuple(paths), digest.hexdigest())


@functools.cache
def _require_one_size(files: _Files) -> None:
    first = None
    for index, path in enumerate(files.paths):
        try:
            with open_regular(path) as file:
                size = head_size(file)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        first = first or size
        if size != first:
            raise _differ(files.paths, index, size, first)


def _differ(paths: Sequence[str], index: int, size: tuple[int, ...], first: tuple[int, ...]) -> ValueError:
    sizes = ["x".join(map(str, each)) for each in (size, first)]
    return ValueError(
        f"{paths[index]} is {sizes[0]}, but {paths[0]} is {sizes[1]}, and no transform to one size, such as"
        " {Resize: {size: [64, 64]}}, comes first"
    )
