"""The best checkpoint and early stopping: what counts as better, and that a kill makes no difference."""

from __future__ import annotations

import errno
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from warmstart.config import CfgNode, ConfigError, disk, get_cfg
from warmstart.engine import (
    BestHook,
    EvaluationHook,
    HookBase,
    Trainer,
    build_trainer,
    compare_configs,
    find_start,
    load_checkpoint,
    load_newest,
    load_start,
    prepare_folder,
    register_hook,
    resolve_config,
    save_checkpoint,
)
from warmstart.engine.run.scores import is_best_average, run_scores
from warmstart.modeling import build_model
from warmstart.tasks import build_task
from warmstart.tools import train_net

from ...built import build_test_loader
from ..dying import assert_same_bits, killed_after

ACCURACY, LOSS = "digits_test/accuracy", "digits_test/loss"


def config(folder: Path, *more: Any) -> CfgNode:
    """16 iterations, evaluated every 3 and at the end, a checkpoint every 2."""
    cfg = get_cfg()
    common = ["SOLVER.MAX_ITER", 16, "SOLVER.STEPS", 9, "SOLVER.BASE_LR", 0.1, "SOLVER.IMS_PER_BATCH", 8]
    common += ["SOLVER.CHECKPOINT_KEEP", 0]
    cfg.merge_from_list([*common, "MODEL.ARGS", "{width: 4}", "OUTPUT_DIR", str(folder)])
    cfg.merge_from_list(
        ["TEST.EVAL_PERIOD", 3, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.BEST.METRIC", ACCURACY, *more]
    )
    return resolve_config(cfg)


def scripted(cfg: CfgNode, scores: list[float], metric: str = ACCURACY) -> Trainer:
    """A trainer whose evaluations at 3, 6, 9, ... and at the end give these scores."""
    trainer = build_trainer(cfg)
    trainer.hooks = [hook for hook in trainer.hooks if hook.name != "PictureHook"]  # which takes most of the time
    (evaluation,) = (hook for hook in trainer.hooks if isinstance(hook, EvaluationHook))
    evaluation.evaluate = lambda trainer: {metric: scores[-(-trainer.iteration // 3) - 1]}
    return trainer


def resumed(cfg: CfgNode, scores: list[float]) -> Trainer:
    found = load_newest(Path(cfg.OUTPUT_DIR))
    assert found is not None
    trainer = scripted(cfg, scores)
    load_start(trainer, found[1])
    prepare_folder(cfg, found)
    return trainer


def state_of(trainer: Trainer, name: str) -> dict[str, Any]:
    return next(hook.state_dict() for hook in trainer.hooks if hook.name == name)


def best_iteration(folder: Path) -> int:
    return int(load_checkpoint(folder / "model_best.pth")["iteration"])


@pytest.mark.need("E2", "S13")
@pytest.mark.parametrize(
    ("mode", "scores", "expected"),
    [
        ("max", [0.5, 0.7, 0.7, 0.6, 0.6, 0.6], 6),  # an equal one is no better
        ("max", [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], 3),  # the first counts
        ("max", [math.nan, 0.4, math.nan, 0.5, math.nan, 0.5], 12),
        ("max", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 16),  # that at the end too
        ("max", [-1.0, -2.0, -0.5, -3.0, -4.0, -5.0], 9),
        ("min", [0.5, 0.3, 0.3, 0.2, math.nan, 0.4], 12),
        ("min", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 3),
        ("max", [math.inf, 0.4, math.inf, 0.5, 0.3, 0.5], 12),  # of an overflow: nothing would be better again
        ("min", [-math.inf, 0.4, 0.3, -math.inf, 0.5, math.inf], 9),
    ],
)
def test_the_best_is_the_first_of_the_highest_or_lowest_scores(
    tmp_path: Path, mode: str, scores: list[float], expected: int
) -> None:
    metric = {"max": ACCURACY, "min": LOSS}[mode]
    trainer = scripted(config(tmp_path, "TEST.BEST.METRIC", metric), scores, metric)
    trainer.train()
    assert best_iteration(tmp_path) == expected
    assert state_of(trainer, "BestHook") == {
        "metric": metric,
        "mode": mode,
        "best": scores[-(-expected // 3) - 1],
        "best_iteration": expected,
    }


@pytest.mark.need("E2")
@pytest.mark.parametrize(
    ("metric", "mode", "expected"),
    [
        (ACCURACY, "auto", "max"),
        (LOSS, "auto", "min"),
        (ACCURACY, "max", "max"),
        (LOSS, "min", "min"),
        ("digits_test/f1", "auto", "max"),  # of a user-defined hook: nobody knows
        ("digits_test/f1", "min", "min"),
    ],
)
def test_the_mode_of_the_best_follows_the_score_unless_it_is_given(
    tmp_path: Path, metric: str, mode: str, expected: str
) -> None:
    cfg = config(tmp_path, "TEST.BEST.METRIC", metric, "TEST.BEST.MODE", mode)
    modes = [each.TEST.BEST.MODE for each in (cfg, resolve_config(cfg))]
    assert modes == [expected] * 2


def test_best_and_early_stopping_hooks_come_after_the_records_and_before_the_checkpoint(tmp_path: Path) -> None:
    names = [hook.name for hook in build_trainer(config(tmp_path, "TEST.EARLY_STOPPING.PATIENCE", 1)).hooks]
    assert names[1:6] == ["EvaluationHook", "PictureHook", "RecordHook", "BestHook", "EarlyStoppingHook"]
    assert names[-1] == "CheckpointHook"


@pytest.mark.need("E2")
def test_nothing_but_nan_leaves_no_best_file(tmp_path: Path) -> None:
    scripted(config(tmp_path), [math.nan] * 6).train()
    assert not (tmp_path / "model_best.pth").exists()


def test_load_state_dict_forgets_an_infinite_best_of_an_older_version(tmp_path: Path) -> None:
    hook = BestHook(3, ACCURACY, "max", tmp_path)
    hook.load_state_dict({"metric": ACCURACY, "mode": "max", "best": math.inf, "best_iteration": 3})
    assert (hook.best, hook.best_iteration) == (None, 0)


@pytest.mark.parametrize(
    ("metric", "test", "expected"),
    [
        ("npz:a/ema/accuracy", "npz:a", True),
        ("npz:a/accuracy", "npz:a", False),
        ("npz:a/ema/accuracy", "npz:a/ema", False),  # the plain score of a folder with that name
    ],
)
def test_is_best_average_looks_at_the_score_that_chose_the_file(metric: str, test: str, expected: bool) -> None:
    content = {
        "hooks": {"BestHook": {"metric": metric}},
        "config": {"DATASETS": {"TEST": [test]}},
        "ema": {"model": {}},
    }
    assert is_best_average(Path("out/model_best.pth"), content) == expected
    copied = {**content, "names": ["model_best.pth", "model_final.pth"]}
    assert is_best_average(Path("flowers.pth"), copied) == expected
    assert not is_best_average(Path("flowers.pth"), content)
    assert not is_best_average(Path("out/model_final.pth"), copied)
    assert not is_best_average(Path("out/model_0000003.pth"), copied)
    assert not is_best_average(Path("out/model_0000003.pth"), content)
    assert not is_best_average(Path("out/model_best.pth"), {**content, "ema": None})
    assert not is_best_average(Path("out/model_best.pth"), [1])


def test_the_score_is_logged_before_what_is_best_so_far(tmp_path: Path, logged: list[logging.LogRecord]) -> None:
    scripted(config(tmp_path), [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]).train()
    said = [record.getMessage() for record in logged]
    said = [line for line in said if line.startswith(("digits_test after", "best so far"))]
    assert said[:3] == [
        "digits_test after 3 iterations: accuracy 50.00%",
        f"best so far: {ACCURACY} 50.00%",
        "digits_test after 6 iterations: accuracy 40.00%",
    ]
    assert sum(line.startswith("best so far") for line in said) == 1


@pytest.mark.need("E2")
def test_file_log_and_records_agree(tmp_path: Path, logged: list[logging.LogRecord]) -> None:
    """A real run: the file is of the iteration that metrics.json says, and holds weights that score so."""
    cfg = config(tmp_path, "SOLVER.MAX_ITER", 40, "TEST.BEST.METRIC", LOSS, "TEST.BEST.MODE", "min")
    build_trainer(cfg).train()
    records = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    losses = {record["iteration"]: record[LOSS] for record in records if LOSS in record}
    assert sorted(losses) == [*range(3, 40, 3), 40]
    best = min(losses, key=lambda iteration: losses[iteration])
    assert best_iteration(tmp_path) == best
    lines = [record.getMessage() for record in logged if record.getMessage().startswith("best so far")]
    assert lines[-1] == f"best so far: {LOSS} {losses[best]:.4g}"
    model = build_model(cfg)
    model.load_state_dict(load_checkpoint(tmp_path / "model_best.pth")["model"])
    model.eval()
    with torch.no_grad():
        loss = [
            F.cross_entropy(model(x), y, reduction="sum").item() for x, y in build_test_loader(cfg, "digits_test")
        ]
    assert losses[best] == pytest.approx(sum(loss) / 360, rel=1e-5)


@pytest.mark.need("D11")
def test_a_run_continues_from_a_best_file_which_holds_the_same_as_the_numbered_one(tmp_path: Path) -> None:
    scores = [0.1, 0.5, 0.2, 0.2, 0.2, 0.2]
    whole = scripted(config(tmp_path / "whole"), scores)
    whole.train()
    best = load_checkpoint(tmp_path / "whole" / "model_best.pth")
    assert_same_bits(best, load_checkpoint(tmp_path / "whole" / "model_0000005.pth"))
    cfg = config(tmp_path / "again")
    start = find_start(cfg, str(tmp_path / "whole" / "model_best.pth"), overwrite=False)
    assert start is not None
    trainer = scripted(cfg, scores)
    load_start(trainer, start[1])
    trainer.train()
    ours, theirs = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("again", "whole"))
    for part in ("model", "optimizer", "scheduler", "iteration", "hooks", "rng"):
        assert_same_bits(ours[part], theirs[part], part)


@pytest.mark.need("D12")
@pytest.mark.parametrize("killed", [2, 3, 9, 10, 12, 14])
def test_best_and_patience_survive_a_kill(tmp_path: Path, killed: int) -> None:
    """Best at 6; two bad ones at 9 and 12; better than the last, but no better than the best, at 15."""
    scores = [0.5, 0.9, 0.2, 0.3, 0.4, 0.5]
    more = ("TEST.EARLY_STOPPING.PATIENCE", 5)
    whole = scripted(config(tmp_path / "whole", *more), scores)
    whole.train()
    cfg = config(tmp_path / "killed", *more)
    killed_after(scripted(cfg, scores), killed)
    again = resumed(cfg, scores)
    again.train()
    for name in ("BestHook", "EarlyStoppingHook"):
        assert state_of(again, name) == state_of(whole, name)
    assert state_of(whole, "EarlyStoppingHook")["bad"] == 4
    assert state_of(whole, "BestHook")["best_iteration"] == best_iteration(tmp_path / "killed") == 6


@pytest.mark.need("D12")
def test_a_resume_before_the_best_sets_its_file_aside_and_makes_the_earlier_one_again(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    """Best at 3, then at 12. Resumed from 10 with a run that finds nothing better: 3 it is."""
    cfg = config(tmp_path)
    scripted(cfg, [0.5, 0.1, 0.1, 0.9, 0.1, 0.1]).train()
    assert best_iteration(tmp_path) == 12
    trainer = scripted(cfg, [0.5, 0.1, 0.1, 0.4, 0.1, 0.1])
    start = tmp_path / "model_0000009.pth", load_checkpoint(tmp_path / "model_0000009.pth")
    load_start(trainer, start[1])
    prepare_folder(cfg, start)
    (tmp_path / "model_best.pth.cut").write_bytes(b"of an earlier resume")
    trainer.train()
    assert best_iteration(tmp_path) == 3
    assert load_checkpoint(tmp_path / "model_best.pth.cut2")["iteration"] == 12
    assert (tmp_path / "model_best.pth.cut").read_bytes() == b"of an earlier resume"
    said = [record.getMessage() for record in logged]
    assert f"made {tmp_path}/model_best.pth again from model_0000002.pth" in said


@pytest.mark.need("D12")
def test_a_kill_after_the_best_file_and_before_the_numbered_one_changes_nothing(tmp_path: Path) -> None:
    """The run continues from 10 and comes to its best, 12, once more."""
    cfg, scores = config(tmp_path), [0.5, 0.1, 0.1, 0.9, 0.1, 0.1]
    killed_after(scripted(cfg, scores), 12)
    (tmp_path / "model_0000011.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    trainer = resumed(cfg, scores)
    killed_after(trainer, 11)
    assert best_iteration(tmp_path) == 3
    assert load_checkpoint(tmp_path / "model_best.pth.cut")["iteration"] == 12
    resumed(cfg, scores).train()
    assert best_iteration(tmp_path) == 12


@pytest.mark.need("D12")
@pytest.mark.parametrize("state", ["missing", "older", "damaged"])
def test_a_best_file_that_is_not_the_best_is_made_again(tmp_path: Path, state: str) -> None:
    """As a kill, or a user, leaves it."""
    cfg, scores = config(tmp_path), [0.5, 0.9, 0.1, 0.1, 0.1, 0.1]
    killed_after(scripted(cfg, scores), 10)
    path = tmp_path / "model_best.pth"
    if state == "missing":
        path.unlink()
    elif state == "older":
        save_checkpoint(load_checkpoint(tmp_path / "model_0000002.pth"), path)
    else:
        path.unlink()  # the file has another name too
        path.write_bytes((tmp_path / "model_0000002.pth").read_bytes()[:1000])
    resumed(cfg, scores).train()
    assert_same_bits(load_checkpoint(path), load_checkpoint(tmp_path / "model_0000005.pth"))
    assert (tmp_path / "model_best.pth.cut").exists() == (state == "damaged")


@pytest.mark.need("D5")
@pytest.mark.parametrize("operation", ["copy", "compare", "replace", "sync_folder"])
def test_best_hook_logs_a_disk_that_fails_while_the_file_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord], operation: str
) -> None:
    cfg, scores = config(tmp_path), [0.5, 0.9, 0.1, 0.1, 0.1, 0.1]
    killed_after(scripted(cfg, scores), 10)
    (tmp_path / "model_best.pth").unlink()
    trainer, (hook,) = resumed(cfg, scores), [h for h in scripted(cfg, scores).hooks if h.name == "BestHook"]
    hook.load_state_dict(state_of(trainer, "BestHook"))

    def fail(*paths: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(disk, operation, fail)
        hook.before_train(trainer)
    (said,) = (record.getMessage() for record in logged if record.levelname == "WARNING")
    assert said == (
        f"{tmp_path}/model_best.pth could not be restored to the best checkpoint so far: Input/output error; "
        "training continues"
    )
    trainer.train()
    assert best_iteration(tmp_path) == 6


def test_a_best_file_that_cannot_be_made_again_is_told(tmp_path: Path, logged: list[logging.LogRecord]) -> None:
    cfg, scores = config(tmp_path), [0.5, 0.9, 0.1, 0.1, 0.95, 0.1]
    killed_after(scripted(cfg, scores), 10)
    for name in ("model_best.pth", "model_0000005.pth"):
        (tmp_path / name).unlink()
    resumed(cfg, scores).train()
    (line,) = (record.getMessage() for record in logged if record.levelname == "WARNING")
    assert line == (
        f"{tmp_path}/model_best.pth does not hold iteration 6, the best so far, and model_0000005.pth is not "
        "there either; the next better one will be saved"
    )
    assert best_iteration(tmp_path) == 15


def test_another_metric_restarts_the_best_score_and_its_change_is_printed(
    tmp_path: Path, logged: list[logging.LogRecord]
) -> None:
    killed_after(scripted(config(tmp_path), [0.5, 0.9, 0.1, 0.1, 0.1, 0.1]), 10)
    cfg = config(tmp_path, "TEST.BEST.METRIC", "digits_test/top5", "TEST.EARLY_STOPPING.PATIENCE", 7)
    trainer = scripted(cfg, [0.0, 0.0, 0.0, 0.2, 0.1, 0.1], "digits_test/top5")
    start = load_checkpoint(tmp_path / "model_0000009.pth")
    compare_configs(cfg, start["config"], allow_change=False)
    load_start(trainer, start)
    prepare_folder(cfg, (tmp_path / "model_0000009.pth", start))
    trainer.train()
    assert best_iteration(tmp_path) == 12
    said = [record.getMessage() for record in logged]
    assert f"changed since the checkpoint: TEST.BEST.METRIC: '{ACCURACY}' -> 'digits_test/top5'" in said
    assert "changed since the checkpoint: TEST.EARLY_STOPPING.PATIENCE: 0 -> 7" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["TEST.BEST.METRIC=digits_test/acuracy"],
            r"BEST.METRIC \(command line\): no evaluation gives the score 'digits_test/acuracy'; did you mean "
            "digits_test/accuracy\\? Known: digits_test/accuracy, digits_test/top5, digits_test/loss$",
        ),
        (["TEST.BEST.METRIC=digits_test/ema/accuracy"], "did you mean digits_test/accuracy"),  # EMA is off
        (["TEST.BEST.METRIC=accuracy", "DATASETS.TEST=[]"], "There is no test set: name one in DATASETS.TEST"),
        (
            [f"TEST.BEST.METRIC={LOSS}", "TEST.BEST.MODE=max"],
            r"TEST.BEST.MODE \(command line\): max would keep the checkpoint of the highest digits_test/loss; set"
            " it to auto",
        ),
        (
            [f"TEST.BEST.METRIC={ACCURACY}", "TEST.BEST.MODE=min"],
            r"TEST.BEST.MODE \(command line\): min would keep the checkpoint of the lowest digits_test/accuracy;"
            " set it to auto",
        ),
        (
            ["TEST.EARLY_STOPPING.PATIENCE=3"],
            r"PATIENCE \(command line\): there is no score to watch; set TEST.BEST.METRIC, such as "
            "digits_test/accuracy",
        ),
        (
            ["TEST.EARLY_STOPPING.PATIENCE=3", f"TEST.BEST.METRIC={ACCURACY}"],
            "the run is evaluated only when it ends; set TEST.EVAL_PERIOD",
        ),
    ],
)
def test_a_score_that_cannot_be_watched_is_refused_before_anything_is_written(
    tmp_path: Path, words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_net.main([*words, f"OUTPUT_DIR={tmp_path}/out"])
    assert not (tmp_path / "out").exists()


def test_the_names_known_before_training_are_those_that_an_evaluation_gives(tmp_path: Path) -> None:
    cfg = config(tmp_path, "SOLVER.EMA.ENABLED", True, "TEST.BEST.METRIC", "digits_test/ema/accuracy")
    trainer = build_trainer(cfg)
    trainer.train()
    assert [name for name in trainer.record if name.startswith("digits_test/")] == [
        *run_scores(cfg, build_task(cfg))
    ]


def test_a_score_of_a_users_hook_can_be_watched_and_is_looked_for_at_the_first_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class F1(HookBase):
        def after_step(self, trainer: Trainer) -> None:
            if ACCURACY in trainer.scalars:
                trainer.scalars["digits_test/f1"] = 1 / trainer.iteration

    monkeypatch.setattr("warmstart.engine.run.default_hooks._HOOKS", {})
    register_hook("f1", lambda cfg: F1())
    build_trainer(config(tmp_path / "f1", "TEST.BEST.METRIC", "digits_test/f1")).train()
    assert best_iteration(tmp_path / "f1") == 3
    trainer = build_trainer(config(tmp_path / "f2", "TEST.BEST.METRIC", "digits_test/f2"))
    with pytest.raises(ConfigError, match="TEST.BEST.METRIC: .* 'digits_test/f2'; did you mean digits_test/f1\\?"):
        trainer.train()
    assert trainer.iteration == 3


STOPPING = ("TEST.EARLY_STOPPING.PATIENCE", 2, "SOLVER.MAX_ITER", 40)


@pytest.mark.need("E1")
@pytest.mark.parametrize(
    ("scores", "more", "stopped"),
    [
        ([0.5, 0.6, 0.6, 0.5], (), 13),  # bad at 9 and 12; 13 is the last, and is evaluated
        ([0.5, 0.4, 0.6, 0.4, 0.4], (), 16),  # a good one in between
        ([0.5, math.nan, math.nan], (), 10),
        ([math.nan, math.nan], (), 7),
        ([0.5, 0.55, 0.59, 0.62], ("TEST.EARLY_STOPPING.MIN_DELTA", 0.1), 10),  # each is better, by too little
        ([0.5, 0.55, 0.62, 0.5, 0.5], ("TEST.EARLY_STOPPING.MIN_DELTA", 0.1), 16),  # than the best, not the last
        ([0.5, 0.4, 0.4, 0.5], ("TEST.BEST.METRIC", LOSS), 13),
    ],
)
def test_the_run_stops_when_patience_is_out(
    tmp_path: Path, logged: list[logging.LogRecord], scores: list[float], more: tuple[Any, ...], stopped: int
) -> None:
    cfg = config(tmp_path, *STOPPING, *more)
    metric = cfg.TEST.BEST.METRIC
    trainer = scripted(cfg, scores + [0.0] * 20, metric)
    trainer.train()
    assert trainer.iteration == stopped
    for name in (f"model_{stopped - 1:07d}.pth", "model_final.pth"):
        assert load_checkpoint(tmp_path / name)["iteration"] == stopped
    (line,) = (record.getMessage() for record in logged if record.getMessage().startswith("stopped"))
    assert line.startswith(f"stopped after iteration {stopped}: {metric} ")
    assert line.endswith(f"in the 2 evaluations up to iteration {stopped - 1}")


def test_the_reason_agrees_with_what_is_best_so_far(tmp_path: Path, logged: list[logging.LogRecord]) -> None:
    """The evaluation with which the run ends may be the best, and one within MIN_DELTA does not count."""
    scripted(config(tmp_path / "last", *STOPPING), [0.5, 0.625, 0.6, 0.5] + [0.9] * 10).train()
    more = ("TEST.EARLY_STOPPING.MIN_DELTA", 0.1, "TEST.EARLY_STOPPING.PATIENCE", 1)
    scripted(config(tmp_path / "within", *STOPPING, *more), [0.5, 0.59] + [0.0] * 10).train()
    said = [record.getMessage() for record in logged]
    assert said[said.index("digits_test after 13 iterations: accuracy 90.00%") + 1] == (
        f"best so far: {ACCURACY} 90.00%"
    )
    assert [line for line in said if line.startswith("stopped")] == [
        f"stopped after iteration 13: {ACCURACY} has not improved on 0.625 at iteration 6, in the 2"
        " evaluations up to iteration 12",
        f"stopped after iteration 7: {ACCURACY} has not improved by more than 0.1 on 0.5 at iteration 3, in"
        " the evaluation after iteration 6",
    ]


@pytest.mark.need("D12", "E1")
@pytest.mark.parametrize("killed", [8, 9, 10, 11, 12])
def test_killed_between_two_bad_evaluations_it_stops_at_the_same_one(tmp_path: Path, killed: int) -> None:
    """Also killed after the last bad one (12), before the update that ends the run (13)."""
    scores = [0.5, 0.6, 0.6, 0.5] + [0.1] * 10
    more = (*STOPPING, "SOLVER.CHECKPOINT_PERIOD", 1)
    whole = scripted(config(tmp_path / "whole", *more), scores)
    whole.train()
    cfg = config(tmp_path / "killed", *more)
    killed_after(scripted(cfg, scores), killed)
    again = resumed(cfg, scores)
    again.train()
    assert again.iteration == whole.iteration == 13
    ours, theirs = (load_checkpoint(tmp_path / name / "model_0000012.pth") for name in ("killed", "whole"))
    for part in ("model", "optimizer", "scheduler", "iteration", "hooks", "rng"):
        assert_same_bits(ours[part], theirs[part], part)


@pytest.mark.need("C12", "E1")
def test_a_run_that_early_stopping_has_ended_continues_only_with_more_patience(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate so small that nothing ever improves by 0.5."""
    words = [
        *("SOLVER.MAX_ITER=20", "SOLVER.BASE_LR=1e-9", "SOLVER.IMS_PER_BATCH=8", "SOLVER.STEPS=15"),
        *(
            "MODEL.ARGS={width: 4}",
            f"OUTPUT_DIR={tmp_path}/out",
            "TEST.EVAL_PERIOD=3",
            f"TEST.BEST.METRIC={ACCURACY}",
        ),
        *("TEST.EARLY_STOPPING.MIN_DELTA=0.5", "TEST.EARLY_STOPPING.PATIENCE=2"),
    ]
    assert train_net.main(words) == 0
    out = tmp_path / "out"
    assert (out / "last_checkpoint").read_text() == "model_0000009.pth"
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*.*") if path.is_file()}
    capsys.readouterr()
    assert train_net.main([*words, "--resume"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"the run has stopped at iteration 10: {ACCURACY} has not improved by more than 0.5 on " in said
    assert said.endswith("; raise TEST.EARLY_STOPPING.PATIENCE to continue")
    assert before == {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*.*") if path.is_file()
    }
    assert train_net.main([*words, "TEST.EARLY_STOPPING.PATIENCE=3", "--resume"]) == 0
    assert (out / "last_checkpoint").read_text() == "model_0000012.pth"  # bad at 6, 9 and 12, not at 10
    assert train_net.main([*words, "TEST.EARLY_STOPPING.PATIENCE=0", "--resume"]) == 0
    assert load_checkpoint(out / "model_final.pth")["iteration"] == 20


@pytest.mark.need("E1")
def test_a_trainer_that_is_given_a_stopped_run_does_not_train_on(tmp_path: Path) -> None:
    scores = [0.5, 0.4, 0.4] + [0.1] * 10
    cfg = config(tmp_path, *STOPPING)
    scripted(cfg, scores).train()
    again = resumed(cfg, scores)
    again.train()
    assert again.iteration == 10
    assert state_of(again, "EarlyStoppingHook")["stopped"]


Tiny = Callable[..., CfgNode]


@pytest.mark.need("C10", "E9")
def test_the_losses_of_training_do_not_depend_on_how_often_the_run_is_evaluated(
    tiny: Tiny, tmp_path: Path
) -> None:
    runs = []
    for period in (0, 3, 5):
        out = tmp_path / str(period)
        cfg = resolve_config(tiny("OUTPUT_DIR", str(out), "TEST.EVAL_PERIOD", period, "LOG_PERIOD", 1))
        build_trainer(cfg).train()
        runs.append([json.loads(line) for line in (out / "metrics.json").read_text().splitlines()])
    losses = [[record["total_loss"] for record in run] for run in runs]
    assert losses[0] == losses[1] == losses[2]
    assert len(losses[0]) == 14
    scored = [[r["iteration"] for r in run if "noise.npz/loss" in r] for run in runs]
    assert scored == [[14], [3, 6, 9, 12, 14], [5, 10, 14]]


@pytest.mark.need("E9")
def test_the_validation_loss_is_that_of_the_whole_test_set(tmp_path: Path) -> None:
    """360 images in batches of 256 and 104: not the mean of the two batches' means."""
    cfg = config(tmp_path)
    trainer = build_trainer(cfg)
    trainer.train()
    model = build_model(cfg)
    model.load_state_dict(load_checkpoint(tmp_path / "model_final.pth")["model"])
    model.eval()
    batches = list(build_test_loader(cfg, "digits_test"))
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        assert trainer.record[LOSS] == pytest.approx(F.cross_entropy(model(images), labels).item(), rel=1e-5)
    assert len(labels) == 360
