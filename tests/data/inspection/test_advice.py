"""What reports mean for a run: mistakes that end it, and keys that help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from warmstart.config import CfgNode, ConfigError
from warmstart.data import SetReport, check_reports, data_spec, describe_advice
from warmstart.data.inspection.report import Trouble

Configured = Callable[..., CfgNode]


def of_folder(configured: Configured, folder: Path, *words: object) -> CfgNode:
    """Return a config of a folder with an image of each of two classes."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(folder / name / "0.png")
    return configured("DATASETS.TRAIN", f"imagefolder:{folder}", "DATASETS.TEST", "[]", *words)


PROBLEMS = [
    (
        {"unreadable": (Trouble("a.jpg", "cut"),)},
        "1 of 4 images of x cannot be read: a.jpg (cut); repair",
    ),
    ({"unreadable": (Trouble("a.jpg", "cut"),) * 4}, "no image of x can be read: a.jpg (cut), a.jpg (cut), a.jpg"),
    (
        {"wrong": (Trouble("a.jpg", "it has label 9"),)},
        "1 of 4 images of x have a wrong target: a.jpg (it has",
    ),
    (
        {"failed": (Trouble("a.jpg", "too small"),)},
        "fails on 1 of 4 images of x: a.jpg (too small); begin",
    ),
    ({"results": {(3, 8, 8): 3, (3, 8, 9): 1}}, "differ in size after it: 3x8x8 (3), 3x8x9 (1); end it with"),
]


@pytest.mark.parametrize(("found", "message"), PROBLEMS, ids=[message for _, message in PROBLEMS])
def test_check_reports_refuses_what_ends_a_run(
    configured: Configured, found: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_reports(configured(), [SetReport("TRAIN", "x", 4, **found)])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("DATALOADER.UNREADABLE", "skip"), {"unreadable": (Trouble("a.jpg", "cut"),)}),
        (("SOLVER.IMS_PER_BATCH", 1), {"results": {(3, 8, 8): 3, (3, 8, 9): 1}}),
        (("DATALOADER.ASPECT_RATIO_GROUPING", True), {"results": {(3, 8, 8): 3, (3, 8, 9): 1}}),
        ((), {"copies": (("a.jpg", "b.jpg"),), "enlarged": ("a.jpg",)}),
    ],
)
def test_check_reports_accepts_what_a_run_copes_with(
    configured: Configured, words: tuple[Any, ...], found: dict[str, Any]
) -> None:
    check_reports(configured(*words), [SetReport("TRAIN", "x", 4, **found)])


def advice(cfg: CfgNode, **found: Any) -> list[str]:
    return [keys for keys, _ in describe_advice(cfg, data_spec(cfg), [SetReport("TRAIN", "x", 900, **found)])]


def test_describe_advice_suggests_weights_that_grow_with_the_square_root_of_uneven_classes(
    configured: Configured,
) -> None:
    sampler = "DATALOADER.SAMPLER_TRAIN WeightedTrainingSampler"
    assert advice(configured(), counts=(100, 51)) == []
    assert advice(configured(), counts=(100, 50)) == [sampler]
    assert advice(configured(), counts=(100, 25, 4, 0)) == [f"{sampler} DATALOADER.CLASS_WEIGHTS 1,0.5,0.2,0"]
    assert advice(configured(), counts=(100, *[4] * 30)) == [sampler]
    repeats = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", 0.1)
    assert advice(configured(*repeats), counts=(100, 4)) == []


def test_describe_advice_suggests_mean_and_std_only_where_none_are_known(
    configured: Configured, tmp_path: Path
) -> None:
    known = {"mean": (0.25, 0.5, 0.75), "std": (0.1, 0.2, 0.3), "channels": {3: 900}}
    cfg = of_folder(configured, tmp_path)
    assert advice(cfg, **known) == ["INPUT.MEAN 0.25,0.5,0.75 INPUT.STD 0.1,0.2,0.3"]
    assert advice(configured(), **known) == []  # the digits are registered with theirs
    assert advice(of_folder(configured, tmp_path, "INPUT.MEAN", "0.5"), **known) == []
    assert advice(of_folder(configured, tmp_path, "MODEL.WEIGHTS", "resnet18.pth"), **known) == []
