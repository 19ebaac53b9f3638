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

from warmstart.config import ConfigError
from warmstart.engine import setup_logging
from warmstart.engine.records import logging as logs
from warmstart.engine.records.logging import log_to_file

full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_console_keeps_logging_after_a_child_is_killed_while_it_prints(
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
def test_log_file_reports_a_full_disk_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "no_follow", lambda path, flags: os.open("/dev/full", os.O_WRONLY))
    setup_logging(tmp_path)
    for line in ("one", "two"):
        logging.getLogger("warmstart").info(line)
    setup_logging()  # closes it
    captured = capfd.readouterr()
    assert [line.split()[-1] for line in captured.out.splitlines()] == ["one", "two"]
    assert captured.err == f"{tmp_path}/log.txt cannot be written: No space left on device; the run continues\n"


@full
def test_console_reports_a_full_stdout_once_and_the_log_file_gets_all_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    setup_logging(tmp_path)
    with monkeypatch.context() as patch, open("/dev/full", "w") as stdout:
        patch.setattr(sys, "stdout", stdout)
        for line in ("one", "two"):
            logging.getLogger("warmstart").info(line)
    setup_logging()
    assert capfd.readouterr().err == "stdout cannot be written: No space left on device; the run continues\n"
    assert [line.split()[-1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["one", "two"]


FORGED = "run\n[12:00:00] saved output/model_final.pth\r\n  \x1b[1A\x1b[2K\x9b2J\u202etxt\u2066\u2028\x85\udc80"
ESCAPED = r"run\n[12:00:00] saved output/model_final.pth\r\n  \x1b[1A\x1b[2K\x9b2J\u202etxt\u2066\u2028\x85\udc80"


def test_setup_logging_makes_one_printable_line_of_each_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging(tmp_path)
    logging.getLogger("warmstart").info("data: %s", FORGED)
    log_to_file(f"error: {ConfigError([FORGED, 'other'])}")
    (console,) = capsys.readouterr().out.splitlines()
    lines = (tmp_path / "log.txt").read_text("utf-8").splitlines()
    assert console.endswith(f"] data: {ESCAPED}")
    assert lines[0].endswith(f"INFO data: {ESCAPED}")
    assert lines[1].endswith("ERROR error: 2 problems:")
    assert lines[2:] == [f"  {ESCAPED}", "  other"]


def test_setup_logging_keeps_the_lines_of_a_traceback(tmp_path: Path) -> None:
    setup_logging(tmp_path)
    try:
        raise ValueError("mine")
    except ValueError:
        logging.getLogger("warmstart").exception("it failed")
    lines = (tmp_path / "log.txt").read_text("utf-8").splitlines()
    assert lines[0].endswith("ERROR it failed")
    assert (lines[1], lines[-1]) == ("Traceback (most recent call last):", "ValueError: mine")
