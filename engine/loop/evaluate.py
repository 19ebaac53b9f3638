"""Scoring a model on a test set without leaving a trace in training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.config import ConfigError
from warmstart.data import Batch, map_tensors, to_device
from warmstart.modeling import takes_targets
from warmstart.tasks import Task

from ..distributed import comm
from ..distributed.fsdp import is_sharded_tensor, lockstep
from ..distributed.strategy import Strategy
from ..runtime.rng import preserved_rng
from .evaluation_losses import EvaluationLosses
from .forward import ModelForward
from .sample_values import SampleValues

logger = logging.getLogger(__name__)

_APART = 30.0  # seconds between two lines that say how far an evaluation is


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, then every submodule back into the mode it had.

    >>> model = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Dropout())
    >>> model.training, model[0].training
    (True, False)
    >>> with evaluation_mode(model):
    ...     model.training, model[1].training
    (False, False)
    >>> model.training, model[0].training, model[1].training
    (True, False, True)
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        # By their own methods, not by the flag alone: layers that merge weights for evaluation undo it there.
        for module, training in modes:
            if module.training != training:
                module.train(training)
            module.training = training


@torch.no_grad()
def evaluate(
    model: nn.Module,
    task: Task,
    loader: Iterable[Batch],
    device: torch.device | str = "cpu",
    between: Callable[[], object] | None = None,
    autocast: torch.dtype | None = None,
    strategy: Strategy | None = None,
    values: SampleValues | None = None,
    with_losses: bool = False,
) -> dict[str, float]:
    """Return the scores of a model by their names; its mode and the random number generators are as before.

    On several ranks they are computed over the batches of all loaders; waits for all ranks.

    Args:
        model: is put into evaluation mode.
        task: predicts, and computes the scores.
        loader: gives batches, each sample once; on several ranks each its own ones.
        device: where the model is.
        between: called before each batch; what it raises ends the evaluation.
        autocast: the type that layers compute in when that is safe; None: the type of their weights.
        strategy: how the ranks share the model; None: seen by its parameters.
        values: collects what the task's report needs of the samples of this rank; None: no report is made.
        with_losses: whether to compute the losses of training as well: their mean over the test set by name, and
            "total_loss". The model is called once more for each batch, and must not be sharded.

    Raises:
        ValueError: the loader is empty, on all ranks.
        ConfigError: the task predicts nothing, its evaluator is none, or returns something else than its scores.
    """
    device = torch.device(device)
    forward = ModelForward(model, takes_targets=takes_targets(model), autocast=autocast, device_type=device.type)
    evaluator = task.evaluator()
    _check_evaluator(evaluator, task)
    if strategy is not None:
        loader_in_step = strategy.lockstep(loader)
    else:
        is_sharded = any(is_sharded_tensor(parameter) for parameter in model.parameters())
        loader_in_step = lockstep(loader) if is_sharded else loader
    losses = EvaluationLosses(model, task, autocast, device) if with_losses else None
    told, total = time.monotonic(), f" of {len(loader)}" if isinstance(loader, Sized) else ""
    with preserved_rng(device), evaluation_mode(model):
        for number, batch in enumerate(loader_in_step):
            if between is not None:
                between()
            if time.monotonic() - told >= _APART:
                told = time.monotonic()
                logger.info("evaluating: %d%s batches are done", number, total)
            batch = to_device(batch, device)
            images, targets = batch
            predictions = task.predict(forward, images)
            if predictions is None:
                raise ConfigError(
                    f"{type(task).__name__}.predict() returned None; return the predictions for the images"
                )
            if device.type == "mps":  # has no float64, in which evaluators sum
                predictions, targets = map_tensors(Tensor.cpu, (predictions, targets))
            if targets is not None:  # else the model was called because other ranks had a batch
                evaluator.update(predictions, targets)
                if values is not None and batch.indices is not None:
                    values.add(batch.indices, task.report_values(predictions, targets))
                if losses is not None:
                    losses.add(batch)
    states = [state for state in comm.gather(evaluator.state()) if state is not None]
    if not states:
        raise ValueError("the test set is empty: nothing to evaluate")
    evaluator.merge(states)
    scores = _checked(evaluator.compute(), task)
    if values is not None and (report_values := getattr(evaluator, "report_values", None)):
        values.kept = report_values()
    return scores if losses is None else scores | losses.averages()


def _checked(scores: Mapping[str, float], task: Task) -> dict[str, float]:
    """Return the scores in the task's order."""
    names = [score.name for score in task.scores]
    if not isinstance(scores, Mapping) or {*scores} != {*names}:
        found = ", ".join(scores) if isinstance(scores, Mapping) else f"a {type(scores).__name__}"
        raise ConfigError(
            f"{type(task).__name__}.evaluator().compute() returned {found or 'nothing'}; return a number for"
            f" each of the task's scores: {', '.join(names)}"
        )
    return {name: _number(scores[name], name, task) for name in names}


def _number(value: Any, name: str, task: Task) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # the last one for a tensor of several numbers
        who = f"{type(task).__name__}.evaluator().compute()"
        raise ConfigError(f"{who} returned {value!r} for {name}; return a number") from None


def _check_evaluator(evaluator: object, task: Task) -> None:
    methods = ("update", "state", "merge", "compute")
    missing = [name for name in methods if not callable(getattr(evaluator, name, None))]
    if missing:
        name, found, listed = type(task).__name__, type(evaluator).__name__, ", ".join(missing)
        raise ConfigError(
            f"{name}.evaluator() returned a {found} without {listed}; return an object with the methods of"
            " warmstart.tasks.Evaluator"
        )
