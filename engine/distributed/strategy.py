"""Strategies: how the processes of a run share one model."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from warmstart.data import Batch


class Strategy:
    """The interface of all strategies; by default each method does what is right for one process.

    A run builds its model, and then calls `place`, `release`, `prepare` and `forward` in this order; an evaluation
    without training does not call `forward`. See `SingleProcess`, and `DDP` and `FSDP2` in ddp.py and fsdp.py.
    """

    #: Whether each rank holds shards of the weights, gradients and optimizer state only.
    is_sharded = False
    #: Whether this rank needs the initial weights of a new run.
    has_weights = True
    #: Whether `forward` must be called again when further parameters have begun to require gradients.
    counts_gradients = False

    def place(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return a new model on its device, with the layers that this strategy needs."""
        return model.to(device)

    def release(self, model: nn.Module) -> None:
        """Take the weights out of a model that will be sharded, so that copies of it need no memory."""

    def prepare(self, *models: nn.Module) -> None:
        """Bring models into the form in which this rank holds them, in place: the model and copies of it.

        Waits for all ranks.
        """

    def forward(self, model: nn.Module) -> nn.Module:
        """Return what training calls in place of the model, and no longer what it returned before.

        Waits for all ranks.
        """
        return model

    def no_sync(self) -> AbstractContextManager[None]:
        """Return the context in which the gradients of backward passes are not averaged over the ranks."""
        return nullcontext()

    def check_gradients(self) -> None:
        """Check, after the backward passes of an update, that its gradients were averaged over the ranks.

        Raises:
            ConfigError: a parameter got no gradient, and the strategy was not told that this can happen.
        """

    def lockstep(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Return batches for an evaluation: equally many on all ranks if they must call the model together.

        A batch without targets (None) is only there because other ranks have one.
        """
        return batches


class SingleProcess(Strategy):
    """The strategy of a run in one process: the model is trained as it is.

    >>> strategy = SingleProcess()
    >>> model = strategy.place(nn.Linear(2, 1), torch.device("cpu"))
    >>> strategy.prepare(model)
    >>> strategy.forward(model) is model, strategy.has_weights
    (True, True)
    """


def with_sync_bn(model: nn.Module) -> nn.Module:
    """Return the model with BatchNorm layers that compute their statistics over the images of all ranks.

    >>> type(with_sync_bn(nn.BatchNorm2d(3))).__name__
    'SyncBatchNorm'
    """
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted
