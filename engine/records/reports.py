"""The folder `report` of a run: what evaluations tell beyond their scores, as JSON, CSV and PNG."""

from __future__ import annotations

import csv
import errno
import io
import json
import logging
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from warmstart.config import disk
from warmstart.data import MapDataset, sample_image, sample_name
from warmstart.solver import picture_bytes
from warmstart.tasks import Task

from ..runtime import files, lock
from ..runtime.owned import own, owned

logger = logging.getLogger(__name__)

REPORT = "report"  # the folder's name
MAIN = "report.json"
_FILE = re.compile(r"[a-z_]+\.(json|csv|png)")
_THUMBNAIL = 256  # pixels of the longer side of an image in a picture of many
_PICTURE = 512  # and in a picture of an evaluation


class ReportFolder:
    """Writes the reports of test sets: `report/NAME/`, and `report/NAME/ema/` for the moving average.

    Each has `report.json`, a .csv file for each table and a .png file for each picture. Files are replaced
    atomically and listed as the run's own; a file that no run has written is never replaced.

    Args:
        folder: OUTPUT_DIR.
        task: makes and draws the reports.
        datasets: the samples of the test sets, before all transforms, by name.
    """

    def __init__(self, folder: str | Path, task: Task, datasets: Mapping[str, MapDataset]) -> None:
        self.folder = Path(folder)
        self.path = self.folder / REPORT
        self._task = task
        self._datasets = datasets

    def place(self, name: str) -> Path:
        """Return the folder of a report.

        Args:
            name: of the test set, followed by "/ema" for the moving average; characters that file systems treat
                specially are written as %XX.

        >>> ReportFolder("out", None, {}).place("a:b/ema").as_posix()
        'out/report/a%3Ab/ema'
        """
        test, _, average = name.partition("/")
        escaped = re.sub(r"^\.|[^\w .-]", lambda found: "".join(f"%{b:02X}" for b in found[0].encode()), test)
        return self.path / escaped / average

    def write(
        self, name: str, facts: Mapping[str, Any], scores: Mapping[str, float], values: Mapping[str, Any]
    ) -> None:
        """Write report.json, the tables and the task's further files, and delete pictures of an earlier report.

        Args:
            name: as `place` takes it.
            facts: what was evaluated, such as the iteration.
            scores: by their names without the test set.
            values: what the task keeps of all samples; {} if it keeps nothing.

        Raises:
            OSError: a file cannot be written, or the user has one of its name.
        """
        test, place = name.partition("/")[0], self.place(name)
        dataset = self._datasets[test]
        report = self._task.report(values, lambda index: sample_name(dataset, index)) if values else None
        content = {
            "test_set": test,
            "weights": "ema" if name != test else "model",
            **facts,
            "samples": len(values["index"]) if values else len(dataset),
            "scores": dict(scores),
            **(report.content if report else {}),
        }
        texts = {f"{table}.csv": _csv_text(rows) for table, rows in (report.tables if report else {}).items()}
        for file, entries in (self._task.report_files(values, dataset) if values else {}).items():
            texts[f"{file}.json"] = json.dumps(entries, ensure_ascii=False)
        for old in report_files(self.folder):
            if old.parent == place and old.name != MAIN and old.name not in texts:
                self._require_own(old)
                disk.unlink(old)
        texts[MAIN] = json_text(content)
        self._write({place / file: text.encode("utf-8", "backslashreplace") for file, text in texts.items()})

    def draw(self, name: str) -> list[Path]:
        """Draw the pictures of the report on the disk, and return their paths; [] without a report.

        Raises:
            OSError: a file cannot be written, or the user has one of its name.
        """
        place = self.place(name)
        try:
            content = json.loads((place / MAIN).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except ValueError as error:
            logger.warning("%s cannot be drawn: %s", place / MAIN, error)
            return []
        try:
            pictures = draw_pictures(self._task, content, self._datasets[name.partition("/")[0]])
        except ImportError as error:
            logger.warning("no pictures in %s: %s; pip install matplotlib", place, error)
            return []
        except (LookupError, TypeError, ValueError, AttributeError) as error:  # of another version, or changed
            logger.warning("%s cannot be drawn: %s: %s", place / MAIN, type(error).__name__, error)
            return []
        drawn = {place / f"{picture}.png": data for picture, data in pictures.items()}
        self._write(drawn)
        return [*drawn]

    def draw_evaluation(self, name: str, values: Mapping[str, Any]) -> list[Path]:
        """Write the task's pictures of an evaluation, in place of the last one's, and return their paths.

        Args:
            name: as `place` takes it.
            values: what the evaluator has kept of all samples.

        Raises:
            OSError: a file cannot be written, or the user has one of its name.
        """
        image_of = _images_of(self._datasets[name.partition("/")[0]], _PICTURE)
        pictures = self._task.evaluation_pictures(values, image_of)
        drawn = {self.place(name) / f"{picture}.png": _png(pixels) for picture, pixels in pictures.items()}
        if drawn:
            self._write(drawn)
        return [*drawn]

    def names(self) -> list[str]:
        """Return the names that reports of this run can have."""
        return [name for test in self._datasets for name in (test, f"{test}/ema")]

    def iteration(self, name: str, file: str) -> int | None:
        """Return the iteration of the report on the disk; None if there is none of a checkpoint called `file`."""
        try:
            content = json.loads((self.place(name) / MAIN).read_text(encoding="utf-8"))
            found, path = content["iteration"], Path(content["file"])
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return found if type(found) is int and path.name == file else None

    def remove(self, name: str) -> None:
        """Delete the files of a report that runs have written."""
        listed = owned(self.folder)
        for path in report_files(self.folder):
            if path.parent == self.place(name) and path.relative_to(self.folder).as_posix() in listed:
                disk.unlink(path)

    def _write(self, contents: Mapping[Path, bytes]) -> None:
        """Write the files of one report."""
        lock.check(self.folder)
        for path in contents:
            self._require_own(path)
        own(self.folder, *(path.relative_to(self.folder).as_posix() for path in contents))
        for path, data in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomically(path, partial(_fill, data))

    def _require_own(self, path: Path) -> None:
        for folder in path.parents:
            if folder == self.folder:
                break
            if folder.is_symlink():
                raise OSError(errno.EEXIST, "it is a symbolic link", str(folder))
        if path.exists() and path.relative_to(self.folder).as_posix() not in owned(self.folder):
            raise OSError(errno.EEXIST, "it was not written by a run", str(path))


def report_files(folder: Path) -> list[Path]:
    """Return the files in `report` of a run's folder that have the names of a report's files.

    Args:
        folder: OUTPUT_DIR.
    """
    if (folder / REPORT).is_symlink():
        return []
    found = [*folder.glob(f"{REPORT}/*/*"), *folder.glob(f"{REPORT}/*/ema/*")]
    links = {path for path in folder.glob(f"{REPORT}/**/") if path.is_symlink()}
    return sorted(
        path
        for path in found
        if _FILE.fullmatch(path.name)
        and path.is_file()
        and not path.is_symlink()
        and not links.intersection(path.parents)
    )


def foreign_report_file(folder: Path) -> Path | None:
    """Return a file in `report` that a report would replace and that no run has written; None if there is none."""
    listed = owned(folder)
    return next((path for path in report_files(folder) if path.relative_to(folder).as_posix() not in listed), None)


def scores_of(record: Mapping[str, float], name: str) -> dict[str, float]:
    """Return the scores of one report in a record, by their names without the test set.

    >>> record = {"lr": 0.1, "val/loss": 1.5, "val/loss/cat": 1.75, "val/ema/loss": 1.25}
    >>> scores_of(record, "val"), scores_of(record, "val/ema")
    ({'loss': 1.5, 'loss/cat': 1.75}, {'loss': 1.25})
    """
    own = {key[len(name) + 1 :]: value for key, value in record.items() if key.startswith(f"{name}/")}
    return {key: value for key, value in own.items() if not key.startswith("ema/")}


def draw_pictures(task: Task, content: Mapping[str, Any], dataset: MapDataset) -> dict[str, bytes]:
    """Return the pictures of a report as PNG files by name."""
    found, image_of = {}, _images_of(dataset, _THUMBNAIL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a name in another script
        for name, figure in task.report_pictures(content, image_of).items():
            found[name] = picture_bytes(figure)
    return found


def _images_of(dataset: MapDataset, longest: int) -> Callable[[int], Tensor | None]:
    """Return what reads images of a data set, made smaller so that no side is longer than `longest` pixels."""
    from torchvision.transforms.v2 import functional  # slow to import

    def image_of(index: int) -> Tensor | None:
        image = sample_image(dataset, index)
        side = 0 if image is None else max(image.shape[1:])
        if image is None or side <= longest:
            return image
        size = [max(1, each * longest // side) for each in image.shape[1:]]
        smaller: Tensor = functional.resize(image, size, antialias=True)
        return smaller

    return image_of


def _png(pixels: Tensor) -> bytes:
    from torchvision.transforms.v2 import functional

    data = io.BytesIO()
    functional.to_pil_image(pixels.cpu()).save(data, "PNG")
    return data.getvalue()


def _fill(data: bytes, file: Any) -> None:
    file.write(data)


def _csv_text(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def json_text(content: Mapping[str, Any]) -> str:
    """Return a dict as JSON with one line for each entry, and for each element of a list of lists or dicts.

    >>> print(json_text({"iteration": 3, "confusion": [[1, 0], [0, 2]], "loss": math.nan}))
    {
    "iteration": 3,
    "confusion": [
    [1, 0],
    [0, 2]],
    "loss": null
    }
    <BLANKLINE>
    """
    entries = []
    for key, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], (list, dict)):
            inner = ",\n".join(map(_line, value))
            entries.append(f"{json.dumps(key)}: [\n{inner}]")
        else:
            entries.append(f"{json.dumps(key)}: {_line(value)}")
    body = ",\n".join(entries)
    return f"{{\n{body}\n}}\n"


def _line(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    """Return a value with null for each number that is not finite, because JSON has no NaN or infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value
