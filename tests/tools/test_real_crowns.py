"""A detector trained from random weights on real aerial images of tree crowns.

$WARMSTART_REAL_DATA is a folder with crowns/*.png and crowns/*.xml: the files of deepforest/data in the wheel of
deepforest 2.1.0 (licence: MIT), four images with 951 boxes in Pascal VOC's format.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from warmstart.data import Objects, build_dataset
from warmstart.tools import check_data, train_net

CROWNS = Path(os.environ.get("WARMSTART_REAL_DATA", "")) / "crowns"
SIDE, STEP = 192, 160  # pixels of a tile, and from one to the next
TEST = "2019_YELL_2_541000_4977000_image_crop.png"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "WARMSTART_REAL_DATA" not in os.environ or not (CROWNS / TEST).is_file(),
        reason="WARMSTART_REAL_DATA names no folder with crowns/*.png and crowns/*.xml",
    ),
]


def cut(image: Tensor, objects: Objects, name: str, folder: Path, found: dict[str, Any]) -> None:
    """Write the tiles of an image; add them, and the crowns that are at least half in one, to annotations."""
    height, width = objects.size
    area = (objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(axis=1)
    for top in range(0, max(1, height - SIDE + STEP), STEP):
        for left in range(0, max(1, width - SIDE + STEP), STEP):
            y, x = min(top, height - SIDE), min(left, width - SIDE)
            number = len(found["images"]) + 1
            file = f"{name}_{y}_{x}.png"
            tile = image[:, y : y + SIDE, x : x + SIDE]
            Image.fromarray(tile.permute(1, 2, 0).numpy()).save(folder / file)
            found["images"].append({"id": number, "file_name": file, "height": SIDE, "width": SIDE})
            boxes = (objects.boxes - [x, y, x, y]).clip(0, SIDE)
            kept = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) >= 0.5 * area
            for x0, y0, x1, y1 in boxes[kept].tolist():
                entry = {"id": len(found["annotations"]) + 1, "image_id": number, "category_id": 1}
                found["annotations"].append({**entry, "bbox": [x0, y0, x1 - x0, y1 - y0]})


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.json, val.json and tiles: of two images to train on, and of one to test on."""
    folder = tmp_path_factory.mktemp("crowns")
    crowns = build_dataset(f"voc:{CROWNS}", "")
    assert [len(crowns.objects(index)) for index in range(len(crowns))] == [574, 279, 61, 37]
    assert crowns.classes == ("Alive", "Dead", "Tree")
    for part, indices in (("train", (0, 2)), ("val", (1,))):
        found: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "tree"}]}
        for index in indices:
            image, objects = crowns[index]
            cut(image, objects, f"{part}{index}", folder, found)
        (folder / f"{part}.json").write_text(json.dumps(found))
    return folder


def words(tiles: Path, *more: str) -> list[str]:
    sets = (
        f"DATASETS.{key}=[{{coco: {{path: {tiles / part}.json}}}}]"
        for key, part in (("TRAIN", "train"), ("TEST", "val"))
    )
    model = ["MODEL.TASK=detection", "MODEL.NAME=small_rcnn", "MODEL.ARGS.min_size=192", "MODEL.DEVICE=cpu"]
    return [*sets, *model, "MODEL.ARGS.anchor_sizes=[24,48,96]", f"DATASETS.CACHE={tiles / 'cache'}", *more]


def test_check_data_finds_the_crowns_and_draws_them(tiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_data.main([*words(tiles), "--pictures", str(tiles / "drawn")]) == 0
    out = capsys.readouterr().out
    assert "its anchors 24 to 96" in out
    picture = np.asarray(Image.open(sorted((tiles / "drawn").glob("train_*.png"))[0]))
    assert picture.shape == (2 * SIDE, 2 * SIDE, 3)


def test_a_small_detector_finds_tree_crowns(tiles: Path, tmp_path: Path) -> None:
    """AP50 of 00.0 % after 300 updates (n = 1)."""
    recipe = ["INPUT.TRANSFORMS_TRAIN=[RandomHorizontalFlip, RandomVerticalFlip]", "SOLVER.IMS_PER_BATCH=4"]
    recipe += ["SOLVER.MAX_ITER=300", "SOLVER.OPTIMIZER=AdamW", "SOLVER.BASE_LR=0.001", "SOLVER.WARMUP_ITERS=5%"]
    recipe += ["SOLVER.LR_SCHEDULER_NAME=WarmupCosineLR", "SOLVER.WEIGHT_DECAY=0.05", "DATALOADER.NUM_WORKERS=0"]
    recipe += ["MODEL.ARGS.box_detections_per_img=100", "TEST.IMS_PER_BATCH=8", f"OUTPUT_DIR={tmp_path / 'out'}"]
    assert train_net.main(words(tiles, *recipe)) == 0
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    (score,) = (record["val.json/AP50"] for record in records if "val.json/AP50" in record)
    assert score > 0.3
