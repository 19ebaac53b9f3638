"""Weights initialised from training images: the protocol, and filters that whiten small patches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional


@runtime_checkable
class InitsFromImages(Protocol):
    """A model that initialises some of its weights from training images; any model with the method is one."""

    def init_from_images(self, batches: Iterator[Tensor]) -> None:
        """Set weights in place; called once, before the optimizer is built, unless weights come from a file.

        Args:
            batches: the endless training images from iteration 0 on, (N, C, H, W) float32 on the model's device,
                transformed and normalised. Take as many batches as needed.
        """


@torch.no_grad()
def patch_whitening(batches: Iterable[Tensor], size: int, images: int = 5000, eps: float = 5e-4) -> Tensor:
    """Return filters whose outputs, over all patches of the images, are uncorrelated and have variance 1.

    They are the eigenvectors of the covariance of `size` x `size` patches, each divided by sqrt(l + eps), where l
    is its eigenvalue: the variance of a filter's output is l / (l + eps). Filters of high variance come last.

    Sources: a fixed first layer that whitens patches, Page 2019, "How to Train Your ResNet 8"; patches of 2x2,
    Jordan 2024, arXiv:2404.00498.

    Args:
        batches: images (N, C, H, W), of any size.
        size: height and width of a patch, at least 1.
        images: batches are taken until they hold this many images, or there are no more.
        eps: added to the eigenvalues, so that directions of almost no variance are not amplified.

    Returns:
        (C size^2, C, size, size) float32, on the device of the images.

    >>> images = 4 * torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> round(patch_whitening([images], size=1).item(), 3)  # single grey pixels: one over their deviation
    0.25
    """
    seen, total = 0, torch.zeros((), dtype=torch.float64)
    for batch in batches:
        patches = functional.unfold(batch, size).transpose(1, 2).flatten(0, 1).double()
        patches = functional.pad(patches, (0, 1), value=1)  # products with this column: the sums, and the count
        total = total + patches.T @ patches
        seen += len(batch)
        if seen >= images:
            break
    averages = total / total[-1, -1]
    mean = averages[-1, :-1]
    values, vectors = torch.linalg.eigh(averages[:-1, :-1] - torch.outer(mean, mean))
    filters: Tensor = vectors.T / (values[:, None].clamp(min=0) + eps).sqrt()
    return filters.view(len(filters), -1, size, size).float()
