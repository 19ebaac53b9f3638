"""Data sets held in memory as one array of images, and the files they are read from."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from warmstart.config import open_regular

from ..memory import require_memory
from .targets import checked_targets

_MOST_CLASSES = 10**6  # that labels without class names may imply


class ArrayDataset:
    """A data set held as one array, checked once.

    Args:
        images: uint8, (N, H, W) or (N, H, W, C).
        labels: class indices, (N,) integers from 0; or (N,) floats, or (N, K) numbers or booleans.
        classes: the names of the classes, or of the K numbers; () if they have none.

    Raises:
        ValueError: wrong dtype or shape, unequal lengths, negative class indices, or numbers that are not finite.

    >>> dataset = ArrayDataset(np.zeros((5, 8, 8), np.uint8), np.arange(5))
    >>> len(dataset), dataset.num_classes, dataset[4][1]
    (5, 5, 4)
    """

    def __init__(self, images: npt.NDArray[Any], labels: npt.NDArray[Any], classes: tuple[str, ...] = ()) -> None:
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise ValueError(
                f"images must be uint8 of shape (N, H, W) or (N, H, W, C); got {images.dtype} {images.shape}"
            )
        targets = checked_targets(labels)
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images but {len(labels)} labels")
        is_index = targets.ndim == 1 and targets.dtype == np.int64
        if is_index and len(labels) and labels.min() < 0:
            raise ValueError(
                f"labels begin at 0; got {labels.min()}; save targets that are not class indices as floats"
            )
        self.num_classes = (len(classes) or count_classes(labels)) if is_index else 0
        self.images: npt.NDArray[np.uint8] = images
        self.labels: npt.NDArray[Any] = targets
        self.classes = classes

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint8], Any]:
        """Return the image, (H, W) or (H, W, C), and the label: an int, a float, or an array (K,)."""
        label = self.labels[index]
        return self.images[index], label.item() if self.labels.ndim == 1 else label


def count_classes(labels: npt.NDArray[Any]) -> int:
    """Return one more than the highest label: the number of classes if they have no names.

    Raises:
        ValueError: there would be more than a million classes, too many for a model.

    >>> count_classes(np.array([0, 4])), count_classes(np.array([], int))
    (5, 0)
    """
    count = int(labels.max()) + 1 if len(labels) else 0
    if count > _MOST_CLASSES:
        raise ValueError(
            f"sample {int(labels.argmax())} has label {count - 1}, which implies {count} classes; number the"
            f" classes from 0, at most {_MOST_CLASSES:,} of them"
        )
    return count


def as_tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    """Return the images (N, C, H, W) uint8 and the labels, int64 or float64, of an ArrayDataset.

    >>> images, labels = as_tensors(ArrayDataset(np.zeros((5, 8, 6, 3), np.uint8), np.arange(5)))
    >>> images.shape, labels.tolist()
    (torch.Size([5, 3, 8, 6]), [0, 1, 2, 3, 4])
    """
    # Copies only an array that is not contiguous or not writable, such as a view of a file's bytes.
    pixels = torch.from_numpy(np.require(dataset.images, requirements=["C", "W"]))
    return pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None], torch.from_numpy(dataset.labels)


def read_npz(path: Path, *names: str) -> dict[str, npt.NDArray[Any]]:
    """Return arrays from an `.npz` file; pickled objects are refused.

    Args:
        path: the file.
        names: names of the arrays; all arrays if none is given.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: it is not an `.npz` file, lacks an array, is damaged, too large, or holds Python objects.
    """
    with open_regular(path) as file:
        if not is_zipfile(file):
            raise ValueError(f"{path} is not an .npz file, as np.savez writes them")
        try:
            with ZipFile(file) as archive:
                entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
                missing = [name for name in names if name not in entries]
                if missing:
                    found = ", ".join(entries) or "none"
                    needed = " and ".join(names)
                    raise ValueError(f"array {missing[0]!r} is missing; it needs {needed}, and holds {found}")
                arrays = {}
                for name in names or entries:
                    with archive.open(entries[name]) as array:
                        arrays[name] = read_npy(array, entries[name].file_size, f"the array {name}")
                return arrays
        # RuntimeError: it is encrypted. NotImplementedError: a compression that Python does not know.
        except (BadZipFile, EOFError, zlib.error, RuntimeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error


def read_npy(file: IO[bytes], size: int, what: str = "the array") -> npt.NDArray[Any]:
    """Return the array in an open `.npy` file; pickled objects are refused.

    Args:
        file: a seekable file, at its beginning.
        size: the file's bytes; no more memory than this is allocated, whatever the header claims.
        what: the array's name, for messages.

    Raises:
        ValueError: the file is damaged, does not fit into memory, or holds Python objects.

    >>> from io import BytesIO
    >>> file = BytesIO()
    >>> np.save(file, np.arange(3))
    >>> size = file.tell()
    >>> _ = file.seek(0)
    >>> read_npy(file, size)
    array([0, 1, 2])
    """
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version in readers:  # version 3 differs only in field names beyond Latin-1, which our arrays do not have
        shape, _, dtype = readers[version](file)
        claimed, found = math.prod(shape) * dtype.itemsize, size - file.tell()
        if not dtype.hasobject and claimed != found:
            raise ValueError(f"{what} is damaged: of {dtype} {shape} there are {found:,} of {claimed:,} bytes")
    try:
        require_memory(size, what)
        file.seek(0)
        array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except MemoryError as error:
        raise ValueError(str(error)) from None
    return array


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Return the array of bytes in an idx file (MNIST's format), gzipped or not.

    Format: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as
    a big-endian 32-bit integer, the values. torchvision's reader does not take gzipped files.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: it is not an idx file of bytes, is truncated, or does not fit into memory.
    """
    with open_regular(path) as raw, gzip.open(raw) if path.suffix == ".gz" else raw as file:
        try:
            mark = file.read(4)
            if mark[:3] != b"\0\0\x08" or len(mark) < 4:
                raise ValueError(f"{path} is not an idx file of unsigned bytes")
            shape = tuple(np.frombuffer(file.read(4 * mark[3]), ">u4").tolist())
            require_memory(math.prod(shape), str(path))
            content = file.read(math.prod(shape) + 1)  # one more byte: gzip verifies its checksum at the end
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        except MemoryError as error:
            raise ValueError(str(error)) from None
    if len(content) < math.prod(shape):
        raise ValueError(f"{path} is cut short: it holds {len(content)} of {math.prod(shape)} values")
    if len(content) > math.prod(shape):
        raise ValueError(f"{path} is damaged: it holds more than the {math.prod(shape)} values of its shape")
    return np.frombuffer(content, np.uint8).reshape(shape)
