"""SOLVER.CHECKPOINT_KEEP: which checkpoints stay, before decays and after resumes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from warmstart.config import CfgNode, get_cfg
from warmstart.engine import load_checkpoint, save_checkpoint, train
from warmstart.engine.checkpoint.run_folder import RunFolder
from warmstart.engine.run.resume import keeping_as_before


def config(folder: Path, *more: Any) -> CfgNode:
    """20 iterations, a checkpoint after every 2, no evaluation."""
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", 20, "SOLVER.IMS_PER_BATCH", 8, "MODEL.ARGS", "{width: 4}"])
    cfg.merge_from_list(["SOLVER.CHECKPOINT_PERIOD", 2, "DATASETS.TEST", [], "LOG_PERIOD", 20])
    cfg.merge_from_list(["OUTPUT_DIR", str(folder), "MODEL.DEVICE", "cpu", *more])
    return cfg


def kept(folder: Path) -> list[int]:
    """Return the iterations of the numbered checkpoints."""
    return sorted(int(path.stem[6:]) + 1 for path in folder.glob("model_0*.pth"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"], [16, 18, 20]),
        (["SOLVER.STEPS", [7, 12]], [6, 12, 16, 18, 20]),
        (["SOLVER.STEPS", [7, 17]], [6, 16, 18, 20]),
        (["SOLVER.STEPS", [1]], [16, 18, 20]),
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupStableDecayLR", "SOLVER.DECAY_ITERS", 9], [10, 16, 18, 20]),
        (["SOLVER.STEPS", [7], "SOLVER.CHECKPOINT_KEEP", 1], [6, 20]),
        (["SOLVER.STEPS", [7], "SOLVER.CHECKPOINT_KEEP", 0], [*range(2, 21, 2)]),
    ],
)
def test_the_newest_checkpoints_and_those_before_a_decay_stay(
    tmp_path: Path, words: list[Any], expected: list[int]
) -> None:
    train(config(tmp_path, *words))
    assert kept(tmp_path) == expected
    assert load_checkpoint(tmp_path / "model_final.pth")["iteration"] == 20


def test_a_resumed_run_keeps_the_same_checkpoints_as_an_unbroken_one(tmp_path: Path) -> None:
    train(config(tmp_path, "SOLVER.STEPS", [7, 18]))
    unbroken = kept(tmp_path)
    half = config(tmp_path / "half", "SOLVER.STEPS", [7, 18], "SOLVER.MAX_ITER", 10)
    train(half)
    assert kept(tmp_path / "half") == [6, 8, 10]  # 6 is one of the newest, too
    train(config(tmp_path / "half", "SOLVER.STEPS", [7, 18]), resume="")
    assert kept(tmp_path / "half") == unbroken == [6, 16, 18, 20]


def test_a_run_of_a_version_that_kept_all_keeps_all_unless_the_user_says_otherwise(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    cosine = ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"]
    train(config(tmp_path, *cosine, "SOLVER.MAX_ITER", 10, "SOLVER.CHECKPOINT_KEEP", 0))
    train(config(tmp_path, *cosine, "SOLVER.MAX_ITER", 14), resume="")
    assert kept(tmp_path) == [*range(2, 15, 2)]
    assert "SOLVER.CHECKPOINT_KEEP: 0, as before" in [record.getMessage() for record in logged]
    assert load_checkpoint(tmp_path / "model_final.pth")["config"]["SOLVER"]["CHECKPOINT_KEEP"] == 0
    train(config(tmp_path, *cosine, "SOLVER.CHECKPOINT_KEEP", 2), resume="")
    assert kept(tmp_path) == [18, 20]


def test_a_checkpoint_without_the_key_kept_all() -> None:
    assert keeping_as_before(get_cfg(), {"SOLVER": {}}).SOLVER.CHECKPOINT_KEEP == 0


@pytest.mark.parametrize("keep", ["many", -1, True, None])
def test_keeping_as_before_ignores_what_is_not_a_number_of_checkpoints(keep: object) -> None:
    assert keeping_as_before(get_cfg(), {"SOLVER": {"CHECKPOINT_KEEP": keep}}).SOLVER.CHECKPOINT_KEEP == 3


def test_prune_deletes_only_listed_checkpoints_and_never_the_pointers(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, keep=1, milestones=[3, 100])
    for iteration in (1, 2, 3, 4, 5, 6):
        save_checkpoint({"iteration": iteration}, folder.numbered(iteration))
        if iteration != 1:
            folder.add_to_manifest(folder.numbered(iteration).name)
    folder.point_to(folder.numbered(5).name)
    folder.prune()
    assert kept(tmp_path) == [1, 3, 5, 6]
