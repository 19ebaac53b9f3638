"""Layer-wise learning rate decay: layers closer to the input learn more slowly."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from warmstart.config import ConfigError


class LayerRate(NamedTuple):
    """The layer of a parameter: the name of its groups, and the factor of its learning rate."""

    name: str
    factor: float


def layer_rates(model: nn.Module, decay: float, label: str) -> dict[str, LayerRate]:
    """Return the layer of each parameter by its name; the factor is decay ** (last layer - layer).

    Args:
        model: a model of a torchvision family in `FAMILIES`, or of a subclass, or one of timm's.
        decay: the value of SOLVER.LAYER_DECAY.
        label: the key, for the message.

    Raises:
        ConfigError: the model belongs to no such family.

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
    """Return the layer number of each parameter by its name.

    The stem or embedding is layer 0, followed by the blocks; the head, with the norm layer before it, is the last
    layer. This is the numbering of BEiT for transformers (Bao et al. 2021, https://arxiv.org/abs/2106.08254). In
    Swin and ConvNeXt, a downsampling layer between two stages belongs to the first block of the next stage, as in
    the fine-tuning recipe of ConvNeXt (Liu et al. 2022, https://arxiv.org/abs/2201.03545), which also combines
    each three blocks to one layer; here every block is a layer. Parameters that a subclass adds belong to the
    head. timm's models have the layers of their own `group_matcher`.

    Args:
        model, label: as for `layer_rates`.
    """
    if type(model).__module__.startswith("timm.") and hasattr(model, "group_matcher"):
        return _timm_layers(model)
    cls = next((base.__name__ for base in type(model).__mro__ if _is_family(base)), "")
    if not cls:
        raise _unsupported(label, type(model).__name__)
    known = FAMILIES[cls](model)
    last = max(known.values()) + 1
    return {name: _nearest(known, name, last) for name, _ in model.named_parameters()}


def check_layer_decay(name: str, label: str) -> None:
    """Raise ConfigError if LAYER_DECAY does not support torchvision's model `name`.

    Other models can be checked only after they are built.

    >>> check_layer_decay("vgg11", "SOLVER.LAYER_DECAY")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: SOLVER.LAYER_DECAY: not supported for vgg11; set it to 1, or use a model \
of timm, or torchvision's ConvNeXt, ResNet, SwinTransformer, VisionTransformer
    """
    from torchvision import models  # here because it takes seconds

    if name in models.list_models(module=models):
        family = inspect.signature(models.get_model_builder(name), eval_str=True).return_annotation
        if not any(map(_is_family, family.__mro__)):
            raise _unsupported(label, name)


def _unsupported(label: str, name: str) -> ConfigError:
    fix = f"set it to 1, or use a model of timm, or torchvision's {', '.join(sorted(FAMILIES))}"
    return ConfigError(f"{label}: not supported for {name}; {fix}")


def _is_family(cls: type) -> bool:
    return cls.__module__.startswith("torchvision.models.") and cls.__name__ in FAMILIES


def _nearest(known: dict[str, int], name: str, otherwise: int) -> int:
    """Return the number in `known` of the parameter `name`, or of the innermost module that contains it."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return known.get(name, otherwise)


def _timm_layers(model: Any) -> dict[str, int]:
    from timm.models import group_parameters  # here because timm is an extra

    grouped: dict[str, int] = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    numbers = {layer: i for i, layer in enumerate(sorted(set(grouped.values())))}  # without gaps
    return {name: numbers[layer] for name, layer in grouped.items()}


def _resnet(model: Any) -> dict[str, int]:
    stages = ("layer1", "layer2", "layer3", "layer4")
    blocks = [f"{stage}.{name}" for stage in stages for name, _ in getattr(model, stage).named_children()]
    return {"conv1": 0, "bn1": 0} | {block: i for i, block in enumerate(blocks, start=1)}


def _transformer(model: Any) -> dict[str, int]:
    blocks = [f"encoder.layers.{name}" for name, _ in model.encoder.layers.named_children()]
    stem = dict.fromkeys(("class_token", "conv_proj", "encoder.pos_embedding"), 0)
    return stem | {block: i for i, block in enumerate(blocks, start=1)}


def _stages(model: Any) -> dict[str, int]:
    # features: the stem, a stage, and then alternately a downsampling layer and a stage.
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
