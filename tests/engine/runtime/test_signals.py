"""Signals: the run finishes its iteration, saves and resumes bit for bit; a second signal exits at once."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from warmstart.config import ConfigError
from warmstart.data import DatasetInfo, register_dataset
from warmstart.data.sampling.stream import SampleStream
from warmstart.engine import HookBase, Interrupted, Trainer, load_checkpoint, register_hook, run_tool, stop_signals
from warmstart.engine.runtime.signals import ECHO
from warmstart.tools import train_net

from ..dying import assert_same_bits

ROOT = Path(__file__).parent.parent.parent.parent
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 128 + signal.SIGUSR1, signal.SIGHUP: 129}

# A process that has used a GPU cannot be forked; the tests that start a new interpreter run there too.
forked = pytest.mark.skipif(torch.cuda.is_available(), reason="forks this process, which may have used the GPU")


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """Handle Ctrl-C, even if the tests run as a background job of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Meeting:
    """A point at which a process waits, once, until the test has sent its signal."""

    def __init__(self, folder: Path) -> None:
        self.here, self.sent = folder / "here", folder / "sent"

    def attend(self) -> None:
        if self.here.exists():
            return
        self.here.touch()
        wait_for(self.sent.exists)

    def cancel(self) -> None:
        self.here.touch()


def wait_for(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.002)


class Noise:
    """48 images of noise; the process that reads image `index` waits at the meeting."""

    def __init__(self, meeting: Meeting, index: int = -1) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (48, 8, 8), dtype=np.uint8)
        self.meeting, self.index = meeting, index

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index == self.index:
            self.meeting.attend()
        return self.images[index], index % 3


class Stay(HookBase):
    """Waits at the meeting between the gradients and the step of update 7."""

    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting

    def after_backward(self, trainer: Trainer) -> None:
        if trainer.iteration == 6:
            self.meeting.attend()


class Nothing(HookBase):
    @property
    def name(self) -> str:
        return "Stay"


Words = Callable[..., list[str]]


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_words: list[str]) -> Words:
    """Return a function that returns a command line whose run waits in "step", "load" or "evaluate"."""
    monkeypatch.setattr(
        "warmstart.data.datasets.registry._REGISTRY",
        dict(sys.modules["warmstart.data.datasets.registry"]._REGISTRY),
    )
    monkeypatch.setattr("warmstart.engine.run.default_hooks._HOOKS", {})
    meeting = Meeting(tmp_path)
    info = DatasetInfo(size=48, num_classes=3, channels=1, image_size=(8, 8))

    def make(where: str, *more: str) -> list[str]:
        fourth = SampleStream(0, 48).index(4 * 8)  # the first image of batch 4
        register_dataset("noise_train", lambda *_: Noise(meeting, fourth if where == "load" else -1), info)
        register_dataset("noise_test", lambda *_: Noise(meeting, 30 if where == "evaluate" else -1), info)
        register_hook("stay", lambda cfg: Stay(meeting) if where == "step" else Nothing())
        return [
            *(*tiny_words, "DATASETS.TRAIN=noise_train", "DATASETS.TEST=noise_test", "TEST.EVAL_PERIOD=6"),
            *("SOLVER.CHECKPOINT_PERIOD=3", "TEST.BEST.METRIC=noise_test/accuracy", *more),
        ]

    return make


class Started:
    """train_net.py in a separate process and process group, waiting at the meeting."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.meeting = Meeting(folder)
        self.log = folder / "log"
        self.process = multiprocessing.get_context("fork").Process(target=self._run, args=(words,))
        self.process.start()
        wait_for(lambda: self.meeting.here.exists() or self.process.exitcode is not None)

    def _run(self, words: list[str]) -> None:
        os.setsid()
        with open(self.log, "w", buffering=1) as output:
            os.dup2(output.fileno(), 2)
            sys.stdout = sys.stderr = output
            run_tool(functools.partial(train_net.main, words))

    def send(self, signum: int, group: bool = False) -> None:
        assert self.process.pid
        (os.killpg if group else os.kill)(self.process.pid, signum)

    def code(self) -> int | None:
        """Return the exit code, and check that no process of its group is left."""
        self.process.join(60)
        assert self.process.pid
        with pytest.raises(ProcessLookupError):
            os.killpg(self.process.pid, 0)
        return self.process.exitcode


def outcome(folder: Path) -> tuple[dict[str, Any], list[dict[str, float]]]:
    content = load_checkpoint(folder / "model_final.pth")
    lines = (folder / "metrics.json").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return content, [{k: v for k, v in record.items() if k not in ("time", "data_time")} for record in records]


# Outcomes of uninterrupted runs without loading processes, by the words of their command lines.
UNBROKEN: dict[tuple[str, ...], tuple[dict[str, Any], list[dict[str, float]]]] = {}


def assert_continues_as_unbroken(words: list[str], tmp_path: Path) -> None:
    """Resume in this process, and compare with an uninterrupted run, which tests with equal words share."""
    Meeting(tmp_path).cancel()
    assert train_net.main([*words, "--resume"]) == 0
    broken, broken_records = outcome(tmp_path / "out")
    common = tuple(word for word in words if not word.startswith(("OUTPUT_DIR", "DATALOADER.NUM_WORKERS")))
    if common not in UNBROKEN:
        assert train_net.main([*common, "DATALOADER.NUM_WORKERS=0", f"OUTPUT_DIR={tmp_path}/whole"]) == 0
        UNBROKEN[common] = outcome(tmp_path / "whole")
    whole, whole_records = UNBROKEN[common]
    for part in ("model", "optimizer", "scheduler", "iteration", "hooks", "rng"):
        assert_same_bits(broken[part], whole[part], part)
    assert broken_records == whole_records
    assert [record["iteration"] for record in whole_records] in ([5, 6, 10, 12, 14], [5, 6])


@forked
@pytest.mark.need("D14")
@pytest.mark.parametrize(
    ("where", "signum", "saved", "more"),
    [
        ("step", signal.SIGINT, 7, ()),
        ("step", signal.SIGTERM, 7, ("DATALOADER.NUM_WORKERS=2",)),
        ("step", signal.SIGUSR1, 7, ("SOLVER.CHECKPOINT_PERIOD=7",)),
        ("step", signal.SIGHUP, 7, ("DATALOADER.NUM_WORKERS=1",)),
        ("load", signal.SIGTERM, 5, ("DATALOADER.NUM_WORKERS=2", "SOLVER.CHECKPOINT_PERIOD=1")),
        ("load", signal.SIGINT, 5, ("SOLVER.CHECKPOINT_PERIOD=1",)),
        ("evaluate", signal.SIGUSR1, 6, ("DATALOADER.NUM_WORKERS=2",)),
        ("evaluate", signal.SIGINT, 6, ()),
        ("evaluate", signal.SIGTERM, 6, ("SOLVER.MAX_ITER=6", "SOLVER.STEPS=4")),
    ],
)
def test_signal_ends_the_run_after_a_complete_iteration_and_a_resume_is_bit_exact(
    words: Words, tmp_path: Path, where: str, signum: int, saved: int, more: tuple[str, ...]
) -> None:
    """The full process group gets it, with the workers. An evaluation is aborted, and done at the resume."""
    line = words(where, *more)
    started = Started(tmp_path, line)
    if where == "load":  # workers are ahead: iteration 4 is complete, the trainer waits for a batch
        wait_for((tmp_path / "out" / "model_0000003.pth").exists)
    started.send(signum, group=True)
    time.sleep(0.05)
    started.meeting.sent.touch()
    assert started.code() == CODES[signal.Signals(signum)]
    name = signal.Signals(signum).name
    log = started.log.read_text()
    assert log.count(f"{name}: finishing this iteration, then saving; a second signal exits at once\n") == 1
    assert log.splitlines()[-1].endswith(f"{name}: ended after iteration {saved}; give --resume to continue")
    assert "Traceback" not in log
    assert (tmp_path / "out" / "last_checkpoint").read_text() == f"model_{saved - 1:07d}.pth"
    records = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    assert [json.loads(record)["iteration"] for record in records] == ([5] if saved < 7 else [5, 6])
    assert_continues_as_unbroken(line, tmp_path)


@forked
@pytest.mark.need("D14")
@pytest.mark.parametrize("workers", [0, 2])
def test_second_signal_exits_at_once(
    words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("warmstart.engine.runtime.signals.ECHO", 0.0)  # on a machine of any speed
    line = words("step", f"DATALOADER.NUM_WORKERS={workers}")
    started = Started(tmp_path, line)
    started.send(signal.SIGINT, group=True)
    wait_for(lambda: "SIGINT: finishing" in started.log.read_text())
    pointer = tmp_path / "out" / "last_checkpoint"  # the one of iteration 6 may not be complete yet
    wait_for(lambda: pointer.exists() and pointer.read_text() == "model_0000005.pth")
    assert started.process.is_alive()
    started.send(signal.SIGTERM, group=True)
    assert started.code() == 143  # without waiting for the meeting to end
    assert pointer.read_text() == "model_0000005.pth"
    assert_continues_as_unbroken(line, tmp_path)


@forked
@pytest.mark.need("D14")
def test_signal_repeated_within_the_echo_time_counts_once(
    words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`timeout` signals its child and then the process group."""
    assert 0.1 <= ECHO <= 0.5
    monkeypatch.setattr("warmstart.engine.runtime.signals.ECHO", 60.0)
    started = Started(tmp_path, words("step"))
    started.send(signal.SIGTERM)
    wait_for(lambda: "SIGTERM: finishing" in started.log.read_text())
    started.send(signal.SIGTERM, group=True)
    time.sleep(0.05)
    assert started.process.is_alive()
    started.meeting.sent.touch()
    assert started.code() == 143
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_0000006.pth"


@pytest.mark.need("D14")
def test_signal_in_the_last_iteration_completes_the_run_and_sets_the_exit_code(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Raise(HookBase):
        def after_step(self, trainer: Trainer) -> None:
            if trainer.is_last_step:
                signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("warmstart.engine.run.default_hooks._HOOKS", {"raise": lambda cfg: Raise()})
    with pytest.raises(Interrupted) as end:
        train_net.main(tiny_words)
    assert end.value.code == 143
    assert "SIGTERM: ended after iteration 14; the run is complete\n" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "out" / "model_final.pth")["iteration"] == 14
    assert train_net.main([*tiny_words, "--resume"]) == 0


@pytest.mark.need("D14")
@pytest.mark.parametrize("signum", CODES)
def test_run_tool_exits_with_the_code_of_a_signal_before_training(
    signum: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    unwound: list[bool] = []

    def main() -> int:
        try:
            signal.raise_signal(signum)
        finally:
            unwound.append(True)
        return 0

    with pytest.raises(SystemExit) as end:
        run_tool(main)
    assert end.value.code == CODES[signum]
    assert capfd.readouterr().err == f"interrupted by {signum.name}\n"
    assert unwound == [True]


def test_stop_signals_restores_handlers_after_an_error() -> None:
    before = [signal.getsignal(each) for each in CODES]
    with pytest.raises(ConfigError), stop_signals(print):
        assert [signal.getsignal(each) for each in CODES] != before
        raise ConfigError("wrong")
    assert [signal.getsignal(each) for each in CODES] == before


@pytest.mark.parametrize("ignored", [signal.SIGINT, signal.SIGHUP])
def test_stop_signals_keeps_signals_ignored_that_the_parent_ignores(ignored: signal.Signals) -> None:
    """Shells make background jobs ignore Ctrl-C, and nohup the end of the terminal."""
    before = signal.signal(ignored, signal.SIG_IGN)
    came: list[int] = []
    try:
        with stop_signals(came.append):
            signal.raise_signal(ignored)
            signal.raise_signal(signal.SIGUSR1)
        assert signal.getsignal(ignored) is signal.SIG_IGN
    finally:
        signal.signal(ignored, before)
    assert came == [signal.SIGUSR1]


def test_stop_signals_changes_nothing_outside_the_main_thread() -> None:
    from concurrent.futures import ThreadPoolExecutor

    def block() -> Any:
        with stop_signals(print):
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(block).result() == signal.getsignal(signal.SIGTERM)


@pytest.mark.need("D14")
def test_ctrl_c_in_a_terminal_saves_once_for_the_process_group(noise_npz: Path, tmp_path: Path) -> None:
    """A real terminal: its Ctrl-C reaches the loading process as well."""
    words = [
        *(f"DATASETS.TRAIN=npz:{noise_npz}", f"DATASETS.TEST=npz:{noise_npz}", "SOLVER.IMS_PER_BATCH=8"),
        *("SOLVER.MAX_ITER=1000000", "LOG_PERIOD=5", "DATALOADER.NUM_WORKERS=1", f"OUTPUT_DIR={tmp_path}/out"),
    ]
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), *words]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, command, {**os.environ, "OMP_NUM_THREADS": "1"})
    shown = b""
    try:
        while b"iter " not in shown:
            shown += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        while True:
            shown += os.read(terminal, 4096)
    except OSError:  # on Linux: the last process has closed it
        pass
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    text = shown.decode()
    assert code == 130, text
    assert text.count("SIGINT: finishing this iteration") == 1
    found = re.search(r"SIGINT: ended after iteration (\d+); give --resume to continue", text)
    assert found, text
    assert "Traceback" not in text
    newest = (tmp_path / "out" / "last_checkpoint").read_text()
    assert load_checkpoint(tmp_path / "out" / newest)["iteration"] == int(found[1])


@pytest.mark.slow
@pytest.mark.need("D14")
def test_gnu_timeout_makes_the_run_save(tiny_words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), *tiny_words, "SOLVER.MAX_ITER=1000000"]
    done = subprocess.run(
        ["timeout", "--preserve-status", "15", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 143, done.stderr
    assert "SIGTERM: ended after iteration" in done.stdout
    assert (tmp_path / "out" / "last_checkpoint").exists()
