"""The log of a run, and the class names that it, checkpoints and reports have."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from warmstart.config import CfgNode, get_cfg
from warmstart.engine import (
    classes_of,
    load_checkpoint,
    output_names,
    resolve_config,
    save_checkpoint,
    train,
)
from warmstart.tools import export_weights, plain_train_net


def folder_of_photos(root: Path, classes: list[str]) -> Path:
    for index, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (60 * index, 40 * number, 99)).save(root / name / f"{number}.png")
    return root


def config(folder: Path, *more: object) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 4, "MODEL.ARGS", "{width: 4}"])
    cfg.merge_from_list(["OUTPUT_DIR", str(folder / "out"), "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0])
    cfg.merge_from_list([*more])
    return cfg


def test_a_checkpoint_and_the_log_have_the_names_of_the_folders(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    photos = folder_of_photos(tmp_path / "photos", ["gänseblümchen", "rose"])
    train(config(tmp_path, "DATASETS.TRAIN", f"imagefolder:{photos}", "DATASETS.TEST", []))
    content = load_checkpoint(tmp_path / "out" / "model_final.pth")
    assert content["classes"] == ["gänseblümchen", "rose"]
    assert any(record.getMessage().endswith("2 classes (gänseblümchen, rose)") for record in logged)


def test_a_line_about_many_classes_has_the_first_and_the_last(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    photos = folder_of_photos(tmp_path / "photos", [f"c{number:02}" for number in range(11)])
    train(config(tmp_path, "DATASETS.TRAIN", f"imagefolder:{photos}", "DATASETS.TEST", []))
    assert any("11 classes (c00, c01, c02, c03, c04, ..., c10)" in record.getMessage() for record in logged)


def test_output_names_are_empty_where_the_outputs_are_not_the_classes() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.TASK", "regression"])
    assert output_names(resolve_config(cfg)) == []


def test_output_names_of_a_task_with_several_numbers_are_theirs() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.TRAIN", "digits_attributes_train", "DATASETS.TEST", "digits_attributes_test"])
    cfg.merge_from_list(["MODEL.TASK", "multilabel_classification"])
    assert output_names(resolve_config(cfg)) == ["even", "prime", "from 5 on", "loop"]


def test_a_checkpoint_without_class_names_is_resumed_and_exported(tmp_path: Path) -> None:
    cfg = config(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 1)
    train(cfg)
    path = tmp_path / "out" / "model_0000000.pth"
    older = load_checkpoint(path)
    del older["classes"]
    save_checkpoint(older, tmp_path / "older.pth")
    assert classes_of(load_checkpoint(tmp_path / "older.pth")) == []
    cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path / "next")])
    assert train(cfg, resume=str(tmp_path / "older.pth")) is not None
    assert export_weights.main([str(tmp_path / "older.pth"), str(tmp_path / "older.safetensors")]) == 0


@pytest.mark.parametrize("entry", [7, ["cat", 7], {"0": "cat"}])
def test_classes_of_ignores_an_entry_that_is_not_a_list_of_names(entry: object) -> None:
    assert classes_of({"classes": entry}) == []


def test_the_plain_loop_saves_the_class_names(tmp_path: Path) -> None:
    words = ["SOLVER.MAX_ITER=2", "MODEL.ARGS={width: 4}", f"OUTPUT_DIR={tmp_path / 'out'}"]
    assert plain_train_net.main(words) == 0
    content = torch.load(tmp_path / "out" / "plain_model_final.pth", weights_only=True)
    assert content["classes"] == [*"0123456789"]


def test_exported_weights_have_the_class_names_in_their_metadata(tmp_path: Path) -> None:
    train(config(tmp_path))
    assert export_weights.main([str(tmp_path / "out"), str(tmp_path / "x.safetensors")]) == 0
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classes"]) == [*"0123456789"]
