"""Data sets in memory, and the .npz and idx files they are read from."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart.data.datasets.arrays import ArrayDataset, read_idx, read_npz


def test_array_dataset_samples_are_an_image_and_a_python_int() -> None:
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    image, label = ArrayDataset(images, np.array([7, 9], np.uint8))[1]
    assert image.tolist() == [[12, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22, 23]]
    assert (label, type(label)) == (9, int)


@pytest.mark.parametrize(
    ("labels", "label", "num_classes"),
    [
        (np.array([7, 9], np.uint8), 9, 10),
        (np.array([0.5, 1.5], np.float32), 1.5, 0),
        (np.array([[True, False], [False, True]]), [0, 1], 0),
        (np.array([[-1, 5], [2, -3]], np.int8), [2, -3], 0),
        (np.array([[0.5], [1.5]]), [1.5], 0),
    ],
)
def test_array_dataset_takes_class_indices_or_numbers_as_labels(labels: Any, label: Any, num_classes: int) -> None:
    dataset = ArrayDataset(np.zeros((2, 3, 3), np.uint8), labels)
    found = dataset[1][1]
    assert (found.tolist() if isinstance(found, np.ndarray) else found) == label
    assert dataset.num_classes == num_classes


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3, 3)), np.zeros(2, int), r"images must be uint8 .* got float64 \(2, 3, 3\)"),
        (np.zeros((2, 9), np.uint8), np.zeros(2, int), r"shape \(N, H, W\) or \(N, H, W, C\); got uint8 \(2, 9\)"),
        (np.zeros((2, 3, 3), np.uint8), np.array(["a", "b"]), r"or \(N, K\); got <U1 \(2,\)"),
        (np.zeros((2, 3, 3), np.uint8), np.zeros((2, 1, 1)), r"or \(N, K\); got float64 \(2, 1, 1\)"),
        (np.zeros((2, 3, 3), np.uint8), np.zeros((2, 0)), r"or \(N, K\); got float64 \(2, 0\)"),
        (
            np.zeros((2, 3, 3), np.uint8),
            np.array([[0, 1], [2, np.inf]]),
            "sample 1 has target inf; targets are fin",
        ),
        (np.zeros((2, 3, 3), np.uint8), np.zeros(3, int), "2 images but 3 labels"),
        (np.zeros((2, 3, 3), np.uint8), np.array([0, -1]), "labels begin at 0; got -1"),
    ],
)
def test_array_dataset_refuses_wrong_arrays(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArrayDataset(images, labels)


def test_read_npz_refuses_python_objects(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.array([{}], object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_npz(tmp_path / "x.npz")


def test_read_npz_refuses_an_npy_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"x.npy is not an .npz file"):
        read_npz(tmp_path / "x.npy")


def test_read_npz_refuses_a_flipped_byte(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros(1000, np.uint8))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[600] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x.npz is damaged: Bad CRC-32"):
        read_npz(tmp_path / "x.npz")


def header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    """The beginning of an .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def write_npz(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            header((10**12, 8, 8)) + bytes(64),
            r"array images is damaged: of uint8 \(1000000000000, 8, 8\) there are 64 of 64,000,000,000,000 bytes",
        ),
        (header((10**30,)) + bytes(64), "the array images is damaged"),
        (header((-8, -8)) + bytes(64), "."),
        (header((8, 8)) + bytes(65), r"of uint8 \(8, 8\) there are 65 of 64 bytes"),
        (header((8, 8)) + bytes(63), r"of uint8 \(8, 8\) there are 63 of 64 bytes"),
        (header((8,), "<f8") + bytes(8), r"of float64 \(8,\) there are 8 of 64 bytes"),
        (b"", "."),
        (b"\x93NUMPY\x09\x00", "."),
        (b"no array", "."),
    ],
)
def test_read_npz_refuses_a_header_that_does_not_match_the_file_size(
    tmp_path: Path, content: bytes, message: str
) -> None:
    write_npz(tmp_path / "x.npz", images=content)
    with pytest.raises(ValueError, match=message):
        read_npz(tmp_path / "x.npz", "images")


def test_read_npz_takes_no_more_memory_than_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((1000, 8, 8), np.uint8), labels=np.zeros(3))
    monkeypatch.setattr("warmstart.data.memory.free_memory", lambda device: 60_000)
    with pytest.raises(
        ValueError, match="^the array images needs 64,128 bytes of memory on cpu, and 60,000 are free"
    ):
        read_npz(tmp_path / "x.npz", "images")
    assert read_npz(tmp_path / "x.npz", "labels")["labels"].tolist() == [0, 0, 0]


def test_read_npz_returns_the_named_arrays_and_reports_missing_ones(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros(3), objects=np.array([{}], object))
    assert list(read_npz(tmp_path / "x.npz", "images")) == ["images"]
    with pytest.raises(
        ValueError, match="'labels' is missing; it needs images and labels, and holds images, objects"
    ):
        read_npz(tmp_path / "x.npz", "images", "labels")


@pytest.mark.parametrize("read", [read_npz, read_idx])
def test_read_npz_and_read_idx_refuse_files_that_are_not_regular(tmp_path: Path, read: Callable[..., Any]) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read(path)


@pytest.mark.parametrize("labels", [[2 * 10**9, 0], [10**6], [2**62]])
def test_array_dataset_refuses_a_label_that_implies_too_many_classes(labels: list[int]) -> None:
    array = np.array(labels)
    message = f"^sample 0 has label {labels[0]}, which implies {labels[0] + 1} classes; number the classes from 0"
    with pytest.raises(ValueError, match=message):
        ArrayDataset(np.zeros((len(labels), 3, 3), np.uint8), array)
    assert ArrayDataset(np.zeros((1, 3, 3), np.uint8), np.array([10**6 - 1])).num_classes == 10**6


def test_read_idx_reads_no_more_than_its_shape(tmp_path: Path) -> None:
    bomb = gzip.compress(b"\0\0\x08\x01\0\0\0\x05" + bytes(10**6))
    (tmp_path / "labels.gz").write_bytes(bomb)
    with pytest.raises(ValueError, match=r"labels.gz is damaged: it holds more than the 5 values of its shape"):
        read_idx(tmp_path / "labels.gz")
    (tmp_path / "labels").write_bytes(b"\0\0\x08\x04" + b"\xff" * 16)
    with pytest.raises(ValueError, match=r"labels needs 340,.* bytes of memory on cpu"):
        read_idx(tmp_path / "labels")


def test_read_idx_reads_plain_and_gzipped_files(tmp_path: Path, write_idx: Callable[..., None]) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "images", array)
    (tmp_path / "images.gz").write_bytes(gzip.compress((tmp_path / "images").read_bytes()))
    assert np.array_equal(read_idx(tmp_path / "images"), array)
    assert np.array_equal(read_idx(tmp_path / "images.gz"), array)


def test_read_idx_agrees_with_torchvision(tmp_path: Path, write_idx: Callable[..., None]) -> None:
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
def test_read_idx_refuses_malformed_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "labels").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "labels")


def test_read_idx_refuses_a_truncated_gzip_file(tmp_path: Path) -> None:
    (tmp_path / "labels.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x05abcde")[:-6])
    with pytest.raises(ValueError, match=r"labels.gz is damaged"):
        read_idx(tmp_path / "labels.gz")
