"""Entries of DATASETS.TRAIN and DATASETS.TEST: their forms, and their options."""

from __future__ import annotations

import re
from typing import Any

import pytest

from warmstart.config import ConfigError
from warmstart.data.datasets.entries import DatasetEntry, check_options, entry_of


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("digits_test", DatasetEntry("digits_test")),
        ("val=digits_test", DatasetEntry("digits_test", name="val")),
        ("imagefolder:photos/val", DatasetEntry("imagefolder", "photos/val")),
        ("val=imagefolder:photos/val", DatasetEntry("imagefolder", "photos/val", name="val")),
        ("npz:/a=b/c:d.npz", DatasetEntry("npz", "/a=b/c:d.npz")),
        ("webdataset:{ROOT}/x-{0..9}.tar#image=png", DatasetEntry("webdataset", "sets/x-{0..9}.tar#image=png")),
        ("photos/rate=0.1", DatasetEntry("photos/rate=0.1")),
        ("npz:", DatasetEntry("npz", "")),
        ("", DatasetEntry("")),
        ({"imagefolder": {"path": "photos/val"}}, DatasetEntry("imagefolder", "photos/val")),
        ({"npz": {"name": "val", "path": "{ROOT}/a=b"}}, DatasetEntry("npz", "sets/a=b", name="val")),
        ({"digits_test": {}}, DatasetEntry("digits_test")),
        (
            {"csv": {"path": "{ROOT}/x.csv", "images": "{ROOT}/photos", "size": [1]}},
            DatasetEntry("csv", "sets/x.csv", {"images": "sets/photos", "size": [1]}),
        ),
        (DatasetEntry("npz", "{ROOT}/x", name="val"), DatasetEntry("npz", "sets/x", name="val")),
    ],
)
def test_entry_of_parses_every_form(value: Any, expected: DatasetEntry) -> None:
    assert entry_of(value, "sets") == expected
    assert hash(entry_of(value, "sets")) == hash(expected)


def test_entry_of_leaves_root_where_it_is_not_known() -> None:
    assert entry_of("npz:{ROOT}/x.npz").path == "{ROOT}/x.npz"


def test_entries_with_other_options_or_names_are_not_equal() -> None:
    one = DatasetEntry("csv", "x", {"a": 1})
    assert one != DatasetEntry("csv", "x")
    assert one != DatasetEntry("csv", "x", {"a": 2})
    assert one != DatasetEntry("csv", "x", {"a": 1}, "val")


@pytest.mark.parametrize(
    ("entry", "text", "shown"),
    [
        (DatasetEntry("digits_test"), "digits_test", "digits_test"),
        (DatasetEntry("digits_test", name="digits_test"), "digits_test", "digits_test"),
        (DatasetEntry("npz", "x.npz"), "npz:x.npz", "npz:x.npz"),
        (DatasetEntry("npz", "x.npz", {"a": 1}, "val"), "npz:x.npz", "val (npz:x.npz)"),
    ],
)
def test_str_of_an_entry_shows_its_name(entry: DatasetEntry, text: str, shown: str) -> None:
    assert (entry.text, str(entry)) == (text, shown)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a/b=npz:x", "'a/b' cannot be a data set's name because it holds '/'; choose another one"),
        ("a=b=npz:x", "'a=b' cannot be a data set's name because it holds '='; choose another one"),
        ("=npz:x", "'' cannot be a data set's name because it is empty; choose another one"),
        ({"npz": {"path": "x", "name": ""}}, "'' cannot be a data set's name because it is empty"),
        ({"npz": {"path": "x", "name": "a\nb"}}, "because it holds control characters or spaces around it"),
        ({"npz": {"path": "x", "name": 3}}, "a data set's name is text; write it in quotes: name: '3'"),
        ({"npz": {"path": 3}}, "npz: path is text; got 3"),
        ({"npz": {"path": ""}}, "npz: path is text; got ''"),
        ({"npz": {"path": None}}, "npz: path is text; got None"),
        (
            {"a": {}, "b": {}},
            "expected a registered name, KIND:PATH or {KIND: {path: PATH}}; got {'a': {}, 'b': {}}",
        ),
        ({"a": 1}, "expected a registered name, KIND:PATH or {KIND: {path: PATH}}; got {'a': 1}"),
        (3, "expected a registered name, KIND:PATH or {KIND: {path: PATH}}; got 3"),
    ],
)
def test_entry_of_refuses_malformed_values(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^KEY: .*{re.escape(message)}"):
        entry_of(value, "", "KEY")


def csv(path: str, download: bool, label: str = "class", *, limit: int | None = None) -> None: ...


def cached(path: str, download: bool, cache: str, size: int) -> None: ...


def anything(path: str, download: bool, **options: Any) -> None: ...


def plain(root: str, download: bool, name: str = "", size: int = 3) -> None: ...


class Builder:
    def __call__(self, path: str, download: bool, label: str = "") -> None: ...


@pytest.mark.parametrize(
    ("builder", "value", "filled"),
    [
        (csv, "csv:x", 2),
        (csv, {"csv": {"path": "x", "label": "a", "limit": 3, "name": "val"}}, 2),
        (csv, {"csv": {"path": "x", "limit": None}}, 2),
        (cached, {"csv": {"path": "x", "size": 3}}, 3),
        (anything, {"csv": {"path": "x", "whatever": 3}}, 2),
        (plain, {"csv": {"size": 4}}, 2),
        (Builder(), {"csv": {"path": "x", "label": "a"}}, 2),
        (lambda *args: None, "csv:x", 2),
    ],
)
def test_check_options_accepts_options_of_the_builder(builder: Any, value: Any, filled: int) -> None:
    check_options(entry_of(value), builder, filled, "KEY")


OF_CSV = "It takes: path, name, holdout, part, label, limit"


@pytest.mark.parametrize(
    ("builder", "options", "filled", "message"),
    [
        (csv, {"path": "x", "labl": 1}, 2, f"labl: csv takes no argument 'labl'; did you mean 'label'? {OF_CSV}"),
        (csv, {"path": "x", "nane": "a"}, 2, f"nane: csv takes no argument 'nane'; did you mean 'name'? {OF_CSV}"),
        (csv, {"path": "x", "download": True}, 2, f"download: csv takes no argument 'download'. {OF_CSV}"),
        (csv, {"path": "x", "label": 1}, 2, "label: csv expects text; got 1"),
        (csv, {"path": "x", "limit": "all"}, 2, "limit: csv expects null or a whole number; got 'all'"),
        (cached, {"path": "x"}, 3, "size: csv needs it; give it a value"),
        (
            *(cached, {"path": "x", "cache": "y", "size": 1}, 3),
            "cache: csv takes no argument 'cache'. It takes: path, name, holdout, part, size",
        ),
        (
            *(anything, {"path": "x", "download": 1}, 2),
            "download: csv takes no argument 'download'. It takes: path, name, holdout, part",
        ),
        (
            plain,
            {"sise": 4},
            2,
            "sise: csv takes no argument 'sise'; did you mean 'size'? It takes: name, holdout, part, size",
        ),
    ],
)
def test_check_options_refuses_unknown_options(builder: Any, options: Any, filled: int, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^KEY: csv.{re.escape(message)}$"):
        check_options(entry_of({"csv": options}), builder, filled, "KEY")
