"""The losses of a model on a test set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from warmstart.data import Batch, splitmix64
from warmstart.tasks import Task

from ..distributed import comm
from ..runtime.rng import seed_generators
from .forward import METRIC, losses_of

TOTAL = "total_loss"  # as in records of training


@contextmanager
def loss_mode(model: nn.Module) -> Iterator[None]:
    """Let a model that is in evaluation mode return losses as in training, but compute as in evaluation.

    Modules that contain others are in training mode, in which a model returns its own losses. Layers stay in
    evaluation mode, so that normalisation uses and keeps its running statistics, and dropout drops nothing.

    >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()).eval()
    >>> with loss_mode(model):
    ...     model.training, model[0].training, model[1].training
    (True, False, False)
    >>> model.training
    False
    """
    # By the flag alone: layers that split weights in train() would have to merge them again.
    changed = [module for module in model.modules() if module is model or any(True for _ in module.children())]
    for module in changed:
        module.training = True
    try:
        yield
    finally:
        for module in changed:
            module.training = False


class EvaluationLosses:
    """Averages the losses of a test set over its images; each batch counts by its size.

    Args:
        model: in evaluation mode.
        task: computes the losses, unless the model returns its own.
        autocast: see `evaluate`.
        device: where the model is.
    """

    def __init__(self, model: nn.Module, task: Task, autocast: torch.dtype | None, device: torch.device) -> None:
        self._model, self._device = model, device
        self._losses_of = losses_of(model, task, autocast=autocast, device=device)
        self._sums: list[tuple[int, dict[str, torch.Tensor]]] = []

    def add(self, batch: Batch) -> None:
        """Compute the losses of a batch; what is drawn follows from its first sample, whatever came before."""
        if batch.indices is not None:
            seed_generators(splitmix64(0, int(batch.indices[0])), self._device)
        with loss_mode(self._model):
            losses = self._losses_of(batch)
        found = {name: loss.detach() for name, loss in losses.items() if not name.startswith(METRIC)}
        self._sums.append((len(batch), found))

    def averages(self) -> dict[str, float]:
        """Return the mean of each loss, and of their sum; waits for all ranks."""
        own = [(count, {name: float(loss) for name, loss in found.items()}) for count, found in self._sums]
        batches = [batch for rank in comm.gather(own) for batch in rank]
        images = sum(count for count, _ in batches)
        names = dict.fromkeys(name for _, found in batches for name in found)
        # Rounded once, so that the order of batches does not matter.
        means = {
            name: math.fsum(count * found.get(name, 0.0) for count, found in batches) / images for name in names
        }
        return {TOTAL: math.fsum(means.values()), **means}
