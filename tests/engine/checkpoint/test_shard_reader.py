"""Sharded checkpoints of strangers: nothing in them runs, names a file elsewhere or claims memory."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from warmstart.config import ConfigError
from warmstart.engine.checkpoint import sharded as shards

pytestmark = [  # what torch 2.6 says of itself
    pytest.mark.filterwarnings("ignore:DTensor random operators may not:UserWarning"),
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning"),
]

METADATA = "torch.distributed.checkpoint.metadata"  # the module

TENSORS = {
    "weight": torch.arange(15.0).reshape(5, 3),
    "steps": torch.arange(4),
    "half": torch.tensor([0.5, 2.0], dtype=torch.bfloat16),
    "empty": torch.zeros(0, 3),
}


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    """A group of this process alone."""
    torch.ones(1, requires_grad=True).sum().backward()  # see test_shards.py
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


class Saved:
    """A sharded checkpoint whose files a test changes, as someone would who also corrects the checksums."""

    def __init__(self, folder: Path, mesh: DeviceMesh) -> None:
        tensors = {("model", key): distribute_tensor(value, mesh, [Shard(0)]) for key, value in TENSORS.items()}
        self.path = folder / "model_0000003.pth"
        self.content: dict[str, Any] = {
            "model": dict.fromkeys(TENSORS),
            shards.KEY: shards.ShardWriter(tensors, folder, 4).finish(),
        }
        (self.folder,) = (folder / "shards").iterdir()

    def change(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)
        self.content[shards.KEY]["crc32"][name] = zlib.crc32(content)

    def metadata(self) -> Metadata:
        found: Metadata = pickle.loads((self.folder / ".metadata").read_bytes())
        return found

    def read(self, mesh: DeviceMesh | None = None) -> dict[str, Any]:
        folder = shards.verify(self.content, self.path)
        assert folder is not None
        return shards.fill(self.content, folder, mesh)


@pytest.fixture
def saved(tmp_path: Path, mesh: DeviceMesh) -> Saved:
    return Saved(tmp_path, mesh)


def test_reader_gives_what_torchs_own_reader_gives(saved: Saved) -> None:
    theirs = {f"model/{key}": torch.zeros_like(value) for key, value in TENSORS.items()}
    load(theirs, checkpoint_id=saved.folder)
    ours = saved.read()["model"]
    for key, value in TENSORS.items():
        assert torch.equal(ours[key], value)
        assert torch.equal(theirs[f"model/{key}"], value)
        assert ours[key].dtype == value.dtype


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_reader_takes_each_pickle_protocol_that_python_wrote_by_default(saved: Saved, protocol: int) -> None:
    saved.change(".metadata", pickle.dumps(saved.metadata(), protocol))
    assert torch.equal(saved.read()["model"]["weight"], TENSORS["weight"])


class Runs:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def text(word: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(word)]) + word.encode()


def class_in(rest: bytes) -> bytes:
    return named(METADATA, "Metadata", rest)


def named(module: str, name: str, rest: bytes = b"") -> bytes:
    """A pickle of protocol 4 that looks up a name."""
    return pickle.PROTO + b"\4" + text(module) + text(name) + pickle.STACK_GLOBAL + rest + pickle.STOP


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda ran: pickle.dumps(Runs(os.mkdir, str(ran))),
            ".metadata is refused: it names posix.mkdir",
        ),
        (lambda ran: pickle.dumps({"x": Runs(eval, f"open({str(ran)!r}, 'w')")}), "it names builtins.eval, which"),
        (
            lambda ran: b"cos\nsystem\n(Vtouch " + os.fsencode(ran) + b"\ntR.",
            "it names os.system, which no checkpoint",
        ),
        (lambda ran: named("torch", "Size.__class__"), "it names torch.Size.__class__"),
        (lambda ran: named("torch", "load"), "it names torch.load"),
        (lambda ran: named("torch.serialization", "load"), "it names torch.serialization.load, which"),
        (lambda ran: named(METADATA, "os.system"), f"it names {METADATA}.os.system"),
        (lambda ran: named("pathlib", "os"), "it names pathlib.os"),
        (lambda ran: named("warmstart.engine.shard_metadata", "_Value"), "_Value"),
        # Opcodes that no protocol of today writes: what they name goes other ways, or is given by a number.
        (lambda ran: b"(cos\nsystem\nVtouch x\no.", "it names os.system"),
        (lambda ran: b"(Vtouch x\nios\nsystem\n.", "is not as torch writes it"),
        (lambda ran: b"\x80\x02\x82\x01.", "is not as torch writes it"),
        (lambda ran: b"Pmine\n.", "is not as torch writes it"),
        # What is allowed, misused: an argument that a constructor would act on, a class instead of an object.
        (lambda ran: pickle.dumps(Runs(torch.Size, ["x"])), "expected Metadata, got Size"),
        (
            lambda ran: named("torch.serialization", "_get_layout", b"(" + text("os") + b"tR"),
            "expected Metadata, got _get_layout",
        ),
        (
            lambda ran: named("pathlib", "PosixPath", b"(" + text("/etc") + b"tR"),
            "expected Metadata, got PosixPath",
        ),
        (lambda ran: class_in(b""), "expected Metadata, got type"),
        (lambda ran: class_in(b"}b"), "is not as torch writes it (TypeError: "),
        (
            lambda ran: class_in(b")\x81(N}" + text("__class__") + b"K\1stb"),
            "expected dict, got tuple",
        ),
        (
            lambda ran: class_in(b")\x81}" + text("__dict__") + b"}sb"),
            "(KeyError: 'state_dict_metadata')",
        ),
        (lambda ran: class_in(b")\x81"), "expected dict, got NoneType"),
        (lambda ran: named("torch", "float32", b"}b"), "is not as torch writes it (TypeError: "),
        (lambda ran: b"", "is not as torch writes it (EOFError: "),
        (lambda ran: b"\x80\x04N", "is not as torch writes it (EOFError: "),
    ],
)
def test_reader_runs_nothing_that_the_metadata_names(
    saved: Saved, tmp_path: Path, content: Callable[[Path], bytes], message: str
) -> None:
    ran = tmp_path / "ran"
    saved.change(".metadata", content(ran))
    with pytest.raises(ConfigError, match=f"^checkpoint: {saved.folder} cannot be read: ") as error:
        saved.read()
    assert message in str(error.value)
    assert not ran.exists()


def test_reader_changes_no_class_that_the_metadata_names(saved: Saved) -> None:
    # BUILD with a pair would set attributes of the class itself.
    saved.change(".metadata", named("torch", "Size", b"(N}" + text("__init__") + b"K\1stb"))
    before = dict(vars(torch.Size))
    with pytest.raises(ConfigError, match="cannot be read"):
        saved.read()
    assert dict(vars(torch.Size)) == before


def test_reader_runs_nothing_in_a_chunk(saved: Saved, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    metadata = saved.metadata()
    chunk = io.BytesIO()
    torch.save(Runs(os.mkdir, str(ran)), chunk)
    content = (saved.folder / "__0_0.distcp").read_bytes()
    for index, location in metadata.storage_data.items():
        if index.fqn == "model/weight":
            location.offset, location.length = len(content), len(chunk.getvalue())
    saved.change("__0_0.distcp", content + chunk.getvalue())
    saved.change(".metadata", pickle.dumps(metadata))
    with pytest.raises(ConfigError, match="cannot be read: Weights only load failed"):
        saved.read()
    assert not ran.exists()


@pytest.mark.parametrize("name", ["../model_0000003.pth", "/etc/passwd", "other.distcp"])
def test_reader_refuses_a_file_that_is_not_of_the_checkpoint(saved: Saved, name: str) -> None:
    metadata = saved.metadata()
    for location in metadata.storage_data.values():
        location.relative_path = name
    saved.change(".metadata", pickle.dumps(metadata))
    with pytest.raises(ConfigError, match=f".metadata names the file {name}, which is not a file of the"):
        saved.read()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "a\0b"])
def test_verify_refuses_names_that_lead_elsewhere(saved: Saved, name: str) -> None:
    message = re.escape(f"is refused: {name!r} is not the name of a shard in shards/")
    with pytest.raises(ConfigError, match=message):
        shards.verify({shards.KEY: {"folder": name, "crc32": {}}}, saved.path)
    saved.content[shards.KEY]["crc32"][name] = 0
    with pytest.raises(ConfigError, match=message):
        saved.read()


def test_verify_refuses_links_and_devices(saved: Saved, tmp_path: Path) -> None:
    os.mkfifo(saved.folder / "fifo")
    (saved.folder / "link").symlink_to(saved.folder / ".metadata")
    for name in ("fifo", "link"):
        content = {shards.KEY: {"folder": saved.folder.name, "crc32": {name: 0}}}
        with pytest.raises(ConfigError, match=f"{name} is refused: it is a link or a device, and"):
            shards.verify(content, saved.path)
    saved.folder.rename(tmp_path / "elsewhere")
    saved.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=f"{saved.folder} is a symbolic link; put the folder itself there"):
        saved.read()


def test_reader_refuses_a_metadata_without_a_checksum(saved: Saved) -> None:
    del saved.content[shards.KEY]["crc32"][".metadata"]
    with pytest.raises(ConfigError, match=r"\.metadata is not among the files of the checkpoint"):
        saved.read()


def larger_size(metadata: Metadata) -> None:
    about = metadata.state_dict_metadata["model/weight"]
    about.size = torch.Size([2**40, 3])  # type: ignore[union-attr]


def larger_chunk(metadata: Metadata) -> None:
    larger_size(metadata)
    chunks = metadata.state_dict_metadata["model/weight"].chunks  # type: ignore[union-attr]
    chunks[0] = ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([2**40, 3]))


def larger_location(metadata: Metadata) -> None:
    larger_chunk(metadata)
    metadata.storage_data[MetadataIndex("model/weight", [0, 0])].length = 2**44


def same_location(metadata: Metadata) -> None:
    first, *others = metadata.storage_data.values()
    for each in others:
        each.offset, each.length = first.offset, first.length + 2000


def chunk_twice(metadata: Metadata) -> None:
    larger_size(metadata)
    about = metadata.state_dict_metadata["model/weight"]
    about.chunks *= 2**12  # type: ignore[union-attr]


def chunk_outside(metadata: Metadata) -> None:
    about = metadata.state_dict_metadata["model/weight"]
    about.size = torch.Size([4, 3])  # type: ignore[union-attr]


def other_dimensions(metadata: Metadata) -> None:
    about = metadata.state_dict_metadata["model/weight"]
    about.size = torch.Size([15])  # type: ignore[union-attr]


def other_dtype(metadata: Metadata) -> None:
    metadata.state_dict_metadata["model/weight"].properties.dtype = torch.int32  # type: ignore[union-attr]


def other_tensor(metadata: Metadata) -> None:
    locations = metadata.storage_data
    weight, steps = (
        MetadataIndex(f"model/{name}", offset) for name, offset in (("weight", [0, 0]), ("steps", [0]))
    )
    locations[weight], locations[steps] = locations[steps], locations[weight]


def negative_offset(metadata: Metadata) -> None:
    metadata.storage_data[MetadataIndex("model/weight", [0, 0])].offset = -5


def transformed(metadata: Metadata) -> None:
    for location in metadata.storage_data.values():
        location.transform_descriptors = ["zstd"]


def no_location(metadata: Metadata) -> None:
    metadata.storage_data.clear()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (larger_size, ".metadata does not name all of model/weight"),
        (larger_chunk, ".metadata names more numbers of model/weight than the files have"),
        (larger_location, ".metadata names more bytes of __0_0.distcp than it has"),
        (same_location, ".metadata names more bytes of __0_0.distcp than it has"),
        (chunk_twice, "(ValueError: more chunks than it has bytes for)"),
        (chunk_outside, ".metadata names a chunk of model/weight that is not within it"),
        (other_dimensions, "is not within it"),
        (other_dtype, "a chunk of model/weight is not what .metadata says"),
        (other_tensor, "a chunk of model/"),
        (negative_offset, "(ValueError: -5 is not a count)"),
        (transformed, "(ValueError: compressed chunks)"),
        (no_location, ".metadata names more numbers of model/"),
    ],
)
def test_reader_compares_what_the_metadata_claims_with_the_files(
    saved: Saved, change: Callable[[Metadata], None], message: str
) -> None:
    metadata = saved.metadata()
    change(metadata)
    saved.change(".metadata", pickle.dumps(metadata))
    with pytest.raises(ConfigError, match=re.escape(message)):
        saved.read()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04Nr\xff\xff\xff\x7f.",  # an entry of the memo with a high number, for which C reserves 32 GiB
        b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.",  # 1 TiB that does not follow
    ],
)
def test_reader_reserves_no_memory_that_the_metadata_names(saved: Saved, content: bytes) -> None:
    saved.change(".metadata", content)
    with pytest.raises(ConfigError, match="is not as torch writes it"):
        saved.read()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: b"x" * len(data), "a chunk in __0_0.distcp is not as torch.save writes it"),
        (lambda data: deflated(data), "a chunk in __0_0.distcp is compressed, as torch.save never does"),
    ],
)
def test_reader_refuses_chunks_that_torch_save_did_not_write(
    saved: Saved, make: Callable[[bytes], bytes], message: str
) -> None:
    metadata = saved.metadata()
    content = bytearray((saved.folder / "__0_0.distcp").read_bytes())
    location = metadata.storage_data[MetadataIndex("model/weight", [0, 0])]
    made = make(bytes(content[location.offset : location.offset + location.length]))
    metadata.storage_data[MetadataIndex("model/weight", [0, 0])] = dataclasses.replace(
        location, offset=len(content), length=len(made)
    )
    saved.change("__0_0.distcp", bytes(content) + made)
    saved.change(".metadata", pickle.dumps(metadata))
    with pytest.raises(ConfigError, match=message):
        saved.read()


def deflated(data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return made.getvalue()
