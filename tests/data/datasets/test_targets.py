"""Numeric targets: their statistics, and where these come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.data import DatasetInfo, build_dataset, dataset_info, register_dataset, train_info
from warmstart.data.datasets.targets import read_targets, target_statistics


class Mine:
    """A user-defined data set of black images."""

    def __init__(self, returned: Any, **attributes: Any) -> None:
        self.returned = returned
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.returned)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return np.zeros((8, 8), np.uint8), self.returned[index]


def info_of(dataset: Any, name: str = "mine") -> DatasetInfo:
    register_dataset(name, lambda root, download: dataset)
    return dataset_info(name, "", label="DATASETS.TRAIN")


def test_target_statistics_are_population_statistics() -> None:
    values = np.array([2.0, 4, 4, 4, 5, 5, 7, 9])
    assert target_statistics(values) == ((5.0,), (2.0,))
    assert target_statistics(np.stack([values, np.full(8, 0.1)], axis=1)) == ((5.0, 0.1), (2.0, 0.0))


def test_target_statistics_are_the_same_for_any_order() -> None:
    values = np.random.default_rng(0).normal(1e6, 1, 999)
    assert target_statistics(values) == target_statistics(values[::-1])
    assert target_statistics(np.array([1e16, 1.0, -1e16]))[0] == (1 / 3,)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (
            np.array([0, 1, 1, 2]),
            {"num_classes": 3, "value_mean": (1.0,), "value_std": (0.5**0.5,), "class_counts": (1, 2, 1)},
        ),
        (np.array([0.0, 1, 1, 2]), {"num_values": 1, "value_mean": (1.0,), "value_std": (0.5**0.5,)}),
        (np.array([[1, 0], [0, 0]]), {"num_values": 2, "value_mean": (0.5, 0.0), "value_std": (0.5, 0.0)}),
    ],
)
def test_dataset_info_of_an_npz_has_its_form_mean_and_std(
    tmp_path: Path, labels: Any, expected: dict[str, Any]
) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((len(labels), 8, 8), np.uint8), labels=labels)
    info = dataset_info(f"npz:{tmp_path / 'x.npz'}", "")
    assert info == replace(DatasetInfo(len(labels), 0, 1, (8, 8)), **expected)


@pytest.mark.parametrize("name", ["targets", "labels"])
def test_dataset_info_reads_an_attribute_of_targets(name: str) -> None:
    values = [[0.5, 1.0], [1.5, 1.0]]
    info = info_of(Mine(values, **{name: torch.tensor(values)}))
    assert (info.num_values, info.value_mean, info.value_std) == (2, (1.0, 1.0), (0.5, 0.0))


@pytest.mark.parametrize(
    ("returned", "targets"),
    [
        ([0.1, 0.2, 0.3], [10.0, 20.0, 30.0]),  # as with a target_transform
        ([0.1, 0.2, 0.3], ["0.1", "0.2", "0.3"]),
        ([0.1, 0.2, 0.3], [0.1, 0.2]),
        ([[1.0], [1.0, 2.0], []], [[1.0], [1.0, 2.0], []]),
        ([{"boxes": []}] * 3, [{"boxes": []}] * 3),
    ],
)
def test_dataset_info_ignores_an_attribute_without_numeric_targets(returned: Any, targets: Any) -> None:
    assert info_of(Mine(returned, targets=targets)) == DatasetInfo(3, 0, 1, (8, 8))


def test_read_targets_looks_into_concat_datasets_and_subsets() -> None:
    one, other = (Mine(values, targets=values) for values in ([1.0, 2.0], [3.0, 4.0]))
    joined = ConcatDataset([Subset(one, [1]), other])  # type: ignore[arg-type]
    found = read_targets(joined)
    assert found is not None
    assert found.tolist() == [2.0, 3.0, 4.0]


def test_checked_targets_names_the_sample_of_a_number_that_is_not_finite() -> None:
    values = [[0.0, 1.0], [0.0, float("nan")]]
    with pytest.raises(ConfigError, match="^DATASETS.TRAIN: mine: sample 1 has target nan; targets are finite"):
        info_of(Mine(values, targets=values))


def test_an_npz_with_a_number_that_is_not_finite_is_refused_with_its_sample(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.array([0.0, np.inf]))
    with pytest.raises(
        ConfigError, match="x.npz cannot be read: sample 1 has target inf; targets are finite numbers"
    ):
        build_dataset(f"npz:{tmp_path / 'x.npz'}", "")


def configured(*words: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(list(words))
    return cfg


def test_joined_sets_have_the_mean_and_std_of_all_samples() -> None:
    one, other = np.array([0.0, 0.0, 1.0]), np.array([5.0, 7.0])
    for name, values in (("one", one), ("other", other)):
        register_dataset(name, lambda root, download, values=values: Mine(values, targets=values))
    info = train_info(configured("DATASETS.TRAIN", "one,other"))
    assert (info.size, info.num_values) == (5, 1)
    assert info.value_mean == pytest.approx((2.6,), abs=1e-12)
    assert info.value_std == pytest.approx((2.8705400188814645,), abs=1e-12)  # of 0, 0, 1, 5, 7


def test_joined_sets_of_equal_numbers_have_std_0() -> None:
    for name in ("one", "other"):
        register_dataset(name, lambda root, download: Mine([0.1] * 3, targets=[0.1] * 3))
    assert train_info(configured("DATASETS.TRAIN", "one,other")).value_std == (0.0,)


def test_sets_with_different_forms_of_targets_are_not_joined() -> None:
    with pytest.raises(
        ConfigError, match="targets of digits_numbers_train are 2 numbers each, but targets of digits_train "
    ):
        train_info(configured("DATASETS.TRAIN", "digits_train,digits_numbers_train"))


@pytest.mark.parametrize("kind", ["", "attributes_", "numbers_"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_registered_info_of_digits_equals_the_inspected_info(kind: str, part: str) -> None:
    name = f"digits_{kind}{part}"
    dataset, registered = build_dataset(name, ""), dataset_info(name, "")
    found = info_of(dataset)
    known = replace(registered, mean=(), std=())
    if kind == "attributes_":
        known = replace(
            known, value_mean=found.value_mean, value_std=found.value_std, num_classes=found.num_classes
        )
    if kind == "numbers_":
        known = replace(known, num_classes=found.num_classes)
    assert found == known


def test_digits_have_four_attributes() -> None:
    dataset, digits = build_dataset("digits_attributes_test", ""), build_dataset("digits_test", "")
    found = {digits[index][1]: tuple(dataset[index][1].tolist()) for index in range(len(digits))}
    assert found == {
        0: (1, 0, 0, 1),
        1: (0, 0, 0, 0),
        2: (1, 1, 0, 0),
        3: (0, 1, 0, 0),
        4: (1, 0, 0, 0),
        5: (0, 1, 1, 0),
        6: (1, 0, 1, 1),
        7: (0, 1, 1, 0),
        8: (1, 0, 1, 1),
        9: (0, 0, 1, 1),
    }


def test_digits_have_two_numbers() -> None:
    image, target = build_dataset("digits_numbers_train", "")[1]
    assert target.tolist() == [8.0, pytest.approx(100 * np.asarray(image).sum() / (64 * 255))]
