"""Evaluation of a checkpoint or of MODEL.WEIGHTS, with the scores that an evaluation during training gives."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from warmstart.config import CfgNode, ConfigError, disk
from warmstart.data import build_train_loader
from warmstart.modeling import WeightsFile, hold_modules
from warmstart.tasks import Task, build_task

from ..checkpoint.reader import PARTS
from ..checkpoint.run_folder import RunFolder, Start
from ..distributed import comm
from ..distributed.build import build_strategy
from ..distributed.errors import local_rank_zero_first, on_main, raise_together
from ..distributed.fsdp import computing_device
from ..distributed.strategy import Strategy
from ..loop.forward import losses_of
from ..loop.precise_bn import norm_layers, update_from_training
from ..loop.sample_values import SampleValues
from ..records.logging import setup_logging
from ..records.reports import REPORT, ReportFolder, json_text, scores_of
from ..runtime.precision import build_autocast
from ..runtime.rng import restore_rng
from .default_hooks import build_test_loaders, evaluate_all
from .describe import log_scores
from .init_from_data import build_for_ranks, read_weights
from .input_defaults import describe_input_defaults, with_saved_input
from .load import build_average, load_models
from .prepare_torch import prepare_torch
from .resolve import resolve_scaled
from .resume import read_parts, read_start
from .world_size_scaling import scale_of

logger = logging.getLogger(__name__)


def evaluate_only(
    cfg: CfgNode, *, resume: str | None = None, trust: bool = False, output: str | Path | None = None
) -> dict[str, float]:
    """Evaluate a checkpoint or MODEL.WEIGHTS on every test set; log the scores and return them.

    Writes OUTPUT_DIR/report if TEST.REPORT is on, and nothing else into OUTPUT_DIR.

    The Python counterpart of tools/train_net.py --eval-only. In a distributed run every rank calls it.

    Args:
        cfg: the config as the user wrote it; `evaluate_only` resolves it.
        resume: None evaluates MODEL.WEIGHTS; "" the newest checkpoint in OUTPUT_DIR; a path this checkpoint, or
            the newest in this folder.
        trust: whether to read the file even if that can run code in it.
        output: a file for the scores, as JSON, with the name of the checkpoint and its iteration; an existing file
            is replaced.

    Returns:
        The scores by "NAME/score", as they are called in a run's records.

    Raises:
        ConfigError: there are no weights or no test sets, the weights do not fit the model, or `output` cannot be
            written.

    >>> import tempfile
    >>> from warmstart.config import get_cfg
    >>> from .train import train
    >>> cfg = get_cfg()
    >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +ELLIPSIS
    ...     cfg.merge_from_list(["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", 3, "OUTPUT_DIR", folder])
    ...     trainer = train(cfg)
    ...     scores = evaluate_only(cfg, resume="")
    [...] torch ...
    >>> {name.split("/")[0] for name in scores}
    {'digits_test'}
    """
    setup_logging()
    given = cfg
    with raise_together():
        cfg = _resolved(given, comm.world_size())
    found = None if resume is None else on_main(lambda: read_start(cfg, resume, trust))
    start = None if found is None else read_parts(cfg, found[1])
    with raise_together():
        if start is not None and scale_of(start):  # TEST.PRECISE_BN needs the training batches of that run
            cfg = _resolved(given, scale_of(start))
        cfg = cfg if start is None else with_saved_input(cfg, start["config"])
        _check(cfg, start, resume)
        _check_output(cfg, output)
        device, task = prepare_torch(cfg), build_task(cfg)
        file = read_weights(cfg, trust) if start is None else None
        model = build_for_ranks(cfg, weights=file or False, task=task)
    strategy = build_strategy(cfg)
    with raise_together():  # only once no rank has failed above: in here ranks wait for each other
        model = strategy.place(model, device)
        averaged = _load(cfg, strategy, model, start)
    if cfg.TEST.PRECISE_BN.ENABLED:
        models = [model] if averaged is None else [model, averaged]
        set_statistics(cfg, task, models, start if file is None else file.content)
    if line := describe_input_defaults(cfg):
        logger.info("%s", line)
    loaders = build_test_loaders(cfg, task)
    values: dict[str, SampleValues] | None = {} if cfg.TEST.REPORT else None
    scores = evaluate_all(
        model,
        task,
        loaders,
        averaged,
        autocast=build_autocast(cfg),
        strategy=strategy,
        values=values,
        with_losses=cfg.TEST.LOSSES,
    )
    facts = _facts(file, found)
    joined = {name: each.joined() for name, each in (values or {}).items()}  # on all ranks
    if joined and comm.is_main():
        datasets = {name: loader.dataset for name, loader in loaders.items()}
        _write_reports(cfg, ReportFolder(cfg.OUTPUT_DIR, task, datasets), facts, scores, joined)
    log_scores(scores, task)
    if output is not None and comm.is_main():
        _write_scores(Path(output), facts | {"scores": scores})
    return scores


def _resolved(given: CfgNode, scale: int) -> CfgNode:
    """Return the config resolved for an evaluation, which uses training batches only for TEST.PRECISE_BN."""
    return resolve_scaled(given, scale, trains=given.TEST.PRECISE_BN.ENABLED)


def _check(cfg: CfgNode, start: Mapping[str, Any] | None, resume: str | None) -> None:
    """Raise ConfigError if there are no weights to evaluate, or no test sets."""
    if start is None and not cfg.MODEL.WEIGHTS:
        missing = "needs weights" if resume is None else f"found no checkpoint in {cfg.OUTPUT_DIR}"
        raise ConfigError(f"command line: --eval-only {missing}; give MODEL.WEIGHTS FILE or --resume=PATH")
    if not cfg.DATASETS.TEST:
        raise ConfigError(f"{cfg.label('DATASETS.TEST')}: names no data set to evaluate on")


def _check_output(cfg: CfgNode, output: str | Path | None) -> None:
    """Raise ConfigError if the scores or the report cannot be written."""
    if cfg.TEST.REPORT:
        RunFolder(cfg.OUTPUT_DIR, subfolders=[REPORT]).refuse_foreign_folders()
    if output is None:
        return
    path = Path(output)
    if not path.parent.is_dir():
        raise ConfigError(
            f"command line: --output {path}: there is no folder {path.parent}; make it, or name another"
        )
    if path.is_dir() or path.is_symlink():
        kind = "a folder" if path.is_dir() else "a symbolic link"
        raise ConfigError(f"command line: --output {path}: it is {kind}; name a file, such as scores.json")


def _facts(file: WeightsFile | None, found: Start | None) -> dict[str, Any]:
    """Return the name of the file that is evaluated, and its iteration; null if the file does not say."""
    path, content = (None, None) if found is None else found
    if file is not None:
        path, content = file.path, file.content
    iteration = content.get("iteration") if isinstance(content, Mapping) else None
    return {"iteration": iteration if type(iteration) is int else None, "file": str(path)}


def _write_scores(path: Path, content: Mapping[str, Any]) -> None:
    try:
        with disk.replacement(path) as file:
            file.write(json_text(content).encode())
    except OSError as error:
        raise ConfigError(f"command line: cannot write {path}: {error.strerror}") from None
    logger.info("scores: %s", path)


def _write_reports(
    cfg: CfgNode,
    reports: ReportFolder,
    facts: Mapping[str, Any],
    scores: Mapping[str, float],
    values: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write and draw the reports; if the folder cannot be written, or a run is writing it, log one line."""
    try:
        with RunFolder(cfg.OUTPUT_DIR).hold():
            for name, each in values.items():
                reports.write(name, facts, scores_of(scores, name), each)
                reports.draw_evaluation(name, each)
                reports.draw(name)
    except OSError as error:
        logger.warning("no report: cannot write %s: %s", error.filename or reports.path, error.strerror or error)
    except ConfigError as error:
        logger.warning("no report: %s", error)
    else:
        logger.info("report: %s", reports.path)


def _load(cfg: CfgNode, strategy: Strategy, model: nn.Module, start: dict[str, Any] | None) -> nn.Module | None:
    """Prepare the model and load the checkpoint into it; return the checkpoint's averaged model, if it has one."""
    strategy.release(model)
    ema = None if start is None else build_average(cfg, model, start)
    averaged = None if ema is None else ema.model
    strategy.prepare(model, *([] if averaged is None else [averaged]))
    if start is not None:
        load_models(model, ema, start)
    return averaged


def set_statistics(cfg: CfgNode, task: Task, models: Sequence[nn.Module], content: Any) -> None:
    """Recompute BatchNorm statistics as TEST.PRECISE_BN does before an evaluation during training, bit for bit.

    Waits for all ranks.

    Args:
        cfg: resolved.
        task: computes the losses, as in training.
        models: with their weights, in training mode.
        content: of the file that the weights are from. A checkpoint has the iteration and random states from which
            training would have continued, and its next batches are used; for any other file the first batches.

    Raises:
        ConfigError: the checkpoint's random state cannot be restored, or the training set cannot be read.
    """
    iteration, states = comm.broadcast_object(_position(content))
    for model in models:
        hold_modules(model, iteration - 1)  # in the modes of the last update, which is evaluated
    models = [model for model in models if norm_layers(model)]
    if not models:
        logger.info("TEST.PRECISE_BN: the model has no BatchNorm layer that is trained; nothing to do")
        return
    device = computing_device(models[0])
    _restore_random(states, device)
    loader = local_rank_zero_first(lambda: build_train_loader(cfg, task, comm.rank(), comm.world_size()))
    number, parts = cfg.TEST.PRECISE_BN.NUM_ITER, cfg.SOLVER.GRAD_ACCUM_STEPS
    for model in models:
        run = losses_of(model, task, autocast=build_autocast(cfg), device=device)
        update_from_training(model, loader.batches(iteration), number, parts, device, run)
    loader.close()
    text = "TEST.PRECISE_BN: BatchNorm has the statistics of the %d training batches from iteration %d on"
    logger.info(text, number, iteration)


def _position(content: Any) -> tuple[int, Any]:
    """Return a checkpoint's iteration and random states; 0 and None for any other file."""
    is_checkpoint = isinstance(content, Mapping) and content.keys() >= {*PARTS}
    return (int(content["iteration"]), content["rng"]) if is_checkpoint else (0, None)


def _restore_random(states: Any, device: torch.device) -> None:
    """Restore the random states of a checkpoint, if there are any.

    Raises:
        ConfigError: they cannot be restored.
    """
    try:
        if states is not None:
            restore_rng(states, device, comm.rank(), comm.world_size())
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as error:
        raise ConfigError(f"the checkpoint's random state is not valid: {error}") from None
