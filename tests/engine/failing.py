"""A hook for the ranks that test_launch.py starts: rank 1 fails once, as the variable FAIL says."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from warmstart.config import CfgNode
from warmstart.engine import HookBase, Trainer, rank, register_hook

LONG = 100  # seconds
FAIL = os.environ.get("FAIL", "")


class Fail(HookBase):
    """Fails after 8 updates: it raises, is killed as if the system were out of memory, or hangs.

    Args:
        mark: a file that exists once it has failed.
    """

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def after_step(self, trainer: Trainer) -> None:
        if trainer.iteration != 8:
            return
        if rank() == 0 and FAIL == "raise beside work":
            time.sleep(LONG)
        if rank() != 1 or self.mark.exists():
            return
        self.mark.touch()
        if FAIL == "hang":
            time.sleep(LONG)
        if FAIL.startswith("raise"):
            raise RuntimeError("what a bug says")
        os.kill(os.getpid(), signal.SIGKILL)


def build(cfg: CfgNode) -> HookBase:
    at_work = FAIL in ("raise", "raise beside work", "kill", "hang")
    return Fail(Path(f"{cfg.OUTPUT_DIR}.failed")) if at_work else HookBase()


register_hook("fail", build)

if os.environ.get("RANK") == "1":  # while the other ranks wait for it
    if FAIL == "raise at import":
        raise RuntimeError("what a bug says")
    if FAIL == "deaf":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        Path(os.environ["DEAF"]).touch()
        time.sleep(LONG)
