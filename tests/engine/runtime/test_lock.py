"""Two processes never write one run's folder."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from warmstart.config import ConfigError
from warmstart.engine import (
    HookBase,
    JSONWriter,
    TensorBoardWriter,
    Trainer,
    build_trainer,
    finish_saves,
    run_tool,
    save_checkpoint,
    setup_logging,
)
from warmstart.engine.runtime import files, lock
from warmstart.engine.runtime.lock import check, hold
from warmstart.tools import plain_train_net, train_net

from ..faults import forked, in_child

ENDLESS = ("SOLVER.MAX_ITER=1000000", "SOLVER.CHECKPOINT_PERIOD=2", "DATALOADER.NUM_WORKERS=2")


class Started:
    """A process of its own, a copy of this one, that does some work until it is killed."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()  # the processes that it starts are ended with it
                work()
            finally:
                os._exit(0)
        self._alive = True

    def kill(self) -> None:
        """Kill the process, but none that it has started."""
        if self._alive:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._alive = False

    def clean_up(self) -> None:
        self.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


@pytest.fixture
def start() -> Iterator[Callable[[Callable[[], object]], Started]]:
    started: list[Started] = []

    def begin(work: Callable[[], object]) -> Started:
        started.append(Started(work))
        return started[-1]

    yield begin
    for process in started:
        process.clean_up()


def wait_until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def holding(folder: Path) -> None:
    with hold(folder):
        (folder / "ready").touch()
        time.sleep(60)


@forked
def test_a_folder_is_held_by_one_process_until_it_is_killed(tmp_path: Path, start: Callable[..., Started]) -> None:
    first = start(lambda: holding(tmp_path))
    wait_until((tmp_path / "ready").exists)
    before = contents(tmp_path)
    with pytest.raises(ConfigError) as error, hold(tmp_path):
        pass
    assert str(error.value) == (
        f"{tmp_path} is being written by process {first.pid} on {socket.gethostname()}; "
        "wait for its end or stop it, or name another folder with OUTPUT_DIR"
    )
    assert contents(tmp_path) == before
    first.kill()
    with hold(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    assert sorted(contents(tmp_path)) == ["ready"]


@forked
@pytest.mark.parametrize("words", [[], ["--resume"], ["--overwrite"]])
def test_a_second_run_is_refused_before_it_touches_anything(
    tiny_words: list[str],
    tmp_path: Path,
    start: Callable[..., Started],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first sleeps in an iteration; it has checkpoints, loading processes, and is then killed alone."""
    out, still = tmp_path / "out", tmp_path / "still"

    class StandStill(HookBase):
        def before_step(self, trainer: Trainer) -> None:
            if trainer.iteration == 5:
                wait_until(lambda: "model_0000003.pth" in (out / "log.txt").read_text())  # said when all is done
                still.touch()
                time.sleep(60)

    def first() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warmstart.engine.run.default_hooks._HOOKS", {"still": lambda cfg: StandStill()})
            train_net.main([*tiny_words, *ENDLESS])

    process = start(first)
    wait_until(still.exists)
    before = contents(out)
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run_tool(functools.partial(train_net.main, [*tiny_words, *words]))
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {out} is being written by process {process.pid} on {socket.gethostname()}; "
        "wait for its end or stop it, or name another folder with OUTPUT_DIR\n"
    )
    assert contents(out) == before
    assert train_net.main([*tiny_words, "--eval-only", "--resume"]) == 0  # writes nothing, and so needs no lock
    assert contents(out) == before
    process.kill()
    assert train_net.main([*tiny_words, "--resume"]) == 0
    assert not (out / ".lock").exists()


@forked
@pytest.mark.need("F8")
def test_folder_hook_holds_its_folder(tiny: Callable[..., Any], tmp_path: Path) -> None:
    def second() -> None:
        with pytest.raises(ConfigError, match=f"is being written by process {os.getppid()} on"):
            build_trainer(tiny()).train()
        os._exit(7)

    class Meanwhile(HookBase):
        code = 0

        def before_step(self, trainer: Trainer) -> None:
            self.code = self.code or in_child(second)

    trainer = build_trainer(tiny("SOLVER.MAX_ITER", 3, "SOLVER.STEPS", [2], "SOLVER.WARMUP_ITERS", 1))
    meanwhile = Meanwhile()
    trainer.hooks.append(meanwhile)
    trainer.train()
    assert meanwhile.code == 7
    assert not (tmp_path / "out" / ".lock").exists()


@forked
def test_the_plain_loop_writes_into_no_folder_that_another_process_holds(
    tiny_words: list[str], tmp_path: Path, start: Callable[..., Started]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    first = start(lambda: holding(out))
    wait_until((out / "ready").exists)
    with pytest.raises(ConfigError, match=f"is being written by process {first.pid} on"):
        plain_train_net.main(tiny_words)
    assert sorted(contents(out)) == [".lock", "ready"]
    first.kill()
    assert plain_train_net.main(tiny_words) == 0
    assert sorted(contents(out)) == ["plain_model_final.pth", "ready", "warmstart.json"]


def deleted(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    path.unlink()
    path.write_text("process 1 on another\n")


def renamed(path: Path) -> None:
    path.rename(path.with_name("moved"))


LOST = "/.lock was deleted or replaced during the run, and another run may be writing to"


@pytest.mark.parametrize("lose", [deleted, replaced, renamed])
def test_check_refuses_a_folder_whose_lock_is_lost_and_the_other_lock_stays(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    writers = [JSONWriter(tmp_path / "metrics.json"), TensorBoardWriter(tmp_path)]
    with hold(tmp_path):
        for writer in writers:
            writer.open(0)
        check(tmp_path)
        check(tmp_path / "." / "x" / "..")
        lose(tmp_path / ".lock")
        left = contents(tmp_path)
        with pytest.raises(
            ConfigError, match=f"^{tmp_path}{LOST} {tmp_path}; this one has stopped and saves nothing"
        ):
            check(tmp_path)
        for write in (save_checkpoint, lambda content, path: files.write_atomically(path, lambda file: None)):
            with pytest.raises(ConfigError, match=LOST):
                write({"iteration": 1}, tmp_path / "model_final.pth")
        for writer in writers:
            with pytest.raises(ConfigError, match=LOST):
                writer.write({"iteration": 1})
        assert contents(tmp_path) == left
    assert contents(tmp_path) == left
    check(tmp_path)  # of a folder that is not held nothing is known


@forked
def test_check_takes_a_lock_again_that_the_system_has_released(tmp_path: Path) -> None:
    """The process has closed another descriptor of the file, as a hook does that copies the folder."""

    def second() -> None:
        with contextlib.suppress(ConfigError), hold(tmp_path):
            os._exit(7)

    with hold(tmp_path):
        (tmp_path / ".lock").read_text()
        check(tmp_path)
        assert in_child(second) == 0
        (tmp_path / ".lock").read_text()
        assert in_child(second) == 7  # nothing was checked in between


@forked
def test_a_lock_that_another_process_has_taken_meanwhile_is_lost(
    tmp_path: Path, start: Callable[..., Started]
) -> None:
    with hold(tmp_path):
        (tmp_path / ".lock").read_text()
        start(lambda: holding(tmp_path))
        wait_until((tmp_path / "ready").exists)
        with pytest.raises(ConfigError, match=LOST):
            check(tmp_path)
        held_by = (tmp_path / ".lock").read_text()
    assert (tmp_path / ".lock").read_text() == held_by


@forked
@pytest.mark.parametrize("words", [["--resume", "SOLVER.MAX_ITER=9"], ["--overwrite", "SOLVER.MAX_ITER=4"]])
def test_a_run_whose_lock_was_deleted_ends_and_leaves_the_second_run_as_it_is(
    tiny_words: list[str], tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    left: dict[str, bytes] = {}

    def second() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warmstart.engine.run.default_hooks._HOOKS", {})
            setup_logging()  # the first one's log file is not this one's
            code = train_net.main([*tiny_words, "SOLVER.STEPS=3", "SOLVER.WARMUP_ITERS=1", *words])
        os._exit(7 + code)

    class LetIn(HookBase):
        def before_step(self, trainer: Trainer) -> None:
            if trainer.iteration == 6:
                finish_saves()
                (out / ".lock").unlink()
                assert in_child(second) == 7
                left.update({path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warmstart.engine.run.default_hooks._HOOKS", {"let in": lambda cfg: LetIn()})
        with pytest.raises(SystemExit) as caught:
            run_tool(
                functools.partial(train_net.main, [*tiny_words, "SOLVER.CHECKPOINT_PERIOD=5", "LOG_PERIOD=1"])
            )
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {out}{LOST}")
    assert "model_final.pth" in left
    now = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert now.pop("log.txt").startswith(left.pop("log.txt"))  # of the first one, where that is the same file
    assert now == left


def test_one_process_may_hold_a_folder_twice(tmp_path: Path) -> None:
    with hold(tmp_path):
        with hold(tmp_path / "." / "x" / ".."):
            pass
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()


def test_hold_leaves_no_trace_if_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(KeyError), hold(tmp_path / "a" / "b"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with hold(tmp_path / "mine" / "run"):
        (tmp_path / "mine" / "run" / "file").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "mine",
        "mine/run",
        "mine/run/file",
    ]


@pytest.mark.parametrize("missing", ["module", "drive"])
def test_hold_warns_on_a_drive_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord], missing: str
) -> None:
    def refused(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    if missing == "module":
        monkeypatch.setattr(lock, "fcntl", None)
    else:
        monkeypatch.setattr(lock.fcntl, "lockf", refused)
    with hold(tmp_path):
        assert list(tmp_path.iterdir()) == []
    assert [record.getMessage() for record in logged] == [
        f"{tmp_path} cannot be locked on this system: see that no second run writes to it"
    ]


def test_hold_retries_a_lock_that_its_holder_deleted_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two processes could hold two files of the same name."""
    open_file, opened = os.open, []

    def open_then_delete(path: Any, *arguments: Any) -> int:
        descriptor = open_file(path, *arguments)
        opened.append(path)
        if len(opened) == 1:
            os.unlink(path)
        return descriptor

    monkeypatch.setattr(os, "open", open_then_delete)
    with hold(tmp_path):
        assert len(opened) == 2
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
