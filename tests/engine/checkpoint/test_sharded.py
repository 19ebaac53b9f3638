"""Sharded checkpoints: read back by any number of ranks, and refused if they are damaged."""

from __future__ import annotations

import errno
import logging
import os
import re
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from warmstart.config import ConfigError, disk
from warmstart.engine import BestHook, Trainer, load_checkpoint, save_checkpoint
from warmstart.engine.checkpoint import shard_files, threads
from warmstart.engine.checkpoint import sharded as shards
from warmstart.engine.checkpoint.content import content_bytes
from warmstart.engine.checkpoint.run_files import SHARDS
from warmstart.engine.checkpoint.run_folder import RunFolder
from warmstart.engine.checkpoint.saver import Save
from warmstart.engine.runtime.owned import own
from warmstart.solver import EMA

from ..dying import assert_same_bits

pytestmark = [  # what torch 2.6 says of itself
    pytest.mark.filterwarnings("ignore:DTensor random operators may not:UserWarning"),
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning"),
]

WEIGHT, MOMENT = torch.arange(15.0).reshape(5, 3), torch.full((5, 3), 0.5)


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    """A group of this process alone."""
    # Autograd's first backward pass, if it came after all this, would start threads: no later test could fork.
    torch.ones(1, requires_grad=True).sum().backward()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def sharded_content(mesh: DeviceMesh) -> dict[str, Any]:
    weight, moment = (distribute_tensor(tensor, mesh, [Shard(0)]) for tensor in (WEIGHT, MOMENT))
    return {
        "model": {"net.weight": weight, "net.mean": torch.ones(3)},
        "optimizer": {
            "state": {0: {"step": torch.tensor(4.0), "exp_avg": moment}},
            "param_groups": [{"params": [0]}],
        },
        "iteration": 4,
    }


@pytest.fixture
def saved(mesh: DeviceMesh, tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """A checkpoint's content as its file would hold it, and the file's path."""
    rest, tensors = shards.split(sharded_content(mesh))
    about = shards.ShardWriter(tensors, tmp_path, 4).finish()
    return rest | {shards.KEY: about}, tmp_path / "model_0000003.pth"


def read(content: dict[str, Any], path: Path, mesh: DeviceMesh | None = None) -> dict[str, Any]:
    folder = shards.verify(content, path)
    assert folder is not None
    return shards.fill(content, folder, mesh)


def test_split_takes_sharded_tensors_out_by_their_key_paths(mesh: DeviceMesh) -> None:
    content = sharded_content(mesh)
    rest, tensors = shards.split(content)
    assert [*tensors] == [("model", "net.weight"), ("optimizer", "state", 0, "exp_avg")]
    assert rest["model"]["net.weight"] is None
    assert rest["model"]["net.mean"] is content["model"]["net.mean"]
    assert rest["optimizer"]["state"][0] == {"step": torch.tensor(4.0), "exp_avg": None}
    assert isinstance(content["model"]["net.weight"], DTensor)  # the content itself is as it was


def test_content_bytes_counts_each_sharded_tensor(mesh: DeviceMesh) -> None:
    one, two = (sharded_content(mesh)["model"] for _ in range(2))
    assert content_bytes(one) == 72
    assert content_bytes([one, two]) == 144


def test_fill_without_a_mesh_gives_full_tensors(saved: tuple[dict[str, Any], Path]) -> None:
    content = read(*saved)
    assert torch.equal(content["model"]["net.weight"], WEIGHT)
    assert torch.equal(content["model"]["net.mean"], torch.ones(3))
    assert torch.equal(content["optimizer"]["state"][0]["exp_avg"], MOMENT)
    assert type(content["model"]["net.weight"]) is torch.Tensor
    assert shards.KEY not in content


def test_fill_with_a_mesh_gives_sharded_tensors(saved: tuple[dict[str, Any], Path], mesh: DeviceMesh) -> None:
    weight = read(*saved, mesh)["model"]["net.weight"]
    assert isinstance(weight, DTensor)
    assert torch.equal(weight.full_tensor(), WEIGHT)


def test_verify_finds_the_shards_of_a_moved_folder(saved: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    content, path = saved
    path.parent.rename(tmp_path.with_name("moved"))
    moved = tmp_path.with_name("moved")
    assert torch.equal(read(content, moved / path.name)["model"]["net.weight"], WEIGHT)


def test_verify_returns_none_for_a_content_without_shards(tmp_path: Path) -> None:
    assert shards.verify({"iteration": 3}, tmp_path / "model_0000002.pth") is None


def test_verify_finds_the_shards_of_a_file_that_was_set_aside(
    saved: tuple[dict[str, Any], Path],
) -> None:
    content, path = saved
    assert torch.equal(read(content, path.parent / "overwritten" / path.name)["model"]["net.weight"], WEIGHT)


def test_best_hook_restores_a_sharded_best_file_that_names_the_same_shards(
    saved: tuple[dict[str, Any], Path],
) -> None:
    content, numbered = saved
    empty = {"scheduler": {}, "hooks": {}, "rng": [], "config": {}}
    save_checkpoint(content | empty, numbered)
    hook = BestHook(1, "accuracy", "max", numbered.parent)
    hook.best_iteration = 4
    hook.before_train(cast(Trainer, SimpleNamespace(iteration=4)))
    best = numbered.with_name("model_best.pth")
    assert torch.load(best)["model"]["net.weight"] is None
    assert torch.load(best).keys() == torch.load(numbered).keys()
    assert torch.equal(load_checkpoint(best)["model"]["net.weight"], WEIGHT)


@pytest.mark.parametrize("in_parts", [False, True])
def test_keys_with_slashes_and_numbers_as_text_and_tuples_keep_their_tensors(
    mesh: DeviceMesh, tmp_path: Path, in_parts: bool
) -> None:
    tensors = [distribute_tensor(torch.full((2,), float(n)), mesh, [Shard(0)]) for n in range(9)]
    content = {
        "model": {"a/b": tensors[0], "a": {"b": tensors[1]}, "a/b'": tensors[2]},
        "hooks": {"mine/own": {0: tensors[3], "0": tensors[4], None: tensors[5], 0.5: tensors[6]}},
        "rest": ([1.5, tensors[7]], tensors[8], "x"),
    }
    rest, parts = shards.split(content)
    rest[shards.KEY] = shards.ShardWriter(parts, tmp_path, 4).finish()
    torch.save(rest, tmp_path / "model_0000003.pth")
    filled = read(torch.load(tmp_path / "model_0000003.pth"), tmp_path / "x.pth", mesh if in_parts else None)

    def numbers(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return cast(DTensor, value).full_tensor().tolist() if isinstance(value, DTensor) else value.tolist()
        if isinstance(value, dict):
            return {key: numbers(inner) for key, inner in value.items()}
        return type(value)(map(numbers, value)) if isinstance(value, (list, tuple)) else value

    assert numbers(filled) == {
        "model": {"a/b": [0, 0], "a": {"b": [1, 1]}, "a/b'": [2, 2]},
        "hooks": {"mine/own": {0: [3, 3], "0": [4, 4], None: [5, 5], 0.5: [6, 6]}},
        "rest": ([1.5, [7, 7]], [8, 8], "x"),
    }


def test_fill_reads_a_sharded_model_with_a_slash_in_a_modules_name(mesh: DeviceMesh, tmp_path: Path) -> None:
    from torch.distributed.fsdp import fully_shard

    def model(value: float) -> torch.nn.Module:
        made = torch.nn.Sequential()
        made.add_module("in/out", torch.nn.Linear(3, 2))
        torch.nn.init.constant_(made.get_submodule("in/out").weight, value)  # type: ignore[arg-type]
        fully_shard(made, mesh=mesh)
        return made

    rest, tensors = shards.split({"model": model(1.5).state_dict()})
    rest[shards.KEY] = shards.ShardWriter(tensors, tmp_path, 4).finish()
    again = model(0.0)
    again.load_state_dict(read(rest, tmp_path / "model_final.pth", mesh)["model"])
    weight = again.state_dict()["in/out.weight"]
    assert weight.full_tensor().tolist() == [[1.5] * 3] * 2


def test_fill_reads_a_file_of_an_earlier_version_without_key_paths(saved: tuple[dict[str, Any], Path]) -> None:
    content, path = saved
    assert content[shards.KEY].pop("paths") == {
        "model/net.weight": ["model", "net.weight"],
        "optimizer/state/0/exp_avg": ["optimizer", "state", 0, "exp_avg"],
    }
    filled = read(content, path)
    assert torch.equal(filled["model"]["net.weight"], WEIGHT)
    assert torch.equal(filled["optimizer"]["state"][0]["exp_avg"], MOMENT)


@pytest.mark.parametrize("place", [["model", "x", "y"], ["nothing", "y"], 7])
def test_key_paths_that_lead_nowhere_are_one_message(saved: tuple[dict[str, Any], Path], place: Any) -> None:
    content, path = saved
    content[shards.KEY]["paths"]["model/net.weight"] = place
    with pytest.raises(ConfigError, match=f"checkpoint: {path.parent}/shards/.* cannot be read: "):
        read(content, path)


@pytest.mark.parametrize(
    ("bad", "first"),
    [
        ({"__3_0.distcp": b"x", "__1_0.distcp": b"x", "__2_0.distcp": None}, "__1_0.distcp is damaged: its"),
        ({"__3_0.distcp": b"x", "__1_0.distcp": None}, "__1_0.distcp cannot be read: No such file"),
        ({"__3_0.distcp": b"", ".metadata": None}, ".metadata cannot be read: No such file"),
        ({"__3_0.distcp": b"par"}, "__3_0.distcp is damaged: its"),
    ],
)
def test_verify_names_the_first_of_several_bad_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: dict[str, bytes | None], first: str
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 3)
    folder = tmp_path / "shards" / "one"
    folder.mkdir(parents=True)
    names = ["__3_0.distcp", "__2_0.distcp", "__1_0.distcp", "__0_0.distcp", ".metadata"]
    for name in names:
        (folder / name).write_bytes(b"part")
    content = {shards.KEY: {"folder": "one", "crc32": dict.fromkeys(names, zlib.crc32(b"part"))}}
    assert shards.verify(content, tmp_path / "model_final.pth") == folder
    for name, data in bad.items():
        (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
    with pytest.raises(ConfigError, match=re.escape(first)):
        shards.verify(content, tmp_path / "model_final.pth")


def test_verify_reads_several_shards_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    both = threading.Barrier(2, timeout=30)  # passes only where two are read at once
    monkeypatch.setattr(shard_files, "checksum", lambda path: both.wait() * 0)
    (tmp_path / "shards" / "one").mkdir(parents=True)
    for name in ("__0_0.distcp", "__1_0.distcp"):
        (tmp_path / "shards" / "one" / name).touch()
    content = {shards.KEY: {"folder": "one", "crc32": {"__0_0.distcp": 0, "__1_0.distcp": 0}}}
    assert shards.verify(content, tmp_path / "model_final.pth") == tmp_path / "shards" / "one"


@pytest.mark.slow
def test_a_process_that_is_ending_still_verifies() -> None:
    """As when a user's script fails while a checkpoint is written: Python waits for the thread."""
    script = """
import threading, time
from warmstart.engine.checkpoint import threads
def save():
    while threading.main_thread().is_alive():
        time.sleep(0.01)
    time.sleep(0.2)
    print(threads.of_each(str.upper, ["a", "b"]))
threading.Thread(target=save).start()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("['A', 'B']\n", "")


def test_a_flipped_bit_is_found(saved: tuple[dict[str, Any], Path]) -> None:
    content, path = saved
    (part,) = (path.parent / SHARDS).glob("*/*.distcp")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(ConfigError, match=f"checkpoint: {part} is damaged: its checksum differs from the one"):
        read(content, path)


def test_verify_names_missing_shards_and_where_they_belong(saved: tuple[dict[str, Any], Path]) -> None:
    content, path = saved
    (folder,) = (path.parent / SHARDS).glob("*")
    folder.rename(path.parent / "elsewhere")
    with pytest.raises(ConfigError) as error:
        read(content, path)
    assert str(error.value) == (
        f"checkpoint: {path} has shards in {folder}, and .metadata cannot be read: No such file or "
        "directory; the folder belongs beside the file, in shards/"
    )


@pytest.mark.parametrize(("free", "code"), [(119, errno.ENOSPC), (120, errno.EIO)])
def test_shard_writer_reports_a_full_disk(
    mesh: DeviceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, code: int
) -> None:
    """Of which torch's writer says that a position is not the one that it expects."""

    def write_data(*arguments: Any) -> None:
        raise RuntimeError("unexpected pos 704 vs 598")

    monkeypatch.setattr("torch.distributed.checkpoint.FileSystemWriter.write_data", write_data)
    monkeypatch.setattr(disk, "free_bytes", lambda folder: free)
    _, tensors = shards.split(sharded_content(mesh))  # 2 of 15 numbers of 4 bytes
    with pytest.raises(OSError, match=r"No space left on device$|unexpected pos 704 vs 598$") as error:
        shards.ShardWriter(tensors, tmp_path, 4).finish()
    assert error.value.errno == code


def test_shard_writer_reports_shards_that_rank_0_cannot_see(mesh: DeviceMesh, tmp_path: Path) -> None:
    """As when each machine has a separate OUTPUT_DIR: the shards there could never be all-gathered."""
    _, tensors = shards.split(sharded_content(mesh))
    writing = shards.ShardWriter(tensors, tmp_path, 4)
    writing.wait()
    (part,) = writing.folder.glob("*.distcp")
    part.unlink()
    with pytest.raises(OSError, match=f"rank 0 does not see {part}; OUTPUT_DIR must be on a drive that"):
        writing.finish()


def test_verify_refuses_an_entry_that_does_not_describe_shards(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model_final.pth does not say where its shards are"):
        shards.verify({"iteration": 3, "shards": {"folder": 7}}, tmp_path / "model_final.pth")
    with pytest.raises(ConfigError, match="/7, and 8 cannot be read: No such file or directory; "):
        shards.verify({"shards": {"folder": 7, "crc32": {8: 0, "9": 0}}}, tmp_path / "model_final.pth")


def test_ema_of_sharded_weights_and_unsharded_statistics_equals_the_unsharded_one(mesh: DeviceMesh) -> None:
    """As BatchNorm has them: torch cannot average a list of both."""
    from torch.distributed.fsdp import fully_shard

    def averaged(cut: bool) -> dict[str, Any]:
        model = torch.nn.BatchNorm1d(3)
        ema = EMA(model, decay=0.75)
        for each in (model, ema.model) if cut else ():
            fully_shard(each, mesh=mesh)
        for iteration, value in enumerate((2.0, 6.0), start=1):
            torch.nn.init.constant_(model.weight, value)
            model.running_mean.fill_(10 * value)  # type: ignore[union-attr]
            model.num_batches_tracked.fill_(iteration)  # type: ignore[union-attr]
            ema.update(model, iteration)
        return {name: getattr(t, "full_tensor", lambda t=t: t)() for name, t in ema.model.state_dict().items()}

    found = averaged(cut=True)
    assert found["weight"].tolist() == [3.0, 3.0, 3.0]  # 0.75 * 2 + 0.25 * 6
    assert found["running_mean"].tolist() == [30.0, 30.0, 30.0]
    assert found["num_batches_tracked"].item() == 2
    assert_same_bits(found, averaged(cut=False))


def folders(run: Path) -> list[str]:
    return sorted(path.name for path in (run / SHARDS).iterdir())


@pytest.mark.parametrize("place", ["model_0000003.pth", "model_0000003.pth.cut2", "overwritten/model_final.pth"])
def test_remove_unused_keeps_the_shards_that_a_checkpoint_names(
    saved: tuple[dict[str, Any], Path], tmp_path: Path, place: str
) -> None:
    used = folders(tmp_path)
    (tmp_path / SHARDS / "0000007-0123cdef").mkdir()
    own(tmp_path, "shards/0000007-0123cdef")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    torch.save(saved[0], tmp_path / place)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "other.pth").write_bytes(b"of the user, not to be read")
    shard_files.remove_unused(tmp_path)
    assert folders(tmp_path) == used


def test_remove_unused_keeps_the_shards_of_a_file_that_is_still_to_be_written(
    saved: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    used = folders(tmp_path)
    shard_files.remove_unused(tmp_path, owed=[{"iteration": 3}, saved[0]])
    assert folders(tmp_path) == used
    shard_files.remove_unused(tmp_path)
    assert folders(tmp_path) == []


class Small:
    """Saves sharded contents into a folder, one after another, as a run does that keeps one numbered file."""

    def __init__(self, mesh: DeviceMesh, folder: Path) -> None:
        self.mesh = mesh
        self.folder = folder

    def save(self, iteration: int, names: list[str], owed: dict[str, Any]) -> dict[str, Any]:
        rest, tensors = shards.split(sharded_content(self.mesh) | {"iteration": iteration})
        content = rest | {"scheduler": {}, "hooks": {}, "rng": [], "config": {}}
        writing = shards.ShardWriter(tensors, self.folder, iteration)
        save = Save(RunFolder(self.folder, keep=1), content | {"names": names}, owed, False, writing)
        save.start()
        return save.finish()


def full(*arguments: Any, **named: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_sharded_best_file_that_failed_is_written_with_the_next_save(
    mesh: DeviceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    """Also where the save between cannot write it either, and has deleted the numbered file of its parts."""
    create = disk.create
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 100_000)
    run = Small(mesh, tmp_path)
    run.save(2, ["model_best.pth"], {})
    monkeypatch.setattr(disk, "create", lambda path: full() if "best" in path.name else create(path))
    owed = run.save(4, ["model_best.pth"], {})
    assert [*owed] == ["model_best.pth"]
    assert logged[-2].getMessage() == (
        f"{tmp_path}/model_best.pth could not be saved: No space left on device; 16 bytes are needed, 100,000 "
        "are free; the newest is model_0000003.pth; training continues and the next checkpoint tries again"
    )
    owed = run.save(6, [], owed)
    assert load_checkpoint(tmp_path / "model_best.pth")["iteration"] == 2  # the old one is whole
    assert not (tmp_path / "model_0000003.pth").exists()
    monkeypatch.setattr(disk, "create", create)
    assert run.save(8, [], owed) == {}
    best = load_checkpoint(tmp_path / "model_best.pth")
    assert best["iteration"] == 4
    assert torch.equal(best["model"]["net.weight"], WEIGHT)
    assert [name[:7] for name in folders(tmp_path)] == ["0000003", "0000007"]


def test_a_best_file_whose_shards_failed_keeps_the_old_one_until_it_is_asked_for_again(
    mesh: DeviceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    run = Small(mesh, tmp_path)
    run.save(2, ["model_best.pth"], {})
    with monkeypatch.context() as patch:
        patch.setattr("torch.distributed.checkpoint.FileSystemWriter.write_data", full)
        assert run.save(4, ["model_best.pth"], {}) == {}
    (said,) = [record.getMessage() for record in logged if record.levelname == "WARNING"]
    assert said == (
        f"{tmp_path}/model_0000003.pth, {tmp_path}/model_best.pth could not be saved: No space left on device; "
        "the newest is model_0000001.pth; training continues and the next checkpoint tries again, model_best.pth "
        "when it is next asked for"
    )
    assert [name[:7] for name in folders(tmp_path)] == ["0000001"]
    run.save(6, [], {})
    assert load_checkpoint(tmp_path / "model_best.pth")["iteration"] == 2
    run.save(8, ["model_best.pth"], {})
    assert load_checkpoint(tmp_path / "model_best.pth")["iteration"] == 8
    assert [name[:7] for name in folders(tmp_path)] == ["0000007"]


def test_remove_unused_keeps_all_shards_if_a_checkpoint_cannot_be_read(
    saved: tuple[dict[str, Any], Path], tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    (tmp_path / "model_0000003.pth").write_bytes(b"torn")
    before = folders(tmp_path)
    shard_files.remove_unused(tmp_path)
    assert folders(tmp_path) == before
    assert logged[-1].getMessage().startswith(f"all shards in {tmp_path / 'shards'} are kept: ")
