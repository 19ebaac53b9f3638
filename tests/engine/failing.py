"""Imported by ranks that test_launch.py starts: a hook that fails on rank 1, once, as FAIL says."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from warmstart.config import CfgNode
from warmstart.engine import HookBase, Trainer, rank, register_hook


class Fail(HookBase):
    """Raises, or kills its process as the system does where memory is short, after 8 updates.

    Args:
        mark: a file that is there once it has done so.
    """

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def after_step(self, trainer: Trainer) -> None:
        if rank() != 1 or trainer.iteration != 8 or self.mark.exists():
            return
        self.mark.touch()
        if os.environ["FAIL"] == "raise":
            raise RuntimeError("what a bug says")
        os.kill(os.getpid(), signal.SIGKILL)


def build(cfg: CfgNode) -> HookBase:
    return Fail(Path(f"{cfg.OUTPUT_DIR}.failed")) if os.environ.get("FAIL") else HookBase()


register_hook("fail", build)
