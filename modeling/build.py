"""The model, built from a config."""

from __future__ import annotations

import logging

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from warmstart.config import CfgNode, ConfigError, call

from .activation_checkpointing import checkpoint_activations
from .catalog import (
    build_torchvision,
    check_model_arguments,
    check_name,
    is_ours,
    registered_builder,
    torchvision_class,
)
from .contract import takes_targets
from .fitting import WeightsFile, fit_weights
from .freeze import check_freeze, freeze
from .head import head_parameters, reset_classifier, set_dropout
from .pretrained import weights_path
from .stem import check_small, make_small, set_in_channels
from .timm_models import build_timm, is_timm, timm_filter
from .weights import read_tensor_file

logger = logging.getLogger(__name__)


def build_model(
    cfg: CfgNode, trust: bool = False, weights: bool | WeightsFile = True, extra_outputs: int = 0
) -> nn.Module:
    """Return the model, whose outputs the task turns into losses and predictions.

    Reads MODEL, whose NUM_CLASSES and IN_CHANNELS must be filled in. The model is on the CPU, in training mode,
    and initialised randomly except for MODEL.WEIGHTS; seed torch first to make it reproducible. It is frozen as
    MODEL.FREEZE says for the first update.

    Args:
        cfg: the config.
        trust: whether code in the file that MODEL.WEIGHTS names may run.
        weights: the contents of that file; True reads it, False ignores it, for a model that gets all weights
            later.
        extra_outputs: outputs beyond MODEL.NUM_CLASSES, see `Task.extra_outputs`.

    Raises:
        ConfigError: `check_model` raises it, NUM_CLASSES or IN_CHANNELS is still 0, the model refuses a value, or
            the weights do not exist, cannot be read, or belong to another model.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["MODEL.NAME", "resnet18", "MODEL.NUM_CLASSES", 10, "MODEL.IN_CHANNELS", 1])
    >>> model = build_model(cfg)
    >>> model.conv1.weight.shape, model.fc.weight.shape
    (torch.Size([64, 1, 7, 7]), torch.Size([10, 512]))
    """
    check_model(cfg)
    for key in ("NUM_CLASSES", "IN_CHANNELS"):
        if cfg.MODEL[key] < 1:
            raise ConfigError(
                f"{cfg.label(f'MODEL.{key}')}: is {cfg.MODEL[key]}; give the number, or let"
                " warmstart.engine.resolve_config take it from the training set"
            )
    file = read_weights_file(cfg, trust) if weights is True else weights or None
    model = build_untrained(cfg, extra_outputs)
    if cfg.MODEL.ACTIVATION_CHECKPOINTING:
        try:
            checkpoint_activations(model, cfg.MODEL.ACTIVATION_CHECKPOINTING)
        except ValueError as error:
            raise ConfigError(f"{cfg.label('MODEL.ACTIVATION_CHECKPOINTING')}: {error}") from None
    if file is not None:
        if registered_builder(cfg.MODEL.NAME) is None:  # in case the classifier in the file does not fit
            reset_classifier(model, cfg.MODEL.NUM_CLASSES + extra_outputs)
        options = cfg.label("MODEL.WEIGHTS"), cfg.MODEL.WEIGHTS_PARTIAL, cfg.MODEL.NUM_CLASSES + extra_outputs
        logger.info("%s", fit_weights(model, file, *options, timm_filter(model)))
    return model.to(memory_format=torch.channels_last) if cfg.MODEL.CHANNELS_LAST else model


def read_weights_file(cfg: CfgNode, trust: bool = False) -> WeightsFile | None:
    """Return the contents of the file that MODEL.WEIGHTS names; None if it is not set.

    Published weights and files at an address are downloaded first, unless they are in torch's hub folder.

    Raises:
        ConfigError: the file does not exist, cannot be downloaded, is damaged, or, unless `trust`, holds more than
            tensors and plain values.
    """
    if not cfg.MODEL.WEIGHTS:
        return None
    label = cfg.label("MODEL.WEIGHTS")
    path = weights_path(cfg.MODEL.WEIGHTS, cfg.MODEL.NAME, label)
    return WeightsFile(path, read_tensor_file(path, label, trust), cfg.MODEL.WEIGHTS_ENTRY)


def build_untrained(cfg: CfgNode, extra_outputs: int = 0) -> nn.Module:
    """Return the model as `build_model` does, before weights are loaded and the memory format is set."""
    model = _build(cfg, extra_outputs)
    takes_targets(model)  # refuses a forward that training could not call
    if cfg.MODEL.FREEZE:
        freeze(model, [(rule["MATCH"], rule.get("UNTIL")) for rule in cfg.MODEL.FREEZE], cfg.label("MODEL.FREEZE"))
    return model


def check_model(cfg: CfgNode) -> None:
    """Raise ConfigError for names and arguments that can be refused without building the model.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["MODEL.NAME", "resnet18", "MODEL.ARGS.weights", "IMAGENET1K_V1"])
    >>> check_model(cfg)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: MODEL.ARGS.weights (override): set MODEL.WEIGHTS instead
    """
    name = cfg.MODEL.NAME
    check_name(name, cfg.label("MODEL.NAME"))
    check_model_arguments(name, cfg.MODEL.ARGS, "MODEL.ARGS")
    check_freeze(cfg)
    if cfg.MODEL.STEM == "small" and registered_builder(name) is None:
        check_small(name, None if is_timm(name) else torchvision_class(name), cfg.label("MODEL.STEM"))


def _build(cfg: CfgNode, extra_outputs: int) -> nn.Module:
    name, classes, channels = cfg.MODEL.NAME, cfg.MODEL.NUM_CLASSES + extra_outputs, cfg.MODEL.IN_CHANNELS
    arguments = cfg.MODEL.ARGS.to_dict()
    builder = registered_builder(name)
    if builder is not None:
        try:
            model = call("MODEL.ARGS", name, builder, num_classes=classes, in_channels=channels, **arguments)
        except (RuntimeError, MemoryError) as error:  # sizes too large for torch's integers or for memory
            if not is_ours(builder):
                raise
            raise ConfigError(f"MODEL.ARGS: {name} refuses it: {str(error).splitlines()[0]}") from error
    elif is_timm(name):
        model = call("MODEL.ARGS", name, build_timm, name, classes, channels, arguments)
        if not head_parameters(model, classes):
            raise ConfigError(f"{cfg.label('MODEL.NAME')}: {name} has no classifier; choose another model")
    else:
        model = call("MODEL.ARGS", name, build_torchvision, name, classes, arguments)
        if cfg.MODEL.STEM == "small":
            make_small(model, torchvision_class(name))
        set_in_channels(model, channels)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"{cfg.label('MODEL.NAME')}: the builder of {name} must return a torch.nn.Module;"
            f" got a {type(model).__name__}"
        )
    if cfg.MODEL.HEAD.dropout is not None:
        call(cfg.label("MODEL.HEAD.dropout"), name, set_dropout, model, cfg.MODEL.HEAD.dropout, classes)
    lazy = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if is_lazy(tensor)]
    if lazy:  # the optimizer is built before a first batch or a checkpoint could determine the shape
        raise ConfigError(
            f"{cfg.label('MODEL.NAME')}: the shape of {lazy[0]} in {name} is not known before a first batch;"
            " name the sizes of lazy modules, or let the builder pass a batch through the model"
        )
    return model
