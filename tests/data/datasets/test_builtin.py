"""The built-in data sets, read from small files in the official layouts."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from warmstart.config import ConfigError
from warmstart.data import DatasetInfo, build_dataset, dataset_info
from warmstart.data.datasets.arrays import ArrayDataset

IMAGES = np.random.RandomState(0).randint(0, 256, (5, 28, 28), np.uint8)
LABELS = np.array([3, 0, 9, 1, 1], np.uint8)


def test_digits_are_1437_and_360_images_of_8x8() -> None:
    train, test = build_dataset("digits_train", "nowhere"), build_dataset("digits_test", "nowhere")
    assert (len(train), len(test)) == (1437, 360)
    assert train[0][0].shape == (8, 8)
    assert {label for _, label in test} == set(range(10))  # type: ignore[attr-defined]


def test_digits_info_has_the_mean_and_std_of_the_training_images() -> None:
    train = build_dataset("digits_train", "nowhere")
    assert isinstance(train, ArrayDataset)
    for name in ("digits_train", "digits_test"):
        info = dataset_info(name, "nowhere")
        assert info.mean == pytest.approx([np.mean(train.images / 255)], abs=5e-5)
        assert info.std == pytest.approx([np.std(train.images / 255)], abs=5e-5)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_dataset_info_of_builtin_sets_needs_no_files(name: str) -> None:
    sizes = {"mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000}
    assert dataset_info(f"{name}_train", "nowhere").size == sizes[name]
    assert dataset_info(f"{name}_test", "nowhere").size == 10_000
    assert dataset_info(f"{name}_test", "nowhere").num_classes == (100 if name == "cifar100" else 10)


@pytest.mark.parametrize(
    ("name", "folder", "zipped"),
    [
        ("mnist_train", "MNIST/raw", False),
        ("fashion_mnist_train", "FashionMNIST/raw", False),
        ("fashion_mnist_train", "fashion-mnist", True),  # Debian's /usr/share/datasets
        ("fashion_mnist_train", ".", True),  # Debian's /usr/share/datasets/fashion-mnist
        ("fashion_mnist_test", ".", True),
    ],
)
def test_idx_files_are_found_in_every_layout(
    tmp_path: Path,
    sized: Callable[[str, int], None],
    write_idx: Callable[..., None],
    name: str,
    folder: str,
    zipped: bool,
) -> None:
    part = "train" if name.endswith("train") else "t10k"
    for kind, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS)):
        path = tmp_path / folder / f"{part}-{kind}-ubyte"
        write_idx(path, array)
        if zipped:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    sized(name, 5)
    dataset = build_dataset(name, str(tmp_path))
    assert [label for _, label in dataset] == [3, 0, 9, 1, 1]  # type: ignore[attr-defined]
    assert np.array_equal(dataset[2][0], IMAGES[2])


def test_mnist_agrees_with_torchvision(
    tmp_path: Path, sized: Callable[[str, int], None], write_idx: Callable[..., None]
) -> None:
    for part in ("train", "t10k"):
        write_idx(tmp_path / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", IMAGES)
        write_idx(tmp_path / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", LABELS)
    sized("mnist_train", 5)
    theirs = torchvision.datasets.MNIST(tmp_path)
    for (image, label), (their_image, their_label) in zip(  # type: ignore[call-overload]
        build_dataset("mnist_train", str(tmp_path)), theirs, strict=True
    ):
        assert np.array_equal(image, np.asarray(their_image))
        assert label == their_label


def test_build_dataset_refuses_fewer_images_than_registered(
    tmp_path: Path, write_idx: Callable[..., None]
) -> None:
    write_idx(tmp_path / "train-images-idx3-ubyte", IMAGES)
    write_idx(tmp_path / "train-labels-idx1-ubyte", LABELS)
    with pytest.raises(ConfigError, match="holds 5 samples where 60,000 are expected"):
        build_dataset("mnist_train", str(tmp_path))


@pytest.mark.parametrize("name", ["mnist_train", "fashion_mnist_test", "cifar10_train", "cifar100_test"])
def test_missing_files_are_reported_with_the_folder_and_the_fix(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_dataset(name, str(tmp_path), label="DATASETS.TRAIN")
    assert str(error.value).startswith(f"DATASETS.TRAIN: {name} was not found in {tmp_path} (no ")
    assert str(error.value).endswith("; set DATASETS.ROOT to its folder or DATASETS.DOWNLOAD true")


@pytest.mark.parametrize("name", ["mnist_train", "cifar10_train"])
def test_a_failed_download_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def download(self: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    with pytest.raises(ConfigError, match=f"{name} cannot be read: the download failed .*no route to host"):
        build_dataset(name, str(tmp_path), download=True)


def test_a_downloaded_data_set_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sized: Callable[[str, int], None],
    write_idx: Callable[..., None],
) -> None:
    def download(self: Any) -> None:
        for part in ("train", "t10k"):
            write_idx(Path(self.raw_folder) / f"{part}-images-idx3-ubyte", IMAGES)
            write_idx(Path(self.raw_folder) / f"{part}-labels-idx1-ubyte", LABELS)

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    sized("fashion_mnist_train", 5)
    assert len(build_dataset("fashion_mnist_train", str(tmp_path), download=True)) == 5


class _OldDtype:
    """Pickles as Python 2's numpy wrote a dtype, about which today's numpy warns."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.dtype, ("u1", 0, 1)


def _write_cifar(monkeypatch: pytest.MonkeyPatch, root: Path, kind: str) -> None:
    cls = getattr(torchvision.datasets, kind)
    files = cls.train_list + cls.test_list
    label_key = "labels" if kind == "CIFAR10" else "fine_labels"
    (root / cls.base_folder).mkdir(parents=True)
    for number, (file, _) in enumerate(files):
        batch = {"data": np.full((2, 3072), number, np.uint8), label_key: [number, 9], "old": _OldDtype()}
        batch["data"][0, 1024:2048] = 200  # green
        (root / cls.base_folder / file).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {cls.meta["key"]: ["a", "b"]}
    (root / cls.base_folder / cls.meta["filename"]).write_bytes(pickle.dumps(meta, protocol=2))
    monkeypatch.setattr(cls, "train_list", [[file, None] for file, _ in cls.train_list])
    monkeypatch.setattr(cls, "test_list", [[file, None] for file, _ in cls.test_list])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": None})


@pytest.mark.parametrize(
    ("name", "kind", "labels"),
    [
        ("cifar10_train", "CIFAR10", [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]),
        ("cifar10_test", "CIFAR10", [5, 9]),
        ("cifar100_train", "CIFAR100", [0, 9]),
        ("cifar100_test", "CIFAR100", [1, 9]),
    ],
)
def test_cifar_reads_the_authors_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sized: Callable[[str, int], None],
    name: str,
    kind: str,
    labels: list[int],
) -> None:
    _write_cifar(monkeypatch, tmp_path, kind)
    sized(name, len(labels))
    dataset = build_dataset(name, str(tmp_path))
    assert [label for _, label in dataset] == labels  # type: ignore[attr-defined]
    image, number = dataset[0]
    assert image.shape == (32, 32, 3)
    assert image[5, 7].tolist() == [number, 200, number]


def test_damaged_cifar_files_are_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official = list(torchvision.datasets.CIFAR10.train_list)
    _write_cifar(monkeypatch, tmp_path, "CIFAR10")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", official)
    monkeypatch.setattr(pickle, "load", lambda *args, **kwargs: pytest.fail("was unpickled"))
    with pytest.raises(ConfigError, match="no complete CIFAR10"):
        build_dataset("cifar10_train", str(tmp_path))


def _save_png(path: Path, size: tuple[int, int], grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).save(path)


def test_imagefolder_numbers_classes_by_name_and_gives_rgb(tmp_path: Path) -> None:
    _save_png(tmp_path / "dog" / "1.png", (6, 4), 10)
    _save_png(tmp_path / "cat" / "1.png", (6, 4), 20)
    _save_png(tmp_path / "cat" / "2.png", (6, 4), 30)
    name = f"imagefolder:{tmp_path}"
    values = {"value_mean": (0.3333333333333333,), "value_std": (0.4714045207910317,), "class_counts": (2, 1)}
    assert dataset_info(name, "nowhere") == DatasetInfo(3, 2, 3, (4, 6), classes=("cat", "dog"), **values)
    assert [label for _, label in build_dataset(name, "nowhere")] == [0, 0, 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("missing", r"was not found in .*missing .*; correct the path"),
        ("empty", r"empty cannot be read: it holds no class folders; sort the images into .*empty/CLASS/"),
    ],
)
def test_imagefolder_without_images_is_refused(tmp_path: Path, folder: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=message):
        build_dataset(f"imagefolder:{tmp_path / folder}", "nowhere")


def test_npz_returns_images_and_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 5, 6, 3), np.uint8), labels=np.array([0, 1, 2, 1]))
    name = f"npz:{tmp_path / 'x.npz'}"
    values = {"value_mean": (1.0,), "value_std": (0.7071067811865476,), "class_counts": (1, 2, 1)}
    assert dataset_info(name, "nowhere") == DatasetInfo(4, num_classes=3, channels=3, image_size=(5, 6), **values)
    assert torch.as_tensor(build_dataset(name, "nowhere")[2][0]).shape == (5, 6, 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "array 'labels' is missing; it needs images and labels, and holds images"),
        ({"x": IMAGES, "labels": LABELS}, "array 'images' is missing; .* holds x, labels"),
        ({"images": IMAGES / 255, "labels": LABELS}, "images must be uint8"),
        ({"images": IMAGES, "labels": LABELS[:3]}, "5 images but 3 labels"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "holds no samples"),
    ],
)
def test_npz_that_is_malformed_is_refused_by_name(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ConfigError, match=rf"DATASETS.TRAIN: npz:.*x.npz.*{message}"):
        build_dataset(f"npz:{tmp_path / 'x.npz'}", "nowhere", label="DATASETS.TRAIN")


def test_npz_that_is_missing_is_reported_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x.npz was not found in .*; correct the path"):
        build_dataset(f"npz:{tmp_path / 'x.npz'}", "nowhere")
