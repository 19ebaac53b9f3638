"""Scoring a model on a test set without leaving a trace in training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..distributed import comm
from ..distributed.fsdp import is_cut_model
from ..runtime.rng import preserved_rng
from .batches import to_device

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
    loader: Iterable[Any],
    device: torch.device | str = "cpu",
    between: Callable[[], object] | None = None,
    flip: bool = False,
) -> dict[str, float]:
    """Return the scores of a classifier; mode and random number generators are as before.

    On several ranks they are those of what all loaders give together; waits for all ranks.

    Args:
        model: in evaluation mode `model(images)` gives logits (N, classes).
        loader: gives (images (N, C, H, W), labels (N,)), each sample once; on several ranks each its own ones.
        device: where the model is.
        between: called before each batch; what it raises ends the evaluation.
        flip: whether logits are the mean of those of an image and of its mirror image, left for right.

    Returns:
        `accuracy` and, with more than five classes, `top5`: the share of labels that are the highest
        and among the five highest logits, from 0 to 1; `loss`: the mean cross-entropy, never smoothed.

    Raises:
        ValueError: the loader is empty, those of all ranks are.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
    >>> scores = evaluate(nn.Identity(), [(logits, torch.tensor([0, 1, 1, 1]))])
    >>> scores["accuracy"], round(scores["loss"], 4)
    (0.75, 0.6269)
    """
    from torchmetrics import MetricCollection  # slow to import: only who evaluates pays
    from torchmetrics.classification import MulticlassAccuracy

    device = torch.device(device)
    metrics: MetricCollection | None = None
    # Not torchmetrics' mean: it waits for the device at each batch to look for NaN, and leaves NaN out.
    loss, samples = torch.zeros((), dtype=torch.float64, device=device), 0
    told, whole = time.monotonic(), f" of {len(loader)}" if isinstance(loader, Sized) else ""
    with preserved_rng(device), evaluation_mode(model):
        for number, batch in enumerate(_in_step(loader) if is_cut_model(model) else loader):
            if between is not None:
                between()
            if time.monotonic() - told >= _APART:
                told = time.monotonic()
                logger.info("evaluating: %d%s batches are done", number, whole)
            images, labels = to_device(batch, device)
            logits = model(images).float()
            if flip:
                logits = (logits + model(images.flip(-1)).float()) / 2
            if not len(labels):  # the model was called for the sake of other ranks
                continue
            if metrics is None:
                classes = logits.shape[1]
                ranks = {"accuracy": 1} | ({"top5": 5} if classes > 5 else {})
                metrics = MetricCollection(
                    {
                        name: MulticlassAccuracy(
                            classes, top_k=k, average="micro", validate_args=False, sync_on_compute=False
                        )
                        for name, k in ranks.items()
                    },
                    compute_groups=False,
                ).to(device)
            metrics.update(logits, labels)
            loss += F.cross_entropy(logits, labels, reduction="sum")
            samples += len(labels)
    # Not by torchmetrics' own way, which a rank without a batch could not go: it has no metrics.
    parts = comm.gather((metrics if metrics is None else metrics.to("cpu"), loss.item(), samples))
    counts = [part for part, _, _ in parts if part is not None]
    if not counts:
        raise ValueError("the test set is empty: nothing to evaluate")
    for name, metric in counts[0].items():
        for other in counts[1:]:
            metric.merge_state(other[name])
    total = sum(part for _, part, _ in parts) / sum(number for _, _, number in parts)
    return {name: float(value) for name, value in counts[0].compute().items()} | {"loss": total}


def _in_step(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield as many batches on all ranks, of no image where one has no more: a model in parts is called by all."""
    batches = iter(loader)
    while True:
        batch = next(batches, None)
        shapes = comm.gather(None if batch is None else batch[0].shape[1:])
        shape = next((each for each in shapes if each is not None), None)
        if shape is None:
            return
        yield batch if batch is not None else (torch.zeros(0, *shape), torch.zeros(0, dtype=torch.long))
