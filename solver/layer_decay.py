"""Layer-wise decay of the rate: the nearer a layer stands to the input, the slower it learns."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from warmstart.config import ConfigError


class LayerRate(NamedTuple):
    """What layer a parameter belongs to: the name of its groups, and the factor of its rate."""

    name: str
    factor: float


def layer_rates(model: nn.Module, decay: float, label: str) -> dict[str, LayerRate]:
    """Return each parameter's layer by the parameter's name; the factor is decay ** (last layer - layer).

    Args:
        model: one of torchvision's families in `FAMILIES`, or of a subclass.
        decay: SOLVER.LAYER_DECAY.
        label: the key, for the message.

    Raises:
        ConfigError: another model.

    >>> from torchvision.models import resnet18
    >>> rates = layer_rates(resnet18(), 0.5, "SOLVER.LAYER_DECAY")
    >>> [tuple(rates[name]) for name in ("fc.bias", "layer4.1.bn2.weight", "conv1.weight")]
    [('layer09', 1.0), ('layer08', 0.5), ('layer00', 0.001953125)]
    """
    ids = layer_ids(model, label)
    last = max(ids.values())
    width = max(2, len(str(last)))  # names sort as numbers do
    return {name: LayerRate(f"layer{i:0{width}}", decay ** (last - i)) for name, i in ids.items()}


def layer_ids(model: nn.Module, label: str) -> dict[str, int]:
    """Return the number of the layer of each parameter, by the parameter's name.

    0 is the stem or embedding, then come the blocks, and last the head with the norm before it. So BEiT
    (Bao et al. 2021, https://arxiv.org/abs/2106.08254) numbers a transformer's. In Swin and ConvNeXt, a layer
    between two stages belongs to the first block of the stage it leads to, as in the fine-tuning recipe of
    ConvNeXt (Liu et al. 2022, https://arxiv.org/abs/2201.03545), which further joins three blocks at a time
    to one layer; here each is its own. A parameter that a subclass adds belongs to the head.

    Args:
        model, label: as for `layer_rates`.
    """
    cls = next((base.__name__ for base in type(model).__mro__ if _is_family(base)), "")
    if not cls:
        raise _unsupported(label, type(model).__name__)
    known = FAMILIES[cls](model)
    last = max(known.values()) + 1
    return {name: _nearest(known, name, last) for name, _ in model.named_parameters()}


def check_layer_decay(name: str, label: str) -> None:
    """Raise ConfigError where torchvision's model `name` has no layers to tell apart.

    Of a name that is not torchvision's nothing is known before the model is built.

    >>> check_layer_decay("vgg11", "SOLVER.LAYER_DECAY")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: SOLVER.LAYER_DECAY: not known for vgg11; set it to 1, or take a model of \
torchvision's ConvNeXt, ResNet, SwinTransformer, VisionTransformer
    """
    from torchvision import models  # takes seconds, which only who needs it should pay

    if name in models.list_models(module=models):
        family = inspect.signature(models.get_model_builder(name), eval_str=True).return_annotation
        if not any(map(_is_family, family.__mro__)):
            raise _unsupported(label, name)


def _unsupported(label: str, name: str) -> ConfigError:
    families = ", ".join(sorted(FAMILIES))
    return ConfigError(f"{label}: not known for {name}; set it to 1, or take a model of torchvision's {families}")


def _is_family(cls: type) -> bool:
    return cls.__module__.startswith("torchvision.models.") and cls.__name__ in FAMILIES


def _nearest(known: dict[str, int], name: str, otherwise: int) -> int:
    """Return the number of the module or parameter in `known` that `name` is, or stands in."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return known.get(name, otherwise)


def _resnet(model: Any) -> dict[str, int]:
    stages = ("layer1", "layer2", "layer3", "layer4")
    blocks = [f"{stage}.{name}" for stage in stages for name, _ in getattr(model, stage).named_children()]
    return {"conv1": 0, "bn1": 0} | {block: i for i, block in enumerate(blocks, start=1)}


def _transformer(model: Any) -> dict[str, int]:
    blocks = [f"encoder.layers.{name}" for name, _ in model.encoder.layers.named_children()]
    stem = dict.fromkeys(("class_token", "conv_proj", "encoder.pos_embedding"), 0)
    return stem | {block: i for i, block in enumerate(blocks, start=1)}


def _stages(model: Any) -> dict[str, int]:
    # features: the stem, a stage, and then in turn a layer that shrinks the image and a stage.
    known = {"features.0": 0}
    for stage in range(1, len(model.features), 2):
        first = max(known.values()) + 1
        known.setdefault(f"features.{stage - 1}", first)
        known |= {f"features.{stage}.{i}": first + i for i in range(len(model.features[stage]))}
    return known


FAMILIES: dict[str, Callable[[Any], dict[str, int]]] = {
    "ConvNeXt": _stages,
    "ResNet": _resnet,
    "SwinTransformer": _stages,
    "VisionTransformer": _transformer,
}
