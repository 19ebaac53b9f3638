"""Small forms of torchvision's families, and first convolutions for other channels."""

import pytest
import torch
import torchvision.models
from torch import nn

from warmstart.config import ConfigError
from warmstart.modeling.catalog import torchvision_class
from warmstart.modeling.stem import check_small, make_small, set_in_channels

# The families' smallest models, and the height of what their last convolution gives for 32x32 pixels.
SMALLEST = [
    ("alexnet", 15),
    ("convnext_tiny", 4),
    ("densenet121", 4),
    ("efficientnet_b0", 4),
    ("googlenet", 4),
    ("mnasnet0_5", 4),
    ("mobilenet_v2", 4),
    ("mobilenet_v3_small", 4),
    ("mobilenet_v3_large", 4),
    ("regnet_x_400mf", 4),
    ("resnet18", 4),
    ("shufflenet_v2_x0_5", 4),
    ("squeezenet1_0", 8),
    ("squeezenet1_1", 8),
    ("vgg11_bn", 4),
]


def small(name: str, channels: int) -> nn.Module:
    arguments = {"init_weights": False} if name in ("googlenet", "vgg11_bn") else {}
    model = torchvision.models.get_model(name, num_classes=5, **arguments)
    make_small(model, torchvision_class(name))
    set_in_channels(model, channels)
    return model


@pytest.mark.parametrize(("name", "last"), SMALLEST)
def test_small_forms_keep_the_resolution_first(name: str, last: int) -> None:
    model = small(name, 3).eval()
    heights: list[int] = []
    for module in model.modules():
        # Kernels of one pixel also occur after global pooling, in squeeze-and-excitation.
        if isinstance(module, nn.Conv2d) and module.kernel_size > (1, 1):
            module.register_forward_hook(lambda _, inputs, output: heights.append(output.shape[2]))
    model(torch.randn(1, 3, 32, 32))
    assert (heights[0], heights[-1]) == (32, last)


def test_the_small_swin_begins_with_patches_of_one_pixel() -> None:
    features = small("swin_t", 3).eval().features
    images = torch.randn(1, 3, 32, 32)
    assert features[0](images).shape == (1, 32, 32, 96)
    assert features(images).shape == (1, 4, 4, 768)


@pytest.mark.parametrize("name", ["swin_t", *(name for name, _ in SMALLEST)])
def test_small_forms_train_on_eight_grey_pixels(name: str) -> None:
    model = small(name, 1)
    output = model(torch.randn(2, 1, 8, 8))
    logits = output if isinstance(output, torch.Tensor) else sum(output)
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_small_resnet_is_the_one_of_cifar() -> None:
    model = small("resnet18", 3)
    assert repr(model.conv1) == "Conv2d(3, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)"
    assert isinstance(model.maxpool, nn.Identity)
    published = torchvision.models.resnet18(num_classes=5).state_dict()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name for name in shapes if shapes[name] != published[name].shape} == {"conv1.weight"}
    assert list(shapes) == list(published)


def test_small_forms_of_families_with_3x3_stems_keep_every_shape() -> None:
    model = small("mobilenet_v2", 3)
    published = torchvision.models.mobilenet_v2(num_classes=5).state_dict()
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in published.items()}


@pytest.mark.parametrize("name", ["vit_b_32", "inception_v3", "maxvit_t"])
def test_check_small_refuses_families_without_a_small_form(name: str) -> None:
    message = (
        rf"^MODEL.STEM \(x.yaml:3\): {name} has no form for images of up to 32x32 pixels; set MODEL.STEM standard"
        r" and enlarge the images \(INPUT.TRANSFORMS_TRAIN\), or choose a model of AlexNet, .*ResNet, .*VGG$"
    )
    with pytest.raises(ConfigError, match=message):
        check_small(name, torchvision_class(name), "MODEL.STEM (x.yaml:3)")


def test_check_small_knows_or_refuses_every_torchvision_family() -> None:
    families = {torchvision_class(n) for n in torchvision.models.list_models(module=torchvision.models)}
    refused = set()
    for family in families:
        try:
            check_small("", family, "")
        except ConfigError:
            refused.add(family.__name__)
    assert refused == {"Inception3", "MaxVit", "VisionTransformer"}


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", 1),
        ("resnet18", 4),
        ("squeezenet1_1", 2),
        ("vit_b_32", 1),
        ("swin_t", 1),
        ("regnet_x_400mf", 1),
    ],
)
def test_set_in_channels_changes_the_first_convolution_only(name: str, channels: int) -> None:
    model = torchvision.models.get_model(name)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    set_in_channels(model, channels)
    after = model.state_dict()
    changed = [n for n in after if not torch.equal(after[n], before[n])]
    first = next(n for n in after if after[n].dim() == 4)
    assert first in changed
    assert set(changed) <= {first, first.replace("weight", "bias")}
    out, _, *kernel = before[first].shape
    assert after[first].shape == (out, channels, *kernel)


def test_set_in_channels_of_three_changes_nothing() -> None:
    model = torchvision.models.resnet18()
    conv = model.conv1
    set_in_channels(model, 3)
    assert model.conv1 is conv


def test_set_in_channels_initialises_weights_by_he_and_biases_to_zero() -> None:
    torch.manual_seed(0)
    model = small("alexnet", 1)
    # 64 channels of 3x3: sqrt(2 / 576) = 0.0589, estimated from 576 weights.
    assert model.features[0].weight.std().item() == pytest.approx(0.0589, rel=0.1)
    assert torch.equal(model.features[0].bias, torch.zeros(64))
