"""Filters that whiten patches: their outputs are uncorrelated with variance 1, for any images."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from warmstart.modeling import patch_whitening


def blurred(count: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Return images whose pixels and channels are correlated, as in photographs; their mean is 0.5."""
    noise = torch.randn(count, channels, 12, 14, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(noise, 3, stride=1) + 0.3 * noise[:, :1, 1:-1, 1:-1] + 0.5


def outputs(images: Tensor, filters: Tensor) -> Tensor:
    """Return the output of each filter, (filters, positions)."""
    return F.conv2d(images, filters).transpose(0, 1).flatten(1)


@pytest.mark.parametrize(("channels", "size"), [(3, 2), (1, 3), (4, 1)])
def test_patch_whitening_outputs_have_the_identity_as_covariance(channels: int, size: int) -> None:
    """torch.cov is the oracle; before, the covariance of neighbours was far from it."""
    images = blurred(600, channels)
    filters = patch_whitening(images.split(100), size, eps=0)
    assert filters.shape == (channels * size**2, channels, size, size)
    assert filters.dtype == torch.float32
    torch.testing.assert_close(torch.cov(outputs(images, filters)), torch.eye(len(filters)), atol=1e-3, rtol=0)


def test_patch_whitening_keeps_a_direction_without_variance_small() -> None:
    """Two equal channels: half of the directions have none, up to rounding."""
    images = blurred(100, 1).repeat(1, 2, 1, 1)
    variances = torch.cov(outputs(images, patch_whitening([images], 1, eps=1e-4))).diagonal()
    assert variances.tolist() == pytest.approx([0, 1], abs=1e-3)


def test_patch_whitening_takes_batches_until_there_are_enough_images() -> None:
    taken = []

    def batches() -> Iterator[Tensor]:
        while True:
            taken.append(blurred(10, seed=len(taken)))
            yield taken[-1]

    filters = patch_whitening(batches(), 2, images=25)
    assert len(taken) == 3
    assert torch.equal(filters, patch_whitening(taken, 2))


def test_patch_whitening_keeps_small_eigenvalues_accurate_despite_large_offsets() -> None:
    images = blurred(200)
    near, far = (outputs(images, patch_whitening([images + offset], 2)) for offset in (0.0, 300.0))
    torch.testing.assert_close(torch.cov(far), torch.cov(near), atol=1e-2, rtol=0)


@pytest.mark.gpu
def test_patch_whitening_returns_filters_on_the_device_of_the_images() -> None:
    images = blurred(600).cuda()
    filters = patch_whitening(images.split(100), 2, eps=0)
    assert filters.device == images.device
    torch.testing.assert_close(
        torch.cov(outputs(images.double(), filters.double())).cpu(),
        torch.eye(12, dtype=torch.float64),
        atol=1e-3,
        rtol=0,
    )
