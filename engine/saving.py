"""Saving while training goes on: the step waits for a copy, a thread writes it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.distributed import ProcessGroup

from warmstart.config import ConfigError

from . import comm, files, shards
from .checkpoint import (
    FINAL,
    NAMES,
    checkpoint_name,
    content_bytes,
    newest_name,
    point_to,
    require_names,
    require_plain,
    save_checkpoint,
    snapshot,
)
from .device import versions
from .fsdp import is_cut_model
from .hook_base import HookBase, every, next_multiple
from .manifest import MANIFEST, add_to_manifest, prune
from .overwrite import FOLDER as OVERWRITTEN
from .overwrite import delete_overwritten
from .trainer import Trainer

logger = logging.getLogger(__name__)

CHECKPOINTS_FREE = 2  # for which there must be space when a run starts: it ends with two, numbered and final


class SaveError(Exception):
    """The last checkpoint of a run could not be written, so that its end is lost."""


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
        self._group: ProcessGroup | None = None  # a run's own: a later run in this process has other groups
        self._save: Save | None = None
        self._parts: shards.Writing | None = None
        self._copied: dict[str, Any] = {}

    def before_train(self, trainer: Trainer) -> None:
        """Look whether what the run saves at the least has space, and whether it can be saved.

        Raises:
            ConfigError: there is no space.
            TypeError: a state holds more than tensors and plain values; the message names the key path.
        """
        if is_cut_model(trainer.model):  # now: at the first save the launcher, with whom ranks meet, may be gone
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

    def next_due(self, iteration: int) -> float:
        """Return the next multiple of the period."""
        return next_multiple(self.period, iteration)

    def after_step(self, trainer: Trainer) -> None:
        """Save the state of this instant under its number and, the same, under each name in `trainer.save_as`.

        Raises:
            NonFiniteLossError: the weights are no longer finite; nothing is saved.
            SaveError: this is the run's last save, and it failed.
        """
        last = trainer.is_last_step or bool(trainer.interrupted)
        if not (last or every(self.period, trainer.iteration) or trainer.is_wanted(trainer.save_as)):
            return
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
            final = [FINAL] if trainer.is_last_step and not trainer.pending else []
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


class Save(threading.Thread):
    """One checkpoint on its way to the disk, under its number and its other names.

    Each save has one order, so that wherever a kill comes, `--resume` knows what is left to do (completion.py):
    the manifest lists the number; the numbered file is written, synced and verified under a temporary name; the
    pointer moves to the number; the file gets its name, which commits the save. Then its other names follow, what
    an earlier save could not write, and the deletion of what is no longer needed.

    Args:
        folder: where the files go.
        content: of the checkpoint, with its other names; nobody changes it any more.
        owed: contents that an earlier save could not write, by their names.
        keep: numbered checkpoints that stay; 0 is all.
        last: whether no other save follows, so that a failure is an error instead of a line in the log.
        parts: what the content lacks, and has to be on the disk before it.
    """

    def __init__(
        self,
        folder: Path,
        content: dict[str, Any],
        owed: Mapping[str, Any],
        keep: int,
        last: bool,
        parts: shards.Writing | None = None,
    ) -> None:
        self.numbered = checkpoint_name(content["iteration"])
        # No daemon: at its end, however it comes, the process waits for what it has begun to write.
        super().__init__(name=f"saving {self.numbered}", daemon=False)
        self.folder = folder
        self.keep = keep
        self.last = last
        self.parts = parts
        self._content: dict[str, Any] | None = content
        self._names: list[str] = content[NAMES]
        self._owed = dict(owed)
        self._failed: dict[str, OSError] = {}
        self._needed = 0  # bytes of the files that failed
        self._mistake: BaseException | None = None

    def run(self) -> None:
        """Write; failures of the disk are logged, and kept for `finish` like all others."""
        try:
            self._write_all()
        except BaseException as error:
            self._mistake = error
        else:
            if self._failed and not self.last:
                text = f"{self._sentence()}; the run goes on and tries again at its next checkpoint"
                lost = ", ".join(name for name in self._failed if name not in (self.numbered, *self._owed))
                logger.warning("%s", f"{text}, {lost} when it is next asked for" if lost else text)
            if self.numbered not in self._failed:
                logger.info("saved %s", self.folder / self.numbered)

    def finish(self) -> dict[str, Any]:
        """Wait for the end; return the contents that the next save has to write, since this one could not.

        Raises:
            SaveError: there is no next one, and the disk failed.
        """
        self.join()
        if self._mistake is not None:
            raise self._mistake
        if self._failed and self.last:
            make_space = "make space, and " if self._is_full() else ""
            error = next(iter(self._failed.values()))
            raise SaveError(f"{self._sentence()}; {make_space}--resume does the rest again") from error
        return self._owed

    def _write_all(self) -> None:
        content = self._content
        assert content is not None, "a thread runs once"
        replaces = (self.folder / OVERWRITTEN).is_dir()
        try:
            if self.parts is not None:
                content[shards.KEY] = self.parts.finish()
        except OSError as error:  # no rank has kept its parts: nothing of this content can be written later
            self._fail([self.numbered, *self._names], error)
        else:
            self._write_content(content)
        for name in [name for name in self._owed if name not in self._failed]:
            try:
                self._require_space(self._owed[name])
                save_checkpoint(self._owed[name], self.folder / name)
                del self._owed[name]
            except OSError as error:
                self._fail([name], error, self._owed[name])
        self._content = None
        try:
            prune(self.folder, self.keep)
            if self.keep or self._failed or replaces:  # else a numbered file, which stays, names each folder
                shards.remove_unused(self.folder, self.folder / OVERWRITTEN, self._owed.values())
        except OSError as error:
            logger.warning(
                "an old checkpoint in %s could not be deleted: %s", self.folder, error.strerror or error
            )

    def _write_content(self, content: dict[str, Any]) -> None:
        """Write the numbered file and give it its other names; what fails is owed under these."""
        path = self.folder / self.numbered
        try:
            self._require_space(content)
            unlisted = self._list()
            save_checkpoint(content, path, before_commit=lambda: point_to(path))
        except OSError as error:
            self._fail([self.numbered, *self._names], error, content)
            self._owed |= dict.fromkeys(self._names, content)
            return
        if unlisted is not None:  # else what is said of the file is enough
            logger.warning(
                "%s could not be written: %s; %s will not be deleted",
                *(self.folder / MANIFEST, unlisted.strerror or unlisted, self.numbered),
            )
        delete_overwritten(self.folder)
        for name in self._names:
            try:
                files.add_name(path, self.folder / name)
            except OSError as error:
                self._fail([name], error, content)
                self._owed[name] = content

    def _require_space(self, content: Mapping[str, Any]) -> None:
        """Raise OSError where a file has no space; what it replaces takes its own until it is complete."""
        if files.free_bytes(self.folder) < content_bytes(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _fail(self, names: Iterable[str], error: OSError, content: Any = None) -> None:
        # The error's frames would hold the content in memory.
        self._failed |= dict.fromkeys(names, error.with_traceback(None))
        self._needed += content_bytes(content)

    def _list(self) -> OSError | None:
        """List the numbered file as this run's; return what kept us from it, which costs only its deletion."""
        try:
            add_to_manifest(self.folder, self.numbered)
        except OSError as error:
            return error
        return None

    def _is_full(self) -> bool:
        return any(error.errno in (errno.ENOSPC, errno.EDQUOT) for error in self._failed.values())

    def _sentence(self) -> str:
        names = ", ".join(str(self.folder / name) for name in self._failed)
        error = next(iter(self._failed.values()))
        text = f"{names} could not be saved: {error.strerror or error}"
        if self._is_full() and self._needed:
            text += f"; {self._needed:,} bytes are needed, {_free(self.folder)} are free"
        newest = newest_name(self.folder)
        return text + (f"; the newest is {newest}" if newest else "")


def _free(folder: Path) -> str:
    try:
        return f"{files.free_bytes(folder):,}"
    except OSError:
        return "an unknown number"


def finish_saves() -> None:
    """Wait until nothing that this process saves is under way, also where an exception ended a run."""
    for thread in threading.enumerate():
        if isinstance(thread, Save):
            thread.join()


def checkpoint_bytes(trainer: Trainer) -> int:
    """Return about how large a trainer's checkpoints get, before it has done an update."""
    weights = content_bytes(trainer.model.state_dict())
    moments = content_bytes(trainer.optimizer.state_dict()["state"])
    if not moments:  # they come with the first update: two, as Adam's, or one
        trained = [p for group in trainer.optimizer.param_groups for p in group["params"] if p.requires_grad]
        moments = content_bytes(trained) * (2 if "betas" in trainer.optimizer.defaults else 1)
    return weights * (1 if trainer.ema is None else 2) + moments


def require_space(folder: Path, needed: int, label: str = "OUTPUT_DIR") -> None:
    """Raise ConfigError where `folder` has no space for `needed` bytes."""
    free = files.free_bytes(folder)
    if free < needed:
        raise ConfigError(
            f"{label}: two checkpoints need {needed:,} bytes, and where {folder} lies {free:,} are free; "
            "make space, or name a folder on another drive"
        )
