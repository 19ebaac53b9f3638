from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from tqdm import tqdm
from tqdm.std import TqdmDefaultWriteLock

from warmstart.engine import logs, setup_logging

full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_is_killed_while_it_prints_does_not_silence_its_parent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tqdm, "_lock", TqdmDefaultWriteLock(), raising=False)
    child = os.fork()
    if child == 0:
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    setup_logging()
    thread = threading.Thread(target=logging.getLogger("warmstart").info, args=("still here",), daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert "still here" in capsys.readouterr().out


@full
def test_a_log_file_whose_disk_is_full_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "no_follow", lambda path, flags: os.open("/dev/full", os.O_WRONLY))
    setup_logging(tmp_path)
    for line in ("one", "two"):
        logging.getLogger("warmstart").info(line)
    setup_logging()  # closes it
    captured = capfd.readouterr()
    assert [line.split()[-1] for line in captured.out.splitlines()] == ["one", "two"]
    assert captured.err == f"{tmp_path}/log.txt cannot be written: No space left on device; the run goes on\n"


@full
def test_a_full_stdout_is_said_once_and_the_log_file_has_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    setup_logging(tmp_path)
    with monkeypatch.context() as patch, open("/dev/full", "w") as stdout:
        patch.setattr(sys, "stdout", stdout)
        for line in ("one", "two"):
            logging.getLogger("warmstart").info(line)
    setup_logging()
    assert capfd.readouterr().err == "stdout cannot be written: No space left on device; the run goes on\n"
    assert [line.split()[-1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["one", "two"]
