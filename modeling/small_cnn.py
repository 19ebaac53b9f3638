"""A small convolutional network for small images."""

from __future__ import annotations

import math

from torch import Tensor, nn

from warmstart.config import ConfigError

NORMS = ("batch", "group", "none")


class SmallCNN(nn.Module):
    """Three 3x3 convolutions of `width`, 2 `width` and 4 `width` channels, and a linear classifier.

    Each convolution is followed by its norm and ReLU, with 2x2 max-pooling between them; global average pooling
    and dropout precede the classifier. Takes images of any size from 4x4 pixels, and is designed for 8x8 to 32x32.

    Args:
        num_classes: number of outputs.
        in_channels: channels of the images.
        norm: "batch", "group" (4 groups) or "none", which gives the convolutions a bias instead.
        dropout: share of the classifier's inputs set to 0 in training, in [0, 1).
        width: channels of the first convolution, at least 1.

    Raises:
        ConfigError: a value that is not allowed, named as MODEL.ARGS.

    >>> import torch
    >>> model = SmallCNN(num_classes=10, in_channels=1)
    >>> model(torch.zeros(2, 1, 8, 8)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 10]), 24058)
    """

    def __init__(
        self, num_classes: int, in_channels: int, norm: str = "batch", dropout: float = 0.0, width: int = 16
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ConfigError(f"MODEL.ARGS.norm: expected one of {', '.join(NORMS)}; got {norm!r}")
        if not 0 <= dropout < 1:
            raise ConfigError(f"MODEL.ARGS.dropout: expected a number from 0 to below 1; got {dropout!r}")
        if width < 1:
            raise ConfigError(f"MODEL.ARGS.width: expected a whole number of at least 1; got {width!r}")
        self.block1 = _block(in_channels, width, norm)
        self.block2 = _block(width, 2 * width, norm)
        self.block3 = _block(2 * width, 4 * width, norm)
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for images (N, in_channels, H, W)."""
        x = self.pool(self.block1(images))
        x = self.pool(self.block2(x))
        x = self.block3(x).mean(dim=(2, 3))
        return self.fc(self.dropout(x))  # type: ignore[no-any-return]


def _block(in_channels: int, out_channels: int, norm: str) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=norm == "none")
    layers: dict[str, list[nn.Module]] = {
        "batch": [nn.BatchNorm2d(out_channels)],
        # The number of groups must divide the channels, which may be as few as `width`.
        "group": [nn.GroupNorm(math.gcd(4, out_channels), out_channels)],
        "none": [],
    }
    return nn.Sequential(conv, *layers[norm], nn.ReLU())
