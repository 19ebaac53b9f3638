"""Runs of detection: records, reports, losses on the test set; configs that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.engine import resolve_config, train

pytest.importorskip("hotcoco")

WORDS = (
    "MODEL.NAME=small_rcnn",
    "MODEL.TASK=detection",
    "MODEL.DEVICE=cpu",
    "MODEL.ARGS.width=8",
    "DATASETS.TRAIN={shapes: {part: train, number: 6, size: [48, 64]}}",
    "DATASETS.TEST={shapes: {part: test, number: 5, size: [48, 64]}}",
    "SOLVER.IMS_PER_BATCH=2",
    "TEST.IMS_PER_BATCH=2",
    "DATALOADER.NUM_WORKERS=0",
    "SOLVER.MAX_ITER=1",
)


def config(*words: str) -> CfgNode:
    cfg = get_cfg()
    for word in (*WORDS, *words):
        cfg.merge_from_list([word])
    return cfg


def test_run_records_scores_losses_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "MODEL.TASK=instance_segmentation",
        f"OUTPUT_DIR={tmp_path}",
        "TEST.LOSSES=true",
        "TEST.EVAL_PERIOD=1",
    )
    train(config(*words, "TEST.BEST.METRIC=shapes/segm/AR"))
    record = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert {"shapes/AP", "shapes/segm/AP50", "shapes/AP/circle", "shapes/segm/AP/star"} <= record.keys()
    parts = [name for name in record if name.startswith("shapes/loss_")]
    assert len(parts) == 5
    assert record["shapes/total_loss"] == pytest.approx(sum(record[name] for name in parts))
    shown = [line for line in capsys.readouterr().out.splitlines() if "AP50" in line]
    assert any("shapes/segm after 1 iteration" in line for line in shown)
    assert not any("circle" in line for line in shown)
    report = tmp_path / "report" / "shapes"
    content = json.loads((report / "report.json").read_text())
    assert content["samples"] == 5
    assert content["scores"].keys() >= {"AP", "segm/AP", "segm/AP/star", "total_loss"}
    assert sum(map(sum, content["confusion"])) >= len(
        json.loads((report / "objects.json").read_text())["annotations"]
    )
    assert (report / "detections.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["INPUT.MEAN=[0.5]"], "INPUT.MEAN.*MODEL.TASK detection does not read it"),
        (["DATASETS.TRAIN=digits_train"], "detection needs objects with boxes as targets, .* one class index"),
        (
            ["MODEL.NAME=resnet18"],
            "resnet18 is a classification model; set MODEL.TASK to classification, or choose",
        ),
        (
            ["MODEL.TASK=classification"],
            "objects with boxes, masks, keypoints in each image, which MODEL.TASK class",
        ),
        (["MODEL.TASK=regression"], "set MODEL.TASK to detection or instance_segmentation or keypoint_detection"),
        (["MODEL.TASK=multilabel_classification"], "which MODEL.TASK multilabel_classification does not take"),
        (
            ["INPUT.TRANSFORMS_TRAIN=[MixUp]"],
            "MixUp mixes class indices, which MODEL.TASK detection does not have",
        ),
        (["DATALOADER.BACKEND=resident"], "resident is not possible: MODEL.TASK detection loads sample by sample"),
    ],
)
def test_configs_that_do_not_suit_detection_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_config(config(*words))
