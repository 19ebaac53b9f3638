"""Runs of multi-label classification and regression: resumed, on several ranks, evaluated separately."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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
from warmstart.tools import train_net

from ..engine.dying import assert_same_bits, killed_after
from ..engine.ranks import trained

TASKS = {"multilabel_classification": "mAP", "regression": "mae"}

no_fork = pytest.mark.skipif(torch.cuda.is_available(), reason="forks this process, which may have used the GPU")


@pytest.fixture(params=TASKS)
def words(request: pytest.FixtureRequest, tiny_words: list[str], tmp_path: Path) -> list[str]:
    """A run of 14 iterations of a task on 48 images of noise, as the words of a command line."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (48, 8, 8), dtype=np.uint8)
    mean = images.mean(axis=(1, 2))
    labels = {
        "multilabel_classification": np.stack([mean > 127, images[:, 0, 0] > 50, images[:, 4, 4] > 200], axis=1),
        "regression": np.stack([mean, images[:, 0, 0] / 255], axis=1),
    }
    path = tmp_path / "noise.npz"
    np.savez(path, images=images, labels=labels[request.param])
    changed = [f"DATASETS.TRAIN=npz:{path}", f"DATASETS.TEST=npz:{path}", f"MODEL.TASK={request.param}"]
    changed += ["TEST.IMS_PER_BATCH=9", f"TEST.BEST.METRIC=noise.npz/{TASKS[request.param]}"]
    return [*tiny_words, *changed]


@pytest.fixture
def run(words: list[str], tmp_path: Path) -> Callable[..., CfgNode]:
    def configure(folder: str, *more: str) -> CfgNode:
        cfg = get_cfg()
        for word in (*words, f"OUTPUT_DIR={tmp_path / folder}", *more):
            cfg.merge_from_list([word])
        return resolve_config(cfg)

    return configure


FULL = (
    "SOLVER.EMA.ENABLED=true",
    "SOLVER.GRAD_ACCUM_STEPS=2",
    "SOLVER.AMP.ENABLED=true",
    "SOLVER.AMP.PRECISION=bf16",
    "SOLVER.CHECKPOINT_PERIOD=5",
    "TEST.EVAL_PERIOD=2",
    "TEST.EARLY_STOPPING.PATIENCE=5",
    "TEST.EARLY_STOPPING.MIN_DELTA=1e9",  # none is so much better than the first: the update after 12 is the last
)


def scores(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name.startswith("noise.npz/")} for record in records]


@pytest.mark.parametrize("backend", ["worker", "resident"])
def test_an_interrupted_and_resumed_run_equals_the_uninterrupted_one(
    run: Callable[..., CfgNode], tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A CPU without bf16 arithmetic gives the same bits, slowly.
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    more = (*FULL, f"DATALOADER.BACKEND={backend}")
    whole = run("whole", *more)
    prepare_folder(whole)
    build_trainer(whole).train()
    part = run("part", *more)
    prepare_folder(part)
    killed_after(build_trainer(part), 7)
    start = find_start(part, "", overwrite=False)
    assert start is not None
    trainer = build_trainer(part)
    load_start(trainer, start[1])
    assert trainer.iteration in (5, 6)  # 6: it was the best so far, and saved as such
    prepare_folder(part, start)
    trainer.train()
    for name in ("model_final.pth", "model_best.pth"):
        ours, theirs = (load_checkpoint(tmp_path / folder / name) for folder in ("part", "whole"))
        for key in ("model", "ema", "optimizer", "scheduler", "iteration", "rng"):
            assert_same_bits(ours[key], theirs[key], f"{name}: {key}")
    ours, theirs = (load_checkpoint(tmp_path / folder / "model_final.pth") for folder in ("part", "whole"))
    assert_same_bits(ours["hooks"], theirs["hooks"])
    assert ours["iteration"] == 13
    evaluated = [[each for each in scores(tmp_path / folder) if each] for folder in ("part", "whole")]
    assert evaluated[0][-4:] == evaluated[1][-4:]
    assert len(evaluated[1][0]) == 2 * len(trainer.task.scores)  # type: ignore[union-attr]  # of the average, too


def test_best_checkpoint_and_plateau_follow_the_direction_of_the_score(run: Callable[..., CfgNode]) -> None:
    plateau = ["SOLVER.LR_SCHEDULER_NAME=ReduceLROnPlateau", "SOLVER.STEPS=()", "TEST.EVAL_PERIOD=2"]
    cfg = run("out", *plateau)
    mode = "min" if cfg.MODEL.TASK == "regression" else "max"
    assert mode == cfg.TEST.BEST.MODE
    prepare_folder(cfg)
    trainer = build_trainer(cfg)
    trainer.train()
    assert trainer.iteration == 14
    watched = f"SOLVER.LR_METRIC={cfg.TEST.BEST.METRIC}"
    run("out", *plateau, watched, f"SOLVER.LR_SCHEDULER_ARGS.mode={mode}")
    with pytest.raises(ConfigError, match=f"set SOLVER.LR_SCHEDULER_ARGS.mode {mode}"):
        run("out", *plateau, watched, f"SOLVER.LR_SCHEDULER_ARGS.mode={'max' if mode == 'min' else 'min'}")


def test_a_separate_evaluation_gives_the_scores_of_the_run(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_net.main([*words, "SOLVER.MAX_ITER=5", "SOLVER.STEPS=3"]) == 0
    out = capsys.readouterr().out
    config = str(tmp_path / "out" / "config.yaml")
    assert train_net.main(["--config-file", config, "--eval-only", "--resume"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "noise.npz: " in line)
    assert line.rpartition("noise.npz: ")[2] in out


@no_fork
def test_two_ranks_give_the_results_of_one(words: list[str], tmp_path: Path) -> None:
    more = ["MODEL.ARGS={norm: group, width: 4, dropout: 0}", "TEST.EVAL_PERIOD=7", "SOLVER.BASE_LR=0.01"]
    assert train_net.main([*words, *more, f"OUTPUT_DIR={tmp_path / 'one'}", "SOLVER.GRAD_ACCUM_STEPS=2"]) == 0
    ended = trained(tmp_path / "logs", 2, [*words, *more, f"OUTPUT_DIR={tmp_path / 'two'}"])
    assert [each.code for each in ended] == [0, 0], ended[0].err
    one, two = (scores(tmp_path / folder) for folder in ("one", "two"))
    assert len(one) == len(two)
    for ours, theirs in zip(two, one, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


@no_fork
def test_a_sharded_model_gives_the_results_of_one_rank(words: list[str], tmp_path: Path) -> None:
    more = ["MODEL.ARGS={norm: group, width: 4, dropout: 0}", "TEST.EVAL_PERIOD=7", "SOLVER.BASE_LR=0.01"]
    assert train_net.main([*words, *more, f"OUTPUT_DIR={tmp_path / 'one'}"]) == 0
    sharded = ["MODEL.PARALLEL=fsdp", "MODEL.FSDP.WRAP=[Conv2d, Linear]", f"OUTPUT_DIR={tmp_path / 'two'}"]
    ended = trained(tmp_path / "logs", 2, [*words, *more, *sharded])
    assert [each.code for each in ended] == [0, 0], ended[0].err
    for ours, theirs in zip(scores(tmp_path / "two"), scores(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
