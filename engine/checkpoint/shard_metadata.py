"""Metadata of sharded checkpoints, read without unpickling its classes: no file runs code.

torch writes `.metadata`, which says where the chunks of each tensor are, with pickle, and its own reader calls
whatever that file names. Here a name in it is a name and nothing else: no module is imported, nothing is called.
The sizes that it claims are compared with the sizes of the files before memory is allocated for them.
"""

from __future__ import annotations

import io
import itertools
import math
import pickle
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

T = TypeVar("T")

# All that torch 2.6 to 2.14 and Python 3.10 to 3.14 write into it, besides dtypes.
_CLASSES = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"),
        *("TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata"),
    },
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},  # Python 3.13
}
_OPCODES = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.MEMOIZE, pickle.PUT, pickle.GET),
    *(pickle.BINPUT, pickle.BINGET, pickle.LONG_BINPUT, pickle.LONG_BINGET),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
    *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.NEWOBJ, pickle.REDUCE, pickle.BUILD),
)


METADATA = ".metadata"  # torch's file that says which file holds which chunk


class _Value:
    """An object in the file: the name of its class, its arguments and its state."""

    name = ""
    arguments: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *arguments: Any) -> _Value:
        value = super().__new__(cls)
        value.arguments = arguments
        return value

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle._Unpickler):
    """Makes a `_Value` of every object. Python's own in Python: the one in C trusts claimed sizes."""

    dispatch = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES}  # noqa: RUF012

    def find_class(self, module: str, name: str, /) -> type[_Value]:
        is_dtype = module == "torch" and isinstance(vars(torch).get(name), torch.dtype)
        if not is_dtype and name not in _CLASSES.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")
        return type(name, (_Value,), {"name": name})


class Location(NamedTuple):
    """Where the bytes of a chunk are."""

    file: str
    begin: int
    size: int


def read_metadata(folder: Path, names: Collection[str]) -> Metadata:
    """Return what `.metadata` says of the tensors in a folder; `storage_data` has a `Location` for each chunk.

    Args:
        folder: of the shards.
        names: of the files in it that may be read.

    Raises:
        ValueError: it holds anything that torch would not write, or more tensors than the files have space for.
        OSError: a file cannot be read.
    """
    if METADATA not in names:
        raise ValueError(f"{METADATA} is not among the files of the checkpoint")
    content = (folder / METADATA).read_bytes()
    # A list that many tensors share costs a few bytes each time; what torch writes of a chunk is longer than this.
    most_chunks = itertools.repeat(None, len(content) // 20)
    try:
        whole = _Unpickler(io.BytesIO(content)).load()
        tensors, storage = _fields(whole, "Metadata", "state_dict_metadata", "storage_data")
        locations = {_index(key): _location(value) for key, value in _plain(storage, dict).items()}
        described = {
            _plain(name, str): _tensor(value, most_chunks) for name, value in _plain(tensors, dict).items()
        }
    except pickle.UnpicklingError as error:
        raise ValueError(f"{METADATA} is refused: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError, EOFError) as error:
        raise ValueError(f"{METADATA} is not as torch writes it ({type(error).__name__}: {error})") from None
    _check_files(locations, folder, names)
    for name, about in described.items():
        _check_chunks(name, about, locations)
    return Metadata({**described}, storage_data=locations)


def _plain(value: Any, kind: type[T]) -> T:
    """Return a value that must be of exactly this plain type: True is not an int here."""
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value


def _fields(value: Any, name: str, *fields: str) -> list[Any]:
    """Return fields of a dataclass."""
    if not isinstance(value, _Value) or value.name != name:
        raise TypeError(f"expected {name}, got {type(value).__name__}")
    state = _plain(value.state, dict)
    return [state[field] for field in fields]


def _size(value: Any) -> torch.Size:
    if not isinstance(value, _Value) or value.name != "Size":
        raise TypeError(f"expected Size, got {type(value).__name__}")
    (lengths,) = value.arguments
    return torch.Size([_count(length) for length in _plain(lengths, tuple)])


def _count(value: Any) -> int:
    if not 0 <= _plain(value, int) < 2**63:
        raise ValueError(f"{value} is not a count")
    return int(value)


def _index(value: Any) -> MetadataIndex:
    name, offset = _fields(value, "MetadataIndex", "fqn", "offset")
    return MetadataIndex(_plain(name, str), _size(offset))


def _location(value: Any) -> Location:
    file, begin, size = _fields(value, "_StorageInfo", "relative_path", "offset", "length")
    if value.state.get("transform_descriptors"):
        raise ValueError("compressed chunks")
    return Location(_plain(file, str), _count(begin), _count(size))


def _tensor(value: Any, most_chunks: Iterator[None]) -> TensorStorageMetadata:
    properties, size, chunks = _fields(value, "TensorStorageMetadata", "properties", "size", "chunks")
    if not isinstance(properties, _Value) or properties.name != "TensorProperties":
        raise TypeError(f"expected TensorProperties, got {type(properties).__name__}")
    dtype, layout, *_ = _plain(properties.state, tuple)
    if layout.arguments != ("torch.strided",):
        raise ValueError("a tensor that is not strided")
    pairs = [
        _fields(chunk, "ChunkStorageMetadata", "offsets", "sizes")
        # zip takes from its first argument before it asks the second.
        for chunk, _ in zip(_plain(chunks, list), most_chunks, strict=False)
    ]
    if len(pairs) < len(chunks):
        raise ValueError("more chunks than it has bytes for")
    return TensorStorageMetadata(
        TensorProperties(vars(torch)[dtype.name]),
        _size(size),
        [ChunkStorageMetadata(_size(offsets), _size(sizes)) for offsets, sizes in pairs],
    )


def _check_files(locations: Mapping[MetadataIndex, Location], folder: Path, names: Collection[str]) -> None:
    """Raise ValueError where a chunk is not within a file that is known, or chunks share bytes of one."""
    total: Counter[str] = Counter()
    ends: dict[str, int] = {}
    for file, begin, size in locations.values():
        total[file] += size
        ends[file] = max(ends.get(file, 0), begin + size)
    for file, end in ends.items():
        if file not in names:
            raise ValueError(f"{METADATA} names the file {file}, which is not a file of the checkpoint")
        if max(end, total[file]) > (folder / file).stat().st_size:
            raise ValueError(f"{METADATA} names more bytes of {file} than it has")


def _check_chunks(name: str, about: TensorStorageMetadata, locations: Mapping[MetadataIndex, Location]) -> None:
    """Raise ValueError if the chunks of a tensor do not make it up, or are larger than their bytes."""
    itemsize, found = about.properties.dtype.itemsize, {}
    for chunk in about.chunks:
        ends = [begin + size for begin, size in zip(chunk.offsets, chunk.sizes, strict=True)]
        if len(ends) != len(about.size) or any(end > size for end, size in zip(ends, about.size, strict=True)):
            raise ValueError(f"{METADATA} names a chunk of {name} that is not within it")
        found[chunk.offsets] = math.prod(chunk.sizes)
        location = locations.get(MetadataIndex(name, chunk.offsets))
        if location is None or math.prod(chunk.sizes) * itemsize > location.size:
            raise ValueError(f"{METADATA} names more numbers of {name} than the files have")
    if sum(found.values()) != math.prod(about.size):
        raise ValueError(f"{METADATA} does not name all of {name}")
