"""MixUp and CutMix: transforms of whole training batches, behind the loader that makes them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from warmstart.config import ConfigError, check_arguments

from .loader import Batch, TrainLoader
from .sampling import random_numbers_kept, splitmix64
from .transforms import MIXING, Entry

Mixing = Callable[[Tensor, Tensor], Batch]


def split_mixing(entries: Iterable[Entry], label: str) -> tuple[list[Entry], list[Entry]]:
    """Return the entries of INPUT.TRANSFORMS_TRAIN that work on images, and behind them MixUp and CutMix.

    Raises:
        ConfigError: one of these two stands before another transform, or has wrong arguments; `label` names the
            key.

    >>> split_mixing([("RandomCrop", {"size": 28}), ("MixUp", {"alpha": 0.2})], "INPUT.TRANSFORMS_TRAIN")
    ([('RandomCrop', {'size': 28})], [('MixUp', {'alpha': 0.2})])
    """
    images, mixing = [], []
    for name, arguments in entries:
        if name in MIXING:
            _check(f"{label}: {name}", name, arguments)
            mixing.append((name, arguments))
        elif mixing:
            raise ConfigError(f"{label}: {mixing[0][0]} mixes whole batches; put it behind {name}, at the end")
        else:
            images.append((name, arguments))
    return images, mixing


def build_mixing(entries: Iterable[Entry], num_classes: int) -> list[Mixing]:
    """Return torchvision's MixUp and CutMix for entries that `split_mixing` has checked."""
    from torchvision.transforms import v2

    # A whole alpha, as 1 in YAML, would be a tensor of whole numbers, which no Beta distribution takes.
    return [
        getattr(v2, name)(alpha=float(arguments.get("alpha", 1)), num_classes=num_classes)
        for name, arguments in entries
    ]


class MixedTrainLoader(TrainLoader):
    """The batches of another loader, mixed; the random numbers of an iteration follow from SEED and it alone.

    Sources: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412; Yun et al. 2019,
    "CutMix", arXiv:1905.04899.

    Args:
        loader: gives the batches.
        mixing: changes them; one of several is drawn for each batch, each as likely.
        lent: how many samples at the front of each batch are there for others to be mixed with, and not given on.

    >>> from warmstart.config import get_cfg
    >>> from warmstart.data import build_train_loader
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["INPUT.TRANSFORMS_TRAIN", "[{MixUp: {alpha: 0.4}}]"])
    >>> images, labels = next(build_train_loader(cfg).batches())
    >>> labels.shape, labels.sum(1).allclose(torch.ones(16))
    (torch.Size([16, 10]), True)
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
        """Yield (images (N, C, H, W) float32, the classes' shares (N, num_classes) float32) without end."""
        seed = splitmix64(self.seed, 6)
        with closing(self._loader.batches(start)) as batches:
            for iteration, (images, labels) in enumerate(batches, start):
                with random_numbers_kept(everything=False):
                    torch.default_generator.manual_seed(splitmix64(seed, iteration))
                    which = int(torch.randint(len(self._mixing), ())) if len(self._mixing) > 1 else 0
                    images, labels = self._mixing[which](images, labels)
                yield images[self._lent :], labels[self._lent :]

    def close(self) -> None:
        """End all streams, and processes that load for them."""
        self._loader.close()


def _check(where: str, name: str, arguments: Mapping[str, Any]) -> None:
    from torchvision.transforms import v2

    check_arguments(where, name, getattr(v2, name), arguments, given=("num_classes", "labels_getter"))
    alpha = arguments.get("alpha", 1.0)
    if not isinstance(alpha, (int, float)) or not alpha > 0:
        raise ConfigError(f"{where}.alpha: {name} expects a number above 0, such as 0.2; got {alpha!r}")
