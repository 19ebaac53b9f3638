"""Data sets in shards: tar archives of images and labels, as the package webdataset writes them.

Each archive is indexed once; after that, any sample takes one read. So the sample at a position depends on the
position alone for shards too, which sequential reading of archives would not allow.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import os
import re
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .arrays import count_classes, read_npz
from .cache_dir import cache_folder, whole_file
from .decode import DEFAULT_READING, UnreadableImageError, decode_image
from .image_heads import head_size
from .shard_urls import shard_paths

logger = logging.getLogger(__name__)

_LONG = 5  # expected seconds from which indexing is announced
_BLOCK = 512  # bytes of a tar block
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Fields(NamedTuple):
    """The members of a sample that are its image and its label, by the part of their names after the first dot.

    Attributes:
        image: ending of the image; "" is any ending that torchvision accepts for images.
        label: ending of the file that holds the label, an integer as text.
    """

    image: str = ""
    label: str = "cls"

    def kind(self, ending: str) -> str:
        """Return the kind of a member: image, label, or "" if it is ignored.

        >>> Fields().kind("jpg"), Fields().kind("seg.png"), Fields(image="seg.png").kind("seg.png")
        ('image', '', 'image')
        """
        if ending == self.label:
            return "label"
        is_image = ending == self.image if self.image else f".{ending}" in _image_endings()
        return "image" if is_image else ""


class ShardedImages:
    """Images and labels in archives, by index: shard after shard, in the order of each archive.

    Args:
        shards: the archives, uncompressed.
        indices: the result of `index_shard` for each.

    Attributes:
        targets: all labels, (N,) int64.
        num_classes: one more than the highest label.
        reading: decoder and channels.
    """

    def __init__(self, shards: Sequence[Path], indices: Sequence[npt.NDArray[np.int64]]) -> None:
        self._shards = [str(shard) for shard in shards]
        self._ends = np.cumsum([len(index) for index in indices])
        # Arrays, whose elements have no reference counts: their memory does not grow with the number of workers.
        self._begins, self._bytes, self.targets = np.concatenate(indices).T.copy()
        self.num_classes = count_classes(self.targets)
        self.reading = DEFAULT_READING

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the image, (3, H, W) or (1, H, W), uint8, and its label.

        Raises:
            OSError: the image is damaged, or the archive is missing or shorter than it was.
        """
        label = int(self.targets[index])
        return decode_image(self._content(index), *self.reading), label

    @property
    def samples(self) -> Sequence[tuple[str, int]]:
        """(archive/member, label) of each sample, for messages; names are read from the archives on access."""
        return _Samples(self)

    @property
    def names(self) -> list[str]:
        """ARCHIVE/MEMBER of each sample; read from the archives, 20 microseconds each."""
        return [f"{os.path.basename(self._shard(i))}/{self._member(i)}" for i in range(len(self))]

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """(first byte in its archive, bytes, label) of each sample, (N, 3)."""
        return np.stack([self._begins, self._bytes, self.targets], axis=1)

    @functools.cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(height, width) of each image, from the image headers."""
        sizes = np.empty((len(self), 2), np.int64)
        for index in range(len(self)):
            try:
                sizes[index] = self.size_of(index)
            except OSError:
                raise ValueError(f"{self.samples[index][0]} is not an image in a format that PIL knows") from None
        return sizes

    def size_of(self, index: int) -> tuple[int, int]:
        """Return (height, width) of an image; raise OSError if it is not an image."""
        return head_size(io.BytesIO(self._content(index).tobytes()))

    def _shard(self, index: int) -> str:
        return self._shards[int(np.searchsorted(self._ends, index, "right"))]

    def _member(self, index: int) -> str:
        with suppress(OSError, tarfile.TarError):  # the header is the block before the content
            head = np.fromfile(self._shard(index), np.uint8, _BLOCK, offset=int(self._begins[index]) - _BLOCK)
            return tarfile.TarInfo.frombuf(head.tobytes(), "utf-8", "surrogateescape").name
        return "?"

    def _content(self, index: int) -> npt.NDArray[np.uint8]:
        shard, size = self._shard(index), int(self._bytes[index])
        content = np.fromfile(shard, np.uint8, size, offset=int(self._begins[index]))
        if len(content) < size:
            raise UnreadableImageError("the archive is shorter than it was when the run began")
        return content


class _Samples(Sequence[tuple[str, int]]):
    def __init__(self, images: ShardedImages) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        images = self._images
        return f"{images._shard(index)}/{images._member(index)}", int(images.targets[index])


def build_shards(text: str, download: bool, cache: str) -> ShardedImages:
    """Build the data set from its shards; indices that are not in the cache are made and stored there.

    Args:
        text: what follows "webdataset:": a path or URL with braces, such as "x-{000..146}.tar", and after "#" the
            members to read, such as "image=png&label=cls2".
        download: whether shards at URLs may be copied into the cache.
        cache: DATASETS.CACHE.

    Raises:
        FileNotFoundError: a shard does not exist.
        OSError: a shard cannot be read or copied, or the cache cannot be written.
        ValueError: the text is wrong, or an archive is damaged, compressed, or does not hold images with labels.
    """
    pattern, _, options = text.partition("#")
    fields, folder = _fields(options), cache_folder(cache)
    shards = shard_paths(pattern, folder, download)
    indices: list[npt.NDArray[np.int64]] = []
    begin = time.monotonic()
    for count, shard in enumerate(shards, start=1):
        indices.append(_kept_index(shard, fields, folder))
        seconds = (time.monotonic() - begin) / count * len(shards)
        if count == 1 and seconds > _LONG:
            logger.info(f"Indexing {len(shards):,} shards, once: about {seconds:,.0f} s; cached in {folder}")
    return ShardedImages(shards, indices)


def index_shard(path: Path, fields: Fields) -> npt.NDArray[np.int64]:
    """Return (first byte, bytes, label) of each image of a tar archive, in archive order, (N, 3).

    Files whose paths are equal up to the first dot of their names form one sample.

    Raises:
        OSError: the archive cannot be read.
        ValueError: it is compressed, damaged or truncated; a sample has no image or no label, or two.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".tar") as file:
    ...     with tarfile.open(fileobj=file, mode="w") as tar:
    ...         for name, content in (("7.jpg", b"pixels"), ("7.cls", b"3")):
    ...             member = tarfile.TarInfo(name)
    ...             member.size = len(content)
    ...             tar.addfile(member, io.BytesIO(content))
    ...     file.flush()
    ...     index_shard(Path(file.name), Fields()).tolist()
    [[512, 6, 3]]
    """
    samples: dict[str, dict[str, tuple[int, ...]]] = {}
    with _archive(path) as tar:
        for member in filter(tarfile.TarInfo.isreg, tar):
            folder, name = os.path.split(member.name)
            stem, _, ending = name.partition(".")
            kind = fields.kind(ending.lower()) if stem else ""
            if not kind:
                continue
            found = samples.setdefault(f"{folder}/{stem}", {})
            if kind in found:
                raise ValueError(f"{path}: {member.name} is a second {kind} of its sample; name one by #{kind}=")
            is_image = kind == "image"
            found[kind] = (member.offset_data, member.size) if is_image else (_label(path, member, tar),)
    for stem, found in samples.items():
        for kind in {"image", "label"} - found.keys():
            wanted = getattr(fields, kind) or "jpg, png, ..."
            raise ValueError(f"{path}: sample {stem.lstrip('/')} has no {kind} ({wanted})")
    return np.array([found["image"] + found["label"] for found in samples.values()], np.int64).reshape(-1, 3)


@contextmanager
def _archive(path: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive that the block reads to its end; on exit it is verified to be complete."""
    with open(path, "rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                yield tar
        except tarfile.TarError as error:
            file.seek(0)
            begin = file.read(6)
            for mark, kind in _COMPRESSED.items():
                if begin.startswith(mark):
                    raise ValueError(
                        f"{path} is compressed ({kind}), so its images cannot be read individually; unpack it"
                    ) from None
            raise ValueError(f"{path} is not a tar archive, or is damaged: {error}") from None
        file.seek(tar.offset)
        if file.read(_BLOCK) != bytes(_BLOCK):  # tarfile accepts any other end as well
            raise ValueError(f"{path} is damaged or truncated at byte {tar.offset:,}")


def _label(path: Path, member: tarfile.TarInfo, tar: tarfile.TarFile) -> int:
    file = tar.extractfile(member)
    assert file is not None, "a regular file"
    text = file.read(100)
    if not re.fullmatch(rb"\s*[0-9]{1,18}\s*", text):
        raise ValueError(f"{path}: {member.name}: a label is an integer from 0; got {text[:20]!r}")
    return int(text)


@functools.cache
def _image_endings() -> tuple[str, ...]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return tuple(IMG_EXTENSIONS)


def _fields(options: str) -> Fields:
    try:
        return Fields(**dict(parse_qsl(options, strict_parsing=True)) if options else {})
    except (TypeError, ValueError):
        wanted = "image=ENDING, label=ENDING, or both joined by &"
        raise ValueError(f"after # write {wanted}; got {options!r}") from None


def _check_index(index: npt.NDArray[Any], size: int) -> None:
    """Raise ValueError if an index cannot belong to an archive of `size` bytes."""
    if index.dtype != np.int64 or index.ndim != 2 or index.shape[1] != 3:
        raise ValueError(f"it holds {index.dtype} {index.shape}, not three integers per sample")
    begins, lengths, _ = index.T
    if (index < 0).any() or (begins > size).any() or (lengths > size - begins).any():
        raise ValueError("it holds positions outside the archive")


def _kept_index(path: Path, fields: Fields, folder: Path) -> npt.NDArray[np.int64]:
    """Return a shard's index, from the cache if the shard has not changed since it was indexed."""
    stat = path.stat()
    known = json.dumps([os.path.abspath(path), stat.st_size, stat.st_mtime_ns, fields])
    kept = folder / f"{hashlib.sha256(known.encode()).hexdigest()[:32]}.npz"
    try:
        index = read_npz(kept, "samples")["samples"]
        _check_index(index, stat.st_size)
        return index
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        logger.warning(f"{kept} cannot be used ({error}); {path} is indexed again")
    index = index_shard(path, fields)
    try:
        with whole_file(kept) as file:
            np.savez(file, samples=index)
    except OSError as error:
        raise OSError(f"{kept} cannot be written: {error.strerror}; set DATASETS.CACHE elsewhere") from None
    return index
