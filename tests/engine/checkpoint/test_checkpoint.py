"""Checkpoint files: complete or absent, verified, never code."""

from __future__ import annotations

import os
import signal
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.config import ConfigError
from warmstart.engine import load_checkpoint, load_newest, save_checkpoint
from warmstart.engine.checkpoint.content import snapshot
from warmstart.engine.checkpoint.run_files import checkpoint_name, checkpoint_number
from warmstart.engine.checkpoint.run_folder import RunFolder
from warmstart.tools import train_net

from ..dying import assert_same_bits
from ..faults import Disk, forked, in_child


def content(iteration: int, **more: Any) -> dict[str, Any]:
    parts = {"model": {"w": torch.arange(1000.0)}, "optimizer": {}, "scheduler": {}, "hooks": {}, "rng": []}
    return {**parts, "config": {"SOLVER": {"STEPS": (1, 2)}}, "iteration": iteration, **more}


def save(folder: Path, iteration: int) -> Path:
    path = folder / checkpoint_name(iteration)
    save_checkpoint(content(iteration), path)
    RunFolder(folder).point_to(path.name)
    return path


@pytest.mark.parametrize("name", ["model_final.pth", "model_5.pth.cut", "model_-1.pth", "last_checkpoint"])
def test_a_file_without_a_number_has_none(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is not a numbered checkpoint, such as model_0000999.pth"):
        checkpoint_number(name)


def test_load_checkpoint_returns_the_content_that_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "model_0000006.pth"
    save_checkpoint(content(7, nested=[{"a": (1, 2.5, "x", b"y", None, True)}]), path)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["model"]["w"], torch.arange(1000.0))
    assert loaded["nested"] == [{"a": (1, 2.5, "x", b"y", None, True)}]
    assert loaded["config"] == {"SOLVER": {"STEPS": (1, 2)}}
    assert os.listdir(tmp_path) == ["model_0000006.pth"]


@pytest.mark.need("D7")
def test_anything_else_than_tensors_and_plain_values_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(TypeError, match=r"hooks\.mine\[1\] is a \w*Path: .*only tensors and plain values"):
        save_checkpoint(content(1, hooks={"mine": [1, Path("x")]}), path)
    assert os.listdir(tmp_path) == []


def test_a_kind_of_dict_that_would_not_load_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"hooks\.mine is a defaultdict: "):
        save_checkpoint(content(1, hooks={"mine": defaultdict(int)}), tmp_path / "x.pth")


class Named(OrderedDict[str, int]):
    pass


def with_attribute(kind: type[Any]) -> Any:
    value = kind(a=1)
    value.mine = torch.zeros(2)
    return value


@pytest.mark.need("D7")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2**2039, "hooks.mine has 2,040 bits, of which torch reads 2,039: "),
        ([{"n": -(2**4000)}], "hooks.mine[0].n has 4,001 bits"),
        ({2**2039: 1}, "hooks.mine (a key) has 2,040 bits"),
        (b"", "hooks.mine is b'', which torch does not read; use None: "),
        (with_attribute(OrderedDict), "hooks.mine has attributes (mine): "),
        (with_attribute(Counter), "hooks.mine has attributes (mine): "),
        (Named(a=1), "hooks.mine is a Named: "),
        (np.float64(0.5), "hooks.mine is a float64: "),
        ({np.int64(1): 2}, "hooks.mine (a key) is a int64: "),
    ],
)
def test_a_plain_value_that_torch_would_not_load_is_not_saved(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(TypeError) as error:
        save_checkpoint(content(1, hooks={"mine": value}), tmp_path / "x.pth")
    assert str(error.value).startswith(message)
    assert os.listdir(tmp_path) == []


@pytest.mark.need("D7")
@pytest.mark.parametrize(
    "value", [2**2039 - 1, -(2**2039) + 1, Counter([4, 4, 9]), OrderedDict(a=1), b"x" * 300, "", (), {}, []]
)
def test_load_checkpoint_returns_the_plain_values_of_a_snapshot(tmp_path: Path, value: Any) -> None:
    """A Counter of milestones is in the state of torch's own MultiStepLR."""
    save_checkpoint(snapshot(content(1, hooks={"mine": value})), tmp_path / "x.pth")
    assert_same_bits(load_checkpoint(tmp_path / "x.pth")["hooks"]["mine"], value)


def test_save_checkpoint_refuses_a_set_in_the_versions_of_a_models_state(tmp_path: Path) -> None:
    state = torch.nn.Linear(2, 2).state_dict()
    save_checkpoint(content(1, model=state), tmp_path / "x.pth")
    loaded = load_checkpoint(tmp_path / "x.pth")["model"]
    assert loaded._metadata == state._metadata  # type: ignore[attr-defined]
    state._metadata[""]["version"] = {2}  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"model\._metadata\.\.version is a set"):
        save_checkpoint(content(1, model=state), tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("part", "value"), [("config", None), ("iteration", "60"), ("rng", {}), ("model", None), ("hooks", [])]
)
def test_load_checkpoint_refuses_an_entry_of_another_kind(tmp_path: Path, part: str, value: Any) -> None:
    path = tmp_path / "odd.pth"
    torch.save({**content(1), part: value}, path)
    with pytest.raises(ConfigError, match=f"is incomplete, it lacks {part};"):
        load_checkpoint(path)


@pytest.mark.need("D1", "S2")
@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    path = save(tmp_path, 5)

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, fail)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(content(6), path)
    assert load_checkpoint(path)["iteration"] == 5
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000004.pth"]


@pytest.mark.need("D8")
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(touched),)

    path = tmp_path / "model_0000000.pth"
    torch.save({"model": Evil()}, path)
    with pytest.raises(ConfigError, match="is refused: it holds more than tensors and plain values"):
        load_checkpoint(path)
    assert not touched.exists()


class Foreign:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.need("D7", "D8")
@pytest.mark.parametrize("words", [["--resume"], ["--resume={}"], ["MODEL.WEIGHTS={}", "OUTPUT_DIR={}.run"]])
@pytest.mark.parametrize("more", [[], ["--eval-only"]])
def test_the_tool_reads_a_foreign_pickle_only_with_the_flag_that_its_refusal_names(
    tiny_words: list[str], tmp_path: Path, words: list[str], more: list[str]
) -> None:
    train_net.main([*tiny_words, "SOLVER.CHECKPOINT_PERIOD=7"])
    out, ran = tmp_path / "out", tmp_path / "ran"
    path = out / "model_0000006.pth"
    foreign = load_checkpoint(path) | {"foreign": Foreign(ran)}
    for name in ("model_0000013.pth", "model_final.pth"):
        (out / name).unlink()
    torch.save(foreign, path)
    command = [*tiny_words, *(word.format(path) for word in words), *more]
    with pytest.raises(ConfigError, match="is refused: .* give --trust-checkpoint"):
        train_net.main(command)
    assert not ran.exists()
    assert train_net.main([*command, "--trust-checkpoint"]) == 0
    assert ran.exists()


@pytest.mark.need("F8")
def test_load_newest_takes_the_best_checkpoint_if_it_is_the_only_one(tmp_path: Path) -> None:
    """A user who has deleted the rest to save space continues from it, and no new run starts over it."""
    save_checkpoint(content(3), tmp_path / "model_best.pth")
    assert RunFolder(tmp_path).has_checkpoints()
    found = load_newest(tmp_path)
    assert found is not None
    assert (found[0].name, found[1]["iteration"]) == ("model_best.pth", 3)


@pytest.mark.need("D2")
@pytest.mark.parametrize("operation", range(8))
def test_cut_killed_halfway_leaves_the_same_newest_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: int
) -> None:
    for iteration in (3, 6, 9):
        save(tmp_path, iteration)
    save_checkpoint(content(9), tmp_path / "model_final.pth")
    with monkeypatch.context() as patch:
        disk = Disk(patch, "EIO", operation)
        with pytest.raises(OSError, match="Input/output error"):
            RunFolder(tmp_path).cut(3)
    found = load_newest(tmp_path)
    assert found is not None
    pointed = any(call == "replace last_checkpoint" for call in disk.calls[:operation])
    assert found[1]["iteration"] == (3 if pointed else 9)
    RunFolder(tmp_path).cut(3)
    assert sorted(path.name for path in tmp_path.glob("model*")) == [
        *("model_0000002.pth", "model_0000005.pth.cut", "model_0000008.pth.cut", "model_final.pth.cut")
    ]


SET_ASIDE = range(10)  # three renamed; the pointer written: create, write, sync, replace, sync_folder; two beyond


@forked
@pytest.mark.need("D2")
@pytest.mark.parametrize("operation", SET_ASIDE)
def test_cut_killed_at_any_operation_is_completed_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: int
) -> None:
    for iteration in (3, 6, 9):
        save(tmp_path, iteration)
    save_checkpoint(content(9), tmp_path / "model_final.pth")

    def work() -> None:
        Disk(monkeypatch, "kill", operation)
        RunFolder(tmp_path).cut(3)

    with monkeypatch.context() as monkeypatch:
        ended = in_child(work)
    assert ended == (-signal.SIGKILL if operation < 8 else 0)
    found = load_newest(tmp_path)
    assert found is not None
    assert found[1]["iteration"] == (9 if operation < 4 else 3)
    RunFolder(tmp_path).cut(3)
    found = load_newest(tmp_path)
    assert found is not None
    assert found[1]["iteration"] == 3
    assert sorted(path.name for path in tmp_path.glob("model*")) == [
        *("model_0000002.pth", "model_0000005.pth.cut", "model_0000008.pth.cut", "model_final.pth.cut")
    ]


@pytest.mark.need("D2")
def test_cut_removes_the_pointer_if_the_run_continues_from_a_file_elsewhere(tmp_path: Path) -> None:
    """It would name a file that is set aside."""
    for iteration in (3, 6):
        save(tmp_path, iteration)
    RunFolder(tmp_path).cut(4)
    assert not (tmp_path / "last_checkpoint").exists()
    assert RunFolder(tmp_path).pointed_to() == ""
    found = load_newest(tmp_path)
    assert found is not None
    assert found[1]["iteration"] == 3


def flip(path: Path) -> None:
    """Change one byte inside the tensor's data, where only the checksum can tell."""
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(1000.0).numpy().tobytes()) + 400] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.need("D2")
@pytest.mark.parametrize("damage", [flip, truncate, lambda path: path.write_bytes(b"")])
def test_a_bad_newest_file_falls_back_to_the_newest_good_one_with_a_warning(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 9)
    good = save(tmp_path, 10)
    bad = save(tmp_path, 100)
    damage(bad)
    found = load_newest(tmp_path)
    assert found is not None
    assert (found[0], found[1]["iteration"]) == (good, 10)
    assert bad.name in caplog.text
    assert f"falling back to {good.name}" in caplog.text


@pytest.mark.need("D2")
@pytest.mark.parametrize("pointer", [None, b"", b"model_0000777.pth", b"\xff\xfe"])
def test_without_a_good_pointer_the_newest_file_by_number_is_taken(tmp_path: Path, pointer: bytes | None) -> None:
    save(tmp_path, 9)
    newest = save(tmp_path, 10_000_000)  # eight digits: newest by number, not by name
    if pointer is None:
        (tmp_path / "last_checkpoint").unlink()
    else:
        (tmp_path / "last_checkpoint").write_bytes(pointer)
    found = load_newest(tmp_path)
    assert found is not None
    assert found[0] == newest


@pytest.mark.need("S3")
def test_best_and_final_do_not_move_the_pointer(tmp_path: Path) -> None:
    last = save(tmp_path, 10)
    save_checkpoint(content(3), tmp_path / "model_best.pth")
    save_checkpoint(content(10), tmp_path / "model_final.pth")
    found = load_newest(tmp_path)
    assert found is not None
    assert found[0] == last


def test_files_of_which_none_loads_are_an_error_never_a_start_from_zero(tmp_path: Path) -> None:
    truncate(save(tmp_path, 9))
    truncate(save(tmp_path, 10))
    with pytest.raises(ConfigError, match="no checkpoint in .* can be read; nothing was started"):
        load_newest(tmp_path)


@pytest.mark.need("F8")
def test_checkpoint_files_ignores_a_number_of_fewer_digits(tmp_path: Path) -> None:
    for name in ("model_2024.pth", "model_000001.pth", "model_50_imagenet.pth"):
        save_checkpoint(content(3), tmp_path / name)
    assert not RunFolder(tmp_path).has_checkpoints()
    RunFolder(tmp_path).cut(0)
    assert sorted(os.listdir(tmp_path)) == ["model_000001.pth", "model_2024.pth", "model_50_imagenet.pth"]


def test_an_empty_folder_holds_no_checkpoint(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    assert not RunFolder(tmp_path).has_checkpoints()
    assert not RunFolder(tmp_path / "absent").has_checkpoints()


@pytest.mark.need("A8")
def test_load_checkpoint_names_a_missing_entry(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": {}, "iteration": 3}, path)
    with pytest.raises(ConfigError, match="lacks optimizer, scheduler, hooks, rng, config; .* MODEL.WEIGHTS"):
        load_checkpoint(path)


def test_load_checkpoint_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint: no such file: .*gone\.pth"):
        load_checkpoint(tmp_path / "gone.pth")
