"""Data sets that lie in memory as one array of images, and the files they are read from."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class ArrayDataset:
    """A data set held as one array, checked once.

    Args:
        images: uint8, (N, H, W) or (N, H, W, C).
        labels: N whole numbers from 0.
        classes: the names of the classes; () where they have none.

    Raises:
        ValueError: wrong dtype or shape, unequal lengths, negative labels.

    >>> dataset = ArrayDataset(np.zeros((5, 8, 8), np.uint8), np.arange(5))
    >>> len(dataset), dataset.num_classes, dataset[4][1]
    (5, 5, 4)
    """

    def __init__(self, images: npt.NDArray[Any], labels: npt.NDArray[Any], classes: tuple[str, ...] = ()) -> None:
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise ValueError(
                f"images must be uint8 of shape (N, H, W) or (N, H, W, C); got {images.dtype} {images.shape}"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
            raise ValueError(f"labels must be N whole numbers; got {labels.dtype} {labels.shape}")
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images but {len(labels)} labels")
        if len(labels) and labels.min() < 0:
            raise ValueError(f"labels begin at 0; got {labels.min()}")
        self.images: npt.NDArray[np.uint8] = images
        self.labels: npt.NDArray[np.int64] = labels.astype(np.int64)
        self.classes = classes
        self.num_classes = len(classes) or (int(self.labels.max()) + 1 if len(labels) else 0)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint8], int]:
        """Return the image, (H, W) or (H, W, C), and the label."""
        return self.images[index], int(self.labels[index])


def as_tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    """Return the images (N, C, H, W) uint8 and labels (N,) int64 of an ArrayDataset.

    >>> images, labels = as_tensors(ArrayDataset(np.zeros((5, 8, 6, 3), np.uint8), np.arange(5)))
    >>> images.shape, labels.tolist()
    (torch.Size([5, 3, 8, 6]), [0, 1, 2, 3, 4])
    """
    # A copy only where the array is not whole or not ours to write, as one that lies in a file's bytes.
    pixels = torch.from_numpy(np.require(dataset.images, requirements=["C", "W"]))
    return pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None], torch.from_numpy(dataset.labels)


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return all arrays of an `.npz` file; pickled objects are refused.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, is damaged, or holds Python objects.
    """
    if path.is_file() and not is_zipfile(path):
        raise ValueError(f"{path} is no .npz file, as np.savez writes them")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (BadZipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Return the bytes of an idx file, MNIST's format, also gzipped, in their shape.

    Format: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as
    a big-endian 32-bit integer, the values. torchvision has a reader, but none for gzipped files.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no idx file of bytes, or is cut short.
    """
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an idx file of unsigned bytes")
    values_at = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:values_at], ">u4").tolist())
    if len(content) - values_at != math.prod(shape):
        raise ValueError(f"{path} is cut short: it holds {len(content) - values_at} of {math.prod(shape)} values")
    return np.frombuffer(content, np.uint8, offset=values_at).reshape(shape)
