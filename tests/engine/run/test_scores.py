"""Names of scores in records, in keys, and in checkpoints of older versions."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart.config import CfgNode, ConfigError
from warmstart.engine import (
    build_trainer,
    compare_configs,
    find_start,
    load_checkpoint,
    load_start,
    prepare_folder,
    resolve_config,
    save_checkpoint,
)
from warmstart.engine.run.scores import check_score_names, is_best_average, lr_metric, run_scores
from warmstart.tasks import build_task

Tiny = Callable[..., CfgNode]


@pytest.fixture
def two(noise_npz: Path, tmp_path: Path) -> tuple[str, ...]:
    """DATASETS.TEST with a/val.npz as text and b/val.npz as a mapping, told apart by their folders."""
    images, labels = np.load(noise_npz)["images"], np.load(noise_npz)["labels"]
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "val.npz", images=images[number::2], labels=labels[number::2])
    return "DATASETS.TEST", f"[npz:{tmp_path}/a/val.npz, {{npz: {{path: {tmp_path}/b/val.npz}}}}]"


def test_scores_of_two_test_sets_are_recorded_by_the_names_that_tell_them_apart(
    tiny: Tiny, two: tuple[str, ...], logged: list[logging.LogRecord], tmp_path: Path
) -> None:
    cfg = resolve_config(tiny(*two, "TEST.BEST.METRIC", "b_val.npz/accuracy", "SOLVER.EMA.ENABLED", True))
    names = [
        *("a_val.npz/accuracy", "a_val.npz/loss", "a_val.npz/ema/accuracy", "a_val.npz/ema/loss"),
        *("b_val.npz/accuracy", "b_val.npz/loss", "b_val.npz/ema/accuracy", "b_val.npz/ema/loss"),
    ]
    assert list(run_scores(cfg, build_task(cfg))) == names
    assert lr_metric(cfg, build_task(cfg)) == "a_val.npz/loss"
    build_trainer(cfg).train()
    record = json.loads((tmp_path / "out" / "metrics.json").read_text().splitlines()[-1])
    assert [name for name in record if "val" in name] == names
    assert not any("/tmp" in name or ":" in name for name in record)
    said = [record.getMessage() for record in logged]
    assert [line.partition(":")[0] for line in said if " after 14 iterations: " in line] == [
        *("a_val.npz after 14 iterations", "a_val.npz/ema after 14 iterations"),
        *("b_val.npz after 14 iterations", "b_val.npz/ema after 14 iterations"),
    ]


def test_a_checkpoint_holds_entries_as_plain_data_and_resumes(tiny: Tiny, two: tuple[str, ...]) -> None:
    cfg = resolve_config(tiny(*two, "SOLVER.MAX_ITER", 7, "SOLVER.STEPS", 5))
    trainer = build_trainer(cfg)
    prepare_folder(cfg, overwrite=False)
    trainer.train()
    saved = load_checkpoint(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    assert saved["config"]["DATASETS"]["TEST"] == cfg.DATASETS.TEST
    longer = resolve_config(tiny(*two))
    found = find_start(longer, "", overwrite=False)
    assert found is not None
    compare_configs(longer, found[1]["config"], allow_change=False)
    with pytest.raises(ConfigError, match="this is not the run that wrote the checkpoint: DATASETS.TEST: "):
        compare_configs(resolve_config(tiny()), saved["config"], allow_change=False)


@pytest.mark.parametrize(
    ("key", "more"),
    [
        ("TEST.BEST.METRIC", []),
        (
            "SOLVER.LR_METRIC",
            ["SOLVER.LR_SCHEDULER_NAME", "ReduceLROnPlateau", "SOLVER.LR_SCHEDULER_ARGS.mode", "max"],
        ),
        ("SOLVER.WARMUP_UNTIL.METRIC", ["SOLVER.WARMUP_UNTIL.ABOVE", 0.5]),
    ],
)
def test_check_score_names_suggests_the_current_name_of_a_score(
    tiny: Tiny, noise_npz: Path, key: str, more: list[Any]
) -> None:
    cfg = tiny(key, f"npz:{noise_npz}/accuracy", "TEST.EVAL_PERIOD", 7, *more)
    message = rf"{key} \(override\): no score is called npz:/.*/noise.npz/accuracy; write noise.npz/accuracy"
    with pytest.raises(ConfigError, match=message):
        resolve_config(cfg)
    resolve_config(tiny(key, "noise.npz/accuracy", "TEST.EVAL_PERIOD", 7, *more))


def test_check_score_names_takes_names_of_records_and_of_the_users(tiny: Tiny) -> None:
    check_score_names(tiny("TEST.BEST.METRIC", "mine/noise.npz/accuracy", "SOLVER.LR_METRIC", "total_loss"))


def older(content: dict[str, Any], data: Path) -> dict[str, Any]:
    """A checkpoint as a version wrote it in which the entry of DATASETS.TEST was the name of its scores."""
    hooks = {
        name: {**state, "metric": f"npz:{data}/accuracy"} if "metric" in state else state
        for name, state in content["hooks"].items()
    }
    return {**content, "hooks": hooks}


def test_a_run_of_an_older_version_keeps_its_best_score_and_its_patience(
    tiny: Tiny, noise_npz: Path, tmp_path: Path
) -> None:
    words = ("TEST.EVAL_PERIOD", 2, "TEST.BEST.METRIC", "noise.npz/accuracy", "TEST.EARLY_STOPPING.PATIENCE", 9)
    cfg = resolve_config(tiny(*words, "SOLVER.MAX_ITER", 8, "SOLVER.STEPS", 5))
    build_trainer(cfg).train()
    written = load_checkpoint(tmp_path / "out" / "model_final.pth")
    (tmp_path / "old").mkdir()
    save_checkpoint(older(written, noise_npz), tmp_path / "old" / "model_0000007.pth")
    longer = resolve_config(tiny(*words, "OUTPUT_DIR", str(tmp_path / "old")))
    found = find_start(longer, "", overwrite=False)
    assert found is not None
    compare_configs(longer, {**found[1]["config"], "OUTPUT_DIR": longer.OUTPUT_DIR}, allow_change=False)
    trainer = build_trainer(longer)
    load_start(trainer, found[1])
    for hook in trainer.hooks:
        if hook.name in ("BestHook", "EarlyStoppingHook"):
            assert hook.state_dict() == written["hooks"][hook.name]
            assert hook.state_dict()["best"] is not None


def test_a_pending_evaluation_of_an_older_version_is_recorded_under_its_current_name(
    tiny: Tiny, noise_npz: Path, tmp_path: Path
) -> None:
    words = ("TEST.EVAL_PERIOD", 7, "TEST.BEST.METRIC", "noise.npz/accuracy")
    build_trainer(resolve_config(tiny(*words, "SOLVER.MAX_ITER", 7, "SOLVER.STEPS", 5))).train()
    content = older(load_checkpoint(tmp_path / "out" / "model_final.pth"), noise_npz)
    content["hooks"]["trainer"] |= {"pending": True, "scalars": {f"npz:{noise_npz}/accuracy": 0.25}}
    (tmp_path / "old").mkdir()
    save_checkpoint(content, tmp_path / "old" / "model_0000006.pth")
    cfg = resolve_config(tiny(*words, "OUTPUT_DIR", str(tmp_path / "old")))
    found = find_start(cfg, "", overwrite=False)
    assert found is not None
    trainer = build_trainer(cfg)
    load_start(trainer, found[1])
    assert trainer.pending
    assert trainer.scalars == {"noise.npz/accuracy": 0.25}


@pytest.mark.parametrize(
    ("metric", "test", "expected"),
    [
        ("val/ema/accuracy", "imagefolder:photos/val", True),
        ("val/accuracy", "imagefolder:photos/val", False),
        ("x/ema/accuracy", "x=imagefolder:photos/val", True),
        ("val/ema/accuracy", "x=imagefolder:photos/val", False),
        ("x/ema/accuracy", {"imagefolder": {"path": "photos/val", "name": "x"}}, True),
        ("sets/ema/accuracy", "imagefolder:{ROOT}", True),
        ("imagefolder:photos/val/ema/accuracy", "imagefolder:photos/val", True),
        ("imagefolder:photos/train/ema/loss", "imagefolder:photos/train", True),  # a name that is refused now
        ("digits_test/ema/loss", "digits_test", True),
        ("val/ema/accuracy", 3, False),
        ("val/ema/accuracy", {"imagefolder": 3}, False),
    ],
)
def test_is_best_average_accepts_current_and_old_names_of_scores(metric: str, test: Any, expected: bool) -> None:
    content = {
        "hooks": {"BestHook": {"metric": metric}},
        "config": {"DATASETS": {"TEST": (test,), "ROOT": "sets"}},
        "ema": {"model": {}},
    }
    assert is_best_average(Path("out/model_best.pth"), content) == expected


def test_a_test_set_that_does_not_fit_is_called_by_its_name(tiny: Tiny, tmp_path: Path) -> None:
    np.savez(tmp_path / "rgb.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.arange(4) % 3)
    message = r"images of val \(npz:/.*/rgb.npz\) have 3 channel\(s\), but images of the training set have 1"
    with pytest.raises(ConfigError, match=message):
        resolve_config(tiny("DATASETS.TEST", f"val=npz:{tmp_path}/rgb.npz"))
