"""MixUp and CutMix: transforms of complete training batches, applied to another loader's."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

import torch

from ..batch import Batch
from ..seeds import random_numbers_kept, splitmix64
from ..transforms.mixup import Mixing
from .base import TrainLoader


class MixedTrainLoader(TrainLoader):
    """Another loader's batches, mixed; the random numbers depend on SEED and the iteration alone.

    Sources: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412; Yun et al. 2019,
    "CutMix", arXiv:1905.04899.

    Args:
        loader: yields the batches.
        mixing: transforms, one of which is drawn for each batch with equal probability.
        lent: how many samples at the front of each batch serve only as partners for mixing, and are not yielded.
    """

    def __init__(self, loader: TrainLoader, mixing: Sequence[Mixing], *, lent: int = 0) -> None:
        super().__init__(
            loader.dataset,
            seed=loader.seed,
            batch_size=loader.batch_size,
            slots=loader.slots[lent:],
            stream=loader.stream,
        )
        self._loader, self._mixing, self._lent = loader, mixing, lent

    def batches(self, start: int = 0) -> Generator[Batch, None, None]:
        """Yield batches without end; their targets are the shares of the classes, (N, num_classes), float32."""
        seed = splitmix64(self.seed, 6)
        with closing(self._loader.batches(start)) as batches:
            for iteration, batch in enumerate(batches, start):
                with random_numbers_kept(everything=False):
                    torch.default_generator.manual_seed(splitmix64(seed, iteration))
                    which = int(torch.randint(len(self._mixing), ())) if len(self._mixing) > 1 else 0
                    images, shares = self._mixing[which](*batch)
                indices = None if batch.indices is None else batch.indices[self._lent :]
                yield Batch(images[self._lent :], shares[self._lent :], indices)

    def close(self) -> None:
        """End all streams and their workers."""
        self._loader.close()
