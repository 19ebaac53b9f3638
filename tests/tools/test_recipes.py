"""Recipes: the comment at the top of each, and runs of any length from 20 iterations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from warmstart.config import CfgNode, get_cfg
from warmstart.engine import load_checkpoint, resolve_config, scaled
from warmstart.tools import train_net

RECIPES = sorted((Path(__file__).parent.parent.parent / "config" / "recipes").glob("*.yaml"))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a folder of photos, beside which torchvision's weights need no download."""
    for index, name in enumerate(("train/cat", "train/dog", "val/cat", "val/dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            colour = (90 * number, 60 * index, 128)
            Image.new("RGB", (300 + number, 280), colour).save(tmp_path / "photos" / name / f"{number}.jpg")
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    torch.save(resnet18().state_dict(), hub / "resnet18-f37072fd.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "photos"


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Returns a folder in COCO's layout, which also is the layout of one's own data: three photos and a person."""
    folder, names = tmp_path / "coco", ["nose", "left_eye", "right_eye"]
    (folder / "annotations").mkdir(parents=True)
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 48, "width": 64} for n in (5, 7, 9)]
    person: dict[str, Any] = {"id": 1, "image_id": 5, "category_id": 1, "bbox": [8, 8, 20, 30], "iscrowd": 0}
    person |= {"segmentation": [[8, 8, 28, 8, 28, 38, 8, 38]], "keypoints": [10, 10, 2] * 3}
    content = {
        "images": images,
        "annotations": [person, {**person, "id": 2, "image_id": 7}],
        "categories": [{"id": 1, "name": "person", "keypoints": names}],
    }
    for part, name in (("train", "train2017"), ("val", "val2017"), ("", "images")):
        (folder / name).mkdir()
        for image in images:
            Image.new("RGB", (64, 48), (40, 90, 200)).save(folder / name / image["file_name"])
        for file in (
            f"{part}.json",
            *(f"annotations/{kind}_{name}.json" for kind in ("instances", "person_keypoints")),
        ):
            (folder / file).write_text(json.dumps(content))
    return folder


def of_folder(path: Path, photos: Path, coco: Path) -> list[object]:
    """Return the overrides with which a recipe reads the photos, if it reads a folder."""
    text = get_cfg_of(path).dump()
    if "coco:" in text:  # its weights would be downloaded
        return ["DATASETS.ROOT", str(coco), "DATASETS.CACHE", str(coco), "MODEL.WEIGHTS", ""]
    return ["DATASETS.ROOT", str(photos)] if "imagefolder:{ROOT}" in text else []


def get_cfg_of(path: Path) -> CfgNode:
    cfg = get_cfg()
    cfg.merge(path, [])
    return cfg


LENGTHS = [
    (path, length) for path in RECIPES for length in (20, 21, 1_000_000) if not path.name.startswith("coco_")
]
LENGTHS += [(path, 20) for path in RECIPES if path.name.startswith("coco_")]


@pytest.mark.parametrize(("path", "max_iter"), LENGTHS, ids=lambda value: getattr(value, "name", str(value)))
def test_a_recipe_resolves_at_any_length(path: Path, max_iter: int, photos: Path, coco: Path) -> None:
    cfg = get_cfg()
    cfg.merge(path, ["SOLVER.MAX_ITER", max_iter, *of_folder(path, photos, coco)])
    if "resnet50" in path.name or path.name.startswith("coco_"):  # schedules for large data sets
        cfg.merge_from_list(["SOLVER.STEPS", [5, 10], "SOLVER.WARMUP_ITERS", 2, "SOLVER.CHECKPOINT_PERIOD", 5])
    solver = resolve_config(cfg).SOLVER
    assert max_iter == solver.MAX_ITER
    assert 0 <= solver.WARMUP_ITERS < max_iter
    assert 0 <= solver.CHECKPOINT_PERIOD < max_iter  # 0: only at the end


def test_the_1x_schedule_is_scaled_to_one_process_as_detectron2_does() -> None:
    solver = scaled(get_cfg_of(RECIPES[0].parent / "coco_mask_rcnn_r50_fpn_1x.yaml"), 1).SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (2, 0.0025, 720_000)
    assert (list(solver.STEPS), solver.WARMUP_ITERS) == ([480_000, 640_000], 8_000)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_headed_by_command_time_and_score(path: Path) -> None:
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    text = "\n".join(head)
    commands = ("python tools/train_net.py --config-file config/recipes/", "warmstart train --config-file recipe:")
    assert any(f"{command}{path.name}" in text for command in commands)
    assert "Time: " in text
    assert "Score: " in text
    assert "n = " in text


def test_the_main_job_runs_at_its_shortest(tmp_path: Path) -> None:
    train_net.main(["--config-file", "recipe:digits.yaml", "SOLVER.MAX_ITER", "20", "OUTPUT_DIR", str(tmp_path)])
    assert load_checkpoint(tmp_path / "model_final.pth")["iteration"] == 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fine_tune", "linear_probe"])
def test_the_recipes_for_photos_train_on_a_folder_and_write_a_report(
    name: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--config-file=recipe:{name}.yaml", f"DATASETS.ROOT={photos}", f"OUTPUT_DIR={tmp_path / 'out'}"]
    words += ["SOLVER.MAX_ITER=2ep", "SOLVER.IMS_PER_BATCH=3", "DATALOADER.NUM_WORKERS=0", "MODEL.DEVICE=cpu"]
    assert train_net.main(words) == 0
    printed = capsys.readouterr().out
    assert "loaded 100/102 tensors" in printed
    trained = load_checkpoint(tmp_path / "out" / "model_best.pth")
    assert trained["classes"] == ["cat", "dog"]
    moved = {
        parameter
        for parameter, weight in resnet18().state_dict().items()
        if weight.is_floating_point() and not parameter.startswith("fc.")
    }
    start = torch.load(tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth", weights_only=True)
    same = {parameter for parameter in moved if torch.equal(start[parameter], trained["model"][parameter])}
    assert same == (moved if name == "linear_probe" else set())
    assert (tmp_path / "out" / "report" / "val" / "report.json").is_file()


@pytest.mark.slow
def test_the_recipe_for_ones_own_data_trains_and_draws_detections(coco: Path, tmp_path: Path) -> None:
    words = ["--config-file=recipe:detection_on_your_data.yaml", f"DATASETS.ROOT={coco}", "MODEL.WEIGHTS="]
    words += ["MODEL.NAME=fasterrcnn_mobilenet_v3_large_320_fpn", "MODEL.ARGS.box_score_thresh=0.0"]
    words += ["SOLVER.MAX_ITER=2", "SOLVER.IMS_PER_BATCH=2", "SOLVER.CHECKPOINT_PERIOD=0", "TEST.EVAL_PERIOD=1"]
    words += ["DATALOADER.NUM_WORKERS=0", "MODEL.DEVICE=cpu", f"OUTPUT_DIR={tmp_path / 'out'}"]
    assert train_net.main([*words, f"DATASETS.CACHE={tmp_path}"]) == 0
    with Image.open(tmp_path / "out" / "report" / "val" / "detections.png") as picture:
        assert picture.size[0] > 64
