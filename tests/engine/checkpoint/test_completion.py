"""A run that is killed at any operation on its folder and resumed, against the unbroken run: the same files."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from warmstart.config import ConfigError
from warmstart.engine import SaveError, load_checkpoint, save_checkpoint
from warmstart.engine.checkpoint.run_folder import RunFolder
from warmstart.engine.run.default_hooks import evaluate_all
from warmstart.tools import train_net

from ..faults import Disk, forked, in_child

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture(scope="module")
def compare() -> Callable[[Path, Path], Iterator[str]]:
    """Yields where the folders of two runs differ."""
    return runpy.run_path(str(ROOT / "benchmarks" / "torture.py"))["compare"]


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system has in its cache survives the kill of a process: only a power failure needs fsync."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# Each has what is particular about its saves: the names in one, what is deleted, what was there before.
RUNS = {
    "one save": [],
    "two saves": ["SOLVER.CHECKPOINT_PERIOD=4"],
    "best and final in one": ["TEST.BEST.METRIC=noise.npz/accuracy"],
    "keep two of five": ["SOLVER.CHECKPOINT_PERIOD=2", "SOLVER.CHECKPOINT_KEEP=2", "SOLVER.MAX_ITER=10"],
    "best and keep one": [
        *("SOLVER.CHECKPOINT_PERIOD=2", "SOLVER.CHECKPOINT_KEEP=1", "TEST.EVAL_PERIOD=3"),
        "TEST.BEST.METRIC=noise.npz/loss",
        "TEST.BEST.MODE=min",
    ],
}


def train(words: list[str], folder: Path, *flags: str) -> None:
    assert train_net.main([*words, f"OUTPUT_DIR={folder}", *flags]) == 0


def operations(run: Callable[[], object]) -> list[int]:
    """Return the operations of a run by their number, of several writes to one file the first and the last."""
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        run()
    calls = disk.calls
    inner = zip(["", *calls[:-1]], calls, [*calls[1:], ""], strict=True)
    return [number for number, (before, call, after) in enumerate(inner) if not before == call == after]


def killed(run: Callable[[], object], point: int, fault: str = "kill") -> int:
    """Do something in a process of its own, which is killed at an operation on the disk; return how it ended."""

    def work() -> None:
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, fault, point)
            run()

    return in_child(work)


def words_of(run: list[str], tiny_words: list[str]) -> list[str]:
    return [*tiny_words, "SOLVER.MAX_ITER=6", *run]


def points_of(run: Callable[[], object], every: int) -> list[int]:
    return operations(run)[every // 2 :: every]


ALL = [pytest.mark.slow, pytest.mark.soak]  # about 100 in each run
SHARES = [pytest.param(30, id="some"), pytest.param(1, id="all", marks=ALL)]


@forked
@pytest.mark.need("D1", "D3", "D11")
@pytest.mark.parametrize(
    ("run", "every"),
    [
        *(pytest.param(RUNS[name], 20, id=f"{name}, some") for name in ("one save", "best and keep one")),
        *(pytest.param(run, 1, id=f"{name}, all", marks=ALL) for name, run in RUNS.items()),
    ],
)
def test_train_net_killed_at_an_operation_and_resumed_has_the_files_of_the_unbroken_run(
    run: list[str], every: int, tiny_words: list[str], tmp_path: Path, compare: Any
) -> None:
    words, whole = words_of(run, tiny_words), tmp_path / "whole"
    for point in points_of(lambda: train(words, whole), every):
        folder = tmp_path / f"killed{point}"
        assert killed(lambda: train(words, folder), point) == -signal.SIGKILL  # noqa: B023
        train(words, folder, "--resume")
        assert [*compare(whole, folder)] == [], point
        shutil.rmtree(folder)


@forked
@pytest.mark.need("D1", "F8")
@pytest.mark.parametrize("every", [pytest.param(9, id="some"), *SHARES[1:]])
def test_train_net_overwriting_killed_at_an_operation_and_resumed_leaves_one_run(
    every: int, tiny_words: list[str], tmp_path: Path, compare: Any
) -> None:
    """The older one where its end comes before all of it is moved, else the newer one."""
    old, new = (words_of([f"SOLVER.MAX_ITER={number}"], tiny_words) for number in (6, 8))
    for folder, words in ((tmp_path / "old", old), (tmp_path / "new", new)):
        train(words, folder)
    shutil.copytree(tmp_path / "old", tmp_path / "counted")
    ended = set()
    for point in points_of(lambda: train(new, tmp_path / "counted", "--overwrite"), every):
        folder = shutil.copytree(tmp_path / "old", tmp_path / "killed")
        assert killed(lambda: train(new, folder, "--overwrite"), point) == -signal.SIGKILL  # noqa: B023
        config = folder / "config.yaml"
        is_new = config.exists() and "MAX_ITER: 8" in config.read_text()
        is_moved = (folder / "overwritten" / ".whole").exists() or is_new
        train(new if is_moved else old, folder, "--resume")
        assert [*compare(tmp_path / ("new" if is_moved else "old"), folder)] == [], point
        assert not (folder / "overwritten").exists(), point
        shutil.rmtree(folder)
        ended.add(is_moved)
    assert ended == {False, True}


@forked
@pytest.mark.need("D14")
@pytest.mark.parametrize("every", SHARES)
def test_train_net_killed_after_an_evaluation_that_a_signal_put_off_has_the_files_of_the_unbroken_run(
    every: int, tiny_words: list[str], tmp_path: Path, compare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words_of(["TEST.BEST.METRIC=noise.npz/accuracy"], tiny_words)
    whole, pending = tmp_path / "whole", tmp_path / "pending"
    train(words, whole)

    def interrupted() -> None:
        evaluate = evaluate_all

        def signalled(*arguments: Any, **more: Any) -> dict[str, float]:
            os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(*arguments, **more)

        monkeypatch.setattr("warmstart.engine.run.default_hooks.evaluate_all", signalled)
        with pytest.raises(KeyboardInterrupt):
            train(words, pending)

    assert in_child(interrupted) == 0
    assert sorted(path.name for path in pending.glob("model_*")) == ["model_0000005.pth"]
    shutil.copytree(pending, tmp_path / "counted")
    for point in points_of(lambda: train(words, tmp_path / "counted", "--resume"), every):
        folder = shutil.copytree(pending, tmp_path / f"killed{point}")
        assert killed(lambda: train(words, folder, "--resume"), point) == -signal.SIGKILL  # noqa: B023
        train(words, folder, "--resume")
        assert [*compare(whole, folder)] == [], point
        shutil.rmtree(folder)


@pytest.mark.need("D5")
@pytest.mark.parametrize("number", range(3))
def test_a_full_disk_in_the_only_save_leaves_what_the_resume_completes(
    number: int, tiny_words: list[str], tmp_path: Path, compare: Any
) -> None:
    """The disk is full when the numbered file, the pointer or the name of the best one is written."""
    words, whole, folder = words_of(RUNS["best and final in one"], tiny_words), tmp_path / "whole", tmp_path / "x"
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        train(words, whole)
    calls = ("create model_0000005.pth", "create last_checkpoint", "copy model_0000005.pth")
    with pytest.MonkeyPatch.context() as patch:
        Disk(patch, "ENOSPC", disk.calls.index(calls[number]))
        with pytest.raises(SaveError, match="No space left on device"):
            train_net.main([*words, f"OUTPUT_DIR={folder}"])
    train(words, folder, "--resume")
    assert [*compare(whole, folder)] == []


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    stats = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*") if not path.is_dir()}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


@pytest.mark.parametrize("copied", [False, True])
def test_resume_of_a_complete_run_writes_nothing(tiny_words: list[str], tmp_path: Path, copied: bool) -> None:
    """Nor in a copy of the folder."""
    words, folder = words_of(RUNS["best and keep one"], tiny_words), tmp_path / "run"
    train(words, folder)
    if copied:
        folder = shutil.copytree(folder, tmp_path / "copy")
    before = state(folder)
    train(words, folder, "--resume")
    assert state(folder) == before


@pytest.mark.need("D2", "D3")
def test_resume_completes_nothing_where_the_file_that_the_pointer_names_cannot_be_read(
    tiny_words: list[str], tmp_path: Path
) -> None:
    words, folder = words_of(["SOLVER.CHECKPOINT_PERIOD=2"], tiny_words), tmp_path / "run"
    train(words, folder)
    (folder / "model_final.pth").unlink()
    (folder / "model_0000005.pth").write_bytes((folder / "model_0000003.pth").read_bytes()[:-100])
    before = state(folder)
    train([*words, "SOLVER.MAX_ITER=4", "SOLVER.WARMUP_ITERS=2", "SOLVER.CHECKPOINT_KEEP=1"], folder, "--resume")
    assert state(folder) == before


def test_resume_from_the_final_file_alone_gives_it_its_number_back(tiny_words: list[str], tmp_path: Path) -> None:
    words, folder = words_of([], tiny_words), tmp_path / "run"
    train(words, folder)
    (folder / "model_0000005.pth").unlink()
    train(words, folder, "--resume")
    assert (folder / "model_0000005.pth").read_bytes() == (folder / "model_final.pth").read_bytes()
    assert not (folder / "model_0000005.pth").samefile(folder / "model_final.pth")
    assert RunFolder(folder).pointed_to() == "model_0000005.pth"


def test_resume_sets_aside_a_best_file_that_is_not_an_earlier_checkpoint(
    tiny_words: list[str], tmp_path: Path
) -> None:
    words, folder = words_of(RUNS["best and final in one"], tiny_words), tmp_path / "run"
    train(words, folder)
    (folder / "model_best.pth").unlink()
    (folder / "model_best.pth").write_bytes(b"the user's")
    train(words, folder, "--resume")
    assert (folder / "model_best.pth").read_bytes() == (folder / "model_0000005.pth").read_bytes()
    assert (folder / "model_best.pth.cut").read_bytes() == b"the user's"


@pytest.mark.parametrize(
    "names",
    [
        ["../escaped.pth"],
        ["/tmp/escaped.pth"],
        ["model_0000001.pth"],
        ["log.txt"],
        "model_best.pth",
        [b"x.pth"],
        3,
    ],
)
def test_resume_refuses_a_checkpoint_with_names_that_no_save_gives(
    tiny_words: list[str], tmp_path: Path, names: Any
) -> None:
    words, folder = words_of([], tiny_words), tmp_path / "run"
    train(words, folder)
    content = load_checkpoint(folder / "model_final.pth")
    for name in ("model_final.pth", "model_0000005.pth"):
        save_checkpoint(content | {"names": names}, folder / name)
    before = state(tmp_path)
    with pytest.raises(ConfigError, match="is refused: .* cannot be the name of a checkpoint"):
        train(words, folder, "--resume")
    assert state(tmp_path) == before
