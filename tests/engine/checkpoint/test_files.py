"""Whatever goes wrong between any two operations of a save, a complete checkpoint is there, old or new."""

from __future__ import annotations

import errno
import gc
import itertools
import logging
import os
import shutil
import signal
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from warmstart.config import disk
from warmstart.engine import SaveError, load_checkpoint, load_newest, save_checkpoint
from warmstart.engine.checkpoint.run_files import NAMES
from warmstart.engine.checkpoint.run_folder import RunFolder
from warmstart.engine.checkpoint.saver import Save
from warmstart.tools import train_net

from ..faults import FAILING, KILLING, OF_WRITES, Disk, forked, in_child

FINAL, BEST = "model_final.pth", "model_best.pth"
ANY = ("EIO", "kill")  # faults that every operation can have
MINE = "model_mine.pth"  # as a user's hook may ask for
FOREIGN = "model_0000001.pth"  # numbered like ours, but no manifest lists it


def content(iteration: int) -> dict[str, Any]:
    parts = {"optimizer": {}, "scheduler": {}, "hooks": {}, "rng": [], "config": {}}
    return {**parts, "model": {"w": torch.full((2000,), float(iteration))}, "iteration": iteration}


def save(folder: Path, iteration: int, owed: Mapping[str, Any] | None = None, last: bool = False) -> Save:
    """Save as a run does that keeps two checkpoints and finds each one the best."""
    names = [FINAL, BEST] if last else [BEST]
    older = {name: owed[name] for name in owed or {} if name not in names}  # type: ignore[index]
    saving = Save(RunFolder(folder, keep=2), content(iteration) | {NAMES: names}, older, last)
    saving.start()
    saving.join()
    return saving


def older(folder: Path) -> None:
    for iteration in (3, 6):
        save(folder, iteration).finish()
    (folder / FOREIGN).write_bytes(b"somebody else's")


def save_owing(folder: Path, last: bool) -> Save:
    """Save iteration 9, and what the save before could not write."""
    return save(folder, 9, {MINE: content(6)}, last)


def operations(last: bool) -> list[str]:
    """Return each operation of one save, in order."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        older(Path(folder))
        disk = Disk(patch)
        save_owing(Path(folder), last).finish()
        return disk.calls


def cases(faults: tuple[str, ...]) -> Iterator[Any]:
    """Yield each operation of an ordinary save, and of a last one, with its faults, and the number of cores.

    Of the many writes to one file all but the first and the last are slow. With several cores the copies of a last
    save are made beside the original, and an operation is another one each time.
    """
    for last in (False, True):
        calls = operations(last)
        for number, (before, call, after) in enumerate(
            zip(["", *calls[:-1]], calls, [*calls[1:], ""], strict=True)
        ):
            slow = [pytest.mark.slow] if before == call == after else []
            for fault in faults:
                if call.startswith(("write ", "copy ")) or fault not in OF_WRITES:
                    name = f"{'last' if last else 'ordinary'} {number} {call}: {fault}"
                    yield pytest.param(last, number, fault, 1, id=name, marks=slow)
            if last and not slow:
                yield from (
                    pytest.param(True, number, f, 3, id=f"beside {number}: {f}") for f in faults if f in ANY
                )


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system has in its cache survives the kill of a process: only a power failure needs fsync."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def run(older_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(older_run, tmp_path / "run")


@pytest.fixture(scope="module")
def older_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("older")
    older(folder)
    return folder


def whole(folder: Path) -> int:
    """Return the iteration that a resume takes, having looked at every file in the folder."""
    found = load_newest(folder)
    assert found is not None
    for path in folder.glob("model_*.pth"):
        if path != folder / FOREIGN:
            loaded = load_checkpoint(path)
            assert torch.equal(loaded["model"]["w"], content(loaded["iteration"])["model"]["w"]), path
    assert (folder / FOREIGN).read_bytes() == b"somebody else's"
    return int(found[1]["iteration"])


def iteration_of(path: Path) -> int:
    return int(load_checkpoint(path)["iteration"]) if path.exists() else 0


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".tmp")]


def complete(folder: Path) -> int:
    """Complete the newest save as --resume does; return its iteration."""
    found = load_newest(folder)
    assert found is not None
    RunFolder(folder).remove_leftovers()
    RunFolder(folder, keep=2).complete(*found)
    return int(found[1]["iteration"])


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_save_is_made_of_these_operations_in_this_order() -> None:
    """Each of them is one that a fault below hits, and the last thing that is deleted is an old checkpoint.

    With one core, so that the copies come after the original.
    """

    def written(name: str, *words: str) -> list[str]:
        return [f"{word} {name}" for word in ("create", "write", "sync", *words)]

    def named(name: str) -> list[str]:
        return [f"replace {name}", "sync_folder folder"]

    def copied(name: str) -> list[str]:
        copying = ["clone model_0000008.pth", "free_bytes folder", "copy model_0000008.pth"]
        return [f"create {name}", *copying, f"compare {name}", f"sync {name}", *named(name)]

    listed = [*written("checkpoints.json"), *named("checkpoints.json")]
    pointed = [*written("last_checkpoint"), *named("last_checkpoint")]
    numbered = [*written("model_0000008.pth", "verify"), *pointed, *named("model_0000008.pth")]
    mine = ["free_bytes folder", *written(MINE, "verify"), *named(MINE)]
    for last, others in ((False, [BEST]), (True, [FINAL, BEST])):
        copies = [call for name in others for call in copied(name)]
        calls = operations(last)
        assert [call for call, _ in itertools.groupby(calls)] == [
            *("free_bytes folder", *listed, *numbered, *copies, *mine, "unlink model_0000002.pth")
        ]
        assert {call.partition(" ")[0] for call in calls} == set(disk.OPERATIONS)


@pytest.mark.need("D1", "D5")
@pytest.mark.parametrize("already", [False, True])
def test_a_name_that_a_last_save_could_not_give_is_given_by_the_resume(run: Path, already: bool) -> None:
    """Also if the number is there already, because a signal had put off the evaluation of its iteration."""
    if already:
        save(run, 9).finish()
    (run / BEST).unlink()
    (run / BEST).mkdir()
    with pytest.raises(SaveError, match=f"^{run}/model_best.pth could not be saved: Is a directory; the newest"):
        save_owing(run, last=True).finish()
    assert RunFolder(run).pointed_to() == "model_0000008.pth"
    with pytest.raises(IsADirectoryError):
        complete(run)
    (run / BEST).rmdir()
    assert complete(run) == 9
    assert [iteration_of(run / name) for name in (FINAL, BEST, MINE)] == [9, 9, 6]


@pytest.mark.need("D1", "D2", "D5", "S2")
@pytest.mark.parametrize(("last", "point", "fault", "cores"), list(cases(FAILING)))
def test_a_failing_disk_leaves_a_complete_checkpoint_and_the_next_save_or_the_resume_does_the_rest(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[logging.LogRecord],
    last: bool,
    point: int,
    fault: str,
    cores: int,
) -> None:
    """It costs one name, or the save: then the older checkpoint is the newest."""
    logged.clear()
    with monkeypatch.context() as patch:
        Disk(patch, fault, point, cores)
        failed = save_owing(run, last)
    said = [record.getMessage() for record in logged if record.levelname == "WARNING"]
    assert whole(run) in (6, 9)
    assert leftovers(run) == []
    wanted = {"model_0000008.pth": 9, BEST: 9, MINE: 6} | ({FINAL: 9} if last else {})
    missing = {name for name in wanted if iteration_of(run / name) != wanted[name]}
    assert len(missing) <= 1 or missing | {"model_0000008.pth"} == {*wanted} - {MINE}
    owed: dict[str, Any] = {}
    try:
        owed = failed.finish()
        assert missing <= {*owed, "model_0000008.pth"}
    except SaveError as error:
        assert last
        said.append(str(error))
        if complete(run) == 9:
            assert {name for name in wanted if iteration_of(run / name) != wanted[name]} == missing & {MINE}
        owed = {MINE: content(6)}
    if fault in ("ENOSPC", "EIO"):
        assert len(said) == 1
        assert ("make space" in said[0]) == (
            fault == "ENOSPC" and said[0].endswith("--resume does the rest again")
        )
        assert ("No space left on device" if fault == "ENOSPC" else "Input/output error") in said[0]
    assert "model_0000008.pth" not in owed
    later = save(run, 12, owed, last)
    assert later.finish() == {}
    assert whole(run) == 12
    assert {name: iteration_of(run / name) for name in (BEST, MINE)} == {BEST: 12, MINE: 6}
    kept = sorted(path.name for path in run.glob("model_0*"))
    assert kept[-1] == "model_0000011.pth"
    assert {"model_0000005.pth", "model_0000008.pth"} & set(kept)


@forked
@pytest.mark.need("D1", "D2")
@pytest.mark.parametrize(("last", "point", "fault", "cores"), list(cases(KILLING)))
def test_a_kill_leaves_the_older_checkpoint_or_one_that_the_resume_completes(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    last: bool,
    point: int,
    fault: str,
    cores: int,
) -> None:
    def work() -> None:
        Disk(monkeypatch, fault, point, cores)
        save_owing(run, last)

    before = shutil.copytree(run, tmp_path / "before")
    assert in_child(work) == -signal.SIGKILL
    assert whole(run) in (6, 9)
    assert len(leftovers(run)) <= 4  # the numbered file, the pointer to it, two copies
    completed = complete(run)
    expected = before
    if completed == 9:
        expected = shutil.copytree(before, tmp_path / "unbroken")
        save_owing(expected, last).finish()
    # What an earlier save could not write is lost, as its content was.
    assert {*names(run)} - {MINE} == {*names(expected)} - {MINE}
    assert RunFolder(run).manifest() == RunFolder(expected).manifest()
    assert {name: iteration_of(run / name) for name in (FINAL, BEST)} == {
        name: iteration_of(expected / name) for name in (FINAL, BEST)
    }
    assert RunFolder(run).pointed_to() == RunFolder(expected).pointed_to()
    assert save(run, 12).finish() == {}
    assert whole(run) == 12


@pytest.mark.need("D5")
def test_save_writes_the_numbered_file_where_only_one_has_room_and_the_others_with_the_next_save(
    run: Path, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    """8,000 bytes of tensors a file; the drive has 10,000 when the first is written, and 2,000 then."""
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 2000 if [*run.glob("*model_0000008*")] else 10_000)
    failed = save_owing(run, last=False)
    assert RunFolder(run).pointed_to() == "model_0000008.pth"
    assert [record.getMessage() for record in logged if record.levelname == "WARNING"] == [
        f"{run}/{BEST}, {run}/{MINE} could not be saved: No space left on device; 16,000 bytes are needed, 2,000 "
        "are free; the newest is model_0000008.pth; training continues and the next checkpoint tries again"
    ]
    owed = failed.finish()
    assert {name: content["iteration"] for name, content in owed.items()} == {BEST: 9, MINE: 6}
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 2000 if [*run.glob("*model_0000011*")] else 10_000)
    assert sorted(save(run, 12, owed).finish()) == [BEST, MINE]  # still
    assert RunFolder(run).pointed_to() == "model_0000011.pth"


def test_copies_are_files_that_a_user_may_change_in_place(run: Path) -> None:
    """A program that opens model_final.pth for writing truncates it: the numbered checkpoint stays as it was."""
    save_owing(run, last=True).finish()
    numbered = (run / "model_0000008.pth").read_bytes()
    for name in (FINAL, BEST):
        assert (run / name).read_bytes() == numbered
        (run / name).write_bytes(b"stripped")
        with open(run / name, "r+b") as file:
            file.write(b"S")
        assert (run / name).read_bytes() == b"Stripped"
    assert (run / "model_0000008.pth").read_bytes() == numbered
    assert complete(run) == 9
    assert [iteration_of(run / name) for name in (FINAL, BEST)] == [9, 9]
    assert [(run / f"{name}.cut").read_bytes() for name in (FINAL, BEST)] == [b"Stripped"] * 2


def test_a_name_that_is_a_hard_link_is_replaced_by_a_copy_when_it_is_written_again(run: Path) -> None:
    """As an earlier version has left it; until then a resume takes it as it is."""
    numbered = run / "model_0000005.pth"
    (run / BEST).unlink()
    os.link(numbered, run / BEST)
    assert complete(run) == 6
    assert (run / BEST).samefile(numbered)
    before = numbered.read_bytes()
    RunFolder(run).copy(numbered, BEST)
    assert not (run / BEST).samefile(numbered)
    assert (run / BEST).read_bytes() == before
    os.unlink(run / BEST)
    os.link(numbered, run / BEST)
    save(run, 9).finish()
    assert iteration_of(run / BEST) == 9
    assert numbered.read_bytes() == before


@pytest.mark.need("D6")
@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_copy_reads_and_writes_where_the_system_cannot_copy(
    run: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*arguments: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "copy_file_range", refused)
    assert save_owing(run, last=True).finish() == {}
    for name in (FINAL, BEST):
        assert (run / name).read_bytes() == (run / "model_0000008.pth").read_bytes()


def test_copy_needs_no_space_where_the_drive_shares_blocks(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cloned(source: Any, target: Any) -> bool:
        target.write(source.read())
        return True

    monkeypatch.setattr(disk, "clone", cloned)
    monkeypatch.setattr(disk, "copy", lambda source, target: pytest.fail("bytes were copied"))
    monkeypatch.setattr(
        disk, "free_bytes", lambda folder: 2000 if (run / "model_0000008.pth").exists() else 10_000
    )
    assert save(run, 9, last=True).finish() == {}
    for name in (FINAL, BEST):
        assert (run / name).read_bytes() == (run / "model_0000008.pth").read_bytes()


@pytest.mark.need("D5")
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("writable", [False, True])
def test_a_manifest_that_cannot_be_written_costs_only_that_old_files_are_deleted(
    run: Path, logged: list[logging.LogRecord], last: bool, writable: bool
) -> None:
    if not writable:
        (run / "checkpoints.json").unlink()
        (run / "checkpoints.json").mkdir()
    saved = save_owing(run, last)
    assert saved.finish() == {}
    assert RunFolder(run).pointed_to() == "model_0000008.pth"
    assert [record.getMessage() for record in logged if record.levelname == "WARNING"] == (
        []
        if writable
        else [
            f"{run}/checkpoints.json could not be written: Is a directory; model_0000008.pth will not be deleted"
        ]
    )
    assert (run / "model_0000002.pth").exists() == (not writable)


def test_a_content_that_could_not_be_written_does_not_stay_in_memory(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(disk, "verify", fail)
    gc.disable()
    try:
        contents = [content(9) | {NAMES: []}, content(6)]
        tensors = [weakref.ref(each["model"]["w"]) for each in contents]
        failed = Save(RunFolder(run), contents[0], {MINE: contents[1]}, last=False)
        del contents
        failed.start()
        owed = failed.finish()
        del failed
        assert [tensor() is None for tensor in tensors] == [True, False]
        assert list(owed) == [MINE]
    finally:
        gc.enable()


def test_the_process_waits_for_what_it_has_begun_to_write(tmp_path: Path) -> None:
    assert not Save(RunFolder(tmp_path), content(1) | {NAMES: []}, {}, False).daemon


def directory_name(data: bytes) -> bytes:
    """A name in the central directory that says it is UTF-8, and is not."""
    at = data.rindex(b"PK\x01\x02")
    return data[: at + 8] + b"\x00\x08" + data[at + 10 : at + 46] + b"\xff" + data[at + 47 :]


def compression(data: bytes) -> bytes:
    at = data.rindex(b"PK\x01\x02")
    return data[: at + 10] + b"\x63\x00" + data[at + 12 :]


def deflated(data: bytes) -> bytes:
    at = data.rindex(b"PK\x01\x02")
    return data[: at + 10] + b"\x08\x00" + data[at + 12 :]


def encrypted(data: bytes) -> bytes:
    at = data.rindex(b"PK\x01\x02")
    return data[: at + 8] + b"\x01\x00" + data[at + 10 :]


@pytest.mark.need("D2")
@pytest.mark.parametrize("damage", [directory_name, compression, deflated, encrypted, lambda data: data[:-30]])
def test_whatever_damage_the_reader_meets_the_file_reads_back_damaged(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "x.pth"
    save_checkpoint(content(3), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(OSError, match="what was written reads back damaged") as error:
        disk.verify(path)
    assert error.value.errno == errno.EIO


def test_nothing_is_a_leftover_but_what_a_save_begins(tmp_path: Path) -> None:
    jsons = ("checkpoints.json", "metrics.json")
    names = ("model_0000002.pth", FINAL, BEST, MINE, "x.pth", "my best.pth", "last_checkpoint", *jsons)
    ours = [f".{name}.77.warmstart.tmp" for name in (*names, "config.yaml")]
    others = [".notes.77.tmp", "model_0000002.pth.77.warmstart.tmp", ".model_0000002.pth.warmstart.tmp"]
    others += [f".{name}.77.tmp" for name in names] + [".model_0000002.pth.x.warmstart.tmp"]
    for name in (*ours, *others):
        (tmp_path / name).touch()
    RunFolder(tmp_path).remove_leftovers()
    assert sorted(os.listdir(tmp_path)) == sorted(others)


@pytest.mark.need("D5")
def test_an_error_of_the_disk_is_not_hidden_by_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says `unexpected pos 431 vs 401` where the disk is full."""
    Disk(monkeypatch, "ENOSPC", 12)
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint(content(3), tmp_path / "x.pth")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_a_drive_that_cannot_sync_a_folder_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    sync = os.fsync

    def refuses_folders(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuses_folders)
    save_checkpoint(content(3), tmp_path / "x.pth")
    assert load_checkpoint(tmp_path / "x.pth")["iteration"] == 3


@pytest.mark.parametrize("answer", [(0, 0, 0), OSError(errno.ENOSYS, "Function not implemented")])
def test_a_drive_that_does_not_tell_its_size_is_never_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    def usage(path: Path) -> Any:
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert disk.free_bytes(tmp_path) == sys.maxsize


@pytest.mark.need("D6")
def test_a_run_needs_no_links(tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any, **more: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(os, "symlink", refused)
    words = [*tiny_words, "SOLVER.CHECKPOINT_PERIOD=5", "SOLVER.CHECKPOINT_KEEP=1"]
    assert train_net.main(words) == 0
    assert train_net.main([*words, "--resume", "SOLVER.MAX_ITER=16"]) == 0
    assert load_checkpoint(tmp_path / "out" / "model_final.pth")["iteration"] == 16


def train(words: list[str], out: Path) -> None:
    assert train_net.main([*words, f"OUTPUT_DIR={out}", "--resume"]) == 0


def killed_at(words: list[str], out: Path, points: Iterable[int], patch: pytest.MonkeyPatch) -> int:
    """Start a run again and again, each start killed at one more operation; return how many were."""
    kills = 0
    for point in points:

        def start(point: int = point) -> None:
            Disk(patch, "kill", point)
            train(words, out)

        kills += in_child(start) == -signal.SIGKILL
        found = load_newest(out)
        assert found is None or found[1]["iteration"] % 4 == 0 or found[1]["iteration"] == 14
    return kills


@forked
@pytest.mark.need("C7", "D1")
@pytest.mark.parametrize(
    "points",
    [
        pytest.param((90, 3, 200, 51), id="short"),
        pytest.param(range(2, 400, 7), id="long", marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_inside_its_saves_ends_with_the_bits_of_the_unbroken_one(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: Iterable[int]
) -> None:
    words = [*tiny_words, "SOLVER.CHECKPOINT_PERIOD=4", "SOLVER.CHECKPOINT_KEEP=2", "SOLVER.EMA.ENABLED=true"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(words, whole)
    assert killed_at(words, killed, points, monkeypatch) >= 3
    train(words, killed)
    ours, theirs = (load_checkpoint(folder / "model_final.pth") for folder in (killed, whole))
    for name, tensor in theirs["model"].items():
        assert torch.equal(ours["model"][name], tensor), name
        assert torch.equal(ours["ema"]["model"][name], theirs["ema"]["model"][name]), name
    assert leftovers(killed) == []
    assert sorted(path.name for path in killed.glob("model_*")) == [
        "model_0000007.pth",  # the newest before the decay
        "model_0000011.pth",
        "model_0000013.pth",
        "model_final.pth",
    ]
