"""The hooks of a run, in their order, and those that users register."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from warmstart.config import CfgNode
from warmstart.data import (
    EvalLoader,
    ResidentEvalLoader,
    TrainLoader,
    build_test_loader,
    data_spec,
    named_test_sets,
)
from warmstart.solver import decay_starts
from warmstart.tasks import Task

from ..checkpoint.run_files import CLASSES, PROFILE
from ..distributed import comm
from ..distributed.errors import local_rank_zero_first
from ..distributed.fsdp import computing_device
from ..distributed.strategy import Strategy
from ..hooks.checkpointing import CheckpointHook
from ..hooks.evaluation import EvaluationHook, PreciseBNHook
from ..hooks.metric_logging import RecordHook
from ..hooks.metric_schedule import build_metric_hook
from ..hooks.plot_schedule import PictureHook
from ..hooks.profiler import ProfilerHook
from ..hooks.report import ReportHook
from ..hooks.run_lock import FolderHook
from ..loop.evaluate import evaluate
from ..loop.forward import losses_of
from ..loop.hook import HookBase
from ..loop.sample_values import SampleValues
from ..loop.trainer import Trainer
from ..records.console import ConsoleWriter, memory_stats
from ..records.json_lines import JSONWriter
from ..records.reports import ReportFolder
from ..records.tensorboard import TensorBoardWriter
from ..records.writers import Writer
from ..runtime.device import build_device
from ..runtime.precision import build_autocast
from .data_diff import CONTENT
from .describe import output_names
from .folder import needed_folders
from .resolve import iters_per_epoch
from .scores import build_score_hooks, check_known, hidden_scores, lr_metric, percent_scores

_HOOKS: dict[str, Callable[[CfgNode], HookBase]] = {}


def register_hook(name: str, builder: Callable[[CfgNode], HookBase]) -> None:
    """Add a hook to every run: `builder(cfg)` makes it; it runs after evaluation, before the records.

    Raises:
        ValueError: the name is taken.
    """
    if name in _HOOKS:
        raise ValueError(f"a hook called {name!r} is registered already")
    _HOOKS[name] = builder


def default_hooks(
    cfg: CfgNode,
    task: Task,
    model: nn.Module,
    loader: TrainLoader,
    averaged: nn.Module | None = None,
    hooks: Iterable[HookBase] = (),
) -> list[HookBase]:
    """Return the hooks of a run, in an order that has reasons.

    1. The folder is made, or refused, before anything is written into it.
    2. The profiler, where PROFILER asks for it: its last iteration ends before the work of the other hooks.
    3. Precise BatchNorm, where TEST.PRECISE_BN asks for it: what is evaluated has its statistics.
    4. Evaluation: its scores belong to this iteration's record and checkpoint.
    5. The user's hooks see the scores, and what they add to `trainer.scalars` is still recorded.
    6. The picture of the plan is drawn after the first update, in TensorBoard too. It comes before the record, so
       that what both import does not count as training.
    7. Records take everything that was found out about this iteration.
    8. The best score and early stopping, where keys ask for them, see what was recorded; it may be a score of the
       user's.
    9. The report is of the best evaluation.
    10. A schedule that follows metrics sees what was recorded, too.
    11. The checkpoint comes last, so that it holds what all the others know after this iteration.

    The moving average (SOLVER.EMA) is not a hook: the trainer updates it before any hook runs.

    Args:
        cfg: resolved.
        task: predicts and scores.
        model: the model that is trained.
        loader: training's.
        averaged: the moving average, evaluated beside it.
        hooks: user-defined ones, in addition to those of `register_hook`.
    """
    output = Path(cfg.OUTPUT_DIR)
    device, epoch = build_device(cfg), iters_per_epoch(cfg)
    writers: list[Writer] = []
    if comm.is_main():
        writers = [
            ConsoleWriter(
                cfg.SOLVER.MAX_ITER,
                device,
                percent=percent_scores(task),
                hidden=hidden_scores(task),
                epoch=epoch,
            ),
            JSONWriter(output / "metrics.json"),
            TensorBoardWriter(output),
        ]
    constants = {"config": cfg.to_dict(), CLASSES: output_names(cfg), CONTENT: data_spec(cfg).content}
    loaders, autocast = build_test_loaders(cfg, task), build_autocast(cfg)

    values: dict[str, SampleValues] | None = {} if cfg.TEST.REPORT and loaders else None

    def scores(trainer: Trainer) -> dict[str, float]:
        between = trainer.raise_if_interrupted
        options = between, autocast, trainer.strategy, values, cfg.TEST.LOSSES
        return evaluate_all(model, task, loaders, averaged, *options)

    gauges = [lambda: memory_stats(device)] if cfg.MEMORY_STATS else []
    own = [*(builder(cfg) for builder in _HOOKS.values()), *hooks]
    if not own:  # else one of them may give it
        check_known(cfg, task)
    metric_hooks = build_metric_hook(cfg, lr_metric(cfg, task))
    at_once = any(hook.takes == "record" for hook in (*metric_hooks, *own))
    first: list[HookBase] = [FolderHook(output, needed_folders(cfg))]
    if cfg.PROFILER.ITERS:
        first.append(ProfilerHook(cfg.PROFILER.START, cfg.PROFILER.ITERS, output / PROFILE))
    if cfg.TEST.PRECISE_BN.ENABLED:
        models = [model] if averaged is None else [model, averaged]
        period, number = cfg.TEST.EVAL_PERIOD, cfg.TEST.PRECISE_BN.NUM_ITER

        def run_of(each: nn.Module) -> Callable[[Any], object]:
            return losses_of(each, task, autocast=autocast, device=device)

        first.append(PreciseBNHook(period, models, loader.batches, number, run_of))
    return [
        *first,
        EvaluationHook(cfg.TEST.EVAL_PERIOD, scores),
        *own,
        PictureHook(output, writers),
        RecordHook(cfg.LOG_PERIOD, writers, gauges, at_once=at_once),
        *build_score_hooks(cfg, task, with_own=bool(own)),
        *([] if values is None else [build_report_hook(cfg, task, loaders, values, writers)]),
        *metric_hooks,
        CheckpointHook(
            cfg.SOLVER.CHECKPOINT_PERIOD,
            output,
            constants,
            cfg.SOLVER.CHECKPOINT_KEEP,
            cfg.DISTRIBUTED.TIMEOUT,
            decay_starts(cfg, epoch),
        ),
    ]


def build_report_hook(
    cfg: CfgNode,
    task: Task,
    loaders: Mapping[str, EvalLoader | ResidentEvalLoader],
    values: Mapping[str, SampleValues],
    writers: Sequence[Writer],
) -> ReportHook:
    """Return the hook that writes OUTPUT_DIR/report."""
    datasets = {name: loader.dataset for name, loader in loaders.items()}
    reports = ReportFolder(cfg.OUTPUT_DIR, task, datasets)
    return ReportHook(cfg.TEST.EVAL_PERIOD, reports, values, writers, bool(cfg.TEST.BEST.METRIC))


def evaluate_all(
    model: nn.Module,
    task: Task,
    loaders: Mapping[str, Iterable[Any]],
    averaged: nn.Module | None = None,
    between: Callable[[], object] | None = None,
    autocast: torch.dtype | None = None,
    strategy: Strategy | None = None,
    values: dict[str, SampleValues] | None = None,
    with_losses: bool = False,
) -> dict[str, float]:
    """Return the scores on every test set by their names in a record: "NAME/score".

    The scores of the moving average, if there is one, are called "NAME/ema/score". On several ranks rank 0 sends
    its buffers to all, and the scores are computed over the batches of all loaders; waits for all ranks.

    Args:
        model: the model.
        task: predicts and scores.
        loaders: one a test set, by its name.
        averaged: the moving average.
        between: called at the beginning and before each batch; what it raises ends the evaluation.
        autocast: the type that layers compute in when that is safe; None: the type of their weights.
        strategy: how the ranks share the model; None: each rank has all of it.
        values: filled with what reports need, by "NAME" and "NAME/ema"; None: no report is made.
        with_losses: whether to compute losses on the test sets, see `evaluate`.
    """
    if between is not None:  # also where a rank has no batch
        between()
    device = computing_device(model)
    models = {"": model} | ({"/ema": averaged} if averaged is not None else {})
    for each in models.values():
        comm.broadcast_buffers(each)
    scores: dict[str, float] = {}
    for name, loader in loaders.items():
        for suffix, evaluated in models.items():
            kept = SampleValues()
            options = device, between, autocast, strategy, None if values is None else kept, with_losses
            found = evaluate(evaluated, task, loader, *options)
            scores |= {f"{name}{suffix}/{score}": value for score, value in found.items()}
            if values is not None:
                values[f"{name}{suffix}"] = kept
    return scores


def build_test_loaders(cfg: CfgNode, task: Task) -> dict[str, EvalLoader | ResidentEvalLoader]:
    """Return a loader for each of DATASETS.TEST by the name of its scores; on several ranks of this one's part."""

    def build() -> dict[str, EvalLoader | ResidentEvalLoader]:
        ranks = comm.rank(), comm.world_size()
        return {name: build_test_loader(cfg, task, each, *ranks) for name, each in named_test_sets(cfg).items()}

    return local_rank_zero_first(build)
