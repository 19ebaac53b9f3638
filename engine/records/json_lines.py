"""Records as lines of metrics.json."""

from __future__ import annotations

import json
import math
from pathlib import Path

from warmstart.config import no_follow

from ..runtime import files, lock
from .writers import Record, _append


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
