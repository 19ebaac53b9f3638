"""speed_net: initial layers, a first layer initialised from images, and refused values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from warmstart.config import ConfigError, get_cfg
from warmstart.modeling import InitsFromImages, build_model
from warmstart.modeling.speed_net import SpeedNet
from warmstart.solver import build_optimizer


@pytest.mark.parametrize("size", [(9, 9), (9, 20), (28, 28), (32, 32), (33, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_speed_net_takes_images_from_9x9_pixels(size: tuple[int, int], channels: int) -> None:
    assert SpeedNet(7, channels, widths=(3, 2, 5))(torch.zeros(2, channels, *size)).shape == (2, 7)


def test_speed_net_refuses_images_below_9x9_pixels() -> None:
    message = "^MODEL.NAME: speed_net needs images of at least 9x9 pixels, but these have 8x12; enlarge them"
    with pytest.raises(ConfigError, match=message):
        SpeedNet(10, 1)(torch.zeros(2, 1, 8, 12))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": [64, 256]}, r"widths: expected three integers above 0; got \[64, 256\]"),
        ({"widths": [64, 256, 0]}, r"widths: expected three integers above 0; got \[64, 256, 0\]"),
        ({"widths": "abc"}, "widths: expected three integers above 0; got 'abc'"),
        ({"widths": 64}, "widths: expected three integers above 0; got 64"),
        ({"bn_momentum": 0.0}, r"bn_momentum: expected a number above 0, at most 1; got 0\.0"),
        ({"bn_momentum": 1.5}, r"bn_momentum: expected a number above 0, at most 1; got 1\.5"),
    ],
)
def test_speed_net_refuses_wrong_values(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^MODEL.ARGS.{message}$"):
        SpeedNet(10, 3, **arguments)  # type: ignore[arg-type]


def test_speed_net_convolutions_start_as_identities() -> None:
    """The first one of a group in as many of its outputs; the last one, which has as many, in all."""
    torch.manual_seed(0)
    model = SpeedNet(10, 1, widths=(12, 16, 16))
    images = torch.rand(2, 8, 6, 6)
    first, last = model.groups[1][0], model.groups[3][4]
    torch.testing.assert_close(first(images)[:, :8], images)
    assert not torch.equal(first(images)[:, 8:], torch.zeros(2, 4, 6, 6))
    images = torch.rand(2, 16, 6, 6)
    torch.testing.assert_close(last(images), images)


def test_init_from_images_sets_whitening_filters_and_their_negatives() -> None:
    torch.manual_seed(0)
    images = nn.functional.avg_pool2d(torch.randn(400, 3, 14, 14), 3, stride=1)
    model = SpeedNet(10, 3)
    model.init_from_images(iter(images.split(100)))
    out = model.whiten(images).transpose(0, 1).flatten(1)
    assert out.shape == (24, 400 * 11 * 11)
    # The smallest eigenvalue is about 0.005, beside which 0.0005 is seen.
    torch.testing.assert_close(torch.cov(out[:12]), torch.eye(12), atol=0.15, rtol=0)
    torch.testing.assert_close(out[12:], -out[:12])


def test_speed_net_trains_all_but_the_first_and_batch_norm_weights() -> None:
    model = SpeedNet(10, 3)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    norms = {f"groups.{group}.{layer}.weight" for group in (1, 2, 3) for layer in (2, 5)}
    assert frozen == {"whiten.weight", *norms}
    loss = model(torch.rand(4, 3, 32, 32)).square().sum()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_speed_net_running_statistics_weigh_a_batch_by_two_fifths() -> None:
    model = SpeedNet(10, 1, widths=(2, 2, 2))
    norm = model.groups[1][2]
    norm(torch.full((2, 2, 4, 4), 5.0))
    assert norm.running_mean.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("optimizer", "groups"),
    [("SGD", ["default", "norm bias"]), ("Muon", ["default muon", "default", "norm bias"])],
)
def test_a_config_builds_and_trains_speed_net(optimizer: str, groups: list[str]) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NAME", "speed_net", "MODEL.ARGS.widths", "[4, 8, 8]", "MODEL.NUM_CLASSES", 10])
    cfg.merge_from_list(["MODEL.IN_CHANNELS", 1, "SOLVER.OPTIMIZER", optimizer])
    model = build_model(cfg)
    assert isinstance(model, InitsFromImages)
    step = build_optimizer(cfg, model)
    assert [group["name"] for group in step.param_groups] == groups
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    torch.manual_seed(0)
    nn.functional.cross_entropy(model(torch.randn(8, 1, 16, 16)), torch.arange(8)).backward()
    step.step()
    same = {name for name, tensor in model.named_parameters() if torch.equal(tensor, before[name])}
    assert same == {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
