"""The hook that holds the folder of a run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ..checkpoint.run_folder import RunFolder
from ..checkpoint.saver import finish_saves
from ..distributed import comm
from ..loop.hook import HookBase
from ..loop.trainer import Trainer


class FolderHook(HookBase):
    """Makes the run's folder, and refuses one of another run, before anything is written into it.

    No other process can write a run there until this run has ended or, after an exception, the process has. Of
    several ranks only the main one writes.

    Args:
        folder: OUTPUT_DIR.
        subfolders: the names of those in it that the run needs.
    """

    def __init__(self, folder: str | Path, subfolders: Sequence[str] = ()) -> None:
        self.folder = RunFolder(folder, subfolders=subfolders)
        self._lock = ExitStack()

    def before_train(self, trainer: Trainer) -> None:
        """Make the folder, and delete what a kill has left of a save.

        Raises:
            ConfigError: the run is new, and the folder holds the checkpoints of another; it would overwrite a file
                that no run has written; or another process is writing it.
        """
        if not comm.is_main():
            return
        with ExitStack() as lock:
            lock.enter_context(self.folder.hold())
            if trainer.iteration == 0:
                self.folder.refuse_used()
            finish_saves()  # of an earlier run in this process, which an exception has ended
            self.folder.refuse_foreign()
            self.folder.remove_leftovers()
            self.folder.claim()
            self._lock = lock.pop_all()

    def after_train(self, trainer: Trainer) -> None:
        """Release the folder."""
        self._lock.close()
