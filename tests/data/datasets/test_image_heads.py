"""Image sizes from file headers, and data sets whose images cannot form a batch."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from warmstart.config import CfgNode, ConfigError
from warmstart.data import dataset_info, register_dataset
from warmstart.data.datasets import registry as datasets
from warmstart.data.datasets.image_heads import extremes, head_size, head_sizes

from ...built import check_data

Configured = Callable[..., CfgNode]


@pytest.fixture(autouse=True)
def fresh() -> None:
    datasets._info_by_looking.cache_clear()


def folder(path: Path, sizes: dict[int, tuple[int, int]], count: int = 9) -> str:
    """Write images of 40x60, except the ones in `sizes`, (height, width); return the data set's name."""
    for index in range(count):
        file = path / "ab"[index % 2] / f"{index:04}.png"
        file.parent.mkdir(exist_ok=True, parents=True)
        height, width = sizes.get(index, (40, 60))
        Image.new("RGB", (width, height)).save(file)
    return f"imagefolder:{path}"


def test_head_size_raises_oserror_for_a_file_that_is_not_an_image() -> None:
    for content in (b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(50)):
        with pytest.raises(OSError, match="."):
            head_size(io.BytesIO(content))


def test_extremes_are_the_smallest_largest_widest_and_highest() -> None:
    assert extremes({(5, 5)}) == ((5, 5),)
    assert extremes({(10, 10), (11, 11), (2, 90), (90, 2), (12, 13)}) == ((2, 90), (10, 10), (90, 2))


def test_head_sizes_draws_files_by_hash_from_a_large_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmstart.data.datasets.image_heads._ALL", 8)
    monkeypatch.setattr("warmstart.data.datasets.image_heads._DRAWN", 4)
    name = folder(tmp_path, {2: (50, 50), 3: (70, 70), 5: (80, 80)})  # of both folders: 0, 2, 4, 6, 8, 1, 3, 5, 7
    read: list[int] = []

    def size_at(dataset: Any, index: int) -> tuple[int, int]:
        read.append(index)
        return 40, 60

    monkeypatch.setattr("warmstart.data.datasets.image_heads.size_at", size_at)
    dataset_info(name, "")
    assert read == [0, 1, 7]  # splitmix64 of seed 0 modulo nine, without repetitions


def test_head_sizes_passes_over_files_that_are_not_images(tmp_path: Path) -> None:
    name = folder(tmp_path, {})
    (tmp_path / "a" / "0002.png").write_bytes(b"no image")
    os.remove(tmp_path / "b" / "0005.png")
    os.mkfifo(tmp_path / "b" / "0005.png")
    (tmp_path / "b" / "0007.png").unlink()
    (tmp_path / "b" / "0007.png").symlink_to("/dev/zero")
    begin = time.monotonic()
    assert dataset_info(name, "").image_size == (40, 60)
    assert time.monotonic() - begin < 60


def test_head_sizes_ignores_data_sets_with_another_loader(tmp_path: Path) -> None:
    import torchvision

    folder(tmp_path, {3: (50, 50)})
    own = torchvision.datasets.ImageFolder(tmp_path, loader=lambda path: Image.new("RGB", (8, 8)))
    assert head_sizes(own) == set()


RESIZED = "[{Resize: {size: [32, 32]}}]"
SHORTER = "[{Resize: {size: 32}}]"
CROPPED = "[{Resize: {size: 32}}, {CenterCrop: {size: 32}}]"


@pytest.mark.parametrize(
    ("words", "fits"),
    [
        ((), False),
        (("INPUT.TRANSFORMS_TRAIN", RESIZED), True),
        (("INPUT.TRANSFORMS_TRAIN", CROPPED), True),
        (("INPUT.TRANSFORMS_TRAIN", SHORTER), False),
        (("INPUT.TRANSFORMS_TRAIN", "[{RandomCrop: {size: 20}}]"), True),
        (("SOLVER.IMS_PER_BATCH", 1), True),
        (("DATALOADER.ASPECT_RATIO_GROUPING", True), True),
    ],
)
def test_check_data_refuses_images_of_unequal_sizes_after_the_transforms(
    tmp_path: Path, configured: Configured, words: tuple[Any, ...], fits: bool
) -> None:
    name = folder(tmp_path, {3: (60, 40)})
    cfg = configured("DATASETS.TRAIN", name, "DATASETS.TEST", [], *words)
    if fits:
        check_data(cfg)
        return
    message = (
        rf"^DATASETS.TRAIN \(override\): images of {name} differ in size even after INPUT.TRANSFORMS_TRAIN:"
        r" 40x60 becomes \w+, 60x40 becomes \w+; end INPUT.TRANSFORMS_TRAIN with {Resize: {size: "
    )
    with pytest.raises(ConfigError, match=message):
        check_data(cfg)


def test_check_data_refuses_unequal_sizes_in_test_sets(tmp_path: Path, configured: Configured) -> None:
    name = folder(tmp_path, {3: (60, 40)})
    words = ("DATASETS.TRAIN", name, "DATASETS.TEST", name, "INPUT.TRANSFORMS_TRAIN", RESIZED)
    with pytest.raises(
        ConfigError, match=rf"^DATASETS.TEST \(override\): images of .+ \({name}\) .* INPUT.TRANSFORMS_TE"
    ):
        check_data(configured(*words))
    check_data(configured(*words, "INPUT.TRANSFORMS_TEST", RESIZED))
    check_data(configured(*words, "TEST.IMS_PER_BATCH", 1))


def test_check_data_refuses_an_image_that_is_too_small_for_a_crop(tmp_path: Path, configured: Configured) -> None:
    name = folder(tmp_path, {3: (20, 20)})
    cfg = configured(
        "DATASETS.TRAIN", name, "DATASETS.TEST", [], "INPUT.TRANSFORMS_TRAIN", "[{RandomCrop: {size: 32}}]"
    )
    with pytest.raises(ConfigError, match="INPUT.TRANSFORMS_TRAIN .*: RandomCrop fails on a 3x20x20 image"):
        check_data(cfg)


def test_check_data_refuses_joined_sets_of_unequal_sizes(configured: Configured) -> None:
    for name, size in (("one", (8, 8)), ("two", (9, 9)), ("any", None)):
        register_dataset(name, lambda root, download: None, datasets.DatasetInfo(10, 3, 1, size))  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigError, match=r"images of one \+ two differ in size.*: 8x8 becomes .* 9x9 becomes"):
        check_data(configured("DATASETS.TRAIN", "one,two", "DATASETS.TEST", []))
    check_data(configured("DATASETS.TRAIN", "one,any", "DATASETS.TEST", []))  # nothing is known of them


def test_check_data_refuses_a_batch_that_exceeds_memory(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = r"^SOLVER.IMS_PER_BATCH \(override\): 1,000,000,000 images of 1x8x8 need 456 GB of memory, and .*"
    with pytest.raises(ConfigError, match=message):
        check_data(configured("SOLVER.IMS_PER_BATCH", 10**9))
    monkeypatch.setattr("warmstart.data.build.free_memory", lambda: 456 * 1000)
    check_data(configured("SOLVER.IMS_PER_BATCH", 1000))
    check_data(configured("SOLVER.IMS_PER_BATCH", 2000), world_size=2)
    with pytest.raises(ConfigError, match="set it lower: the training set has 1,437 images"):
        check_data(configured("SOLVER.IMS_PER_BATCH", 1001))


def test_weights_are_read_from_regular_files(configured: Configured, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.mkfifo(tmp_path / "fifo.npy")
    (tmp_path / "x.npy").write_bytes(npy_of_a_trillion())
    for path, reason in (
        ("/dev/zero", "not a regular file"),
        (tmp_path / "fifo", "not a regular file"),
        (tmp_path / "fifo.npy", "not a regular file"),
        (tmp_path / "x.npy", "there are 64 of 8,000,000,000,000 bytes"),
    ):
        words = ("DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler", "DATALOADER.SAMPLE_WEIGHTS", str(path))
        with pytest.raises(ConfigError, match=rf"DATALOADER.SAMPLE_WEIGHTS \(override\): .*{reason}"):
            check_data(configured(*words))


def npy_of_a_trillion() -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    return file.getvalue() + bytes(64)
