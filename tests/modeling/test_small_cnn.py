"""The small CNN: sizes, norms, refused values, and learning the digits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from warmstart.config import ConfigError
from warmstart.modeling.small_cnn import SmallCNN

DIGITS = Path(__file__).parents[2] / "data" / "digits" / "digits.npz"


@pytest.mark.parametrize("size", [(8, 8), (9, 17), (28, 28), (32, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_small_cnn_takes_any_small_image(size: tuple[int, int], channels: int) -> None:
    assert SmallCNN(7, channels)(torch.zeros(2, channels, *size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("norm", "kind", "convolution_biases", "parameters"),
    # 3x3 weights 144 + 4608 + 18432, classifier 640 + 10, and 2 (norm) or 1 (bias) a channel, of 112.
    [("batch", nn.BatchNorm2d, 0, 24058), ("group", nn.GroupNorm, 0, 24058), ("none", nn.Conv2d, 3, 23946)],
)
def test_small_cnn_supports_each_norm(
    norm: str, kind: type[nn.Module], convolution_biases: int, parameters: int
) -> None:
    model = SmallCNN(10, 1, norm=norm)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert sum(isinstance(m, kind) for m in model.modules()) == 3
    assert sum(conv.bias is not None for conv in convolutions) == convolution_biases
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("width", [1, 2, 3, 6])
def test_small_cnn_group_norm_works_for_any_width(width: int) -> None:
    assert SmallCNN(10, 1, norm="group", width=width)(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_small_cnn_dropout_acts_in_training_only() -> None:
    model = SmallCNN(10, 1, norm="none", dropout=0.5)
    images = torch.rand(4, 1, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "bach"}, "MODEL.ARGS.norm: expected one of batch, group, none; got 'bach'"),
        ({"dropout": 1.0}, "MODEL.ARGS.dropout: expected a number from 0 to below 1; got 1.0"),
        ({"dropout": -0.1}, "MODEL.ARGS.dropout: expected a number from 0 to below 1; got -0.1"),
        ({"width": 0}, "MODEL.ARGS.width: expected a whole number of at least 1; got 0"),
    ],
)
def test_small_cnn_refuses_wrong_values(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        SmallCNN(10, 1, **arguments)  # type: ignore[arg-type]


def test_small_cnn_learns_the_digits_in_eight_epochs() -> None:
    digits = np.load(DIGITS)
    images, test_images = (torch.tensor(digits[f"{part}_images"]).unsqueeze(1) / 255 for part in ("train", "test"))
    labels, test_labels = (torch.tensor(digits[f"{part}_labels"]).long() for part in ("train", "test"))
    generator = torch.manual_seed(0)
    model = SmallCNN(10, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for iteration in range(180):
        optimizer.param_groups[0]["lr"] = 0.1 if iteration < 120 else 0.01
        batch = torch.randint(len(labels), (64,), generator=generator)
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    accuracy = (model(test_images).argmax(dim=1) == test_labels).float().mean().item()
    assert accuracy >= 0.97
