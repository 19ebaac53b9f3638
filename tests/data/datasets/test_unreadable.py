"""Unreadable images: how they are reported, and what the loaders return instead."""

from __future__ import annotations

import errno
import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from warmstart.config import CfgNode, ConfigError
from warmstart.data import build_dataset, dataset_info
from warmstart.data.loaders.keyed_dataset import KeyedSamples
from warmstart.data.loaders.worker import EvalLoader, WorkerLoader, WorkerTrainLoader
from warmstart.data.transforms.image import ImageTransform

from ...built import build_test_loader, build_train_loader, classification

GREY = ImageTransform([], [0.0], [1 / 255])  # returns pixel values as they are in the file

NO_WORKERS = ("DATALOADER.NUM_WORKERS", 0, "DATALOADER.BACKEND", "worker")
WHY = "it is not an image in a format that PIL decodes itself"


def folder(path: Path, broken: tuple[int, ...] = ()) -> str:
    """Write ten images in two classes, image 30 + k of k; return the data set's name."""
    for index in range(10):
        file = path / "ab"[index // 5] / f"{index}.png"
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 6), (30 + index,) * 3).save(file)
        if index in broken:
            file.write_bytes(file.read_bytes()[:40])
    return f"imagefolder:{path}"


def loader(dataset: Any, policy: Any, workers: int = 0, transform: ImageTransform = GREY) -> WorkerLoader:
    samples = KeyedSamples(dataset, classification(2), transform, seed=0, name="pets", unreadable=policy)
    return WorkerLoader(samples, num_workers=workers, pin_memory=False)


def seen(images: Tensor) -> list[int]:
    """Return the number of each image in a batch."""
    return [round(float(image[0, 0, 0])) - 30 for image in images]


def train_batches(loader: WorkerLoader, count: int, batch_size: int = 4) -> list[tuple[list[int], list[int]]]:
    stream = WorkerTrainLoader(loader, seed=0, batch_size=batch_size).batches()
    batches = [(seen(images), labels.tolist()) for images, labels in itertools.islice(stream, count)]
    stream.close()
    return batches


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("made", [WorkerTrainLoader, EvalLoader])
def test_unreadable_raise_names_file_index_and_data_set(tmp_path: Path, workers: int, made: Any) -> None:
    dataset = build_dataset(folder(tmp_path, broken=(7,)), "")
    options = {"seed": 0} if made is WorkerTrainLoader else {}
    batches = made(loader(dataset, "raise", workers), batch_size=10, **options)
    with pytest.raises(ConfigError) as error:
        next(iter(batches))
    assert str(error.value) == (
        f"pets: sample 7 ({tmp_path}/b/7.png) cannot be read: {WHY}; repair or delete the file, or set "
        "DATALOADER.UNREADABLE skip"
    )


def test_unreadable_raise_names_a_file_that_is_missing(tmp_path: Path) -> None:
    dataset = build_dataset(folder(tmp_path), "")
    (tmp_path / "b" / "7.png").unlink()
    with pytest.raises(
        ConfigError, match=r"^pets: sample 7 \(.*/b/7.png\) cannot be read: No such file or dir.*; r"
    ):
        list(EvalLoader(loader(dataset, "raise"), batch_size=10))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_skip_replaces_an_image_by_the_next_readable_one_in_training(
    tmp_path: Path, workers: int, logged: list[logging.LogRecord]
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "holed").mkdir()
    whole = build_dataset(folder(tmp_path / "whole"), "")
    holed = build_dataset(folder(tmp_path / "holed", broken=(3, 4, 9)), "")
    stands_in = {3: 5, 4: 5, 9: 0}
    expected = [
        ([stands_in.get(index, index) for index in indices], [stands_in.get(i, i) // 5 for i in indices])
        for indices, _ in train_batches(loader(whole, "raise"), 10)
    ]
    assert train_batches(loader(holed, "replace", workers), 10) == expected
    lines = [record.getMessage() for record in logged]
    assert sorted(lines[:-1]) == [
        f"pets: sample {index} ({tmp_path}/holed/{name}.png) cannot be read: {WHY}"
        for index, name in ((3, "a/3"), (4, "a/4"), (9, "b/9"))
    ]
    assert lines[-1] == "pets: 3 of 10 samples cannot be read; others took their places"


def test_unreadable_skip_gives_the_replacement_the_random_numbers_of_the_position(tmp_path: Path) -> None:
    class Drawing:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            torch.rand(index + 1)
            if index < 3:
                raise OSError("gone")
            return torch.zeros(1, 1, 1), 0

    drawing = ImageTransform([("Draw", lambda image: torch.rand(1, 1, 1))], [0.0], [1.0])
    samples = KeyedSamples(Drawing(), classification(1), drawing, seed=0, name="x", unreadable="replace")
    (stood_in, direct), unread = samples.__getitems__([(17, 0), (17, 3)])
    assert torch.equal(stood_in["image"], direct["image"])
    assert [error.index for error in unread] == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_skip_drops_images_from_an_evaluation_and_logs_them(
    tmp_path: Path, workers: int, logged: list[logging.LogRecord]
) -> None:
    dataset = build_dataset(folder(tmp_path, broken=(0, 4, 5, 6, 7)), "")
    batches = EvalLoader(loader(dataset, "leave out", workers), batch_size=4)
    for _ in range(2):
        assert [seen(images) for images, _ in batches] == [[1, 2, 3], [8, 9]]
    lines = [record.getMessage() for record in logged]
    total = "pets: 5 of 10 samples cannot be read; the scores exclude them"
    assert len(lines) == 7  # each file once, the total for each pass
    assert (lines[5], lines[6]) == (total, total)


def test_unreadable_skip_logs_at_most_twenty_samples(tmp_path: Path, logged: list[logging.LogRecord]) -> None:
    class Gone:
        def __len__(self) -> int:
            return 60

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            if index:
                raise OSError("gone")
            return torch.zeros(1, 1, 1), 0

    assert len(list(EvalLoader(loader(Gone(), "leave out"), batch_size=8))) == 1
    assert len(logged) == 21


@pytest.mark.parametrize(("policy", "size"), [("replace", 100), ("leave out", 1000)])
def test_unreadable_skip_ends_the_run_if_no_sample_can_be_read(policy: str, size: int) -> None:
    class Gone:
        tried = 0

        def __len__(self) -> int:
            return 1000

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            Gone.tried += 1
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", f"/mnt/{index}.png")

    samples = loader(Gone(), policy)
    loaded = (
        WorkerTrainLoader(samples, seed=0, batch_size=4)
        if policy == "replace"
        else EvalLoader(samples, batch_size=8)
    )
    with pytest.raises(
        ConfigError, match=r"^pets: none of (the 100 samples from \d+ on|its 1,000 samples) can be read"
    ):
        list(loaded)
    assert Gone.tried == size


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (ValueError("a mistake"), "data set"),
        (RuntimeError("a mistake"), "data set"),
        (OSError(errno.EMFILE, "a mistake"), "data set"),  # the next image would not be read either
        (OSError("a mistake"), "transform"),
    ],
)
def test_unreadable_skip_does_not_hide_errors_in_code(error: Exception, where: str) -> None:
    def fail(image: Tensor) -> Tensor:
        raise error

    class Failing:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            if where == "data set":
                raise error
            return torch.zeros(1, 1, 1), 0

    for policy in ("raise", "replace", "leave out"):
        with pytest.raises(type(error), match="a mistake"):
            next(
                iter(
                    EvalLoader(
                        loader(Failing(), policy, 0, ImageTransform([("F", fail)], [0.0], [1.0])), batch_size=2
                    )
                )
            )


def test_dataset_info_passes_over_a_damaged_first_image(tmp_path: Path) -> None:
    info = dataset_info(folder(tmp_path, broken=(0, 1)), "")
    assert (info.size, info.image_size, info.classes) == (10, (6, 6), ("a", "b"))


def test_dataset_info_refuses_a_folder_without_a_readable_image(tmp_path: Path) -> None:
    name = folder(tmp_path, broken=tuple(range(10)))
    with pytest.raises(
        ConfigError, match=r"data set: imagefolder:.*: none of the 10 samples from 0 on can be read; .*"
    ):
        dataset_info(name, "")


def test_dataloader_unreadable_decides_between_raise_and_skip(
    configured: Callable[..., CfgNode], tmp_path: Path
) -> None:
    name = folder(tmp_path, broken=(3,))
    words = ("DATASETS.TRAIN", name, "DATASETS.TEST", name, "SOLVER.IMS_PER_BATCH", 10, *NO_WORKERS)
    with pytest.raises(ConfigError, match=r"3.png\) cannot be read"):
        next(iter(build_train_loader(configured(*words))))
    cfg = configured(*words, "DATALOADER.UNREADABLE", "skip")
    assert len(next(iter(build_train_loader(cfg))).targets) == 10
    assert [len(labels) for _, labels in build_test_loader(cfg, name)] == [9]
