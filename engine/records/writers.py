"""The interface of writers of records, such as the console, metrics.json and TensorBoard.

A record is a dict of numbers: `iteration` (completed updates); `total_loss`, each loss and each training metric
(named `train/...`; and `grad_norm` if gradients are clipped), averaged since the previous record; `lr`, the
learning rate of the last update; `data_time` and `time` in seconds per iteration; and the scores of an evaluation
at that iteration.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from pathlib import Path
from typing import Protocol, runtime_checkable

from warmstart.config import no_follow

from ..runtime import lock

logger = logging.getLogger(__name__)

Record = dict[str, float]

_EVENTS = "events.out.tfevents."
_STAMPED = re.compile(rf"{re.escape(_EVENTS)}(\d+)(?:\.(\d{{6}}))?\.")


class Writer(Protocol):
    """An object that takes records; messages name it by its `str`."""

    def open(self, iteration: int) -> None:
        """Prepare for the records after `iteration`; keep older records and remove later ones.

        After an OSError in `write` it is called again, with the iteration of the last record that was written.
        """

    def write(self, *records: Record) -> None:
        """Write one or more records, in order of their iterations, each of which comes once.

        Raises:
            OSError: not all of them could be written.
        """

    def close(self) -> None:
        """Finish; nothing is written afterwards."""


@runtime_checkable
class PictureWriter(Protocol):
    """A writer that also takes pictures."""

    def write_picture(self, name: str, path: Path, iteration: int) -> None:
        """Write the picture of a PNG file under `name`."""


class RetryingWriter:
    """Keeps the records that another writer cannot write, as on a full disk, and retries later, each record once.

    Args:
        writer: its `write` raises an OSError if a record could not be written.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._taken = 0  # the iteration of the last record that it has written completely
        self._owed: list[Record] = []

    def open(self, iteration: int) -> None:
        """Open the writer.

        Raises:
            OSError: the writer's `open` has raised it.
        """
        self.writer.open(iteration)
        self._taken, self._owed = iteration, []

    def write(self, *records: Record) -> None:
        """Write the records that are kept, and then these; log the first failure of a streak."""
        failing = bool(self._owed)
        self._owed += records
        try:
            self._deliver(again=failing)
        except OSError as error:
            if not failing:
                text = "%s could not be written: %s; training continues, and its records are kept until it can be"
                logger.warning(text, self.writer, error.strerror or error)
        else:
            if failing:
                logger.info("%s is written again, with the records that were kept", self.writer)

    def flush(self) -> None:
        """Try for the last time; log the iterations of the records that are lost."""
        try:
            if self._owed:
                self._deliver(again=True)
        except OSError as error:
            first, last = (int(self._owed[i]["iteration"]) for i in (0, -1))
            text = "%s could not be written: %s; it lacks the records of iterations %d to %d"
            logger.warning(text, self.writer, error.strerror or error, first, last)
            self._owed = []

    def close(self) -> None:
        """Try for the last time, and close the writer in any case."""
        self.flush()
        with contextlib.suppress(OSError):
            self.writer.close()

    def _deliver(self, again: bool) -> None:
        if again:
            self.writer.open(self._taken)  # the file may end with part of the next record
        while self._owed:
            count = 1 if again else len(self._owed)  # there may be space for some of them
            self.writer.write(*self._owed[:count])
            self._taken = int(self._owed[count - 1]["iteration"])
            del self._owed[:count]


def _stamp(folder: Path) -> str:
    """Return the time stamp for the name of a new event file, later than that in any existing name.

    TensorBoard reads a folder's files in the order of their names, and the clock may have been set back.
    """
    micros = time.time_ns() // 1000
    stamp = f"{micros // 10**6:010}.{micros % 10**6:06}"
    # Compared as text, as TensorBoard does. Other writers use whole seconds, and letters sort after digits.
    found = map(_STAMPED.match, (path.name for path in folder.glob(f"{_EVENTS}*")))
    latest = max((".".join(each.groups("999999")) for each in found if each), default="")
    if stamp > latest:
        return stamp
    seconds, fraction = latest.split(".")
    micros = int(seconds + fraction) + 1
    return f"{micros // 10**6:0{len(seconds)}}.{micros % 10**6:06}"


def _append(path: Path, data: bytes) -> None:
    """Append all of the data or, if the disk is full, none: later records could not follow an incomplete one."""
    lock.check(path.parent)
    with open(path, "ab", buffering=0, opener=no_follow) as file:
        end = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
                if end == 0:
                    path.unlink()
            raise
