"""Inspections: every sample of a data set is read once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from warmstart.config import CfgNode
from warmstart.data import (
    SetReport,
    build_inspections,
    data_spec,
    register_dataset,
)
from warmstart.data.inspection.report import Trouble
from warmstart.tasks import build_task

Configured = Callable[..., CfgNode]


def reports(cfg: CfgNode, workers: int | None = None) -> list[SetReport]:
    data, problems = data_spec(cfg), list[str]()
    inspections = build_inspections(data, build_task(cfg), problems)
    assert problems == []
    chosen = inspections if workers is None else [replace(each, workers=workers) for each in inspections]
    return [each.run() for each in chosen]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty photos of two classes in several sizes and modes, one of them damaged."""
    rng = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "photos" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(("RGB", "L")[number % 3 == 0]).save(folder / f"{number:02}.png")
    (tmp_path / "photos" / "dog" / "41.png").write_bytes(b"not an image")
    return tmp_path / "photos"


def of_photos(configured: Configured, photos: Path, *words: object) -> CfgNode:
    return configured(
        *("DATASETS.TRAIN", f"imagefolder:{photos}", "DATASETS.TEST", "[]"),
        *("INPUT.TRANSFORMS_TRAIN", "[{RandomResizedCrop: {size: 16}}]", "DATALOADER.UNREADABLE", "skip", *words),
    )


def test_inspection_gives_the_same_report_for_any_number_of_workers(configured: Configured, photos: Path) -> None:
    cfg = of_photos(configured, photos)
    (alone,), (shared,) = reports(cfg, 0), reports(cfg, 2)
    assert replace(alone, file=str) == replace(shared, file=str)
    assert alone.size == 41
    assert [trouble.file for trouble in alone.unreadable] == [f"{photos}/dog/41.png"]


def test_inspection_mean_and_std_are_those_of_the_images_which_count_equally(
    configured: Configured, photos: Path
) -> None:
    files = [file for file in photos.rglob("*.png") if file.name != "41.png"]
    images = [np.asarray(Image.open(file).convert("RGB"), np.float64) / 255 for file in files]
    mean = np.mean([image.mean((0, 1)) for image in images], axis=0)
    square = np.mean([np.square(image).mean((0, 1)) for image in images], axis=0)
    (report,) = reports(of_photos(configured, photos))
    assert report.mean == pytest.approx(mean)
    assert report.std == pytest.approx(np.sqrt(square - mean**2))


def test_inspection_computes_statistics_of_what_the_model_gets_if_transforms_change_channels(
    configured: Configured, photos: Path
) -> None:
    grey = "[{RandomResizedCrop: {size: 16}}, Grayscale]"
    (report,) = reports(of_photos(configured, photos, "INPUT.TRANSFORMS_TRAIN", grey))
    assert len(report.mean) == len(report.std) == 1
    assert report.channels == {3: 40}


class Numbers:
    """Samples whose attribute of targets is not what they return."""

    targets = (0, 1, 0, 1)
    classes = ("a", "b", "c")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index == 3:
            raise OSError("damaged")
        return np.full((4, 4), index, np.uint8), 2


def test_inspection_counts_the_targets_that_samples_return(configured: Configured) -> None:
    register_dataset("numbers", lambda root, download: Numbers())
    (report,) = reports(configured("DATASETS.TRAIN", "numbers", "DATASETS.TEST", "[]"))
    assert report.counts == (0, 1, 3)  # of the damaged sample the listed target is all that is known
    assert (report.empty, report.single) == (("a",), ("b",))
    assert report.unreadable == (Trouble("sample 3", "damaged"),)
