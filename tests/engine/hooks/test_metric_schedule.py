"""Schedules that follow metrics: plateaus, and warm-ups that end on a metric."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from warmstart.config import CfgNode, ConfigError, get_cfg
from warmstart.engine import (
    HookBase,
    MetricHook,
    Trainer,
    build_trainer,
    compare_configs,
    load_newest,
    load_start,
    register_hook,
    resolve_config,
)
from warmstart.solver import MetricLR

from ..dying import killed_after

PLATEAU = [
    *("SOLVER.LR_SCHEDULER_NAME", "ReduceLROnPlateau", "SOLVER.LR_SCHEDULER_ARGS", "{patience: 1, factor: 0.5}"),
    *("SOLVER.WARMUP_ITERS", 6, "TEST.EVAL_PERIOD", 3),
]


def config(folder: Path, *more: Any) -> CfgNode:
    cfg = get_cfg()
    common = ["SOLVER.MAX_ITER", 60, "SOLVER.BASE_LR", 0.1, "SOLVER.IMS_PER_BATCH", 8, "OUTPUT_DIR", str(folder)]
    cfg.merge_from_list([*common, "MODEL.ARGS", "{width: 4}", "SOLVER.CHECKPOINT_PERIOD", 7, *more])
    return resolve_config(cfg)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def rates(folder: Path) -> dict[int, float]:
    """Return the learning rate of each record's update."""
    return {record["iteration"]: record["lr"] for record in records(folder)}


def train(cfg: CfgNode) -> Trainer:
    trainer = build_trainer(cfg)
    trainer.train()
    return trainer


def killed_and_resumed(cfg: CfgNode, k: int) -> Trainer:
    """Return the trainer of a run that was killed right after the checkpoint of iteration k, and resumed."""
    killed_after(build_trainer(cfg), k)
    found = load_newest(Path(cfg.OUTPUT_DIR))
    assert found is not None
    resumed = build_trainer(cfg)
    load_start(resumed, found[1])
    assert resumed.iteration == k
    resumed.train()
    return resumed


@pytest.mark.need("B14")
def test_plateau_drops_after_the_second_evaluation_without_improvement(tmp_path: Path) -> None:
    train(config(tmp_path, *PLATEAU, "SOLVER.LR_METRIC", "total_loss", "LOG_PERIOD", 3))
    lines = [record for record in records(tmp_path) if record["iteration"] > 5]
    best, bad, rate = float("inf"), 0, 0.1
    dropped = 0
    for record in lines:
        # A record has the learning rate of its last update, which depends on the metrics of earlier records.
        if record["iteration"] > 6:
            assert record["lr"] == pytest.approx(rate), record["iteration"]
        if record["total_loss"] < best * (1 - 1e-4):
            best, bad = record["total_loss"], 0
        else:
            bad += 1
        if bad > 1:
            rate, bad, dropped = rate / 2, 0, dropped + 1
    assert dropped > 2


@pytest.mark.slow
@pytest.mark.need("B14", "A6")
def test_plateau_patience_survives_a_kill(tmp_path: Path) -> None:
    whole = train(config(tmp_path / "whole", *PLATEAU))
    assert whole.scheduler.state_dict()["num_reductions"] > 0
    for k in (1, 8, 21, 41):  # in warm-up, between two evaluations, at one, near the end
        resumed = killed_and_resumed(config(tmp_path / f"killed{k}", *PLATEAU, "SOLVER.CHECKPOINT_PERIOD", k), k)
        assert resumed.scheduler.state_dict() == whole.scheduler.state_dict(), k
        for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(ours, theirs), k


def test_plateau_watches_the_loss_of_the_first_test_set_by_default(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    trainer = train(config(tmp_path, *PLATEAU, "SOLVER.LR_SCHEDULER_ARGS.threshold", 0.9))
    losses = [record["digits_test/loss"] for record in records(tmp_path) if "digits_test/loss" in record]
    assert isinstance(trainer.scheduler, MetricLR)
    assert trainer.scheduler.progress.patience.best == losses[1]  # after iteration 6, the end of warm-up
    lines = [record.getMessage() for record in logged if "has not improved" in record.getMessage()]
    assert lines[0].startswith("iteration 12: digits_test/loss is ")
    assert lines[0].endswith("rate 0.1 -> 0.05")


def test_warmup_until_implements_the_rule_for_resnet_110_on_cifar_10(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    """0.01 until the training error is below 80 %, then 0.1 (He et al. 2016, section 4.2)."""
    rule = [
        *("SOLVER.WARMUP_METHOD", "constant", "SOLVER.WARMUP_FACTOR", 0.1, "SOLVER.WARMUP_ITERS", 50),
        *("SOLVER.WARMUP_UNTIL.METRIC", "train/error", "SOLVER.WARMUP_UNTIL.BELOW", 0.8, "LOG_PERIOD", 2),
    ]
    trainer = train(config(tmp_path / "whole", *rule))
    errors = {record["iteration"]: record["train/error"] for record in records(tmp_path / "whole")}
    end = next(iteration for iteration, error in errors.items() if error < 0.8)
    assert 2 < end < 50
    assert trainer.scheduler.state_dict()["warmup_end"] == end
    rate = rates(tmp_path / "whole")
    assert all(rate[t] == pytest.approx(0.01 if t <= end else 0.1) for t in rate if t < 45)
    (line,) = [record.getMessage() for record in logged if "warm-up ends" in record.getMessage()]
    assert line == f"warm-up ends at iteration {end}: train/error is {errors[end]:.4g}"
    # Killed after warm-up has ended, the run does not warm up again.
    cfg = config(tmp_path / "killed", *rule, "SOLVER.CHECKPOINT_PERIOD", end + 1)
    resumed = killed_and_resumed(cfg, end + 1)
    assert rates(tmp_path / "killed") == rate
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(resumed.model.parameters(), trainer.model.parameters(), strict=True)
    )


def test_metric_hook_warns_once_of_a_metric_that_never_appears(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    train(
        config(
            tmp_path, *PLATEAU, "SOLVER.LR_METRIC", "total_los", "SOLVER.MAX_ITER", 12, "SOLVER.WARMUP_ITERS", 0
        )
    )
    lines = [record.getMessage() for record in logged if "total_los," in record.getMessage()]
    assert lines == ["the schedule watches total_los, which is not in the record; did you mean total_loss?"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            [*PLATEAU, "TEST.EVAL_PERIOD", 0],
            "SOLVER.LR_METRIC: digits_test/loss is only known after an evaluation",
        ),
        (
            [*PLATEAU, "DATASETS.TEST", "[]"],
            "SOLVER.LR_METRIC: there is no test set with a score to watch; set it, as total_loss, or",
        ),
        (
            ["SOLVER.WARMUP_UNTIL.METRIC", "digits_test/accuracy", "SOLVER.WARMUP_UNTIL.ABOVE", 0.5],
            r"SOLVER.WARMUP_UNTIL.METRIC \(override\): digits_test/accuracy is only known after an evaluation",
        ),
    ],
)
def test_metric_hook_refuses_a_metric_that_no_record_can_have(
    tmp_path: Path, more: list[Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, *more)


@pytest.mark.need("A3")
def test_compare_configs_prints_a_changed_eval_period_for_a_schedule_that_follows_metrics(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    for name in ("WarmupCosineLR", "ReduceLROnPlateau"):
        more = ["TEST.EVAL_PERIOD", 3, "SOLVER.LR_SCHEDULER_NAME", name]
        saved = config(tmp_path, *more).to_dict()
        logged.clear()
        compare_configs(config(tmp_path, *more, "TEST.EVAL_PERIOD", 4), saved, allow_change=False)
        told = ["changed since the checkpoint: TEST.EVAL_PERIOD: 3 -> 4"] if name == "ReduceLROnPlateau" else []
        assert [record.getMessage() for record in logged] == told


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            [*PLATEAU, "SOLVER.LR_METRIC", "digits_test/acuracy"],
            r"^SOLVER\.LR_METRIC \(override\): no evaluation gives the score 'digits_test/acuracy'; did you mean"
            " digits_test/accuracy\\? Known: digits_test/accuracy, digits_test/top5, digits_test/loss$",
        ),
        (
            ["SOLVER.WARMUP_UNTIL.METRIC", "digits_test/los", "SOLVER.WARMUP_UNTIL.BELOW", 1, *PLATEAU[4:]],
            r"^SOLVER\.WARMUP_UNTIL\.METRIC \(override\): no evaluation gives the score 'digits_test/los'; did",
        ),
    ],
    ids=["plateau", "warm-up"],
)
def test_mistyped_score_is_refused_before_any_file_is_written(
    tmp_path: Path, more: list[Any], message: str
) -> None:
    cfg = config(tmp_path / "out", *more)
    with pytest.raises(ConfigError, match=message):
        build_trainer(cfg)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def own_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that puts a score under a test set's name."""

    class F1(HookBase):
        def after_step(self, trainer: Trainer) -> None:
            if "digits_test/accuracy" in trainer.scalars:
                trainer.scalars["digits_test/f1"] = 1.0

    monkeypatch.setattr("warmstart.engine.run.default_hooks._HOOKS", {})
    register_hook("f1", lambda cfg: F1())


@pytest.mark.usefixtures("own_score")
def test_metric_hook_follows_the_score_of_a_user_defined_hook(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    """The score never gets lower: with patience 1 the learning rate is halved at the third evaluation."""
    more = ["SOLVER.LR_METRIC", "digits_test/f1", "SOLVER.MAX_ITER", 12, "SOLVER.WARMUP_ITERS", 1]
    train(config(tmp_path, *PLATEAU, *more))
    lines = [line for record in logged if "digits_test/f1" in (line := record.getMessage())]
    assert [line for line in lines if "not in the record" in line] == []
    assert [line for line in lines if "has not improved" in line] == [
        "iteration 9: digits_test/f1 is 1 and has not improved on 1: learning rate 0.1 -> 0.05"
    ]


@pytest.mark.usefixtures("own_score")
def test_metric_hook_warns_of_an_unknown_score_at_the_first_evaluation(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    more = ["SOLVER.LR_METRIC", "digits_test/acuracy", "SOLVER.MAX_ITER", 12, "LOG_PERIOD", 2]
    train(config(tmp_path, *PLATEAU, *more, "SOLVER.WARMUP_ITERS", 1))
    lines = [record.getMessage() for record in logged]
    (told,) = [line for line in lines if "acuracy" in line]
    assert told.endswith("digits_test/acuracy, which is not in the record; did you mean digits_test/accuracy?")
    assert sum("digits_test after" in line for line in lines[: lines.index(told)]) == 1


def test_metric_hook_ends_warmup_above_a_value_and_accepts_nan(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    until = ["SOLVER.WARMUP_UNTIL.METRIC", "digits_test/accuracy", "SOLVER.WARMUP_UNTIL.ABOVE", 0.0]
    cfg = config(tmp_path, *PLATEAU, *until, "SOLVER.WARMUP_ITERS", 50, "SOLVER.LR_SCHEDULER_ARGS.patience", 0)
    trainer = build_trainer(cfg)
    scheduler = trainer.scheduler
    assert isinstance(scheduler, MetricLR)
    (hook,) = [hook for hook in trainer.hooks if isinstance(hook, MetricHook)]
    for iteration, accuracy in ((1, 0.0), (2, 0.1)):
        trainer.iteration, trainer.record = iteration, {"iteration": iteration, "digits_test/accuracy": accuracy}
        scheduler.step()
        hook.after_step(trainer)
        assert scheduler.in_warmup == (iteration == 1)
    trainer.iteration, trainer.record = 3, {"iteration": 3, "digits_test/loss": float("nan")}
    hook.after_step(trainer)
    text = "iteration 3: digits_test/loss is nan and has not improved on anything yet: learning rate 0.1 -> 0.05"
    assert logged[-1].getMessage() == text
