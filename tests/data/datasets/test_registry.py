"""The registry of data sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart.config import ConfigError
from warmstart.data import DatasetInfo, build_dataset, dataset_info, dataset_names, register_dataset
from warmstart.data.datasets.registry import checked_label, is_in_memory, is_users_own


class _Pairs:
    """A user-defined data set: a list of samples."""

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


def test_register_dataset_refuses_a_name_that_is_taken() -> None:
    with pytest.raises(ConfigError, match="'digits_train' is registered already; choose another name"):
        register_dataset("digits_train", lambda root, download: _Pairs([]))


def test_dataset_info_returns_registered_info_without_building() -> None:
    info = DatasetInfo(size=5, num_classes=2, channels=3, image_size=None)
    register_dataset("mine", lambda root, download: pytest.fail("was built"), info)
    assert dataset_info("mine", "nowhere") is info


@pytest.mark.parametrize(
    ("images", "image_size"),
    [([_image(4, 6)] * 3, (4, 6)), ([_image(4, 6), _image(5, 6), _image(4, 6)], None)],
)
def test_dataset_info_inspects_a_set_without_registered_info(
    images: list[Any], image_size: tuple[int, int] | None
) -> None:
    register_dataset("mine", lambda root, download: _Named([(image, 0) for image in images]))
    sizes = () if image_size else ((4, 6), (5, 6))
    assert dataset_info("mine", "") == DatasetInfo(3, 2, 3, image_size, classes=("cat", "dog"), sizes=sizes)


def test_dataset_info_has_no_classes_if_they_are_unknown() -> None:
    register_dataset("mine", lambda root, download: _Pairs([(_image(2, 2), 0)]))
    assert dataset_info("mine", "", label="DATASETS.TRAIN").num_classes == 0


@pytest.mark.parametrize("name", ["digit_train", "zip:x", "", {"zip": {"path": "x"}}])
def test_build_dataset_lists_the_known_names_for_an_unknown_one(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"DATASETS.TRAIN: no data set is called .* Known: .*npz:PATH"):
        build_dataset(name, "", label="DATASETS.TRAIN")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashionmnist_train", "no data set is called 'fashionmnist_train'; did you mean 'fashion_mnist_train'?"),
        ("imagefoldr:a/b", "no data set is called 'imagefoldr:a/b'; did you mean 'imagefolder:a/b'?"),
        (
            {"imagefoldr": {"path": "a/b"}},
            "no data set is called 'imagefoldr:a/b'; did you mean 'imagefolder:a/b'?",
        ),
        ("npz", "npz needs a path; write npz:PATH or {npz: {path: PATH}}"),
        ("npz:", "npz needs a path; write npz:PATH or {npz: {path: PATH}}"),
        ({"npz": {"name": "val"}}, "npz needs a path; write npz:PATH or {npz: {path: PATH}}"),
        ("digits_train:x", "digits_train is a registered name and takes no path; write digits_train"),
        (
            {"digits_train": {"path": "x"}},
            "digits_train is a registered name and takes no path; write digits_train",
        ),
        (
            {"imagefolder": {"path": "x", "nam": "a"}},
            "imagefolder.nam: imagefolder takes no argument 'nam'; did you",
        ),
        ({"npz": {"path": "x", "size": 3}}, "npz.size: npz takes no argument 'size'. It takes: path, name"),
        (
            {"digits_train": {"size": 3}},
            "digits_train.size: digits_train takes no argument 'size'. It takes: name",
        ),
        ("photos/val", "no data set is called 'photos/val'; a path needs its kind: write imagefolder:photos/val."),
        (
            "photos/gone",
            "no data set is called 'photos/gone'; a path needs its kind: write imagefolder:photos/gone.",
        ),
        ("photos", "no data set is called 'photos'; a path needs its kind: write imagefolder:photos."),
        (
            "~no_such_user/x",
            "no data set is called '~no_such_user/x'; a path needs its kind: write imagefolder:~no",
        ),
        ("x.npz", "no data set is called 'x.npz'; a path needs its kind: write npz:x.npz."),
        ("x/y.tar", "no data set is called 'x/y.tar'; a path needs its kind: write webdataset:x/y.tar."),
    ],
)
def test_build_dataset_suggests_what_to_write_for_a_mistaken_entry(
    name: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "val").mkdir(parents=True)
    (tmp_path / "x.npz").touch()
    for look in (build_dataset, dataset_info):
        with pytest.raises(ConfigError, match=f"^DATASETS.TRAIN: {re.escape(message)}"):
            look(name, "", label="DATASETS.TRAIN")


@pytest.mark.parametrize("name", ["a=b", "a:b", "a::", ":", ""])
def test_register_dataset_refuses_a_name_that_no_entry_could_hold(name: str) -> None:
    with pytest.raises(ConfigError, match=f"could name a data set called '{name}'; choose another name"):
        register_dataset(name, lambda root, download: _Pairs([]))


def test_a_user_defined_kind_gets_its_path_the_cache_and_options() -> None:
    seen: list[Any] = []

    def build(path: str, download: bool, cache: str, label: str = "class", *, sizes: Any = ()) -> _Pairs:
        seen.append((path, download, cache, label, sizes))
        return _Named([(_image(2, 2), 1)])

    register_dataset("mine:", build, cached=True)
    for entry in ("mine:x", {"mine": {"path": "{ROOT}/x", "label": "species", "sizes": [1, 2], "name": "val"}}):
        assert build_dataset(entry, "sets", True, cache="kept")[0][1] == 1
        assert dataset_info(entry, "sets", True, cache="kept").size == 1
        assert is_users_own(entry)
        assert not is_in_memory(entry)
    with_options = ("sets/x", True, "kept", "species", [1, 2])
    assert seen == [("x", True, "kept", "class", ())] * 2 + [with_options] * 2


def test_dataset_info_inspects_a_registered_name_with_options() -> None:
    def build(root: str, download: bool, size: int = 5) -> _Pairs:
        return _Named([(_image(2, 2), 1)] * size)

    register_dataset("mine", build, DatasetInfo(size=5, num_classes=2, channels=3, image_size=(2, 2)))
    assert [len(build_dataset(entry, "")) for entry in ("mine", {"mine": {}}, {"mine": {"size": 7}})] == [5, 5, 7]
    infos = [
        dataset_info(entry, "") for entry in ("mine", {"mine": {}}, {"mine": {"size": 7}}, {"mine": {"size": 6}})
    ]
    assert [info.size for info in infos] == [5, 5, 7, 6]


def test_an_option_value_that_the_builder_refuses_is_reported_in_one_sentence() -> None:
    def build(path: str, download: bool, share: float = 1.0) -> _Pairs:
        raise ValueError(f"share is at most 1; got {share}")

    register_dataset("mine:", build)
    with pytest.raises(ConfigError, match="^KEY: val \\(mine:x\\) cannot be read: share is at most 1; got 2.0$"):
        build_dataset({"mine": {"path": "x", "share": 2.0, "name": "val"}}, "", label="KEY")


def test_build_dataset_refuses_a_size_other_than_the_registered_one() -> None:
    info = DatasetInfo(size=1000, num_classes=2, channels=3, image_size=None)
    register_dataset("mine", lambda root, download: _Pairs([(_image(2, 2), 0)]), info)
    with pytest.raises(
        ConfigError, match="mine holds 1 samples where 1,000 are expected; its files are incomplete"
    ):
        build_dataset("mine", "")


def test_build_dataset_refuses_an_empty_data_set() -> None:
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
def test_checked_label_refuses_labels_out_of_range(label: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"mine: sample 4 {message}"):
        checked_label(label, 3, "mine: sample 4")


def test_checked_label_takes_labels_of_numpy_and_torch() -> None:
    import torch

    assert [checked_label(value, 3, "") for value in (np.int64(2), np.uint8(1), torch.tensor(0))] == [2, 1, 0]
