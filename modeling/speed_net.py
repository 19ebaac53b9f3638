"""A convolutional network that learns small images in few epochs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from warmstart.config import ConfigError

from .whitening import patch_whitening

SMALLEST = 9  # pixels a side: the patches of 2x2 leave 8, and three times half of that is 1


class SpeedNet(nn.Module):
    """A fixed first layer that whitens 2x2 patches, three groups of two convolutions, and a linear classifier.

    A group is a 3x3 convolution, 2x2 max-pooling and a 3x3 convolution; BatchNorm and GELU follow the pooling and
    the second convolution. As many outputs of each convolution as it has inputs start as identity filters, the
    others are random. BatchNorm has a bias but no weight. Global max pooling precedes the classifier.

    The first layer's weights are random until `init_from_images` sets them, and are not trained; its bias is.

    The design follows Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, which
    builds on Page 2019, "How to Train Your ResNet".

    Args:
        num_classes: number of outputs.
        in_channels: channels C of the images; the first layer has 8 C outputs.
        widths: channels of the three groups.
        bn_momentum: weight of a batch in BatchNorm's running statistics, above 0 and at most 1: short runs need
            more than torch's 0.1.
        head_scale: factor by which the classifier's outputs are multiplied to give the logits.

    Raises:
        ConfigError: a value that is not allowed, named as MODEL.ARGS; images of fewer than 9x9 pixels.

    >>> model = SpeedNet(num_classes=10, in_channels=3)
    >>> model(torch.zeros(2, 3, 32, 32)).shape, sum(p.numel() for p in model.parameters() if p.requires_grad)
    (torch.Size([2, 10]), 1971352)
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        widths: Sequence[int] = (64, 256, 256),
        bn_momentum: float = 0.4,
        head_scale: float = 1 / 9,
    ) -> None:
        super().__init__()
        whole = isinstance(widths, Sequence) and all(type(width) is int and width > 0 for width in widths)
        if not whole or len(widths) != 3:
            raise ConfigError(f"MODEL.ARGS.widths: expected three integers above 0; got {widths!r}")
        if not 0 < bn_momentum <= 1:
            raise ConfigError(f"MODEL.ARGS.bn_momentum: expected a number above 0, at most 1; got {bn_momentum!r}")
        self.head_scale = head_scale
        self.whiten = nn.Conv2d(in_channels, 8 * in_channels, kernel_size=2)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        inputs = (self.whiten.out_channels, *widths)
        groups = (_group(*channels, bn_momentum) for channels in zip(inputs, widths, strict=False))
        self.groups = nn.Sequential(nn.GELU(), *groups)
        self.head = nn.Linear(widths[-1], num_classes, bias=False)

    def init_from_images(self, batches: Iterator[Tensor]) -> None:
        """Set the first layer's weights to the whitening filters of training images, and their negatives."""
        first = next(batches)
        _check_size(first)  # here too, to fail before the run has written anything
        filters = patch_whitening(itertools.chain([first], batches), size=2)
        with torch.no_grad():
            self.whiten.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for images (N, in_channels, H, W) of at least 9x9 pixels."""
        _check_size(images)
        x = self.groups(self.whiten(images)).amax(dim=(2, 3))
        return self.head(x) * self.head_scale  # type: ignore[no-any-return]


def _check_size(images: Tensor) -> None:
    height, width = images.shape[-2:]
    if min(height, width) < SMALLEST:
        raise ConfigError(
            f"MODEL.NAME: speed_net needs images of at least {SMALLEST}x{SMALLEST} pixels, but these have"
            f" {height}x{width}; enlarge them in INPUT, or choose small_cnn"
        )


def _group(in_channels: int, out_channels: int, bn_momentum: float) -> nn.Sequential:
    return nn.Sequential(
        _convolution(in_channels, out_channels),
        nn.MaxPool2d(2),
        _norm(out_channels, bn_momentum),
        nn.GELU(),
        _convolution(out_channels, out_channels),
        _norm(out_channels, bn_momentum),
        nn.GELU(),
    )


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:in_channels])
    return conv


def _norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=momentum)
    norm.weight.requires_grad_(False)
    return norm
