"""The hooks of a run, in their order, and those that users register."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from warmstart.config import (
    CfgNode,
)
from warmstart.data import (
    TrainLoader,
    build_test_loader,
    named_test_sets,
)

from ..checkpoint.run_files import PROFILE, subfolders_of
from ..distributed import comm
from ..distributed.errors import in_turn
from ..distributed.fsdp import computing_device
from ..hooks.checkpointing import CheckpointHook
from ..hooks.evaluation import EvaluationHook, PreciseBNHook
from ..hooks.metric_logging import RecordHook
from ..hooks.metric_schedule import build_metric_hook
from ..hooks.plot_schedule import PictureHook
from ..hooks.profiler import ProfilerHook
from ..hooks.run_lock import FolderHook
from ..loop.evaluate import evaluate
from ..loop.hook import HookBase
from ..loop.trainer import Trainer
from ..records.console import ConsoleWriter, memory_stats
from ..records.json_lines import JSONWriter
from ..records.tensorboard import TensorBoardWriter
from ..records.writers import Writer
from ..runtime.device import get_device
from .scores import build_score_hooks

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
    cfg: CfgNode, model: nn.Module, loader: TrainLoader, averaged: nn.Module | None = None
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
    9. So does a schedule that follows metrics.
    10. The checkpoint comes last, so that it holds what all the others know after this iteration.

    The moving average (SOLVER.EMA) is no hook: the trainer brings it up to date before any of them runs.

    Args:
        cfg: resolved.
        model: the model that is trained.
        loader: training's.
        averaged: the moving average, evaluated beside it.
    """
    output = Path(cfg.OUTPUT_DIR)
    device = get_device(cfg)
    writers: list[Writer] = []
    if comm.is_main():
        writers = [
            ConsoleWriter(cfg.SOLVER.MAX_ITER, device),
            JSONWriter(output / "metrics.json"),
            TensorBoardWriter(output),
        ]
    constants = {"config": cfg.to_dict()}
    loaders = build_test_loaders(cfg)

    def scores(trainer: Trainer) -> dict[str, float]:
        return evaluate_all(model, loaders, averaged, trainer.give_way, cfg.TEST.FLIP)

    gauges = [lambda: memory_stats(device)] if cfg.MEMORY_STATS else []
    metric_hooks = build_metric_hook(cfg)
    hooks: list[HookBase] = [FolderHook(output, subfolders_of(cfg))]
    if cfg.PROFILER.ITERS:
        hooks.append(ProfilerHook(cfg.PROFILER.START, cfg.PROFILER.ITERS, output / PROFILE))
    if cfg.TEST.PRECISE_BN.ENABLED:
        models = [model] if averaged is None else [model, averaged]
        hooks.append(PreciseBNHook(cfg.TEST.EVAL_PERIOD, models, loader.batches, cfg.TEST.PRECISE_BN.NUM_ITER))
    return [
        *hooks,
        EvaluationHook(cfg.TEST.EVAL_PERIOD, scores),
        *(builder(cfg) for builder in _HOOKS.values()),
        PictureHook(output, writers),
        RecordHook(cfg.LOG_PERIOD, writers, gauges, at_once=bool(metric_hooks)),
        *build_score_hooks(cfg, with_own=bool(_HOOKS)),
        *metric_hooks,
        CheckpointHook(
            cfg.SOLVER.CHECKPOINT_PERIOD, output, constants, cfg.SOLVER.CHECKPOINT_KEEP, cfg.DISTRIBUTED.TIMEOUT
        ),
    ]


def evaluate_all(
    model: nn.Module,
    loaders: Mapping[str, Iterable[Any]],
    averaged: nn.Module | None = None,
    between: Callable[[], object] | None = None,
    flip: bool = False,
) -> dict[str, float]:
    """Return the scores on every test set: {"digits_test/accuracy": 0.98, ...}.

    Those of the moving average, where there is one, stand beside them: "digits_test/ema/accuracy". On several
    ranks buffers become those of rank 0, and the scores those of all loaders together; waits for all ranks.

    Args:
        model: the model.
        loaders: one a test set, by its name.
        averaged: the moving average.
        between: called at the beginning and before each batch; what it raises ends the evaluation.
        flip: TEST.FLIP.
    """
    if between is not None:  # also where a rank has no batch
        between()
    device = computing_device(model)
    models = {"": model} | ({"ema/": averaged} if averaged is not None else {})
    for each in models.values():
        comm.share_buffers(each)
    return {
        f"{name}/{prefix}{score}": value
        for name, loader in loaders.items()
        for prefix, evaluated in models.items()
        for score, value in evaluate(evaluated, loader, device, between, flip).items()
    }


def build_test_loaders(cfg: CfgNode) -> dict[str, Iterable[Any]]:
    """Return a loader for each of DATASETS.TEST by the name of its scores; on several ranks of this one's part."""

    def build() -> dict[str, Iterable[Any]]:
        ranks = comm.rank(), comm.world_size()
        return {name: build_test_loader(cfg, each, *ranks) for name, each in named_test_sets(cfg).items()}

    return in_turn(build)
