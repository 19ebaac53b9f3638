"""The TensorBoard writer: records as scalars, and pictures."""

from __future__ import annotations

import io
import os
import socket
import time
from pathlib import Path
from typing import Any

from .writers import _EVENTS, Record, _append, _stamp


class TensorBoardWriter:
    """Every number of a record as a scalar at its iteration.

    An event file is created at the first write, when TensorBoard is imported, which takes a while. torch's
    SummaryWriter writes in a thread, which ends with a traceback when the disk is full.

    Args:
        folder: the folder of the event files.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._path = self.folder
        self._first_step = 0  # of an event file that does not exist yet; 0 once it does

    def __str__(self) -> str:
        return f"TensorBoard's event file in {self.folder}"

    def open(self, iteration: int) -> None:
        """Prepare a new event file that replaces what older files hold after `iteration`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / f"{_EVENTS}{_stamp(self.folder)}.{socket.gethostname()}.{os.getpid()}"
        self._first_step = iteration + 1

    def write(self, *records: Record) -> None:
        """Write the scalars, unbuffered, so that a kill loses nothing."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        events = []
        for record in records:
            scalars = [Summary.Value(tag=k, simple_value=v) for k, v in record.items() if k != "iteration"]
            events.append({"summary": Summary(value=scalars), "step": int(record["iteration"])})
        self._write(*events)

    def write_picture(self, name: str, path: Path, iteration: int) -> None:
        """Write the picture of a PNG file under `name`."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(path) as image:
            width, height = image.size
            channels = len(image.getbands())
        content = path.read_bytes()
        picture = Summary.Image(width=width, height=height, colorspace=channels, encoded_image_string=content)
        self._write({"summary": Summary(value=[Summary.Value(tag=name, image=picture)]), "step": iteration})

    def close(self) -> None:
        """Do nothing: the file is not kept open between records."""

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
