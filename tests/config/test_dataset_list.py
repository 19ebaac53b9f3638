"""Lists of data sets, from text and with options."""

from __future__ import annotations

import re
from typing import Any

import pytest

from warmstart.config import CfgNode, ConfigError, get_cfg

VAL = {"imagefolder": {"path": "photos/val", "name": "val"}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("digits_test", ("digits_test",)),
        ("a,b", ("a", "b")),
        ("('a', 'b')", ("a", "b")),
        ("", ()),
        ("[]", ()),
        ("2024", ("2024",)),
        ("'npz:/a,b', c", ("npz:/a,b", "c")),
        ("npz:/a=b/c d.npz", ("npz:/a=b/c d.npz",)),
        ("webdataset:{ROOT}/x-{0..9}.tar, val=npz:x", ("webdataset:{ROOT}/x-{0..9}.tar", "val=npz:x")),
        ("[{imagefolder: {path: photos/val, name: val}}]", (VAL,)),
        ("{imagefolder: {path: photos/val, name: val}}", (VAL,)),
        ("2024, {imagefolder: {path: photos/val, name: val}}", ("2024", VAL)),
        ("(a, {imagefolder: {path: photos/val, name: val}})", ("a", VAL)),
        ("[{mine: {n: 1e3, f: true, s: '1'}}]", ({"mine": {"n": 1000.0, "f": True, "s": "1"}},)),
        ("[{digits_test: }]", ({"digits_test": {}},)),
        (["a", VAL], ("a", VAL)),
        (VAL, (VAL,)),
        ([{"mine": {"a": (1, (2, 3)), "b": {1: (2,)}}}], ({"mine": {"a": [1, [2, 3]], "b": {1: [2]}}},)),
    ],
)
def test_dataset_list_from_words_and_from_python(value: Any, expected: tuple[Any, ...]) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.TEST", value])
    assert expected == cfg.DATASETS.TEST
    cfg = get_cfg()
    cfg.DATASETS.TEST = value
    assert expected == cfg.DATASETS.TEST


@pytest.mark.parametrize(
    "text",
    [
        "[digits_test, {imagefolder: {path: photos/val, name: val}}]",
        "\n  - digits_test\n  - imagefolder: {path: photos/val, name: val}",
        "\n  - digits_test\n  - imagefolder:\n      path: photos/val\n      name: val",
        "'digits_test, {imagefolder: {path: photos/val, name: val}}'",
    ],
)
def test_dataset_list_from_a_file(merged: Any, text: str) -> None:
    assert merged(f"DATASETS:\n  TEST: {text}\n").DATASETS.TEST == ("digits_test", VAL)


def test_dataset_list_is_dumped_as_yaml_that_merges_to_the_same_config(merged: Any) -> None:
    cfg = merged(
        "", "DATASETS.TEST", ["val=npz:x, y", {"mine": {"path": "{ROOT}/x", "n": None, "s": "1e3", "l": (0.5,)}}]
    )
    text = cfg.dump()
    assert "  TEST: ['val=npz:x, y', {mine: {path: '{ROOT}/x', n: null, s: '1e3', l: [0.5]}}]\n" in text
    again: CfgNode = merged(text)
    assert again == cfg
    assert again.to_dict()["DATASETS"]["TEST"][1]["mine"]["l"] == [0.5]


EXPECTED = "a list of data sets, each a registered name, KIND:PATH, NAME=KIND:PATH or {KIND: {path: PATH}}"


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("[{imagefolder: photos}]", "entry 1: write imagefolder:photos or {imagefolder: {path: photos}}"),
        ("imagefolder: photos", "entry 1: write imagefolder:photos or {imagefolder: {path: photos}}"),
        (
            "a, {npz: x, name: val}",
            "entry 2 has the keys npz, name; options belong below the kind: {npz: {path: x, name: val}}",
        ),
        (
            "[{imagefolder: , path: photos}]",
            "entry 1 has the keys imagefolder, path; options belong below the kind: {imagefolder: {path: photos}}",
        ),
        (
            "[{npz: {path: a}, mine: {path: b}}]",
            "entry 1 names the kinds npz, mine; write an entry for each: [{npz: {path: a}}, {mine: {path: b}}]",
        ),
        ("[{}]", "entry 1 is empty; write {KIND: {path: PATH}}"),
        ("[{mine: [a]}]", "entry 1 is {'mine': ['a']}; write {KIND: {path: PATH}}"),
        ("[{1: {path: a}}]", "entry 1 is {1: {'path': 'a'}}; write {KIND: {path: PATH}}"),
        ("[{mine: {1: a}}]", "entry 1 has the option 1, which is not text"),
        ("[{mine: {a: 1, a: 2}}]", "a is written twice, first in line 1; keep one"),
        (
            "[{npz: {path: {ROOT}/x.npz}}]",
            "put quotes around a path with braces or commas: {npz: {path: '{ROOT}/x.npz'}}",
        ),
        ([{"mine": {"f": print}}], "entry 1: f is of the type builtin_function_or_method; options are plain data"),
        (
            [{"mine": print, "path": "x"}],
            "entry 1 has the keys mine, path; options belong below the kind: {mine: {path: x}}",
        ),
        ([2024], 'write it in quotes: "2024"'),
        (None, 'write "" for none'),
        ("[[a]]", "for example: KEY [digits_test, {imagefolder: {path: photos/val, name: val}}]"),
        ("a, , b", "for example: KEY [digits_test, {imagefolder: {path: photos/val, name: val}}]"),
    ],
)
def test_dataset_list_refuses_another_form_and_says_what_to_write(value: Any, hint: str) -> None:
    field = dict(get_cfg().fields())["DATASETS.TEST"]
    with pytest.raises(
        ConfigError, match=rf"^KEY: expected {re.escape(EXPECTED)}; got .*\({re.escape(hint)}.*\)$"
    ):
        field.read("KEY", "", value, is_text=isinstance(value, str))


def test_dataset_list_shares_no_option_with_what_it_was_given() -> None:
    given: dict[str, Any] = {"mine": {"path": "x", "sizes": [1]}}
    cfg = get_cfg()
    cfg.DATASETS.TEST = [given]
    given["mine"]["sizes"].append(2)
    assert cfg.DATASETS.TEST == ({"mine": {"path": "x", "sizes": [1]}},)
