"""The parameters of a model's forward."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from warmstart.config import ConfigError
from warmstart.modeling import takes_targets


class Own(nn.Module):
    def forward(self, images: Tensor, *, targets: Tensor | None = None) -> Tensor:
        return images


class Spread(nn.Module):
    def forward(self, images: Tensor, *args: object, **kwargs: object) -> Tensor:
        return images


class Labels(nn.Module):
    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return images


class Needs(nn.Module):
    def forward(self, images: Tensor, boxes: Tensor) -> Tensor:
        return images


def test_takes_targets_follows_from_the_signature() -> None:
    assert takes_targets(Own())
    assert not takes_targets(Spread())
    assert not takes_targets(nn.Conv2d(1, 1, 1))


def test_takes_targets_inspects_a_forward_set_on_the_instance() -> None:
    model = nn.Identity()
    model.forward = lambda images, targets=None: images  # type: ignore[method-assign]
    assert takes_targets(model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Labels(), "forward of Labels has a parameter 'labels', .*; rename it to `targets`"),
        (Needs(), "forward of Needs has a parameter 'boxes', .* else give it a default"),
    ],
)
def test_takes_targets_refuses_parameters_that_nothing_is_passed_to(model: nn.Module, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        takes_targets(model)
