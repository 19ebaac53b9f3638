"""The built-in data sets: digits, torchvision's, image folders, arrays and shards."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np

from .arrays import ArrayDataset, read_idx, read_npz
from .coco import build_coco
from .csv_set import build_csv
from .image_files import build_image_folder
from .info import DatasetInfo
from .registry import MapDataset, register_dataset
from .shapes import SHAPE_CLASSES, SHAPE_KEYPOINTS, Shapes, build_shapes
from .voc import build_voc
from .webdataset import build_shards
from .yolo import build_yolo

_DIGITS = tuple("0123456789")
_ATTRIBUTES = {"even": (0, 2, 4, 6, 8), "prime": (2, 3, 5, 7), "from 5 on": (5, 6, 7, 8, 9), "loop": (0, 6, 8, 9)}
_NUMBERS = ("digit", "ink")
# Mean and standard deviation of the digits and of their ink, as `target_statistics` computes them.
_DIGITS_MEAN_STD = {
    "train": ((4.470424495476688, 30.544349611800186), (2.870190060248092, 3.389295609000553)),
    "test": ((4.572222222222222, 30.477073120915033), (2.8402475548514263, 3.261779447895257)),
}
# Images of each digit, as their files hold them.
_DIGITS_COUNTS = {
    "train": (147, 147, 138, 150, 137, 153, 141, 139, 146, 139),
    "test": (31, 35, 39, 33, 44, 29, 40, 40, 28, 41),
}
_MNIST_COUNTS = {
    "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    "test": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
}
# Objects of each class in 512 and 128 images, and statistics of the 512.
_SHAPES_COUNTS = {"train": (387, 379, 361, 385), "test": (104, 92, 82, 99)}
_SHAPES_MEAN_STD = (0.4655, 0.4672, 0.4679), (0.1416, 0.1409, 0.1432)
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


@dataclass(frozen=True)
class _Digits:
    """The UCI optical digits that ship with the package; `root` is ignored."""

    part: str  # train or test
    kind: str = "classes"  # of the targets: classes, attributes or numbers

    def __call__(self, root: str, download: bool) -> MapDataset:
        names = f"{self.part}_images", f"{self.part}_labels"
        arrays = read_npz(Path(__file__).parent.parent / "digits" / "digits.npz", *names)
        images, digits = (arrays[name] for name in names)
        if self.kind == "attributes":  # (N, 4) booleans
            attributes = [np.isin(digits, having) for having in _ATTRIBUTES.values()]
            return ArrayDataset(images, np.stack(attributes, axis=1), tuple(_ATTRIBUTES))
        if self.kind == "numbers":  # (N, 2) floats: the digit, and the mean of its pixels as a percentage of white
            return ArrayDataset(images, np.stack([digits, images.mean(axis=(1, 2)) / 2.55], axis=1), _NUMBERS)
        return ArrayDataset(images, digits, _DIGITS)


@dataclass(frozen=True)
class _Shapes:
    """Drawn shapes; `root` is ignored."""

    part: str  # train or test
    number: int

    def __call__(self, root: str, download: bool) -> MapDataset:
        return Shapes(self.part, self.number)


@dataclass(frozen=True)
class _Idx:
    """MNIST and data sets in its format, from torchvision's folders or a folder with the four idx files.

    The files, gzipped or not, are looked for in ROOT/<torchvision's name>/raw, where torchvision puts them, in
    ROOT/<name>, as in Debian's dataset-fashion-mnist, and in ROOT itself. Their names are the same for every such
    data set, so files in ROOT itself are used for whichever is asked for.
    """

    loader: str
    folder: str
    train: bool
    classes: tuple[str, ...]

    def __call__(self, root: str, download: bool) -> MapDataset:
        part = "train" if self.train else "t10k"
        names = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
        try:
            images, labels = (self._find(Path(root).expanduser(), name) for name in names)
        except FileNotFoundError:
            if not download:
                raise
            _torchvision(self.loader, root, self.train, download)
            images, labels = (self._find(Path(root).expanduser(), name) for name in names)
        return ArrayDataset(read_idx(images), read_idx(labels), self.classes)

    def _find(self, root: Path, name: str) -> Path:
        for folder in (root / self.loader / "raw", root / self.folder, root):
            for path in (folder / name, folder / f"{name}.gz"):
                if path.is_file():
                    return path
        raise FileNotFoundError(f"no {name}, gzipped or not")


@dataclass(frozen=True)
class _Cifar:
    """CIFAR-10 and CIFAR-100 from the Python files of their authors, which torchvision verifies."""

    loader: str
    train: bool

    def __call__(self, root: str, download: bool) -> MapDataset:
        cifar = _torchvision(self.loader, root, self.train, download)
        return ArrayDataset(cifar.data, np.array(cifar.targets), tuple(cifar.classes))


def _torchvision(loader: str, root: str, train: bool, download: bool) -> Any:
    # Imported only when a set is built: it takes as long as torch itself, and planning a run needs only sizes.
    import torchvision

    build = getattr(torchvision.datasets, loader)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the CIFAR files are pickles older than today's numpy
            return build(str(Path(root).expanduser()), train=train, download=download)
    except (URLError, ConnectionError, TimeoutError) as error:
        raise OSError(f"the download failed ({error})") from error
    except RuntimeError as error:  # what torchvision raises for missing, damaged and not downloadable files
        if download:
            raise OSError(f"the download failed ({error})") from error
        raise FileNotFoundError(f"no complete {loader}") from error


def _npz(path: str, download: bool) -> MapDataset:
    """Build from a file with the arrays `images` and `labels`."""
    arrays = read_npz(Path(path).expanduser(), "images", "labels")
    return ArrayDataset(arrays["images"], arrays["labels"])


register_dataset("imagefolder:", build_image_folder)
register_dataset("csv:", build_csv)
register_dataset("npz:", _npz, in_memory=True)
register_dataset("webdataset:", build_shards, cached=True)
register_dataset("shapes", build_shapes)
register_dataset("coco:", build_coco, cached=True)
register_dataset("yolo:", build_yolo)
register_dataset("voc:", build_voc)

for _train, _part in ((True, "train"), (False, "test")):
    _digits_info = partial(
        DatasetInfo, 1437 if _train else 360, channels=1, image_size=(8, 8), mean=(0.3054,), std=(0.3757,)
    )
    _mean, _std = _DIGITS_MEAN_STD[_part]
    register_dataset(
        f"digits_{_part}",
        _Digits(_part),
        _digits_info(
            num_classes=10,
            classes=_DIGITS,
            value_mean=_mean[:1],
            value_std=_std[:1],
            class_counts=_DIGITS_COUNTS[_part],
        ),
        in_memory=True,
    )
    register_dataset(
        f"digits_attributes_{_part}",
        _Digits(_part, "attributes"),
        _digits_info(num_classes=0, classes=tuple(_ATTRIBUTES), num_values=len(_ATTRIBUTES)),
        in_memory=True,
    )
    register_dataset(
        f"digits_numbers_{_part}",
        _Digits(_part, "numbers"),
        _digits_info(num_classes=0, classes=_NUMBERS, num_values=2, value_mean=_mean, value_std=_std),
        in_memory=True,
    )
    register_dataset(
        f"mnist_{_part}",
        _Idx("MNIST", "mnist", _train, _DIGITS),
        DatasetInfo(
            *(60_000 if _train else 10_000, 10, 1, (28, 28), (0.1307,), (0.3081,), _DIGITS),
            class_counts=_MNIST_COUNTS[_part],
        ),
        in_memory=True,
    )
    register_dataset(
        f"fashion_mnist_{_part}",
        _Idx("FashionMNIST", "fashion-mnist", _train, _FASHION),
        DatasetInfo(
            *(60_000 if _train else 10_000, 10, 1, (28, 28), (0.2860,), (0.3530,), _FASHION),
            class_counts=(6000 if _train else 1000,) * 10,
        ),
        in_memory=True,
    )
    register_dataset(
        f"cifar10_{_part}",
        _Cifar("CIFAR10", _train),
        DatasetInfo(
            *(50_000 if _train else 10_000, 10, 3, (32, 32)),
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            classes=_CIFAR10,
            class_counts=(5000 if _train else 1000,) * 10,
        ),
        in_memory=True,
    )
    register_dataset(
        f"cifar100_{_part}",
        _Cifar("CIFAR100", _train),
        DatasetInfo(
            *(50_000 if _train else 10_000, 100, 3, (32, 32)),
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
            class_counts=(500 if _train else 100,) * 100,
        ),
        in_memory=True,
    )
    _number = 512 if _train else 128
    register_dataset(
        f"shapes_{_part}",
        _Shapes(_part, _number),
        DatasetInfo(
            *(_number, len(SHAPE_CLASSES), 3, (96, 96), *_SHAPES_MEAN_STD, SHAPE_CLASSES),
            annotations=Shapes.annotations,
            keypoints=SHAPE_KEYPOINTS,
            object_counts=_SHAPES_COUNTS[_part],
        ),
    )
