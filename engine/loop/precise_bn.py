"""Precise BatchNorm: running statistics recomputed for weights that no longer change."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.data import split_batch, to_device

from ..distributed import comm
from ..runtime.rng import preserved_rng


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """Return the BatchNorm layers in training mode: those whose statistics training itself moves."""
    layers: list[nn.Module] = _fvcore().get_bn_modules(model)
    return layers


def update_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    num_batches: int,
    device: torch.device | str = "cpu",
    run: Callable[[Any], object] | None = None,
) -> None:
    """Compute the running statistics of BatchNorm layers from `num_batches` batches, with the current weights.

    Running statistics lag behind the weights; see Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm",
    arXiv:2105.07576, section 3. Other buffers and the random number generators are as before.
    On several ranks the statistics are computed over the batches of all ranks; waits for all ranks.

    Args:
        model: in training mode.
        batches: at least `num_batches`.
        num_batches: how many to use.
        device: where the model is.
        run: passes a batch through the model as training does; default: `model(*batch)`.

    >>> model = nn.BatchNorm1d(1)
    >>> update_statistics(model, [(torch.tensor([[1.0], [3.0]]),), (torch.tensor([[5.0], [7.0]]),)], num_batches=2)
    >>> model.running_mean, model.running_var, model.num_batches_tracked
    (tensor([4.]), tensor([5.]), tensor(0))
    """
    device = torch.device(device)
    # The forward passes move more than those statistics: counts of batches, the vectors of a spectral norm.
    others = {name: buffer.clone() for name, buffer in model.named_buffers() if not _is_statistic(name)}
    with preserved_rng(device):
        _fvcore().update_bn_stats(_Run(model, run), (to_device(batch, device) for batch in batches), num_batches)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name in others:
                buffer.copy_(others[name])
        for layer in norm_layers(model) if comm.world_size() > 1 else ():
            mean, variance = layer.running_mean, layer.running_var
            assert isinstance(mean, Tensor), "a layer that keeps statistics"
            assert isinstance(variance, Tensor), "a layer that keeps statistics"
            variance += mean.square()  # mean squares can be averaged, variances cannot
            comm.average([mean, variance])
            variance -= mean.square()


def update_from_training(
    model: nn.Module,
    stream: Generator[Any, None, None],
    num_iter: int,
    accum_steps: int = 1,
    device: torch.device | str = "cpu",
    run: Callable[[Any], object] | None = None,
) -> None:
    """Compute the running statistics of BatchNorm layers from the next batches of training.

    Args:
        model: as for `update_statistics`.
        stream: training's batches from the update on that would come next; is closed.
        num_iter: batches to use.
        accum_steps: micro-batches of each, as in training: a complete batch may not fit into memory.
        device: where the model is.
        run: as for `update_statistics`.
    """
    with closing(stream):
        parts = (part for batch in stream for part in split_batch(batch, accum_steps))
        update_statistics(model, parts, num_iter * accum_steps, device, run)


def _fvcore() -> Any:
    with warnings.catch_warnings():
        # fvcore.nn compiles some losses while it is imported, in a way that torch advises against.
        warnings.filterwarnings("ignore", message=".*torch.jit")
        from fvcore.nn import precise_bn  # slow to import: only who asks for it pays
    return precise_bn


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in ("running_mean", "running_var")


class _Run(nn.Module):
    """Takes a batch as the one argument that fvcore passes."""

    def __init__(self, model: nn.Module, run: Callable[[Any], object] | None) -> None:
        super().__init__()
        self.model, self.run = model, run

    def forward(self, batch: Any) -> Any:
        return self.model(*batch) if self.run is None else self.run(batch)
