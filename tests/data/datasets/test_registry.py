"""The registry of data sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from warmstart.config import ConfigError
from warmstart.data import DatasetInfo, build_dataset, dataset_info, dataset_names, register_dataset
from warmstart.data.datasets.registry import checked_label, is_users_own


class _Pairs:
    """A user's data set: a list of samples."""

    def __init__(self, samples: list[tuple[Any, Any]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.samples[index]


class _Named(_Pairs):
    classes = ("cat", "dog")


def _image(height: int, width: int) -> np.ndarray[Any, Any]:
    return np.zeros((height, width, 3), np.uint8)


def test_a_registered_data_set_gets_root_and_download() -> None:
    seen = []

    def build(root: str, download: bool) -> _Pairs:
        seen.append((root, download))
        return _Named([(_image(2, 2), 1)])

    register_dataset("mine", build)
    assert build_dataset("mine", "folder", True)[0][1] == 1
    assert seen == [("folder", True)]
    assert "mine" in dataset_names()
    assert is_users_own("mine")


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="'digits_train' is registered already; choose another name"):
        register_dataset("digits_train", lambda root, download: _Pairs([]))


def test_registered_info_is_given_without_building() -> None:
    info = DatasetInfo(size=5, num_classes=2, channels=3, image_size=None)
    register_dataset("mine", lambda root, download: pytest.fail("was built"), info)
    assert dataset_info("mine", "nowhere") is info


@pytest.mark.parametrize(
    ("images", "image_size"),
    [([_image(4, 6)] * 3, (4, 6)), ([_image(4, 6), _image(5, 6), _image(4, 6)], None)],
)
def test_info_is_found_by_looking(images: list[Any], image_size: tuple[int, int] | None) -> None:
    register_dataset("mine", lambda root, download: _Named([(image, 0) for image in images]))
    sizes = () if image_size else ((4, 6), (5, 6))
    assert dataset_info("mine", "") == DatasetInfo(3, 2, 3, image_size, classes=("cat", "dog"), sizes=sizes)


def test_dataset_info_has_no_classes_if_the_data_set_does_not_tell() -> None:
    register_dataset("mine", lambda root, download: _Pairs([(_image(2, 2), 0)]))
    assert dataset_info("mine", "", label="DATASETS.TRAIN").num_classes == 0


@pytest.mark.parametrize("name", ["digit_train", "npz", "npz:", "zip:x", "digits_train:x", ""])
def test_unknown_names_list_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"DATASETS.TRAIN: no data set is called .* Known: .*npz:PATH"):
        build_dataset(name, "", label="DATASETS.TRAIN")


def test_a_near_miss_is_recognised() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fashion_mnist_train'"):
        dataset_info("fashionmnist_train", "")


def test_a_size_that_is_not_the_registered_one_is_refused() -> None:
    info = DatasetInfo(size=1000, num_classes=2, channels=3, image_size=None)
    register_dataset("mine", lambda root, download: _Pairs([(_image(2, 2), 0)]), info)
    with pytest.raises(
        ConfigError, match="mine holds 1 samples where 1,000 are expected; its files are not whole"
    ):
        build_dataset("mine", "")


def test_an_empty_data_set_is_refused() -> None:
    register_dataset("mine", lambda root, download: _Pairs([]))
    with pytest.raises(ConfigError, match="data set: mine holds no samples"):
        build_dataset("mine", "")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (-1, "has label -1; with 3 classes labels run from 0 to 2"),
        (3, "has label 3; with 3 classes labels run from 0 to 2"),
        (1.0, "has label 1.0; labels are whole numbers"),
        ("cat", "has label 'cat'; labels are whole numbers"),
    ],
)
def test_labels_outside_are_refused(label: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"mine: sample 4 {message}"):
        checked_label(label, 3, "mine: sample 4")


def test_labels_of_numpy_and_torch_are_taken() -> None:
    import torch

    assert [checked_label(value, 3, "") for value in (np.int64(2), np.uint8(1), torch.tensor(0))] == [2, 1, 0]
