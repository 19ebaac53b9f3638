"""Checkpoints in parts: what comes back, in any number of parts, and what is refused."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from warmstart.config import ConfigError
from warmstart.engine import BestHook, Trainer, files, load_checkpoint, save_checkpoint, shards
from warmstart.engine.checkpoint import content_bytes
from warmstart.solver import EMA

from .dying import assert_same_bits

WEIGHT, MOMENT = torch.arange(15.0).reshape(5, 3), torch.full((5, 3), 0.5)


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    """A group of this process alone."""
    # Autograd's first backward pass, if it came after all this, would start threads: no later test could fork.
    torch.ones(1, requires_grad=True).sum().backward()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def content_in_parts(mesh: DeviceMesh) -> dict[str, Any]:
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
    rest, tensors = shards.split(content_in_parts(mesh))
    about = shards.Writing(tensors, tmp_path, 4).finish()
    return rest | {shards.KEY: about}, tmp_path / "model_0000003.pth"


def read(content: dict[str, Any], path: Path, mesh: DeviceMesh | None = None) -> dict[str, Any]:
    folder = shards.verify(content, path)
    assert folder is not None
    return shards.fill(content, folder, mesh)


def test_parts_are_taken_out_by_their_key_paths_and_the_rest_stays(mesh: DeviceMesh) -> None:
    content = content_in_parts(mesh)
    rest, tensors = shards.split(content)
    assert [*tensors] == ["model/net.weight", "optimizer/state/0/exp_avg"]
    assert rest["model"]["net.weight"] is None
    assert rest["model"]["net.mean"] is content["model"]["net.mean"]
    assert rest["optimizer"]["state"][0] == {"step": torch.tensor(4.0), "exp_avg": None}
    assert isinstance(content["model"]["net.weight"], DTensor)  # the content itself is as it was


def test_each_tensor_in_parts_counts_for_the_space_that_is_needed(mesh: DeviceMesh) -> None:
    one, two = (content_in_parts(mesh)["model"] for _ in range(2))
    assert content_bytes(one) == 72
    assert content_bytes([one, two]) == 144


def test_one_process_reads_whole_tensors(saved: tuple[dict[str, Any], Path]) -> None:
    content = read(*saved)
    assert torch.equal(content["model"]["net.weight"], WEIGHT)
    assert torch.equal(content["model"]["net.mean"], torch.ones(3))
    assert torch.equal(content["optimizer"]["state"][0]["exp_avg"], MOMENT)
    assert type(content["model"]["net.weight"]) is torch.Tensor
    assert shards.KEY not in content


def test_ranks_read_parts(saved: tuple[dict[str, Any], Path], mesh: DeviceMesh) -> None:
    weight = read(*saved, mesh)["model"]["net.weight"]
    assert isinstance(weight, DTensor)
    assert torch.equal(weight.full_tensor(), WEIGHT)


def test_a_content_without_parts_has_none(tmp_path: Path) -> None:
    assert shards.verify({"iteration": 3}, tmp_path / "model_0000002.pth") is None


def test_the_parts_of_a_file_that_was_set_aside_are_found_beside_its_folder(
    saved: tuple[dict[str, Any], Path],
) -> None:
    content, path = saved
    assert torch.equal(read(content, path.parent / "overwritten" / path.name)["model"]["net.weight"], WEIGHT)


def test_the_best_file_that_is_made_again_from_a_numbered_one_names_the_same_parts(
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


def test_a_flipped_bit_is_found(saved: tuple[dict[str, Any], Path]) -> None:
    content, path = saved
    (part,) = (path.parent / shards.FOLDER).glob("*/*.distcp")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(ConfigError, match=f"checkpoint: {part} is damaged: its checksum is not that of what was"):
        read(content, path)


def test_missing_parts_are_named_with_where_they_belong(saved: tuple[dict[str, Any], Path]) -> None:
    content, path = saved
    (folder,) = (path.parent / shards.FOLDER).glob("*")
    folder.rename(path.parent / "elsewhere")
    with pytest.raises(ConfigError) as error:
        read(content, path)
    assert str(error.value) == (
        f"checkpoint: {path} has parts in {folder}, and .metadata of them cannot be read: No such file or "
        "directory; the folder belongs beside the file, in shards/"
    )


@pytest.mark.parametrize(("free", "code"), [(119, errno.ENOSPC), (120, errno.EIO)])
def test_a_full_disk_is_told_as_one(
    mesh: DeviceMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, code: int
) -> None:
    """Of which torch's writer says that a position is not the one that it expects."""

    def write_data(*arguments: Any) -> None:
        raise RuntimeError("unexpected pos 704 vs 598")

    monkeypatch.setattr("torch.distributed.checkpoint.FileSystemWriter.write_data", write_data)
    monkeypatch.setattr(files, "free_bytes", lambda folder: free)
    _, tensors = shards.split(content_in_parts(mesh))  # 2 of 15 numbers of 4 bytes
    with pytest.raises(OSError, match=r"No space left on device$|unexpected pos 704 vs 598$") as error:
        shards.Writing(tensors, tmp_path, 4).finish()
    assert error.value.errno == code


def test_parts_that_rank_0_cannot_see_are_an_error_when_they_are_saved(mesh: DeviceMesh, tmp_path: Path) -> None:
    """As where each machine has an OUTPUT_DIR of its own: what it holds there could never be put together."""
    _, tensors = shards.split(content_in_parts(mesh))
    writing = shards.Writing(tensors, tmp_path, 4)
    writing.wait()
    (part,) = writing.folder.glob("*.distcp")
    part.unlink()
    with pytest.raises(OSError, match=f"rank 0 does not see {part}; OUTPUT_DIR has to be on a drive that"):
        writing.finish()


def test_an_entry_that_is_no_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model_final.pth does not say where its parts are"):
        shards.verify({"iteration": 3, "shards": {"folder": 7}}, tmp_path / "model_final.pth")


def test_an_average_of_weights_in_parts_and_whole_statistics_is_that_of_whole_ones(mesh: DeviceMesh) -> None:
    """As those of BatchNorm: torch averages no list of both."""
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
    return sorted(path.name for path in (run / shards.FOLDER).iterdir())


@pytest.mark.parametrize("place", ["model_0000003.pth", "model_0000003.pth.cut2", "overwritten/model_final.pth"])
def test_only_parts_that_no_checkpoint_names_are_deleted(
    saved: tuple[dict[str, Any], Path], tmp_path: Path, place: str
) -> None:
    used = folders(tmp_path)
    (tmp_path / shards.FOLDER / "0000007-left").mkdir()
    (tmp_path / place).parent.mkdir(exist_ok=True)
    torch.save(saved[0], tmp_path / place)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "other.pth").write_bytes(b"of the user, not to be read")
    shards.remove_unused(tmp_path, tmp_path / "overwritten")
    assert folders(tmp_path) == used


def test_where_a_checkpoint_cannot_be_read_all_parts_stay(
    saved: tuple[dict[str, Any], Path], tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    (tmp_path / "model_0000003.pth").write_bytes(b"torn")
    before = folders(tmp_path)
    shards.remove_unused(tmp_path, tmp_path / "overwritten")
    assert folders(tmp_path) == before
    assert logged[-1].getMessage().startswith(f"the parts in {tmp_path / 'shards'} are all kept: ")
