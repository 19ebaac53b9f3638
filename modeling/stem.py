"""First layers for small images and for other numbers of channels than three."""

from __future__ import annotations

from typing import Any

from torch import nn

from warmstart.config import ConfigError

# How many of a family's downsampling layers, counted from the input, keep the image's size in the small form. From
# input to last layer that form divides the sides of the image by 8, and the published one by 32 (in AlexNet and
# SqueezeNet, which pad their pooling less, by 4).
_KEPT = {
    "AlexNet": 2,
    "ConvNeXt": 1,  # the patches of 4x4
    "DenseNet": 2,
    "EfficientNet": 2,
    "GoogLeNet": 2,
    "MNASNet": 2,
    "MobileNetV2": 2,
    "MobileNetV3": 2,
    "RegNet": 3,  # the first block downsamples in both of its branches
    "ResNet": 2,
    "ShuffleNetV2": 2,
    "SqueezeNet": 2,
    "SwinTransformer": 1,  # the patches of 4x4
    "VGG": -2,  # its first layers are fine as they are: the last two pooling layers are removed
}


def check_small(name: str, family: type[nn.Module] | None, label: str) -> None:
    """Raise ConfigError if models of the class `family` have no small form; None is any class of timm's."""
    if family is None or family.__name__ not in _KEPT:
        raise ConfigError(
            f"{label}: {name} has no form for images of up to 32x32 pixels; set MODEL.STEM standard and enlarge"
            f" the images (INPUT.TRANSFORMS_TRAIN), or choose a model of {', '.join(_KEPT)}"
        )


def make_small(model: nn.Module, family: type[nn.Module]) -> None:
    """Adapt a torchvision model, of the class `family`, to images of 8x8 to 32x32 pixels.

    The first downsampling layers keep the image's size: their stride becomes 1, kernels larger than 3x3 become 3x3
    with new weights, and pooling layers are removed, as in the CIFAR-10 networks of He et al. 2015,
    arXiv:1512.03385, section 4.2. All other parameters keep their names and shapes.

    >>> from torchvision.models import ResNet, resnet18
    >>> model = resnet18()
    >>> make_small(model, ResNet)
    >>> model.conv1, model.maxpool
    (Conv2d(3, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False), Identity())
    """
    downsampling = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d)) and module.stride not in (1, (1, 1))
    ]
    count = _KEPT[family.__name__]
    for name in downsampling[:count] if count > 0 else downsampling[count:]:
        layer = model.get_submodule(name)
        model.set_submodule(name, _same_size(layer) if isinstance(layer, nn.Conv2d) else nn.Identity())


def set_in_channels(model: nn.Module, channels: int) -> None:
    """Make the model's first convolution take images of `channels` channels, with new weights if that changes it.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, kernel_size=3))
    >>> set_in_channels(model, 1)
    >>> model[0]
    Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1))
    """
    name, conv = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels != channels:
        model.set_submodule(name, _like(conv, in_channels=channels))


def _same_size(conv: nn.Conv2d) -> nn.Conv2d:
    if max(conv.kernel_size) > 3:
        return _like(conv, kernel_size=3, stride=1, padding=1)
    conv.stride = (1, 1)
    conv.padding = tuple(size // 2 for size in conv.kernel_size)
    return conv


def _like(conv: nn.Conv2d, **changes: Any) -> nn.Conv2d:
    """Return a new convolution with the settings of `conv`, a first layer, except for `changes`."""
    settings: dict[str, Any] = {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "bias": conv.bias is not None,
    }
    new = nn.Conv2d(**(settings | changes))
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new
