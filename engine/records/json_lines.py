"""The JSON writer: records as lines of metrics.json."""

from __future__ import annotations

import json
import math
from pathlib import Path

from warmstart.config import no_follow

from ..runtime import files, lock
from .writers import Record, _append


class JSONWriter:
    """One JSON object per line, one line per record.

    When the file is opened at iteration k, lines after k, which a resumed run will write again, move to
    `<name>.cut`. So does a line that a kill has truncated.

    Args:
        path: the file; it is created with the first record, and its folder when it is opened.
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
            # Opened for writing too, so that a read-only file fails here.
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
        complete = "".join(kept)
        if complete != text:  # also if only the newline of the last line is missing
            files.write_atomically(self.path, lambda file: file.write(complete.encode()))

    def write(self, *records: Record) -> None:
        """Append a line for each record; a non-finite number becomes null, because JSON has no NaN or infinity."""
        plain = [{k: v if math.isfinite(v) else None for k, v in record.items()} for record in records]
        _append(self.path, "".join(f"{json.dumps(each, allow_nan=False)}\n" for each in plain).encode())

    def close(self) -> None:
        """Do nothing: the file is not kept open between records."""

    @staticmethod
    def _iteration(line: str) -> float:
        try:
            return float(json.loads(line)["iteration"])
        except (ValueError, KeyError, TypeError):
            return math.inf
