"""Names of data sets in scores."""

from __future__ import annotations

import re
from typing import Any

import pytest

from warmstart.config import ConfigError
from warmstart.data.datasets.entries import DatasetEntry
from warmstart.data.datasets.names import RESERVED, named_sets
from warmstart.engine.records.console import NO_TEST_SETS


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        (["digits_test"], ["digits_test"]),
        (["imagefolder:photos/val"], ["val"]),
        (["imagefolder:/home/me/photos/val/"], ["val"]),
        (["imagefolder:val"], ["val"]),
        (["imagefolder:photos//./val/."], ["val"]),
        (["npz:x.npz"], ["x.npz"]),
        (["webdataset:/data/val-{0..5}.tar#image=png&label=cls"], ["val-{0..5}.tar"]),
        (["webdataset:https://a.org/val.tar"], ["val.tar"]),
        (["npz:photos/#1"], ["#1"]),
        (["imagefolder:{ROOT}"], ["sets"]),
        (["imagefolder:{ROOT}/val"], ["val"]),
        (["real=imagefolder:photos/val", "digits=digits_test"], ["real", "digits"]),
        ([{"imagefolder": {"path": "photos/val", "name": "real"}}], ["real"]),
        # what tells two paths apart
        (["imagefolder:a/val", "imagefolder:b/val"], ["a_val", "b_val"]),
        (["imagefolder:/x/a/val/", "npz:/y/b/val"], ["a_val", "b_val"]),
        (["imagefolder:a/x/val", "imagefolder:b/x/val"], ["a_x_val", "b_x_val"]),
        (["imagefolder:a/x/val", "imagefolder:b/x/val", "imagefolder:c/val"], ["a_x_val", "b_x_val", "c_val"]),
        (["imagefolder:val", "imagefolder:a/val"], ["val", "a_val"]),
        (["imagefolder:{ROOT}/val", "imagefolder:b/val"], ["sets_val", "b_val"]),
        (["imagefolder:a/val", "imagefolder:b/test"], ["val", "test"]),
        (["val=npz:x", "imagefolder:photos/val"], ["val", "photos_val"]),
        (["digits_test", "imagefolder:photos/digits_test"], ["digits_test", "photos_digits_test"]),
        (["imagefolder:photos/val", "again=imagefolder:photos/val"], ["val", "again"]),
    ],
)
def test_named_sets_takes_the_shortest_name_that_tells_sets_apart(values: list[Any], expected: list[str]) -> None:
    found = named_sets(values, "sets", "DATASETS.TEST")
    assert [*found] == expected
    assert [entry.name for entry in found.values()] == expected
    assert not any("/" in name for name in found)


def test_named_sets_returns_entries_with_their_names() -> None:
    assert named_sets(["npz:{ROOT}/x.npz", "digits_test"], "sets", "DATASETS.TEST") == {
        "x.npz": DatasetEntry("npz", "sets/x.npz", name="x.npz"),
        "digits_test": DatasetEntry("digits_test", name="digits_test"),
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ["digits_test", "digits_test"],
            "digits_test is listed twice; list it once, or give one of them another name: NAME=digits_test",
        ),
        (
            ["imagefolder:photos/val", "imagefolder:photos/val/"],
            "imagefolder:photos/val/ is listed twice; list it once, or give one of them another name: "
            "NAME=imagefolder:photos/val/",
        ),
        (
            ["v=npz:a", "v=npz:b"],
            "the scores of npz:a and npz:b would both be called 'v'; give one of them another name: NAME=npz:b",
        ),
        (
            ["imagefolder:photos/val", "npz:photos/val"],
            "the scores of imagefolder:photos/val and npz:photos/val would both be called 'photos_val'; give one "
            "of them another name: NAME=npz:photos/val",
        ),
        (
            [{"csv": {"path": "x.csv", "label": "a"}}, {"csv": {"path": "x.csv", "label": "b"}}],
            "the scores of csv:x.csv and csv:x.csv would both be called 'x.csv'; give one of them another "
            "name: {csv: {path: x.csv, name: NAME, ...}}",
        ),
        (
            [{"mine": {"size": 1}}, {"mine": {"size": 2}}],
            "the scores of mine and mine would both be called 'mine'; give one of them another name: "
            "{mine: {name: NAME, ...}}",
        ),
        (
            ["imagefolder:photos/train"],
            "the scores of imagefolder:photos/train cannot be called 'train' because records use the word 'train' "
            "themselves; give it another name: photos_train=imagefolder:photos/train",
        ),
        (
            ["npz:ema"],
            "the scores of npz:ema cannot be called 'ema' because records use the word 'ema' themselves; give it "
            "another name: ema_set=npz:ema",
        ),
        (["lr=npz:x"], "the scores of npz:x cannot be called 'lr' because records use the word 'lr' themselves"),
        (["memory=npz:x"], "the scores of npz:x cannot be called 'memory' because records use the word"),
        (
            ["npz:x/rate=0.1"],
            "the scores of npz:x/rate=0.1 cannot be called 'rate=0.1' because it holds '='; give it another name: "
            "x_rate_0.1=npz:x/rate=0.1",
        ),
        (
            ["imagefolder:/"],
            "the scores of imagefolder:/ cannot be called '' because it is empty; give it another name: "
            "NAME=imagefolder:/",
        ),
        (["imagefolder:.."], "cannot be called '' because it is empty; give it another name: NAME=imagefolder:.."),
        (["a/b=npz:x"], "'a/b' cannot be a data set's name because it holds '/'; choose another one"),
        (
            ["mine/set"],
            "the scores of mine/set cannot be called 'mine/set' because it holds '/'; give it another name: "
            "NAME=mine/set",
        ),
    ],
)
def test_named_sets_refuses_duplicate_or_invalid_names(values: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^DATASETS.TEST: .*{re.escape(message)}"):
        named_sets(values, "sets", "DATASETS.TEST")


def test_named_sets_reserves_the_words_of_records() -> None:
    assert {*NO_TEST_SETS} < {*RESERVED}
