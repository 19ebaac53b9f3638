"""Where records go: the console, metrics.json, TensorBoard.

A record is a dict of numbers: `iteration` (updates done), `total_loss`, each loss and each metric of
training (`train/error`, and `grad_norm` where gradients are clipped) averaged since the record before, `lr` as
used by the last update, `data_time` and `time` in seconds an iteration, and the scores of an evaluation where
one was done at that iteration.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import re
import socket
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from warmstart.config import no_follow

from . import files, lock

logger = logging.getLogger(__name__)

Record = dict[str, float]

_EVENTS = "events.out.tfevents."
_STAMPED = re.compile(rf"{re.escape(_EVENTS)}(\d+)(?:\.(\d{{6}}))?\.")
NO_TEST_SETS = ("lr", "train", "memory")  # what stands before the slash in names that are no scores


class Writer(Protocol):
    """Anything that takes records; `str` of it is what messages call it."""

    def open(self, iteration: int) -> None:
        """Get ready for the records of iterations after `iteration`; older ones stay, newer ones go.

        After an OSError in `write` it is called again, with the iteration of the last record that was taken.
        """

    def write(self, *records: Record) -> None:
        """Take records, one or more, in their order; an iteration comes once.

        Raises:
            OSError: they could not be written, or not all.
        """

    def close(self) -> None:
        """Finish; nothing is written after it."""


@runtime_checkable
class PictureWriter(Protocol):
    """A writer that takes pictures too."""

    def write_picture(self, name: str, path: Path, iteration: int) -> None:
        """Take the picture in a PNG file."""


class RetryingWriter:
    """Keeps what another writer cannot take, the disk being full, and gives it that later, each record once.

    Args:
        writer: one whose `write` raises an OSError where a record could not be written.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._taken = 0  # the iteration of the last record that it took whole
        self._owed: list[Record] = []

    def open(self, iteration: int) -> None:
        """Open the writer.

        Raises:
            OSError: that failed.
        """
        self.writer.open(iteration)
        self._taken, self._owed = iteration, []

    def write(self, *records: Record) -> None:
        """Give the writer records and what it has not taken before; log the first failure of a streak."""
        failing = bool(self._owed)
        self._owed += records
        try:
            self._deliver(anew=failing)
        except OSError as error:
            if not failing:
                text = "%s could not be written: %s; training goes on, and its records wait until it can be"
                logger.warning(text, self.writer, error.strerror or error)
        else:
            if failing:
                logger.info("%s is written again, with the records that waited", self.writer)

    def settle(self) -> None:
        """Try for the last time; log which records the writer lacks."""
        try:
            if self._owed:
                self._deliver(anew=True)
        except OSError as error:
            first, last = (int(self._owed[i]["iteration"]) for i in (0, -1))
            text = "%s could not be written: %s; it lacks the records of iterations %d to %d"
            logger.warning(text, self.writer, error.strerror or error, first, last)
            self._owed = []

    def close(self) -> None:
        """Try for the last time, and close the writer, whether it works or not."""
        self.settle()
        with contextlib.suppress(OSError):
            self.writer.close()

    def _deliver(self, anew: bool) -> None:
        if anew:
            self.writer.open(self._taken)  # part of the next one may be there
        while self._owed:
            count = 1 if anew else len(self._owed)  # there may be space for some of them
            self.writer.write(*self._owed[:count])
            self._taken = int(self._owed[count - 1]["iteration"])
            del self._owed[:count]


class JSONWriter:
    """One JSON object a line, one line an iteration.

    Opened at iteration k, lines after k, which a resumed run will write again, move to
    `<name>.cut`. A line torn by a kill goes the same way.

    Args:
        path: the file, created with its first record, like the folder it is in.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def open(self, iteration: int) -> None:
        """Keep the lines up to `iteration`."""
        lock.check(self.path.parent)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # To be written too, so that it fails where the file is read-only.
            with open(self.path, "r+", encoding="utf-8", errors="replace", opener=no_follow) as file:
                text = file.read()
        except FileNotFoundError:
            return
        kept: list[str] = []
        cut: list[str] = []
        for line in text.splitlines():
            (kept if self._iteration(line) <= iteration else cut).append(f"{line}\n")
        if cut:
            with open(f"{self.path}.cut", "a", encoding="utf-8", opener=no_follow) as aside:
                aside.writelines(cut)
        whole = "".join(kept)  # also where only the end of the last line was torn off
        if whole != text:
            files.write_atomically(self.path, lambda file: file.write(whole.encode()))

    def write(self, *records: Record) -> None:
        """Append a line each; a non-finite number becomes null, since JSON has none."""
        plain = [{k: v if math.isfinite(v) else None for k, v in record.items()} for record in records]
        _append(self.path, "".join(f"{json.dumps(each, allow_nan=False)}\n" for each in plain).encode())

    def close(self) -> None:
        """Nothing is held open between records."""

    @staticmethod
    def _iteration(line: str) -> float:
        try:
            return float(json.loads(line)["iteration"])
        except (ValueError, KeyError, TypeError):
            return math.inf


class TensorBoardWriter:
    """Every number of a record as a scalar at its iteration.

    An event file begins with what is first written into it: TensorBoard is imported then, which takes a while.
    torch's SummaryWriter would write in a thread, which ends with a traceback where the disk is full.

    Args:
        folder: where the event files go.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._path = self.folder
        self._first_step = 0  # of a file that is still to be begun; 0 where it has been

    def __str__(self) -> str:
        return f"TensorBoard's event file in {self.folder}"

    def open(self, iteration: int) -> None:
        """Get ready to begin an event file that replaces what older files say after `iteration`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / f"{_EVENTS}{_stamp(self.folder)}.{socket.gethostname()}.{os.getpid()}"
        self._first_step = iteration + 1

    def write(self, *records: Record) -> None:
        """Write the scalars, at once, so that a kill loses nothing."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        events = []
        for record in records:
            scalars = [Summary.Value(tag=k, simple_value=v) for k, v in record.items() if k != "iteration"]
            events.append({"summary": Summary(value=scalars), "step": int(record["iteration"])})
        self._write(*events)

    def write_picture(self, name: str, path: Path, iteration: int) -> None:
        """Write the picture in a PNG file under `name`."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(path) as image:
            width, height = image.size
            channels = len(image.getbands())
        content = path.read_bytes()
        picture = Summary.Image(width=width, height=height, colorspace=channels, encoded_image_string=content)
        self._write({"summary": Summary(value=[Summary.Value(tag=name, image=picture)]), "step": iteration})

    def close(self) -> None:
        """Nothing is held open between records."""

    def _write(self, *events: dict[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._first_step:
            start = SessionLog(status=SessionLog.START)
            events = ({"file_version": "brain.Event:2"}, {"session_log": start, "step": self._first_step}, *events)
        content = io.BytesIO()
        for event in events:
            RecordWriter(content).write(Event(wall_time=time.time(), **event).SerializeToString())
        _append(self._path, content.getvalue())
        self._first_step = 0


def _stamp(folder: Path) -> str:
    """Return the time for the name of a new event file, behind those of all that are there.

    TensorBoard reads a folder's files in the order of their names, and a clock may have been set back.
    """
    micros = time.time_ns() // 1000
    stamp = f"{micros // 10**6:010}.{micros % 10**6:06}"
    # As text, as TensorBoard compares them. Other writers give whole seconds, and letters sort behind digits.
    found = map(_STAMPED.match, (path.name for path in folder.glob(f"{_EVENTS}*")))
    latest = max((".".join(each.groups("999999")) for each in found if each), default="")
    if stamp > latest:
        return stamp
    seconds, fraction = latest.split(".")
    micros = int(seconds + fraction) + 1
    return f"{micros // 10**6:0{len(seconds)}}.{micros % 10**6:06}"


def _append(path: Path, data: bytes) -> None:
    """Append all of it or, where the disk is full, nothing: a part would be in the way of what comes later."""
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


class ConsoleWriter:
    """One readable line a record, through `logging`; a progress bar only on a terminal.

    Args:
        max_iter: the run's length, for the time that is left.
        device: where training runs, and so whose memory is shown.
        bar: whether to show the bar; default: if stderr is a terminal.
    """

    def __init__(self, max_iter: int, device: torch.device | str = "cpu", bar: bool | None = None) -> None:
        self.max_iter = max_iter
        self.device = torch.device(device)
        self._wants_bar = sys.stderr.isatty() if bar is None else bar
        self._bar: Any = None
        self._started = 0.0

    def __str__(self) -> str:
        return "the console"

    def open(self, iteration: int) -> None:
        """Start the clock, and the bar where there is one."""
        self._started = time.perf_counter()
        if self._wants_bar:
            from tqdm import tqdm

            self._bar = tqdm(total=self.max_iter, initial=iteration, unit="it", leave=False, dynamic_ncols=True)

    def write(self, *records: Record) -> None:
        """Log the training line of each, and one for each test set that was evaluated."""
        for record in records:
            iteration = int(record["iteration"])
            if self._bar is not None:
                self._bar.update(iteration - self._bar.n)
            logger.info(self.line(record))
            for name, scores in score_lines(record).items():
                logger.info("%s after %s iterations: %s", name, f"{iteration:,}", scores)

    def line(self, record: Record) -> str:
        """Return the text of one record.

        >>> writer = ConsoleWriter(max_iter=200)
        >>> writer.line({"iteration": 20, "total_loss": 1.25, "loss_cls": 1.25, "lr": 0.05, "data_time": 0.0002,
        ...              "time": 0.01})  # doctest: +ELLIPSIS
        'iter  20/200  eta 0:00:01  loss 1.25       lr 0.05       10.0 ms/it (data 0.2)  mem ...
        """
        iteration = int(record["iteration"])
        width = len(str(self.max_iter))
        seconds = int((self.max_iter - iteration) * record["time"])
        left = timedelta(seconds=min(seconds, 10**13))  # it holds not much more
        losses = [
            (k, v)
            for k, v in record.items()
            if k.startswith("loss") and "/" not in k and v != record["total_loss"]
        ]
        rates = {f"{v:.4g}": None for k, v in record.items() if k == "lr" or k.startswith("lr/")}
        parts = [
            f"iter {iteration:>{width}}/{self.max_iter}",
            f"eta {left}",
            f"loss {record['total_loss']:<9.4g}",
            *(f"{name.removeprefix('loss_')} {value:<9.4g}" for name, value in losses),
            f"lr {' '.join(rates):<9}",
            f"{record['time'] * 1e3:.1f} ms/it (data {record['data_time'] * 1e3:.1f})",
        ]
        memory = memory_mb(self.device)
        if memory:
            parts.append(f"mem {memory:.0f} MB")
        return "  ".join(parts)

    def close(self) -> None:
        """Remove the bar and say how long it took."""
        if self._bar is not None:
            self._bar.close()
        seconds = time.perf_counter() - self._started
        logger.info("trained for %s (h:mm:ss)", timedelta(seconds=round(seconds)))


def memory_stats(device: torch.device) -> dict[str, float]:
    """Return the peak memory so far in MiB: of the host's, and on CUDA that of tensors and that kept by torch."""
    stats = {"memory/host_mb": memory_mb(torch.device("cpu"))}
    if device.type == "cuda":
        stats["memory/allocated_mb"] = memory_mb(device)
        stats["memory/reserved_mb"] = torch.cuda.max_memory_reserved(device) / 2**20
    return {name: value for name, value in stats.items() if value}


def memory_mb(device: torch.device) -> float:
    """Return the peak memory in MiB: on the GPU where `device` is one, else of the host; 0 on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows has none
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def score_lines(record: Mapping[str, float]) -> dict[str, str]:
    """Return the scores in a record as one line a test set.

    >>> score_lines({"iteration": 7, "train/error": 0.1, "digits_test/accuracy": 0.975, "digits_test/loss": 0.1})
    {'digits_test': 'accuracy 97.50%, loss 0.1'}
    """
    found: dict[str, list[str]] = {}
    for key, value in record.items():
        name, slash, score = key.rpartition("/")
        if slash and name not in NO_TEST_SETS:
            text = f"{value:.2%}" if score in ("accuracy", "top5") else f"{value:.4g}"
            found.setdefault(name, []).append(f"{score} {text}")
    return {name: ", ".join(scores) for name, scores in found.items()}
