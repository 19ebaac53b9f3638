"""Data sets in memory, and the .npz and idx files they come from."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart.data.arrays import ArrayDataset, read_idx, read_npz


def test_samples_are_an_image_and_a_python_int() -> None:
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    image, label = ArrayDataset(images, np.array([7, 9], np.uint8))[1]
    assert image.tolist() == [[12, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22, 23]]
    assert (label, type(label)) == (9, int)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3, 3)), np.zeros(2, int), r"images must be uint8 .* got float64 \(2, 3, 3\)"),
        (np.zeros((2, 9), np.uint8), np.zeros(2, int), r"shape \(N, H, W\) or \(N, H, W, C\); got uint8 \(2, 9\)"),
        (np.zeros((2, 3, 3), np.uint8), np.zeros(2), "labels must be N whole numbers; got float64"),
        (np.zeros((2, 3, 3), np.uint8), np.zeros((2, 1), int), r"N whole numbers; got int64 \(2, 1\)"),
        (np.zeros((2, 3, 3), np.uint8), np.zeros(3, int), "2 images but 3 labels"),
        (np.zeros((2, 3, 3), np.uint8), np.array([0, -1]), "labels begin at 0; got -1"),
    ],
)
def test_wrong_arrays_are_refused(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArrayDataset(images, labels)


def test_npz_with_python_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.array([{}], object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_npz(tmp_path / "x.npz")


def test_a_lone_npy_file_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"x.npy is no .npz file"):
        read_npz(tmp_path / "x.npy")


def test_a_flipped_byte_in_an_npz_is_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros(1000, np.uint8))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[600] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x.npz is damaged: Bad CRC-32"):
        read_npz(tmp_path / "x.npz")


def test_idx_is_read_plain_and_gzipped(tmp_path: Path, write_idx: Callable[..., None]) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "images", array)
    (tmp_path / "images.gz").write_bytes(gzip.compress((tmp_path / "images").read_bytes()))
    assert np.array_equal(read_idx(tmp_path / "images"), array)
    assert np.array_equal(read_idx(tmp_path / "images.gz"), array)


def test_idx_agrees_with_torchvision(tmp_path: Path, write_idx: Callable[..., None]) -> None:
    from torchvision.datasets.mnist import read_image_file

    write_idx(tmp_path / "images", np.arange(60, dtype=np.uint8).reshape(5, 3, 4))
    assert np.array_equal(read_idx(tmp_path / "images"), read_image_file(str(tmp_path / "images")).numpy())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\x08\x01\0\0\0\x05abc", "is cut short: it holds 3 of 5 values"),
        (b"\0\0\x0d\x01\0\0\0\x01abcd", "is not an idx file of unsigned bytes"),
        (b"", "is not an idx file of unsigned bytes"),
    ],
)
def test_bad_idx_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "labels").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "labels")


def test_gzip_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x05abcde")[:-6])
    with pytest.raises(ValueError, match=r"labels.gz is damaged"):
        read_idx(tmp_path / "labels.gz")
