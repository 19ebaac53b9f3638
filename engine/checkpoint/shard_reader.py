"""Reader of sharded checkpoints for torch.distributed.checkpoint, which takes nothing but tensors from files."""

from __future__ import annotations

import errno
import io
import itertools
import operator
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from .shard_metadata import METADATA, Location


class Reader(StorageReader):
    """Reads the chunks that a metadata of `read_metadata` names; each is a file that torch.save wrote.

    Args:
        folder: of the shards.
        metadata: what `read_metadata` has returned.
    """

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        self._folder = folder
        self._metadata = metadata

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between two loads."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the metadata."""
        return self._metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing needs to be set up."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Return it as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return them as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read what is planned; the future is done.

        Raises:
            ValueError: a chunk was not written by torch.save, or is not what the metadata says.
            pickle.UnpicklingError: it is more than a tensor.
        """

        def location(item: ReadItem) -> Location:
            found: Location = self._metadata.storage_data[item.storage_index]
            return found

        for name, items in itertools.groupby(sorted(plan.items, key=location), lambda item: location(item).file):
            with open(self._folder / name, "rb", buffering=0) as file:
                for item in items:
                    about = self._metadata.state_dict_metadata[item.storage_index.fqn]
                    assert isinstance(about, TensorStorageMetadata)
                    chunk = _read_chunk(file, location(item))
                    ends = map(operator.add, item.storage_offsets, item.lengths)
                    part = chunk[tuple(map(slice, item.storage_offsets, ends))]
                    target = planner.resolve_tensor(item).detach()
                    if part.dtype != about.properties.dtype or part.shape != target.shape:
                        raise ValueError(f"a chunk of {item.storage_index.fqn} is not what {METADATA} says")
                    planner.commit_tensor(item, target.copy_(part))
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Return True: any name may be a folder's."""
        return True


def _read_chunk(file: BinaryIO, location: Location) -> torch.Tensor:
    content = io.BufferedReader(_Slice(file, location.begin, location.size))
    try:
        with zipfile.ZipFile(content) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile:
        raise ValueError(f"a chunk in {location.file} is not as torch.save writes it") from None
    is_stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not is_stored or sum(entry.file_size for entry in entries) > location.size:
        raise ValueError(f"a chunk in {location.file} is compressed, as torch.save never does")
    content.seek(0)
    tensor = torch.load(content, map_location="cpu", weights_only=True)
    if type(tensor) is not torch.Tensor or tensor.layout is not torch.strided:
        raise ValueError(f"a chunk in {location.file} is not a tensor, but a {type(tensor).__name__}")
    return tensor


class _Slice(io.RawIOBase):
    """A range of bytes of a file, as a file."""

    def __init__(self, file: BinaryIO, begin: int, size: int) -> None:
        self._file = file
        self._begin = begin
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if self._at < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._begin + self._at)
        count = self._file.readinto(memoryview(buffer)[: max(0, self._size - self._at)])  # type: ignore[attr-defined]
        self._at += count
        return int(count)
