"""The sizes of objects that a detector is made for."""

from __future__ import annotations

import pytest
from torch import nn
from torchvision.models import get_model

from warmstart.modeling import AnchorSizes, anchor_sizes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fasterrcnn_mobilenet_v3_large_320_fpn", (32, 512, 32, 320, 640)),
        ("ssdlite320_mobilenet_v3_large", (64, 304, 16, 0, 320)),
    ],
)
def test_anchor_sizes_of_torchvisions_detectors(name: str, expected: tuple[float, ...]) -> None:
    model = get_model(name, weights=None, weights_backbone=None)
    assert anchor_sizes(model, 3) == AnchorSizes(*expected)
    assert model.backbone.training


def test_anchor_sizes_of_another_model_are_not_known() -> None:
    assert anchor_sizes(nn.Conv2d(3, 4, 1), 3) is None
