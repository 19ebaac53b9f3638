"""Checkpoints of weights that lie in parts on several ranks: torch.distributed.checkpoint, each rank its own part.

The parts stand in a folder in `shards/`, in torch's format. The checkpoint's file, `model_0000999.pth`, holds all
else, says which folder is its own, and comes last: without it a folder is what a kill has left.
"""

from __future__ import annotations

import copy
import errno
import logging
import os
import shutil
import warnings
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from warmstart.config import ConfigError

from . import comm, files
from .fsdp import is_cut

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

FOLDER = "shards"  # in a run's folder
KEY = "shards"  # of a checkpoint
METADATA = ".metadata"  # torch's file that says what lies in which other one
_CHUNK = 2**20  # bytes


class Split(NamedTuple):
    """A checkpoint's content, and what of it lies in parts.

    Args:
        content: None stands where a tensor is missing.
        tensors: by their key paths, joined by "/".
    """

    content: dict[str, Any]
    tensors: dict[str, DTensor]


def split(content: Mapping[str, Any]) -> Split:
    """Take the tensors that lie in parts out of a content.

    >>> split({"iteration": 3, "hooks": {"mine": [1.5]}})
    Split(content={'iteration': 3, 'hooks': {'mine': [1.5]}}, tensors={})
    """
    tensors: dict[str, DTensor] = {}

    def without(value: Any, path: tuple[Any, ...]) -> Any:
        if is_cut(value):
            tensors["/".join(map(str, path))] = value
            return None
        if isinstance(value, dict):
            rest = copy.copy(value)  # of its own class, as a Counter is
            for key, inner in value.items():
                rest[key] = without(inner, (*path, key))
            return rest
        if isinstance(value, (list, tuple)):
            return type(value)(without(inner, (*path, index)) for index, inner in enumerate(value))
        return value

    return Split(without(dict(content), ()), tensors)


class Writing:
    """Parts on their way to the disk: copied to the CPU when it is made, written by a thread of each rank.

    Every rank makes one at the same time; it waits for the copies alone.

    Args:
        tensors: of `split`.
        folder: the run's, on a drive that all ranks see.
        iteration: updates done.
    """

    _group: ProcessGroup | None = None  # of CPUs, in which nothing is said but of parts

    def __init__(self, tensors: Mapping[str, DTensor], folder: Path, iteration: int) -> None:
        from torch.distributed.checkpoint.state_dict_saver import async_save  # who has no parts spares the time

        if dist.get_world_size() > 1 and Writing._group is None:
            group = dist.new_group(backend="gloo")
            assert isinstance(group, ProcessGroup), "this process is of it"
            Writing._group = group
        # A name of its own, since a file that was set aside may still name the parts of an earlier time.
        self.folder = comm.share(folder / FOLDER / f"{iteration - 1:07d}-{os.urandom(4).hex()}")
        with _quiet():
            future = async_save(dict(tensors), checkpoint_id=self.folder, process_group=Writing._group)
        assert isinstance(future, Future)
        self._future = future
        self._bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    def wait(self) -> Metadata:
        """Return what all ranks have written, once they have.

        Raises:
            OSError: one of them could not.
        """
        from torch.distributed.checkpoint.api import CheckpointException

        try:
            written: Metadata = self._future.result()
        except CheckpointException as failed:
            error = next(iter(failed.failures.values()))[0]
            if isinstance(error, OSError):
                raise error from None
            # torch's writer has put a message of its own in the place of the disk's.
            if files.free_bytes(self.folder) < self._bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
            raise OSError(errno.EIO, str(error)) from None
        return written

    def finish(self) -> dict[str, Any]:
        """Return the entry `shards` of the checkpoint, once all files are there: their folder and checksums.

        Raises:
            OSError: one could not be written, or not be read back here.
        """
        names = {part.relative_path for part in self.wait().storage_data.values()}
        try:
            sums = {name: _checksum(self.folder / name) for name in sorted({METADATA, *names})}
        except FileNotFoundError as error:
            text = f"rank 0 does not see {error.filename}; OUTPUT_DIR has to be on a drive that all ranks see"
            raise OSError(errno.ENOENT, text) from None
        for folder in (self.folder, self.folder.parent):
            files.sync_folder(folder)
        return {"folder": self.folder.name, "crc32": sums}


def verify(content: Mapping[str, Any], path: Path) -> Path | None:
    """Return the folder with the parts of a checkpoint, all of them as they were written; None where it has none.

    Args:
        content: of the file.
        path: the file; the parts are beside it or, where it was set aside, beside its folder.

    Raises:
        ConfigError: a file of the parts is missing or damaged.
    """
    if KEY not in content:
        return None
    try:
        name, sums = str(content[KEY]["folder"]), dict(content[KEY]["crc32"])
    except (TypeError, KeyError, ValueError):
        raise ConfigError(f"checkpoint: {path} does not say where its parts are") from None
    candidates = [parent / FOLDER / name for parent in (path.parent, path.parent.parent)]
    folder = next((each for each in candidates if each.is_dir()), candidates[0])
    for each, crc in sums.items():
        _verify(folder / each, crc, path)
    return folder


def fill(content: Mapping[str, Any], folder: Path, mesh: DeviceMesh | None = None) -> dict[str, Any]:
    """Return a checkpoint's content with the parts in their places.

    Args:
        content: of the file.
        folder: that `verify` has found.
        mesh: the ranks that each take their part of each tensor, cut along dim 0; all have to call it. None: whole
            tensors, in this process.

    Raises:
        ConfigError: this torch cannot read them.
    """
    filled = {key: value for key, value in content.items() if key != KEY}
    try:
        tensors = _read(folder, mesh)
    except Exception as error:  # checksums fit: written by a torch that is not this one
        raise ConfigError(f"checkpoint: {folder} cannot be read: {' '.join(str(error).split())}") from error
    for key, tensor in tensors.items():
        _put(filled, key.split("/"), tensor)
    return filled


def _read(folder: Path, mesh: DeviceMesh | None) -> dict[str, torch.Tensor]:
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor import empty as empty_in_parts

    tensors: dict[str, torch.Tensor] = {}
    for name, about in FileSystemReader(folder).read_metadata().state_dict_metadata.items():
        assert isinstance(about, TensorStorageMetadata)
        shape, dtype = about.size, about.properties.dtype
        if mesh is None:
            tensors[name] = torch.empty(shape, dtype=dtype)
        else:
            tensors[name] = empty_in_parts(*shape, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])
    with _quiet():
        load(tensors, checkpoint_id=folder, no_dist=mesh is None)
    return tensors


def _put(content: Any, path: list[str], value: torch.Tensor) -> None:
    for key in path[:-1]:
        content = content[_key(content, key)]
    content[_key(content, path[-1])] = value


def _key(content: Any, key: str) -> Any:
    return key if isinstance(content, dict) and key in content else int(key)


def _verify(path: Path, crc: int, checkpoint: Path) -> None:
    try:
        found = _checksum(path)
    except OSError as error:
        raise ConfigError(
            f"checkpoint: {checkpoint} has parts in {path.parent}, and {path.name} of them cannot be read: "
            f"{error.strerror or error}; the folder belongs beside the file, in {FOLDER}/"
        ) from None
    if found != crc:
        raise ConfigError(f"checkpoint: {path} is damaged: its checksum is not that of what was written")


def _checksum(path: Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings that what is called here with intent might not be meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def remove_unused(folder: Path, aside: Path) -> None:
    """Delete the parts in a run's folder that no checkpoint of it names; it reads each, which takes 10 ms.

    Nobody may be saving into it. Where a checkpoint cannot be read, nothing is deleted.

    Args:
        folder: the run's.
        aside: the one in it where checkpoints lie that were set aside, and still have their parts.
    """
    there = [path for path in (folder / FOLDER).glob("*") if path.is_dir()]
    if not there:
        return
    checkpoints = [path for each in (folder, aside) for path in each.glob("*.pth*") if path.is_file()]
    try:
        contents = [torch.load(path, map_location="meta", weights_only=True) for path in checkpoints]
        used = {about[KEY]["folder"] for about in contents if KEY in about}
    except Exception as error:  # a damaged file fails in any way
        logger.warning("the parts in %s are all kept: %s", folder / FOLDER, " ".join(str(error).split()))
        return
    for path in there:
        if path.name not in used:
            shutil.rmtree(path, ignore_errors=True)
