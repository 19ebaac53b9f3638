"""MixUp and CutMix: transforms of complete training batches, applied to another loader's."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

import torch
from torch import Tensor
from torch.nn import functional as F

from ..batch import Batch
from ..seeds import random_numbers_kept, splitmix64
from ..transforms.mixup import Mixing
from .base import TrainLoader


class MixedTrainLoader(TrainLoader):
    """Another loader's batches, mixed; the random numbers depend on SEED and the iteration alone.

    For each batch one of the transforms that are not over yet is drawn, with equal probability, and applied with
    its own probability. The targets of a batch that is not mixed are shares, too: 1 for the label.

    Sources: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412; Yun et al. 2019,
    "CutMix", arXiv:1905.04899.

    Args:
        loader: yields the batches.
        mixing: the transforms.
        num_classes: of the targets.
        lent: how many samples at the front of each batch serve only as partners for mixing, and are not yielded.
    """

    def __init__(self, loader: TrainLoader, mixing: Sequence[Mixing], num_classes: int, *, lent: int = 0) -> None:
        super().__init__(
            loader.dataset,
            seed=loader.seed,
            batch_size=loader.batch_size,
            slots=loader.slots[lent:],
            stream=loader.stream,
        )
        self._loader, self._mixing, self._num_classes, self._lent = loader, mixing, num_classes, lent

    def batches(self, start: int = 0) -> Generator[Batch, None, None]:
        """Yield batches without end; their targets are the shares of the classes, (N, num_classes), float32."""
        seed = splitmix64(self.seed, 6)
        with closing(self._loader.batches(start)) as batches:
            for iteration, batch in enumerate(batches, start):
                with random_numbers_kept(everything=False):
                    torch.default_generator.manual_seed(splitmix64(seed, iteration))
                    images, shares = self._mixed(batch, iteration)
                indices = None if batch.indices is None else batch.indices[self._lent :]
                yield Batch(images[self._lent :], shares[self._lent :], indices)

    def _mixed(self, batch: Batch, iteration: int) -> tuple[Tensor, Tensor]:
        images, labels = batch
        left = [mixing for mixing in self._mixing if mixing.until is None or iteration < mixing.until]
        drawn = left[int(torch.randint(len(left), ()))] if len(left) > 1 else next(iter(left), None)
        if drawn is None or (drawn.p < 1 and float(torch.rand(())) >= drawn.p):
            return images, F.one_hot(labels, self._num_classes).float()
        return drawn.mix(images, labels)

    def close(self) -> None:
        """End all streams and their workers."""
        self._loader.close()
