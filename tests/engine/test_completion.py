"""A run that is killed at any operation on its folder ends, resumed, with the files of one that is not."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from warmstart.tools import train_net

from .faults import Disk, forked, in_child

ROOT = Path(__file__).parent.parent.parent
EVERY = 1  # of the operations of a run


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
    "best and final in one": ["TEST.BEST.METRIC={DATA}/accuracy"],
    "keep two of five": ["SOLVER.CHECKPOINT_PERIOD=2", "SOLVER.CHECKPOINT_KEEP=2", "SOLVER.MAX_ITER=10"],
    "best and keep one": [
        *("SOLVER.CHECKPOINT_PERIOD=2", "SOLVER.CHECKPOINT_KEEP=1", "TEST.EVAL_PERIOD=3"),
        "TEST.BEST.METRIC={DATA}/loss",
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


@forked
@pytest.mark.need("D1", "D3", "D11")
@pytest.mark.parametrize("share", [pytest.param(0, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_train_net_killed_at_an_operation_and_resumed_has_the_files_of_the_unbroken_run(
    words: list[str], share: int, tiny_words: list[str], tmp_path: Path, compare: Any
) -> None:
    data = tiny_words[1].partition("=")[2]
    words = [*tiny_words, "SOLVER.MAX_ITER=6", *(word.replace("{DATA}", data) for word in words)]
    whole = tmp_path / "whole"
    points = operations(lambda: train(words, whole))
    print(len(points))
    for point in points:
        folder = tmp_path / f"killed{point}"
        assert killed(lambda: train(words, folder), point) == -signal.SIGKILL  # noqa: B023
        train(words, folder, "--resume")
        assert [*compare(whole, folder)] == [], point
        shutil.rmtree(folder)
