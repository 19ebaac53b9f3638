"""Images and labels listed in a csv file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from warmstart.config import did_you_mean, open_regular

from .image_files import ImageFiles, shown
from .listed_files import checked_classes, require_files
from .targets import checked_targets

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_MOST_CLASSES = 10**6  # that integers may number
_GAPS = ("nan", "null", "none", "na", "n/a", "-", "?")  # as programs write that a value is missing
_TRUTH = {"true": "1", "false": "0"}  # as pandas and spreadsheets write booleans


class _Table(NamedTuple):
    """Rows of a csv file; `lines` are their line numbers, from 1."""

    path: str
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]

    def column(self, name: Any, option: str) -> list[str]:
        """Return the cells of a column, without spaces around them; `option` named it.

        Raises:
            ValueError: there is no such column, or two.
        """
        if not isinstance(name, str) or not name:
            given = "give" if name in ("", None, []) else f"{option} is {name!r}; give"
            raise ValueError(f"{given} {option}: COLUMN; the columns are {shown(self.columns, 20)}")
        if self.columns.count(name) != 1:
            problem = "has no column" if name not in self.columns else "has more than one column"
            hint = did_you_mean(name, {*self.columns} - {name}, otherwise=";")
            raise ValueError(
                f"{option}: the file {problem} {name!r}{hint} its columns are {shown(self.columns, 20)}"
            )
        place = self.columns.index(name)
        return [row[place].strip() for row in self.rows]

    def at(self, row: int) -> str:
        return f"line {self.lines[row]}"


def build_csv(
    path: str,
    download: bool,
    images: str = "",
    file: str = "",
    label: str | Sequence[str] = "",
    ending: str = "",
    classes: Sequence[str] = (),
) -> ImageFiles:
    """Build from a csv file with a row for each image.

    A column of whole numbers from 0 holds class indices; a column of other numbers (negative, or with a decimal
    point) holds numbers; any other column holds the names of classes, which are sorted. With `classes` each label
    is one of these names, whatever it looks like. Several columns are a target of as many numbers.

    Args:
        path: the file: UTF-8, with a header; separated by commas, semicolons or tabs.
        download: not used.
        images: the folder that file names are relative to; "": the folder of the csv file.
        file: the column of the files' names.
        label: the column of the labels, or a list of columns of numbers.
        ending: what is added to each file name, such as ".jpg".
        classes: names of the classes in the order of their indices; (): found in the column.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: columns, labels or files are missing, or the file is not a csv file of this kind.
    """
    table = _read(path, [name for name in (file, label) if isinstance(name, str)])
    names = [f"{name}{ending}" if name else "" for name in table.column(file, "file")]
    _require_cells(table, names, file, "file")
    root = Path(images or Path(path).parent).expanduser()
    several = [label] if isinstance(label, str) or not isinstance(label, Sequence) else [*label]
    cells = [table.column(each, "label") for each in several or [""]]
    for each, column in zip(several, cells, strict=True):
        _require_cells(table, column, each, "label")
    _require_once(table, names, cells)
    if isinstance(label, str):
        targets, found, count = _labels(table, label, cells[0], classes)
    else:
        if classes:
            raise ValueError("classes: several columns of labels have their own names; leave it out")
        targets, found, count = _numbers(table, several, cells), tuple(several), 0
    require_files(root, names, path, images, "these rows", ending=True)
    return ImageFiles(root, [os.path.join(root, name) for name in names], targets, found, count)


def _read(path: str, wanted: Sequence[str]) -> _Table:
    """Return the rows of a csv file.

    Args:
        path: the file.
        wanted: names of columns, which tell the separator if the header has several kinds.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        found = sorted(name for name in os.listdir(place) if name.lower().endswith((".csv", ".tsv")))
        hint = f", such as {os.path.join(path, found[0])}" if found else ""
        raise ValueError(f"it is a folder; name the csv file{hint}")
    with open_regular(place) as file:
        content = file.read()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or content[:4] == b"PK\x03\x04":
        what = "a spreadsheet" if content[:1] == b"P" else "UTF-16"
        raise ValueError(f"it is {what}, not a UTF-8 csv file; save it as CSV UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8 text; save the file as CSV UTF-8") from None
    header, _, _ = text.lstrip("\r\n").partition("\n")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(header, wanted), strict=True)
    columns: list[str] = []
    rows, lines = [], []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if not columns:
                columns = [cell.strip() for cell in row]
                continue
            if len(row) != len(columns):
                raise ValueError(f"line {reader.line_num} has {len(row)} cells, the header has {len(columns)}")
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    if not rows:
        raise ValueError("it has no rows below a header")
    return _Table(path, columns, rows, lines)


def _separator(header: str, wanted: Sequence[str]) -> str:
    """Return the separator of a header: the one that separates the wanted columns, or the only one in it.

    >>> _separator("name;class, by eye", ["name"]), _separator("name", ["name"])
    (';', ',')
    """
    candidates = [each for each in _SEPARATORS if each in header]
    if len(candidates) > 1:
        having = [
            each for each in candidates if {*wanted} <= {cell.strip(' "\r') for cell in header.split(each)} | {""}
        ]
        if len(having) != 1:
            kinds = " and ".join(_SEPARATORS[each] for each in candidates)
            raise ValueError(f"its header has {kinds}, so that its columns are not clear; use commas alone")
        return having[0]
    return candidates[0] if candidates else ","


def _require_cells(table: _Table, cells: Sequence[str], name: Any, what: str) -> None:
    empty = [row for row, cell in enumerate(cells) if not cell]
    if empty:
        of = f"{len(empty):,} of {len(cells):,} rows have" if len(empty) > 1 else "a row has"
        raise ValueError(
            f"{of} no {what} in the column {name!r}, first {table.at(empty[0])}; fill in or remove them"
        )


def _require_once(table: _Table, names: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Raise ValueError if a file is listed twice."""
    first: dict[str, int] = {}
    for row, name in enumerate(names):
        other = first.setdefault(os.path.normpath(name), row)
        if other != row:
            same = all(column[row] == column[other] for column in cells)
            raise ValueError(
                f"{table.at(row)} lists {name} again, after {table.at(other)}, with"
                f" {'the same' if same else 'another'} label; list each file once"
            )


def _labels(
    table: _Table, column: str, cells: Sequence[str], classes: Sequence[Any]
) -> tuple[npt.NDArray[Any], tuple[str, ...], int]:
    """Return the targets of a column, the names of the classes, () if they have none, and their number."""
    names = tuple(checked_classes(classes))
    if not names:
        numbers = _as_numbers(cells)
        if numbers is not None:
            is_index = numbers.dtype == np.int64 and numbers.min() >= 0 and numbers.max() < _MOST_CLASSES
            return (numbers, (), int(numbers.max()) + 1) if is_index else (numbers.astype(np.float64), (), 0)
        _refuse_gaps(table, column, cells)
        names = tuple(sorted({*cells}))
    index = {name: number for number, name in enumerate(names)}
    for row, cell in enumerate(cells):
        if cell not in index:
            raise ValueError(
                f"{table.at(row)} has the label {cell!r}, which is none of classes: {shown(names, 20)}"
                f"{did_you_mean(cell, names, otherwise='')}"
            )
    return np.array([index[cell] for cell in cells], np.int64), names, len(names)


def _refuse_gaps(table: _Table, column: str, cells: Sequence[str]) -> None:
    """Raise ValueError if a column seems to hold numbers, and a cell such as "nan" would make them names."""
    distinct = {*cells}
    words = {cell for cell in distinct if _as_numbers([cell]) is None}
    with_point = any(not cell.lstrip("+-").isdigit() for cell in distinct - words)
    if words != distinct and (with_point or all(word.lower() in _GAPS for word in words)):
        row = next(row for row, cell in enumerate(cells) if cell in words)
        raise ValueError(
            f"{table.at(row)} has {cells[row]!r} in the column {column!r}, whose other labels are numbers; correct"
            " or remove such rows, or name all labels as classes: [...]"
        )


def _as_numbers(cells: Sequence[str]) -> npt.NDArray[Any] | None:
    """Return cells as int64 or finite float64; None if one is not a number."""
    for kind, dtype in ((int, np.int64), (float, np.float64)):
        try:
            return checked_targets(np.array([kind(cell) for cell in cells], dtype))
        except (ValueError, OverflowError):
            continue
    return None


def _numbers(table: _Table, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> npt.NDArray[Any]:
    """Return the targets (N, K) of columns of numbers: int64 if all are integers."""
    found = []
    for name, column in zip(columns, cells, strict=True):
        column = [_TRUTH.get(cell.lower(), cell) for cell in column]
        numbers = _as_numbers(column)
        if numbers is None:
            row, cell = next(_not_numbers(column))
            raise ValueError(
                f"{table.at(row)} has {cell!r} in the column {name!r}; several columns of labels hold"
                " numbers, 0 or 1 for classes"
            )
        found.append(numbers)
    return np.stack(found, axis=1)


def _not_numbers(cells: Sequence[str]) -> Iterator[tuple[int, str]]:
    return ((row, cell) for row, cell in enumerate(cells) if _as_numbers([cell]) is None)
