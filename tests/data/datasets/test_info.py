"""Whether data sets go together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from warmstart.config import ConfigError
from warmstart.data.datasets.info import DatasetInfo, require_testable


def info(classes: Sequence[str] = (), num_classes: int = 0) -> DatasetInfo:
    return DatasetInfo(9, num_classes or len(classes), channels=3, image_size=(8, 8), classes=tuple(classes))


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (
            info("12x"),
            info(num_classes=3),
            r"^K: val has class indices, .* called 1 has index 0; .*: \[1, 2, x\]$",
        ),
        (
            info(num_classes=11),
            info(sorted(map(str, range(11)))),
            r"^K: the training set .* called 2 .*: \[0, ...\]$",
        ),
        (info("012"), info(num_classes=3), ""),
        (info(["cat", "dog"]), info(num_classes=2), ""),
        (info(sorted(map(str, range(11)))), info(num_classes=2), ""),  # only 0 and 1, which have their own index
    ],
)
def test_class_indices_are_refused_where_names_are_other_numbers(
    train: DatasetInfo, test: DatasetInfo, expected: str
) -> None:
    if not expected:
        require_testable(train, test, "K", "val")
        return
    with pytest.raises(ConfigError, match=expected):
        require_testable(train, test, "K", "val")


def test_require_testable_tells_how_whole_numbers_of_a_csv_column_become_numbers() -> None:
    numbers = DatasetInfo(9, 0, channels=3, image_size=(8, 8), num_values=1)
    with pytest.raises(ConfigError, match=r"are class indices, .* a number each; .* with label: \[COLUMN\]$"):
        require_testable(numbers, info(num_classes=3), "K", "val")
