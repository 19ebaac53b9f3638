"""Checkpoints of weights that lie in parts on several ranks: torch.distributed.checkpoint, each rank its own part.

The parts stand in a folder in `shards/`, in torch's format. The checkpoint's file, `model_0000999.pth`, holds all
else, says which folder is its own, and comes last: without it a folder is what a kill has left.
"""

from __future__ import annotations

import copy
import errno
import logging
import os
import re
import stat
import warnings
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from warmstart.config import ConfigError, open_regular
from warmstart.data import usable_cores

from ..distributed import comm
from ..distributed.fsdp import is_sharded_tensor
from ..runtime import files
from ..runtime.owned import disown, own, owned

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata
if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


logger = logging.getLogger(__name__)

T = TypeVar("T")
Group = ProcessGroup | None  # None where this rank is alone

FOLDER = "shards"  # in a run's folder
KEY = "shards"  # of a checkpoint
_PLAIN = re.compile(r"(?!\.\.?$)[^/\\\0]+")  # of a file or folder, and nothing above or below it
_CHUNK = 2**20  # bytes
_NAME = re.compile(r"\d{7,}-[0-9a-f]{8}")  # of a folder of parts
_FILE = re.compile(r"(__\d+)?\.metadata(\.tmp)?|__\d+_\d+\.distcp")  # what torch writes into it


class Split(NamedTuple):
    """A checkpoint's content, and what of it lies in parts.

    Args:
        content: None stands where a tensor is missing.
        tensors: by their key paths, as ("model", "conv.weight").
    """

    content: dict[str, Any]
    tensors: dict[tuple[Any, ...], DTensor]


def split(content: Mapping[str, Any]) -> Split:
    """Take the tensors that lie in parts out of a content.

    >>> split({"iteration": 3, "hooks": {"mine": [1.5]}})
    Split(content={'iteration': 3, 'hooks': {'mine': [1.5]}}, tensors={})
    """
    tensors: dict[tuple[Any, ...], DTensor] = {}

    def without(value: Any, path: tuple[Any, ...]) -> Any:
        if is_sharded_tensor(value):
            tensors[path] = value
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


def new_group(seconds: float) -> Group:
    """Return a group of all ranks, on CPUs, in which nothing is said but of parts; None where this rank is alone.

    Waits for all ranks.

    Args:
        seconds: that a rank waits for another one before it ends with an error.
    """
    if dist.get_world_size() == 1:
        return None
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=seconds))
    assert isinstance(group, ProcessGroup), "this process is of it"
    return group


class Writing:
    """Parts on their way to the disk: copied to the CPU when it is made, written by a thread of each rank.

    Every rank makes one at the same time; it waits for the copies alone.

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
        from torch.distributed.checkpoint.state_dict_saver import async_save  # who has no parts spares the time

        # A name of its own, since a file that was set aside may still name the parts of an earlier time.
        self.folder = comm.broadcast_object(folder / FOLDER / f"{iteration - 1:07d}-{os.urandom(4).hex()}")
        if comm.is_main():
            _list(self.folder)
        self._paths: dict[str, tuple[Any, ...]] = {}  # by the names in torch's files
        for path in tensors:
            name = "/".join(map(str, path))
            while name in self._paths:  # of a key that holds a "/", or of "0" beside 0
                name += "'"
            self._paths[name] = path
        named = {name: tensors[path] for name, path in self._paths.items()}
        with _quiet():
            future = async_save(named, checkpoint_id=self.folder, process_group=group)
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
        """Return the entry `shards` of the checkpoint, once all files are there.

        It holds their folder, their checksums, and the key path of each tensor by its name in them.

        Raises:
            OSError: one could not be written, or not be read back here.
        """
        from .shard_metadata import METADATA

        names = sorted({METADATA, *(part.relative_path for part in self.wait().storage_data.values())})
        try:
            sums = _of_each(lambda name: _checksum(self.folder / name), names)
        except FileNotFoundError as error:
            text = f"rank 0 does not see {error.filename}; OUTPUT_DIR has to be on a drive that all ranks see"
            raise OSError(errno.ENOENT, text) from None
        for folder in (self.folder, self.folder.parent):
            files.sync_folder(folder)
        paths = {name: list(path) for name, path in self._paths.items()}
        return {"folder": self.folder.name, "crc32": dict(zip(names, sums, strict=True)), "paths": paths}


def _list(folder: Path) -> None:
    """List a folder of parts as a run's, so that it may be deleted again."""
    try:
        own(folder.parent.parent, f"{FOLDER}/{folder.name}")
    except OSError as error:
        text = "%s could not be written: %s; %s will not be deleted"
        logger.warning(text, error.filename or folder, error.strerror or error, folder)


def verify(content: Mapping[str, Any], path: Path) -> Path | None:
    """Return the folder with the parts of a checkpoint, all of them as they were written; None where it has none.

    Args:
        content: of the file.
        path: the file; the parts are beside it or, where it was set aside, beside its folder.

    Raises:
        ConfigError: a file of the parts is missing or damaged, the first by its name, or is elsewhere than in a
            folder of `shards/`.
    """
    if KEY not in content:
        return None
    try:
        name = str(content[KEY]["folder"])
        sums = {str(part): crc for part, crc in dict(content[KEY]["crc32"]).items()}
    except (TypeError, KeyError, ValueError):
        raise ConfigError(f"checkpoint: {path} does not say where its parts are") from None
    for each in (name, *sums):
        if not _PLAIN.fullmatch(each):
            raise ConfigError(f"checkpoint: {path} is refused: {each!r} is not the name of a part in {FOLDER}/")
    candidates = [parent / FOLDER / name for parent in (path.parent, path.parent.parent)]
    folder = next((each for each in candidates if each.is_dir()), candidates[0])
    if folder.is_symlink():
        raise ConfigError(
            f"checkpoint: {path} is refused: {folder} is a symbolic link; put the folder itself there"
        )
    _of_each(lambda name: _verify(folder / name, sums[name], path), sorted(sums))
    return folder


def fill(content: Mapping[str, Any], folder: Path, mesh: DeviceMesh | None = None) -> dict[str, Any]:
    """Return a checkpoint's content with the parts in their places.

    Args:
        content: of the file.
        folder: that `verify` has found.
        mesh: the ranks that each take their part of each tensor, cut along dim 0; all have to call it. None: whole
            tensors, in this process.

    Raises:
        ConfigError: this torch cannot read them, or they are those of another content.
    """
    filled = {key: value for key, value in content.items() if key != KEY}
    try:
        paths = content[KEY].get("paths", {})  # an older version noted none
        for name, tensor in _read(folder, content[KEY]["crc32"], mesh).items():
            if name in paths:
                _put(filled, paths[name], tensor)
            else:
                _put(filled, _old_path(filled, name), tensor)
    except Exception as error:  # checksums fit: written by a torch that is not this one
        raise ConfigError(f"checkpoint: {folder} cannot be read: {' '.join(str(error).split())}") from error
    return filled


def _read(folder: Path, names: Collection[str], mesh: DeviceMesh | None) -> dict[str, torch.Tensor]:
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor import empty as empty_in_parts

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
            tensors[name] = empty_in_parts(*shape, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])
    with _quiet():
        if mesh is not None:
            load(tensors, storage_reader=reader)
            return tensors
        # What load() does in a process alone; that of torch 2.6 asks the other ranks where there are some.
        planner = DefaultLoadPlanner()
        planner.set_up_planner(tensors, metadata, is_coordinator=True)
        reader.read_data(planner.create_local_plan(), planner).wait()
    return tensors


def _put(content: Any, path: Sequence[Any], value: torch.Tensor) -> Any:
    """Return a content with a value at a path; tuples on the way are made anew, all else is changed in place."""
    if not path:
        return value
    key, inner = path[0], _put(content[path[0]], path[1:], value)
    if isinstance(content, tuple):
        return (*content[:key], inner, *content[key + 1 :])
    content[key] = inner
    return content


def _old_path(content: Any, name: str) -> list[Any]:
    """Return the path that a name means in a file that notes none: keys joined by "/", numbers as text."""
    path: list[Any] = []
    for word in name.split("/"):
        path.append(word if isinstance(content, dict) and word in content else int(word))
        content = content[path[-1]]
    return path


def _verify(path: Path, crc: int, checkpoint: Path) -> None:
    try:
        is_regular = stat.S_ISREG(path.lstat().st_mode)
        found = _checksum(path) if is_regular else None
    except OSError as error:
        raise ConfigError(
            f"checkpoint: {checkpoint} has parts in {path.parent}, and {path.name} of them cannot be read: "
            f"{error.strerror or error}; the folder belongs beside the file, in {FOLDER}/"
        ) from None
    if not is_regular:
        raise ConfigError(f"checkpoint: {path} is refused: it is a link or a device, and a part is a file")
    if found != crc:
        raise ConfigError(f"checkpoint: {path} is damaged: its checksum is not that of what was written")


def _of_each(function: Callable[[str], T], names: Sequence[str]) -> list[T]:
    """Return what a function that reads a file gives for each name, with as many threads as there are cores.

    Reading and adding up hold no lock of python's. What the function raises is that of the first name.
    """
    try:
        with ThreadPoolExecutor(usable_cores()) as pool:
            return list(pool.map(function, names))
    except RuntimeError:  # the process is ending, and starts no thread any more
        return [function(name) for name in names]


def _checksum(path: Path) -> int:
    crc = 0
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings that what is called here with intent might not be meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_foreign(place: Path) -> bool:
    """Return whether a folder `shards` is the user's: it holds something, but no folder of a run's name."""
    names = [path.name for path in place.glob("*")]
    return bool(names) and not any(_NAME.fullmatch(name) for name in names)


def remove_unused(folder: Path, aside: Path, owed: Iterable[Mapping[str, Any]] = ()) -> None:
    """Delete the parts in a run's folder that no checkpoint of it names; it reads each, which takes 10 ms.

    Only folders that a run has listed before it wrote them, and in them only files of torch's names, are deleted.
    Nobody may be saving into it. Where a checkpoint cannot be read, nothing is deleted.

    Args:
        folder: the run's.
        aside: the one in it where checkpoints lie that were set aside, and still have their parts.
        owed: contents whose files are still to be written.
    """
    place = folder / FOLDER
    listed = [name.removeprefix(f"{FOLDER}/") for name in owned(folder)]
    there = [place / name for name in sorted(listed) if _NAME.fullmatch(name) and (place / name).is_dir()]
    if not there or place.is_symlink():
        return
    checkpoints = [path for each in (folder, aside) for path in each.glob("*.pth*") if path.is_file()]
    try:
        contents = [torch.load(path, map_location="meta", weights_only=True) for path in checkpoints]
        used = {about[KEY]["folder"] for about in (*contents, *owed) if KEY in about}
    except Exception as error:  # a damaged file fails in any way
        logger.warning("the parts in %s are all kept: %s", place, " ".join(str(error).split()))
        return
    unused = [path for path in there if path.name not in used and not path.is_symlink()]
    with suppress(OSError):  # what stays, stays on the list
        for path in unused:
            _remove(path)
        disown(folder, *(f"{FOLDER}/{path.name}" for path in unused if not path.exists()))


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        if _FILE.fullmatch(path.name):
            files.unlink(path)
    with suppress(OSError):  # something of the user's is in it
        folder.rmdir()
