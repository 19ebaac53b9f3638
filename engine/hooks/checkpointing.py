"""Checkpoints while training continues: the step waits for a copy, a thread writes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..checkpoint import sharded as shards
from ..checkpoint.content import content_bytes, require_plain
from ..checkpoint.run_files import CLASSES, FINAL
from ..checkpoint.run_folder import RunFolder
from ..checkpoint.saver import Saver
from ..distributed import comm
from ..loop.hook import HookBase
from ..loop.trainer import Trainer
from ..runtime.device import versions


class CheckpointHook(HookBase):
    """Saves every `period` updates, when the run ends, and when a signal or another hook asks for it.

    The step waits only until the previous save is done and the state is copied; then a thread writes. The run
    waits for its last save. If a save fails, one line is logged, the older files stay as they were and training
    continues; if it is the last one, the run ends with an error. Only the main rank writes.

    Args:
        period: in updates; 0 is only when the run ends.
        folder: where the files go.
        constants: what each checkpoint holds besides the trainer's state; an empty config, no class names, and the
            versions that write it are added if they are missing.
        keep: numbered checkpoints that stay, the newest; 0 is all. Only what this run's manifest lists is deleted.
        timeout: seconds that a rank waits for the shards of another one; more than the disk takes for them.
        milestones: iterations; the newest checkpoint at or before each of them stays, too.
    """

    takes = "save_as"
    runs_last = True  # the state that a later hook changes in this iteration would be missing in the checkpoint

    def __init__(
        self,
        period: int,
        folder: str | Path,
        constants: Mapping[str, Any] | None = None,
        keep: int = 0,
        timeout: float = 1800,
        milestones: Iterable[int] = (),
    ) -> None:
        self.period = period
        self.folder = RunFolder(folder, keep, milestones=milestones)
        self.constants = {"config": {}, CLASSES: []} | dict(constants or {})
        self.timeout = timeout
        self._group: shards.Group = None  # of one run: a later run in this process has other groups
        self._saver = Saver(self.folder)

    def before_train(self, trainer: Trainer) -> None:
        """Check that the drive has space for a last save, and that the states can be saved.

        Raises:
            ConfigError: there is no space.
            TypeError: a state holds more than tensors and plain values; the message names the key path.
        """
        if shards.split(trainer.model.state_dict()).tensors:  # on all ranks alike
            # Now: at the first save the launcher, whose store the ranks use, may be gone.
            self._group = shards.new_group(self.timeout)
        if not comm.is_main():
            return
        self.folder.require_space(files_of_last_save(trainer), checkpoint_bytes(trainer))
        self.constants.setdefault("versions", versions(trainer.device))
        hooks = {}
        for hook in trainer.hooks:
            with contextlib.suppress(Exception):  # a state may come with the first step: its save raises
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
            self._saver.finish()
            # On all ranks: each gives its RNG state and its shards.
            state, tensors = shards.split(trainer.state_dict())
            sharded = None
            if tensors:
                sharded = shards.ShardWriter(tensors, self.folder.path, trainer.iteration, self._group)
            final = [FINAL] if trainer.is_last_step else []
            names = [*final, *sorted(trainer.save_as)]
            trainer.save_as.clear()
            self._saver.save(state | self.constants, names, last, sharded)
            if last:
                self._saver.finish()

    def after_train(self, trainer: Trainer) -> None:
        """Wait for a save that is under way."""
        self._saver.close()


def files_of_last_save(trainer: Trainer) -> int:
    """Return how many files of a checkpoint a run ends with at least: a numbered one, and a copy for each name."""
    names = {FINAL}.union(*(getattr(hook, "saves_as", ()) for hook in trainer.hooks))
    return 1 + len(names)


def checkpoint_bytes(trainer: Trainer) -> int:
    """Return about how large a trainer's checkpoints get, before it has done an update."""
    weights = content_bytes(trainer.model.state_dict())
    optimizer = content_bytes(trainer.optimizer.state_dict()["state"])
    if not optimizer:  # it comes with the first update: two tensors a parameter, as in Adam, or one
        trained = [p for group in trainer.optimizer.param_groups for p in group["params"] if p.requires_grad]
        optimizer = content_bytes(trained) * (2 if "betas" in trainer.optimizer.defaults else 1)
    return weights * (1 if trainer.ema is None else 2) + optimizer
