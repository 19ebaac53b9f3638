"""Sharded checkpoints: each rank writes its shard of each tensor, with torch.distributed.checkpoint.

The shards are in a folder in `shards/`, in torch's format. The checkpoint's file, `model_0000999.pth`, holds all
other entries, names the folder, and is written last: a folder that no file names was left by a kill.
"""

from __future__ import annotations

import copy
import errno
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from warmstart.config import ConfigError, disk

from ..distributed import comm
from ..distributed.fsdp import is_sharded_tensor
from .run_files import SHARDS
from .shard_files import KEY as KEY
from .shard_files import checksum, list_shards, verify_file
from .threads import of_each

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

Group = ProcessGroup | None  # None if this rank is alone

_PLAIN = re.compile(r"(?!\.\.?$)[^/\\\0]+")  # the name of a file or folder, and nothing above or below it


class Split(NamedTuple):
    """A checkpoint's content without its sharded tensors, and these.

    Args:
        content: None in the place of each sharded tensor.
        tensors: by their key paths, as ("model", "conv.weight").
    """

    content: dict[str, Any]
    tensors: dict[tuple[Any, ...], DTensor]


def split(content: Mapping[str, Any]) -> Split:
    """Take the sharded tensors out of a content.

    >>> split({"iteration": 3, "hooks": {"mine": [1.5]}})
    Split(content={'iteration': 3, 'hooks': {'mine': [1.5]}}, tensors={})
    """
    tensors: dict[tuple[Any, ...], DTensor] = {}

    def without(value: Any, path: tuple[Any, ...]) -> Any:
        if is_sharded_tensor(value):
            tensors[path] = value
            return None
        if isinstance(value, dict):
            rest = copy.copy(value)  # of the same class, such as a Counter
            for key, inner in value.items():
                rest[key] = without(inner, (*path, key))
            return rest
        if isinstance(value, (list, tuple)):
            return type(value)(without(inner, (*path, index)) for index, inner in enumerate(value))
        return value

    return Split(without(dict(content), ()), tensors)


def new_group(seconds: float) -> Group:
    """Return a group of all ranks, on CPUs, for sharded saves alone; None if this rank is alone.

    Waits for all ranks.

    Args:
        seconds: that a rank waits for another one before it ends with an error.
    """
    if dist.get_world_size() == 1:
        return None
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=seconds))
    assert isinstance(group, ProcessGroup), "this process is of it"
    return group


class ShardWriter:
    """Shards on their way to the disk: copied to the CPU by the constructor, written by a thread of each rank.

    Every rank constructs one at the same time, and waits for the copies only.

    Args:
        tensors: of `split`.
        folder: the run's, on a drive that all ranks see.
        iteration: updates done.
        group: of `new_group`.
    """

    def __init__(
        self,
        tensors: Mapping[tuple[Any, ...], DTensor],
        folder: Path,
        iteration: int,
        group: Group = None,
    ) -> None:
        from torch.distributed.checkpoint.state_dict_saver import async_save  # a run without shards saves the time

        # A new name each time: a file that was set aside may still name the shards of the same iteration.
        self.folder = comm.broadcast_object(folder / SHARDS / f"{iteration - 1:07d}-{os.urandom(4).hex()}")
        if comm.is_main():
            list_shards(self.folder)
        self._paths: dict[str, tuple[Any, ...]] = {}  # by the names in torch's files
        for path in tensors:
            name = "/".join(map(str, path))
            while name in self._paths:  # a key may hold a "/", and "0" may be a key beside 0
                name += "'"
            self._paths[name] = path
        named = {name: tensors[path] for name, path in self._paths.items()}
        with _quiet():
            future = async_save(named, checkpoint_id=self.folder, process_group=group)
        assert isinstance(future, Future)
        self._future = future
        self._bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    def wait(self) -> Metadata:
        """Wait for all ranks, and return the metadata of what they have written.

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
            # torch's writer has replaced the disk's message.
            if disk.free_bytes(self.folder) < self._bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
            raise OSError(errno.EIO, str(error)) from None
        return written

    def finish(self) -> dict[str, Any]:
        """Return the entry `shards` of the checkpoint, once all files are there.

        It holds their folder, their checksums, and the key path of each tensor by its name in them.

        Raises:
            OSError: one could not be written, or not be read back here.
        """
        from .shard_metadata import METADATA

        names = sorted({METADATA, *(chunk.relative_path for chunk in self.wait().storage_data.values())})
        try:
            sums = of_each(lambda name: checksum(self.folder / name), names)
        except FileNotFoundError as error:
            text = f"rank 0 does not see {error.filename}; OUTPUT_DIR must be on a drive that all ranks see"
            raise OSError(errno.ENOENT, text) from None
        for folder in (self.folder, self.folder.parent):
            disk.sync_folder(folder)
        paths = {name: list(path) for name, path in self._paths.items()}
        return {"folder": self.folder.name, "crc32": dict(zip(names, sums, strict=True)), "paths": paths}


def verify(content: Mapping[str, Any], path: Path) -> Path | None:
    """Return the folder with the shards of a checkpoint, whose checksums all fit; None if it is not sharded.

    Args:
        content: of the file.
        path: the file; its shards are in `shards/` beside it or, if the file was set aside, beside its folder.

    Raises:
        ConfigError: a file of the shards is missing or damaged (the first by its name), or is not in `shards/`.
    """
    if KEY not in content:
        return None
    try:
        name = str(content[KEY]["folder"])
        sums = {str(file): crc for file, crc in dict(content[KEY]["crc32"]).items()}
    except (TypeError, KeyError, ValueError):
        raise ConfigError(f"checkpoint: {path} does not say where its shards are") from None
    for each in (name, *sums):
        if not _PLAIN.fullmatch(each):
            raise ConfigError(f"checkpoint: {path} is refused: {each!r} is not the name of a shard in {SHARDS}/")
    candidates = [parent / SHARDS / name for parent in (path.parent, path.parent.parent)]
    folder = next((each for each in candidates if each.is_dir()), candidates[0])
    if folder.is_symlink():
        raise ConfigError(
            f"checkpoint: {path} is refused: {folder} is a symbolic link; put the folder itself there"
        )
    of_each(lambda name: verify_file(folder / name, sums[name], path), sorted(sums))
    return folder


def fill(content: Mapping[str, Any], folder: Path, mesh: DeviceMesh | None = None) -> dict[str, Any]:
    """Return a checkpoint's content with its sharded tensors in their places.

    Args:
        content: of the file.
        folder: that `verify` has returned.
        mesh: the ranks over which each tensor is sharded again, along dim 0; all of them must call this. None:
            full tensors, in this process.

    Raises:
        ConfigError: this torch cannot read the shards, or they do not belong to this content.
    """
    filled = {key: value for key, value in content.items() if key != KEY}
    try:
        paths = content[KEY].get("paths", {})  # older versions did not write them
        for name, tensor in _read(folder, content[KEY]["crc32"], mesh).items():
            if name in paths:
                _put(filled, paths[name], tensor)
            else:
                _put(filled, _old_path(filled, name), tensor)
    except Exception as error:  # the checksums fit: another version of torch has written it
        raise ConfigError(f"checkpoint: {folder} cannot be read: {' '.join(str(error).split())}") from error
    return filled


def _read(folder: Path, names: Collection[str], mesh: DeviceMesh | None) -> dict[str, torch.Tensor]:
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor import empty as empty_sharded

    from .shard_metadata import read_metadata
    from .shard_reader import Reader

    tensors: dict[str, torch.Tensor] = {}
    metadata = read_metadata(folder, names)
    reader = Reader(folder, metadata)
    for name, about in metadata.state_dict_metadata.items():
        assert isinstance(about, TensorStorageMetadata)
        shape, dtype = about.size, about.properties.dtype
        if mesh is None:
            tensors[name] = torch.empty(shape, dtype=dtype)
        else:
            tensors[name] = empty_sharded(*shape, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])
    with _quiet():
        if mesh is not None:
            load(tensors, storage_reader=reader)
            return tensors
        # What load() does in a single process; in torch 2.6 it asks the other ranks, if there are any.
        planner = DefaultLoadPlanner()
        planner.set_up_planner(tensors, metadata, is_coordinator=True)
        reader.read_data(planner.create_local_plan(), planner).wait()
    return tensors


def _put(content: Any, path: Sequence[Any], value: torch.Tensor) -> Any:
    """Return a content with a value at a path; tuples on the way are copied, all else is changed in place."""
    if not path:
        return value
    key, inner = path[0], _put(content[path[0]], path[1:], value)
    if isinstance(content, tuple):
        return (*content[:key], inner, *content[key + 1 :])
    content[key] = inner
    return content


def _old_path(content: Any, name: str) -> list[Any]:
    """Return the key path that a name means in a file without `paths`: keys joined by "/", numbers as text."""
    path: list[Any] = []
    for word in name.split("/"):
        path.append(word if isinstance(content, dict) and word in content else int(word))
        content = content[path[-1]]
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's warnings about calls that are made here with intent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
