"""Resuming after the data has moved, or has changed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from warmstart.config import CfgNode, ConfigError
from warmstart.data import build_dataset, data_spec, register_dataset
from warmstart.data.datasets import registry as datasets
from warmstart.engine import load_checkpoint, train
from warmstart.engine.run.data_diff import compare_data

Tiny = Callable[..., CfgNode]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with 24 images of 8x8 of two classes."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


@pytest.fixture
def run(tiny: Tiny, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that trains on a folder, a quarter of it held out, and returns the last checkpoint."""

    def trained(root: Path, output: str, *words: Any, **options: Any) -> dict[str, Any]:
        datasets._info_by_looking.cache_clear()
        part = f"[{{imagefolder: {{path: {root}, holdout: 0.25, part: PART, name: photos}}}}]"
        sets = [f"DATASETS.{key}={part.replace('PART', key.lower())}" for key in ("TRAIN", "TEST")]
        cfg = tiny(*sets, f"OUTPUT_DIR={tmp_path / output}", "SOLVER.CHECKPOINT_PERIOD", 7, *words)
        train(cfg, **options)
        return load_checkpoint(tmp_path / output / "model_final.pth")

    return trained


def test_a_run_continues_bit_for_bit_after_its_data_moved(
    photos: Path, run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    unbroken = run(photos, "one")
    shutil.copytree(photos, tmp_path / "elsewhere" / "pictures")
    shutil.rmtree(photos)
    resumed = run(tmp_path / "elsewhere" / "pictures", "two", resume=str(tmp_path / "one" / "model_0000006.pth"))
    assert all(torch.equal(value, resumed["model"][name]) for name, value in unbroken["model"].items())
    assert [entry["digest"] for entry in unbroken["data"]["TRAIN"]] == [
        entry["digest"] for entry in resumed["data"]["TRAIN"]
    ]


def test_a_resume_refuses_other_images_unless_it_is_allowed(
    photos: Path, run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run(photos, "one")
    start = str(tmp_path / "one" / "model_0000006.pth")
    count = len([*photos.rglob("*.png")])
    for number in range(30, 40):
        shutil.copy(photos / "a" / "0.png", photos / "a" / f"{number}.png")
    message = (
        r"^this is not the run that wrote the checkpoint: DATASETS.TRAIN: imagefolder:.*, train part has \d+"
        r" samples, and had \d+ at the checkpoint.* or --allow-config-change$"
    )
    with pytest.raises(ConfigError, match=message):
        run(photos, "two", resume=start)
    assert not (tmp_path / "two").exists()
    run(photos, "two", resume=start, allow_config_change=True)
    for path in photos.rglob("3?.png"):
        path.unlink()
    assert len([*photos.rglob("*.png")]) == count
    (photos / "a" / "0.png").rename(photos / "a" / "0 0.png")
    with pytest.raises(ConfigError, match="as many samples as at the checkpoint, but not the|samples, and"):
        run(photos, "three", resume=start)


def test_a_checkpoint_without_the_content_of_its_data_is_compared_by_paths(
    photos: Path, run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    unbroken = run(photos, "one")
    start = tmp_path / "one" / "model_0000006.pth"
    older = torch.load(start, weights_only=True)
    del older["data"]
    torch.save(older, tmp_path / "older.pth")
    resumed = run(photos, "two", resume=str(tmp_path / "older.pth"))
    assert all(torch.equal(value, resumed["model"][name]) for name, value in unbroken["model"].items())
    shutil.copytree(photos, tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"not the run that wrote the checkpoint: DATASETS.TRAIN: .*moved"):
        run(tmp_path / "moved", "three", resume=str(tmp_path / "older.pth"))


def test_content_has_no_hash_of_a_kind_whose_options_may_change_the_images(tiny: Tiny, photos: Path) -> None:
    def build(path: str, download: bool, size: int = 8) -> Any:
        return build_dataset(f"imagefolder:{path}", "")

    register_dataset("scaled:", build)
    cfg = tiny(f"DATASETS.TRAIN=[scaled:{photos}, {{scaled: {{path: {photos}, size: 4}}}}]")
    plain, scaled = data_spec(cfg).content["TRAIN"]
    assert (len(plain["digest"]), scaled["digest"]) == (32, "")
    assert compare_data({"TRAIN": [scaled | {"options": {"size": 2}}]}, {"TRAIN": [scaled]}) == {}


PHOTOS = {"text": "imagefolder:a", "options": {}, "name": "val", "size": 9, "classes": ["x", "y"], "digest": "8f"}
DIGITS = {"text": "digits_test", "options": {}, "name": "digits_test", "size": 360, "classes": [], "digest": ""}


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (PHOTOS, PHOTOS | {"text": "imagefolder:b"}, ""),
        (
            PHOTOS,
            PHOTOS | {"digest": "9a"},
            "imagefolder:a has as many samples as at the checkpoint, but not the same",
        ),
        (
            PHOTOS,
            PHOTOS | {"classes": ["x", "z"]},
            r"imagefolder:a has other classes than at the checkpoint \(y, z\)",
        ),
        (PHOTOS, PHOTOS | {"classes": ["y", "x"]}, r"other classes than at the checkpoint \(their order\)"),
        (
            PHOTOS,
            PHOTOS | {"name": "b"},
            "the scores of imagefolder:a were called 'val' at the checkpoint; give it",
        ),
        (DIGITS, DIGITS, ""),
        (DIGITS, DIGITS | {"text": "mnist_test"}, None),  # the config's difference is reported
        (PHOTOS, DIGITS, None),
    ],
)
def test_compare_data_returns_what_differs(before: Any, now: Any, expected: str | None) -> None:
    found = compare_data({"TEST": [now]}, {"TEST": [before]})
    if not expected:
        assert found == ({} if expected is None else {"DATASETS.TEST": ""})
    else:
        assert re.search(rf"^DATASETS.TEST: .*{expected}", found["DATASETS.TEST"])
    assert compare_data({"TEST": [now]}, None) == {}
    assert compare_data({"TEST": [now, now]}, {"TEST": [before]}) == {}


@pytest.mark.parametrize("entry", [3, {"TEST": 3}, {"TEST": [3]}, {"TEST": [{}]}, {}])
def test_compare_data_refuses_a_damaged_entry(entry: Any) -> None:
    with pytest.raises(ConfigError, match="the checkpoint's entry 'data' is not one of ours: "):
        compare_data({"TEST": [PHOTOS]}, entry)
