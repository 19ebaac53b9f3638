"""Runs of detection are exact: resumed, in the plain loop and on two ranks, whatever the model draws."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.engine import (
    build_trainer,
    find_start,
    load_checkpoint,
    load_start,
    prepare_folder,
    resolve_config,
)
from warmstart.engine.runtime import precision
from warmstart.tools import plain_train_net, train_net

from ..engine.dying import assert_same_bits, killed_after

pytest.importorskip("hotcoco")

ROOT = Path(__file__).parent.parent.parent

# Drawn inside the model: sampled anchors and regions, and the size to which each image is resized.
WORDS = (
    "MODEL.NAME=small_rcnn",
    "MODEL.ARGS={width: 8, min_size: [32, 40], max_size: 56, box_score_thresh: 0}",
    "DATASETS.TRAIN=[{shapes: {part: train, number: 12, size: [32, 48]}}]",
    "DATASETS.TEST=[{shapes: {part: test, number: 5, size: [32, 48]}}]",
    "INPUT.TRANSFORMS_TRAIN=[{ScaleJitter: {target_size: [40, 40]}}, {FixedSizeCrop: {size: 40}},"
    " RandomHorizontalFlip]",
    "MODEL.DEVICE=cpu",
    "SOLVER.IMS_PER_BATCH=4",
    "SOLVER.MAX_ITER=6",
    "SOLVER.STEPS=4",
    "SOLVER.OPTIMIZER=AdamW",
    "SOLVER.BASE_LR=0.004",
    "DATALOADER.NUM_WORKERS=0",
    "TEST.IMS_PER_BATCH=2",
    "TEST.EVAL_PERIOD=0",
    "TEST.REPORT=false",
    "LOG_PERIOD=2",
)
SGD = ("SOLVER.OPTIMIZER=SGD", "SOLVER.BASE_LR=0.01")  # AdamW enlarges differences of rounding
TASKS = {"detection": "AP", "instance_segmentation": "segm/AR", "keypoint_detection": "keypoints/AR"}


def words(folder: Path, *more: str, task: str = "detection") -> list[str]:
    return [*WORDS, f"MODEL.TASK={task}", f"OUTPUT_DIR={folder}", *more]


def config(folder: Path, *more: str, task: str = "detection") -> CfgNode:
    cfg = get_cfg()
    for word in words(folder, *more, task=task):
        cfg.merge_from_list([word])
    return resolve_config(cfg)


def final(folder: Path, name: str = "model_final.pth") -> dict[str, Any]:
    return load_checkpoint(folder / name)


def scores(folder: Path) -> dict[str, float]:
    """Return the scores in the last record, without those of sizes that no object has."""
    record = json.loads((folder / "metrics.json").read_text().splitlines()[-1])
    found = {name: value for name, value in record.items() if name.startswith("shapes/") and value is not None}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def train_on_two_ranks(words: list[str]) -> None:
    """Run train_net.py in new processes: hotcoco's threads do not exist in forks of a process that has used it."""
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--num-gpus", "2", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr


def test_plain_loop_gives_the_weights_of_a_run_with_accumulation(tmp_path: Path) -> None:
    more = ["SOLVER.GRAD_ACCUM_STEPS=2", "SOLVER.MAX_ITER=3", "SOLVER.STEPS=2", "DATASETS.TEST=[]"]
    assert train_net.main(words(tmp_path / "run", *more)) == 0
    assert plain_train_net.main(words(tmp_path / "plain", *more)) == 0
    plain = torch.load(tmp_path / "plain" / "plain_model_final.pth", weights_only=True)
    assert_same_bits(plain["model"], final(tmp_path / "run")["model"], "model")


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_an_interrupted_and_resumed_run_equals_the_uninterrupted_one(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A CPU without bf16 arithmetic gives the same bits, slowly.
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    more = [
        *("SOLVER.EMA.ENABLED=true", "SOLVER.GRAD_ACCUM_STEPS=2", "SOLVER.AMP.ENABLED=true"),
        *("SOLVER.AMP.PRECISION=bf16", "SOLVER.CHECKPOINT_PERIOD=2", "TEST.EVAL_PERIOD=2"),
        f"TEST.BEST.METRIC=shapes/{TASKS[task]}",
    ]
    whole = config(tmp_path / "whole", *more, "DATALOADER.NUM_WORKERS=2", task=task)
    prepare_folder(whole)
    build_trainer(whole).train()
    part = config(tmp_path / "part", *more, task=task)
    prepare_folder(part)
    killed_after(build_trainer(part), 3)
    start = find_start(part, "", overwrite=False)
    assert start is not None
    trainer = build_trainer(part)
    load_start(trainer, start[1])
    assert trainer.iteration == 2
    prepare_folder(part, start)
    trainer.train()
    for name in ("model_final.pth", "model_best.pth"):
        ours, theirs = (final(tmp_path / folder, name) for folder in ("part", "whole"))
        for key in ("model", "ema", "optimizer", "scheduler", "iteration", "rng"):
            assert_same_bits(ours[key], theirs[key], f"{name}: {key}")
    assert_same_bits(*(final(tmp_path / folder)["hooks"] for folder in ("part", "whole")))
    assert scores(tmp_path / "part") == scores(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_two_ranks_give_the_bits_of_one_rank_with_two_micro_batches(task: str, tmp_path: Path) -> None:
    """Sums of more parts are grouped differently, and so agree to the precision of float32 alone."""
    for steps in (2, 4):
        one = words(tmp_path / f"one{steps}", *SGD, f"SOLVER.GRAD_ACCUM_STEPS={steps}", task=task)
        assert train_net.main(one) == 0
    train_on_two_ranks(words(tmp_path / "two", *SGD, task=task))
    assert_same_bits(final(tmp_path / "two")["model"], final(tmp_path / "one2")["model"], "model")
    assert scores(tmp_path / "two") == scores(tmp_path / "one2")
    train_on_two_ranks(words(tmp_path / "four", *SGD, "SOLVER.GRAD_ACCUM_STEPS=2", task=task))
    theirs = final(tmp_path / "one4")["model"]
    for name, ours in final(tmp_path / "four")["model"].items():
        torch.testing.assert_close(ours, theirs[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.slow
def test_a_sharded_detector_is_evaluated_on_uneven_numbers_of_batches(tmp_path: Path) -> None:
    """Three batches of test images on two ranks: the second rank's last call has no batch."""
    more = [*SGD, "SOLVER.MAX_ITER=2", "SOLVER.STEPS=1"]
    sharded = ["MODEL.PARALLEL=fsdp", "MODEL.FSDP.WRAP=[Conv2d, Linear]"]
    assert train_net.main(words(tmp_path / "one", *more, "SOLVER.GRAD_ACCUM_STEPS=2")) == 0
    train_on_two_ranks(words(tmp_path / "two", *more, *sharded))
    assert scores(tmp_path / "two") == pytest.approx(scores(tmp_path / "one"), abs=0.01)


def test_compiling_a_detector_is_refused(tmp_path: Path) -> None:
    message = "^MODEL.COMPILE .*: small_rcnn is a detector, in which sizes follow from values, so that torch would"
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, "MODEL.COMPILE=default")
