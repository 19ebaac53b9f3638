"""Scores of a run by name, and the hooks that follow them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from warmstart.config import CfgNode, ConfigError
from warmstart.data import named_sets, named_test_sets
from warmstart.solver import PLATEAU
from warmstart.tasks import Score, Task

from ..checkpoint.run_files import BEST, FINAL, NAMES, NUMBERED
from ..checkpoint.score_names import current_name
from ..hooks.best_checkpoint import BestHook
from ..hooks.early_stopping import EarlyStoppingHook
from ..loop.evaluation_losses import TOTAL
from ..loop.hook import OWN_STATE, HookBase
from ..loop.score_hook import unknown_score
from ..runtime.states import read_state


def run_scores(cfg: CfgNode, task: Task) -> dict[str, Score]:
    """Return the scores that an evaluation of this run computes, by their names in a record: "NAME/score".

    With TEST.LOSSES there are further losses, whose names are not known before.
    """
    models = ["", *(["ema/"] if cfg.SOLVER.EMA.ENABLED else [])]
    losses = [Score(TOTAL, higher_is_better=False)] if cfg.TEST.LOSSES else []
    return {
        f"{test}/{model}{score.name}": score
        for test in named_test_sets(cfg)
        for model in models
        for score in (*task.scores, *losses)
    }


def percent_scores(task: Task) -> set[str]:
    """Return the names of the task's scores that are shown in percent."""
    return {score.name for score in task.scores if score.percent}


def hidden_scores(task: Task) -> set[str]:
    """Return the names of the task's scores that the console does not show."""
    return {score.name for score in task.scores if not score.console}


def best_mode(cfg: CfgNode, task: Task) -> str:
    """Return "max" or "min": TEST.BEST.MODE, or for auto the better direction of the score in TEST.BEST.METRIC.

    For a score of a user-defined hook the direction is not known, and auto means max.
    """
    if cfg.TEST.BEST.MODE != "auto":
        return str(cfg.TEST.BEST.MODE)
    score = run_scores(cfg, task).get(cfg.TEST.BEST.METRIC)
    return "max" if score is None or score.higher_is_better else "min"


def lr_metric(cfg: CfgNode, task: Task) -> str:
    """Return the name of the metric that ReduceLROnPlateau follows: SOLVER.LR_METRIC.

    If that is empty, the first score on the first test set whose better direction is the schedule's mode; "" if
    there is none.
    """
    if cfg.SOLVER.LR_METRIC:
        return str(cfg.SOLVER.LR_METRIC)
    higher = _plateau_mode(cfg) == "max"
    names = (name for name, score in run_scores(cfg, task).items() if score.higher_is_better == higher)
    return next(names, "")


def check_metrics(cfg: CfgNode, task: Task) -> None:
    """Raise ConfigError if the schedule follows a metric that this run never has, or in the wrong direction.

    Scores that only a user-defined hook may compute are checked by `check_known`, when the hooks are built.
    """
    scores = run_scores(cfg, task)
    if cfg.SOLVER.LR_SCHEDULER_NAME == PLATEAU:
        metric, mode = lr_metric(cfg, task), _plateau_mode(cfg)
        if not metric:
            why = f"no score of MODEL.TASK {cfg.MODEL.TASK} is better when " + (
                "higher" if mode == "max" else "lower"
            )
            why = why if cfg.DATASETS.TEST else "there is no test set with a score to watch"
            raise ConfigError(f"SOLVER.LR_METRIC: {why}; set it, as total_loss, or SOLVER.LR_SCHEDULER_ARGS.mode")
        contradicts = metric in scores and scores[metric].higher_is_better != (mode == "max")
        if contradicts and mode in ("min", "max"):  # any other is refused by the schedule
            better, needed = ("higher", "max") if mode == "min" else ("lower", "min")
            raise ConfigError(
                f"{cfg.label('SOLVER.LR_METRIC')}: {metric} is better when {better}, and with mode {mode} the"
                f" schedule waits for the opposite; set SOLVER.LR_SCHEDULER_ARGS.mode {needed}"
            )
    for key, name in _watched(cfg, task):
        if cfg.TEST.EVAL_PERIOD == 0:
            raise ConfigError(
                f"{cfg.label(key)}: {name} is only known after an evaluation; set TEST.EVAL_PERIOD, or watch a"
                " loss or a metric of training, such as total_loss"
            )


def check_known(cfg: CfgNode, task: Task) -> None:
    """Raise ConfigError if the schedule follows a score on a test set that no evaluation computes."""
    scores = run_scores(cfg, task)
    for key, name in _watched(cfg, task):
        if name not in scores:
            raise unknown_score(cfg.label(key), name, scores)


def _watched(cfg: CfgNode, task: Task) -> list[tuple[str, str]]:
    """Return the keys by which the schedule follows metrics on test sets, with the metrics' names in a record."""
    plateau = [("SOLVER.LR_METRIC", lr_metric(cfg, task))] if cfg.SOLVER.LR_SCHEDULER_NAME == PLATEAU else []
    watched = [*plateau, ("SOLVER.WARMUP_UNTIL.METRIC", cfg.SOLVER.WARMUP_UNTIL.METRIC)]
    return [pair for pair in watched if pair[1].startswith(tuple(f"{test}/" for test in named_test_sets(cfg)))]


def _plateau_mode(cfg: CfgNode) -> str:
    return str(cfg.SOLVER.LR_SCHEDULER_ARGS.get("mode", "min"))


def is_best_average(path: Path, content: Any) -> bool:
    """Return whether a file is the model_best.pth of a run that was judged by the score of its moving average.

    So is a copy of it under a name of the user.

    Args:
        path: of the file.
        content: of the checkpoint, also of an older version, whose scores begin with entries of DATASETS.TEST.
    """
    try:
        metric, data = content["hooks"][BestHook.__name__]["metric"], content["config"]["DATASETS"]
        tests = {test for test in data["TEST"] if isinstance(test, str)}
        with suppress(ConfigError):  # older versions let names pass that are refused now
            tests |= named_sets(data["TEST"], data.get("ROOT", ""), "").keys()
        names = content.get(NAMES, [])
        # A copy of the file under a name that no run gives is the best one, too: its content says so.
        is_copy = BEST in names and path.name != FINAL and not NUMBERED.fullmatch(path.name)
        chose = bool(content["ema"]) and metric.startswith(tuple(f"{test}/ema/" for test in tests))
        return chose and (path.name == BEST or is_copy)
    except (LookupError, TypeError, AttributeError):  # no checkpoint of ours
        return False


def check_score_names(cfg: CfgNode) -> None:
    """Raise ConfigError if a key names a score as older versions did, by an entry of DATASETS.TEST.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["DATASETS.TEST", "npz:x", "TEST.BEST.METRIC", "npz:x/loss"])
    >>> check_score_names(cfg)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: TEST.BEST.METRIC (override): no score is called npz:x/loss; write x/loss
    """
    keys = {
        "TEST.BEST.METRIC": cfg.TEST.BEST.METRIC,
        "SOLVER.LR_METRIC": cfg.SOLVER.LR_METRIC,
        "SOLVER.WARMUP_UNTIL.METRIC": cfg.SOLVER.WARMUP_UNTIL.METRIC,
    }
    sets = named_test_sets(cfg)
    problems = [
        f"{cfg.label(key)}: no score is called {metric}; write {now}"
        for key, metric in keys.items()
        if (now := current_name(metric, sets)) != metric
    ]
    if problems:
        raise ConfigError(problems)


def check_best(cfg: CfgNode, task: Task) -> None:
    """Raise ConfigError if TEST.BEST and TEST.EARLY_STOPPING contradict themselves, each other or the score."""
    best, metric, stopping = cfg.TEST.BEST, cfg.TEST.BEST.METRIC, cfg.TEST.EARLY_STOPPING
    scores = run_scores(cfg, task)
    if metric in scores and best.MODE != "auto" and scores[metric].higher_is_better != (best.MODE == "max"):
        extreme = "highest" if best.MODE == "max" else "lowest"
        raise ConfigError(
            f"{cfg.label('TEST.BEST.MODE')}: {best.MODE} would keep the checkpoint of the {extreme} {metric};"
            " set it to auto"
        )
    label = cfg.label("TEST.EARLY_STOPPING.PATIENCE")
    if stopping.PATIENCE and not metric:
        example = next(iter(scores), "NAME/SCORE")
        raise ConfigError(f"{label}: there is no score to watch; set TEST.BEST.METRIC, such as {example}")
    if stopping.PATIENCE and cfg.TEST.EVAL_PERIOD == 0:
        raise ConfigError(f"{label}: the run is evaluated only when it ends; set TEST.EVAL_PERIOD")


def build_score_hooks(cfg: CfgNode, task: Task, with_own: bool = False) -> list[HookBase]:
    """Return the hooks of TEST.BEST and TEST.EARLY_STOPPING.

    Args:
        cfg: resolved.
        task: computes the scores.
        with_own: whether there are user-defined hooks, which may compute scores of other names.

    Raises:
        ConfigError: no evaluation computes TEST.BEST.METRIC.
    """
    best, period = cfg.TEST.BEST, cfg.TEST.EVAL_PERIOD
    if not best.METRIC:
        return []
    scores = run_scores(cfg, task)
    if not with_own and best.METRIC not in scores:
        raise unknown_score(cfg.label("TEST.BEST.METRIC"), best.METRIC, scores)
    stopping = build_early_stopping(cfg)
    return [
        BestHook(period, best.METRIC, best.MODE, cfg.OUTPUT_DIR, percent_scores(task)),
        *([stopping] if stopping is not None else []),
    ]


def build_early_stopping(cfg: CfgNode) -> EarlyStoppingHook | None:
    """Return the hook of TEST.EARLY_STOPPING; None if it is off."""
    best, stopping = cfg.TEST.BEST, cfg.TEST.EARLY_STOPPING
    if not stopping.PATIENCE:
        return None
    return EarlyStoppingHook(cfg.TEST.EVAL_PERIOD, best.METRIC, best.MODE, stopping.PATIENCE, stopping.MIN_DELTA)


def why_stopped(cfg: CfgNode, start: Mapping[str, Any]) -> tuple[str, str]:
    """Return why the run that wrote a checkpoint stopped before its end, and the key that lets it continue.

    Both are "" if it did not stop, or continues with this config.
    """
    name, hook = EarlyStoppingHook.__name__, build_early_stopping(cfg)
    saved = start["hooks"].get(name, {"stopped": False})
    if read_state(saved, f"hooks.{name}", {"stopped": bool})["stopped"]:
        if hook is not None:
            hook.load_state_dict(start["hooks"][name])
        return (hook.reason, "TEST.EARLY_STOPPING.PATIENCE") if hook is not None and hook.has_stopped else ("", "")
    asked = str(read_state(start["hooks"].get(OWN_STATE), f"hooks.{OWN_STATE}", {"stopped": str})["stopped"])
    return (asked, "SOLVER.MAX_ITER") if start["config"]["SOLVER"]["MAX_ITER"] >= cfg.SOLVER.MAX_ITER else ("", "")
