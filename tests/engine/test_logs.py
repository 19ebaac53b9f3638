from __future__ import annotations

import logging
import os
import signal
import threading

import pytest
from tqdm import tqdm
from tqdm.std import TqdmDefaultWriteLock

from warmstart.engine import setup_logging


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
