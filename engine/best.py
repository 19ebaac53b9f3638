"""The best evaluation so far: its checkpoint is kept, and a run that gets no better ends."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from warmstart.config import CfgNode, ConfigError, nearest

from . import comm, files
from .checkpoint import BEST, checkpoint_name, iteration_of, set_aside
from .hook_base import HookBase, next_multiple
from .states import Kind, read_state
from .trainer import METRIC, OWN_STATE, RECORDS_OWN, Trainer

logger = logging.getLogger(__name__)


def score_names(cfg: CfgNode) -> list[str]:
    """Return the scores that an evaluation of this run gives, by their names in a record.

    Args:
        cfg: resolved.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["MODEL.NUM_CLASSES", 10])
    >>> score_names(cfg)
    ['digits_test/accuracy', 'digits_test/top5', 'digits_test/loss']
    """
    scores = ["accuracy", *(["top5"] if cfg.MODEL.NUM_CLASSES > 5 else []), "loss"]
    models = ["", *(["ema/"] if cfg.SOLVER.EMA.ENABLED else [])]
    return [f"{test}/{model}{score}" for test in cfg.DATASETS.TEST for model in models for score in scores]


def is_best_average(path: Path, content: Any) -> bool:
    """Return whether a file is the model_best.pth of a run that was judged by the score of its moving average.

    Args:
        path: of the file.
        content: of the checkpoint.
    """
    try:
        metric, tests = content["hooks"][BestHook.__name__]["metric"], content["config"]["DATASETS"]["TEST"]
        score = metric.rpartition("/")[2]
        return path.name == BEST and bool(content["ema"]) and metric in {f"{test}/ema/{score}" for test in tests}
    except (LookupError, TypeError, AttributeError):  # no checkpoint of ours
        return False


def check_best(cfg: CfgNode) -> None:
    """Raise ConfigError where TEST.BEST and TEST.EARLY_STOPPING contradict themselves or each other."""
    best, metric, stopping = cfg.TEST.BEST, cfg.TEST.BEST.METRIC, cfg.TEST.EARLY_STOPPING
    if best.MODE == "max" and metric in score_names(cfg) and metric.endswith("/loss"):
        raise ConfigError(
            f"{cfg.label('TEST.BEST.MODE')}: max would keep the checkpoint of the highest {metric}; set it to min"
        )
    label = cfg.label("TEST.EARLY_STOPPING.PATIENCE")
    if stopping.PATIENCE and not metric:
        example = (score_names(cfg) or ["digits_test/accuracy"])[0]
        raise ConfigError(f"{label}: there is no score to watch; set TEST.BEST.METRIC, such as {example}")
    if stopping.PATIENCE and cfg.TEST.EVAL_PERIOD == 0:
        raise ConfigError(f"{label}: the run is evaluated only when it ends; set TEST.EVAL_PERIOD")


def build_score_hooks(cfg: CfgNode, with_own: bool = False) -> list[HookBase]:
    """Return the hooks that TEST.BEST and TEST.EARLY_STOPPING ask for.

    Args:
        cfg: resolved.
        with_own: whether hooks of the user's run, which may give scores of other names than ours.

    Raises:
        ConfigError: no evaluation gives TEST.BEST.METRIC.
    """
    best, period = cfg.TEST.BEST, cfg.TEST.EVAL_PERIOD
    if not best.METRIC:
        return []
    if not with_own and best.METRIC not in score_names(cfg):
        raise _unknown_score(cfg.label("TEST.BEST.METRIC"), best.METRIC, score_names(cfg))
    stopping = build_early_stopping(cfg)
    return [
        BestHook(period, best.METRIC, best.MODE, cfg.OUTPUT_DIR),
        *([stopping] if stopping is not None else []),
    ]


def build_early_stopping(cfg: CfgNode) -> EarlyStoppingHook | None:
    """Return the hook that TEST.EARLY_STOPPING asks for, or None where it is off."""
    best, stopping = cfg.TEST.BEST, cfg.TEST.EARLY_STOPPING
    if not stopping.PATIENCE:
        return None
    return EarlyStoppingHook(cfg.TEST.EVAL_PERIOD, best.METRIC, best.MODE, stopping.PATIENCE, stopping.MIN_DELTA)


def why_stopped(cfg: CfgNode, start: Mapping[str, Any]) -> tuple[str, str]:
    """Return why the run that wrote a checkpoint has stopped before its end, and the key that lets it go on.

    Both are "" where it did not, or goes on by this config.
    """
    name, hook = EarlyStoppingHook.__name__, build_early_stopping(cfg)
    saved = start["hooks"].get(name, {"stopped": False})
    if read_state(saved, f"hooks.{name}", {"stopped": bool})["stopped"]:
        if hook is not None:
            hook.load_state_dict(start["hooks"][name])
        return (hook.reason, "TEST.EARLY_STOPPING.PATIENCE") if hook is not None and hook.has_stopped else ("", "")
    asked = str(read_state(start["hooks"].get(OWN_STATE), f"hooks.{OWN_STATE}", {"stopped": str})["stopped"])
    return (asked, "SOLVER.MAX_ITER") if start["config"]["SOLVER"]["MAX_ITER"] >= cfg.SOLVER.MAX_ITER else ("", "")


def is_better(value: float, best: float | None, mode: str, min_delta: float = 0.0) -> bool:
    """Return whether a score is better than the best so far by more than `min_delta`.

    One that is not finite never is: infinity comes of an overflow, and nothing would be better than it again.

    Args:
        value: the score.
        best: None before the first.
        mode: "max" where higher is better, "min" where lower is.
        min_delta: at least 0.

    >>> is_better(0.5, None, "max"), is_better(0.5, 0.5, "max"), is_better(0.4, 0.5, "min")
    (True, False, True)
    >>> is_better(math.inf, None, "max"), is_better(0.625, 0.5, "max", min_delta=0.125)
    (False, False)
    """
    if best is None or not math.isfinite(value):
        return math.isfinite(value)
    return (value - best if mode == "max" else best - value) > min_delta


class ScoreHook(HookBase):
    """Watches one score of each evaluation and remembers the best; subclasses act on it.

    It stands behind the record hook and looks at the record, so that what it says comes after the score.

    Args:
        period: that of the evaluation, in updates.
        metric: the score's name in a record.
        mode: "max" or "min", which is better.
        min_delta: what a score must be better by, at least 0.
    """

    #: The entries of a saved state.
    _kinds: ClassVar[dict[str, Kind]] = {
        "metric": str,
        "mode": str,
        "best": (float, None),
        "best_iteration": int,
    }

    def __init__(self, period: int, metric: str, mode: str, min_delta: float = 0.0) -> None:
        self.period = period
        self.metric = metric
        self.mode = mode
        self.min_delta = min_delta
        self.best: float | None = None
        self.best_iteration = 0

    def next_due(self, iteration: int) -> float:
        """Return the next multiple of the period."""
        return next_multiple(self.period, iteration)

    def after_step(self, trainer: Trainer) -> None:
        """Look at the score, if this iteration was evaluated.

        Raises:
            ConfigError: the evaluation gave none of that name.
        """
        if not trainer.is_due(self.period):
            return
        record = comm.share(trainer.record)  # a user's own scores may differ
        if record.get("iteration") != trainer.iteration or self.metric not in record:
            raise _unknown_score("TEST.BEST.METRIC", self.metric, _scores_of(trainer, record))
        value = record[self.metric]
        better = is_better(value, self.best, self.mode, self.min_delta)
        if better:
            self.best, self.best_iteration = value, trainer.iteration
        self.judged(trainer, value, better)

    def judged(self, trainer: Trainer, value: float, better: bool) -> None:
        """Act on a score that was or was not better than all before; `best` knows of it."""

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, its iteration, and of what they are."""
        return {
            "metric": self.metric,
            "mode": self.mode,
            "best": self.best,
            "best_iteration": self.best_iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; from that of another score, begin anew."""
        own = read_state(state, f"hooks.{self.name}", self._kinds)
        if (own["metric"], own["mode"]) == (self.metric, self.mode):
            self.restore(state)
        if self.best is not None and not math.isfinite(self.best):  # of an older version
            self.best, self.best_iteration = None, 0

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.best, self.best_iteration = state["best"], state["best_iteration"]


class BestHook(ScoreHook):
    """Has the checkpoint of the best evaluation kept as model_best.pth.

    It stands before the checkpoint hook, which writes what `trainer.save_as` names.

    Args:
        period: that of the evaluation, in updates.
        metric: the score's name in a record.
        mode: "max" or "min", which is better.
        folder: where the checkpoints are.
    """

    def __init__(self, period: int, metric: str, mode: str, folder: str | Path) -> None:
        super().__init__(period, metric, mode)
        self.folder = Path(folder)

    def before_train(self, trainer: Trainer) -> None:
        """See that model_best.pth is what this run knows to be its best; a disk that fails is one line."""
        if not comm.is_main():
            return
        try:
            self._restore_file(trainer)
        except OSError as error:
            text = "%s could not be made that of the best so far: %s; the run goes on"
            logger.warning(text, self.folder / BEST, error.strerror or error)

    def _restore_file(self, trainer: Trainer) -> None:
        """Make model_best.pth what it is to be.

        A kill may have come between the numbered file and the best one, and a run that goes on from an earlier
        checkpoint has not done yet what a later best file holds.
        """
        path, numbered = self.folder / BEST, self.folder / checkpoint_name(self.best_iteration)
        found = iteration_of(path)
        if found > trainer.iteration:
            set_aside(path)
        if self.best_iteration in (0, found):
            return
        if iteration_of(numbered) == self.best_iteration:
            files.add_name(numbered, path)
            logger.info("made %s again from %s", path, numbered.name)
        else:
            logger.warning(
                "%s does not hold iteration %d, the best so far, and %s is not there either; the next better one "
                "will be saved",
                *(path, self.best_iteration, numbered.name),
            )

    def judged(self, trainer: Trainer, value: float, better: bool) -> None:
        """Ask for the file where this is the best so far, and say what is."""
        if better:
            trainer.save_as.add(BEST)
        if self.best is not None:
            logger.info("best so far: %s %.4g, after iteration %d", self.metric, self.best, self.best_iteration)


class EarlyStoppingHook(ScoreHook):
    """Ends the run after `patience` evaluations in a row in which the score was no better than before.

    Args:
        period: that of the evaluation, in updates.
        metric: the score's name in a record.
        mode: "max" or "min", which is better.
        patience: at least 1.
        min_delta: what a score must be better by, at least 0.
    """

    _kinds: ClassVar[dict[str, Kind]] = ScoreHook._kinds | {"bad": int, "stopped": bool}

    def __init__(self, period: int, metric: str, mode: str, patience: int, min_delta: float = 0.0) -> None:
        super().__init__(period, metric, mode, min_delta)
        self.patience = patience
        self.bad = 0
        self._counted_at = 0  # the iteration of the last evaluation that counts
        self._stopped = False

    @property
    def is_out(self) -> bool:
        """Whether patience has run out, and the next update is the last."""
        return self.bad >= self.patience

    @property
    def has_stopped(self) -> bool:
        """Whether that last update is done too."""
        return self._stopped and self.is_out  # patience may have been raised since

    @property
    def reason(self) -> str:
        """Why the run ends."""
        since = f"the {self.bad} evaluations up to" if self.bad > 1 else "the evaluation after"
        when = f"in {since} iteration {self._counted_at}"
        if self.best is None:
            return f"{self.metric} was not finite {when}"
        by = f" by more than {self.min_delta:g}" if self.min_delta else ""
        best = f"{self.best:.4g}, that of iteration {self.best_iteration}"
        return f"{self.metric} has not improved{by} on {best}, {when}"

    def before_train(self, trainer: Trainer) -> None:
        """Keep a run that had stopped from going on."""
        if self.has_stopped:
            trainer.request_stop(self.reason)
        self._stopped = self.has_stopped

    def before_step(self, trainer: Trainer) -> None:
        """Ask for the stop here, not in after_step: so a run that is killed and resumed asks for it again."""
        if self.is_out:
            trainer.request_stop(self.reason)

    def after_step(self, trainer: Trainer) -> None:
        """Count; the evaluation with which a stopped run ends counts no more."""
        if self.is_out:
            self._stopped = True
        else:
            super().after_step(trainer)

    def judged(self, trainer: Trainer, value: float, better: bool) -> None:
        """Count the evaluations since the best one."""
        self.bad = 0 if better else self.bad + 1
        self._counted_at = trainer.iteration

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, the count since then, and whether the run was stopped."""
        own = {"bad": self.bad, "counted_at": self._counted_at, "stopped": self._stopped}
        return super().state_dict() | own

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        super().restore(state)
        self.bad, self._stopped = state["bad"], state["stopped"]
        # Older checkpoints do not say: evaluations come once a period.
        self._counted_at = state.get("counted_at", self.best_iteration + self.bad * self.period)


def _scores_of(trainer: Trainer, record: Mapping[str, float]) -> list[str]:
    """Return the names in a record of this iteration that are no losses or times."""
    if record.get("iteration") != trainer.iteration:
        return []
    return [name for name in record if name not in RECORDS_OWN and not name.startswith(("lr/", METRIC))]


def _unknown_score(label: str, name: str, known: list[str]) -> ConfigError:
    match = nearest(name, known)
    hint = f"; did you mean {match}?" if match else "."
    listed = f"Known: {', '.join(known)}" if known else "There is no test set: name one in DATASETS.TEST"
    return ConfigError(f"{label}: no evaluation gives the score {name!r}{hint} {listed}")
