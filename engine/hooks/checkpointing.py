"""Saving while training goes on: the step waits for a copy, a thread writes it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoint import sharded as shards
from ..checkpoint.content import content_bytes, require_plain, snapshot
from ..checkpoint.run_folder import (
    FINAL,
    NAMES,
    require_names,
)
from ..checkpoint.saver import CHECKPOINTS_FREE, Save, require_space
from ..distributed import comm
from ..loop.hook import HookBase
from ..loop.trainer import Trainer
from ..runtime.device import versions


class CheckpointHook(HookBase):
    """Saves every `period` updates, when the run ends, and when a signal or another hook asks for it.

    The step waits only until the state of this instant is copied, and the save before is through; then a thread
    writes. The run's last save is waited for. One that fails is logged in one line and the run goes on, with the
    older files as they were; if it is the last one, the run ends with an error. Only the main rank writes.

    Args:
        period: in updates; 0 is only when the run ends.
        folder: where the files go.
        constants: what each checkpoint holds besides the trainer's state; the config, and the versions that wrote
            it, are put in where they are missing.
        keep: numbered checkpoints that stay, the newest; 0 is all. Only what this run's manifest lists is deleted.
        timeout: seconds that a rank waits for the parts of another one; more than the disk takes for them.
    """

    takes = "save_as"
    runs_last = True  # what a hook behind it counts in this iteration would be missing in the checkpoint

    def __init__(
        self,
        period: int,
        folder: str | Path,
        constants: Mapping[str, Any] | None = None,
        keep: int = 0,
        timeout: float = 1800,
    ) -> None:
        self.period = period
        self.folder = Path(folder)
        self.constants = {"config": {}} | dict(constants or {})
        self.keep = keep
        self.timeout = timeout
        self._group: shards.Group = None  # a run's own: a later run in this process has other groups
        self._save: Save | None = None
        self._parts: shards.Writing | None = None
        self._copied: dict[str, Any] = {}

    def before_train(self, trainer: Trainer) -> None:
        """Look whether what the run saves at the least has space, and whether it can be saved.

        Raises:
            ConfigError: there is no space.
            TypeError: a state holds more than tensors and plain values; the message names the key path.
        """
        if trainer.strategy.is_sharded:
            # Now: at the first save the launcher, whose store the ranks use, may be gone.
            self._group = shards.new_group(self.timeout)
        if not comm.is_main():
            return
        require_space(self.folder, CHECKPOINTS_FREE * checkpoint_bytes(trainer))
        self.constants.setdefault("versions", versions(trainer.device))
        hooks = {}
        for hook in trainer.hooks:
            with contextlib.suppress(Exception):  # a state may come with the first step: its save tells
                hooks[hook.name] = hook.state_dict()
        states = {
            "model": trainer.model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "scheduler": trainer.scheduler.state_dict(),
            "hooks": hooks,
        }
        require_plain(shards.split(states | self.constants).content)

    def after_step(self, trainer: Trainer) -> None:
        """Save the state of this instant under its number and, the same, under each name in `trainer.save_as`.

        Raises:
            NonFiniteLossError: the weights are no longer finite; nothing is saved.
            SaveError: this is the run's last save, and it failed.
        """
        last = trainer.is_last_step or bool(trainer.interrupted)
        with trainer.paused():
            owed = self._finish()
            is_owed = any(content is self._copied for content in owed.values())
            # On all ranks: each gives its random numbers and, where the model is cut, its parts.
            state, tensors = shards.split(trainer.state_dict())
            if tensors:
                self._parts = shards.Writing(tensors, self.folder, trainer.iteration, self._group)
            if not comm.is_main():
                trainer.save_as.clear()
                if last:
                    self._finish()
                return
            final = [FINAL] if trainer.is_last_step else []
            names = [*final, *sorted(trainer.save_as)]
            trainer.save_as.clear()
            require_names(names)
            spare = {} if is_owed else self._copied
            content = snapshot(state | self.constants | {NAMES: names}, spare)
            self._copied = content
            older = {name: owed[name] for name in owed if name not in names}
            self._save = Save(self.folder, content, older, self.keep, last, self._parts)
            self._save.start()
            if last:
                self._finish()

    def after_train(self, trainer: Trainer) -> None:
        """Wait for a save that is under way."""
        self._finish()
        self._copied = {}

    def _finish(self) -> dict[str, Any]:
        """Wait for the save that is under way; return what it could not write and the next one has to."""
        parts, self._parts = self._parts, None
        if parts is not None and not comm.is_main():
            with contextlib.suppress(OSError):  # the main rank says so
                parts.wait()
        if self._save is None:
            return {}
        save, self._save = self._save, None
        return save.finish()


def checkpoint_bytes(trainer: Trainer) -> int:
    """Return about how large a trainer's checkpoints get, before it has done an update."""
    weights = content_bytes(trainer.model.state_dict())
    moments = content_bytes(trainer.optimizer.state_dict()["state"])
    if not moments:  # they come with the first update: two, as Adam's, or one
        trained = [p for group in trainer.optimizer.param_groups for p in group["params"] if p.requires_grad]
        moments = content_bytes(trained) * (2 if "betas" in trainer.optimizer.defaults else 1)
    return weights * (1 if trainer.ema is None else 2) + moments
