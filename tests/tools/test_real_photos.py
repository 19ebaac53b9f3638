"""Fine-tuning on real photos with real ImageNet weights, by the recipes; docs/FINE_TUNING.md has the figures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from warmstart.tools import train_net

DATA = Path(os.environ.get("WARMSTART_REAL_DATA", ""))
# Half the usual side: a quarter of the time.
SMALLER = [
    "INPUT.TRANSFORMS_TRAIN=[{RandomResizedCrop: {size: 128, scale: [0.5, 1.0]}}, RandomHorizontalFlip]",
    "INPUT.TRANSFORMS_TEST=[{Resize: {size: 144}}, {CenterCrop: {size: 128}}]",
    "SOLVER.IMS_PER_BATCH=32",
]
LITE0 = ["MODEL.NAME=timm:tf_efficientnet_lite0", f"MODEL.WEIGHTS={DATA}/lite0/lite0.pth"]

pytestmark = pytest.mark.slow


def needs(name: str) -> pytest.MarkDecorator:
    found = "WARMSTART_REAL_DATA" in os.environ and (DATA / name).is_dir()
    return pytest.mark.skipif(not found, reason=f"WARMSTART_REAL_DATA names no folder with {name}/ and lite0/")


def best_score(recipe: str, output: Path, *words: str) -> float:
    """Train by a recipe for photos; return the best score that it recorded."""
    pytest.importorskip("timm")
    command = [f"--config-file=recipe:{recipe}.yaml", f"OUTPUT_DIR={output}", "MODEL.DEVICE=cpu", *words]
    assert train_net.main(command) == 0
    records = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    names = ("val/accuracy", "val/ema/accuracy")
    return max(record[name] for record in records for name in names if name in record)


@pytest.mark.skipif(
    not (DATA / "flowers").is_dir(), reason="set WARMSTART_REAL_DATA to a folder with flowers/, lite0/"
)
def test_a_linear_probe_beats_80_percent_on_flowers_and_fine_tuning_beats_it(tmp_path: Path) -> None:
    """171 photos of 10 kinds; 39 to test. From scratch a few epochs learn little.

    So few photos would disturb the statistics of BatchNorm, which are kept.
    """
    flowers = f"DATASETS.ROOT={DATA}/flowers"
    probe = best_score("linear_probe", tmp_path / "probe", *LITE0, flowers)
    tuned = best_score("fine_tune", tmp_path / "tuned", *LITE0, flowers, r"MODEL.FREEZE=(^|\.)bn\d")
    scratch = best_score("fine_tune", tmp_path / "scratch", LITE0[0], "MODEL.WEIGHTS=", flowers)
    assert 0.8 < probe < tuned
    assert scratch < probe


@pytest.mark.skipif(
    not (DATA / "xrays").is_dir(), reason="set WARMSTART_REAL_DATA to a folder with xrays/, lite0/"
)
def test_fine_tuning_beats_95_percent_on_chest_x_rays(tmp_path: Path) -> None:
    """2,532 images to train; 634 to test, of which 2 are in both, as check-data reports."""
    root = DATA / "xrays" / "datasets" / "pneumonia"
    words = [f"DATASETS.ROOT={root}", "DATASETS.TEST=val=imagefolder:{ROOT}/test", *SMALLER]
    assert best_score("fine_tune", tmp_path / "out", *LITE0, *words, "SOLVER.MAX_ITER=2ep") > 0.95
