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
    has_backbone,
    is_detector,
    is_ours,
    registered_builder,
    task_arguments,
    torchvision_class,
)
from .contract import ANY_TASK, ModelTask, takes_targets
from .detector_backbone import freeze_norms, freeze_stages, trained_defaults
from .detector_weights import detector_filter, fit_backbone
from .detectors import build_detector, check_detector_values
from .fitting import WeightsFile, fit_weights
from .freeze import check_freeze, freeze
from .head import head_parameters, reset_classifier, set_dropout
from .pretrained import BACKBONE, weights_path
from .stem import check_small, make_small, set_in_channels
from .timm_models import build_timm, is_timm, timm_filter
from .weights import read_tensor_file

logger = logging.getLogger(__name__)


def build_model(
    cfg: CfgNode, trust: bool = False, weights: bool | WeightsFile = True, task: ModelTask = ANY_TASK
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
        task: what the model is built for: it decides on further outputs and arguments.

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
    check_model(cfg, task)
    for key in ("NUM_CLASSES", "IN_CHANNELS"):
        if cfg.MODEL[key] < 1:
            raise ConfigError(
                f"{cfg.label(f'MODEL.{key}')}: is {cfg.MODEL[key]}; give the number, or let"
                " warmstart.engine.resolve_config take it from the training set"
            )
    file = read_weights_file(cfg, trust) if weights is True else weights or None
    model = build_untrained(cfg, task)
    if cfg.MODEL.ACTIVATION_CHECKPOINTING:
        try:
            checkpoint_activations(model, cfg.MODEL.ACTIVATION_CHECKPOINTING)
        except ValueError as error:
            raise ConfigError(f"{cfg.label('MODEL.ACTIVATION_CHECKPOINTING')}: {error}") from None
    if file is not None:
        logger.info("%s", _load(cfg, task, model, file))
    return model.to(memory_format=torch.channels_last) if cfg.MODEL.CHANNELS_LAST else model


def _load(cfg: CfgNode, task: ModelTask, model: nn.Module, file: WeightsFile) -> str:
    """Copy the weights in a file into the model; return a sentence about it."""
    name, outputs = cfg.MODEL.NAME, cfg.MODEL.NUM_CLASSES + task.extra_outputs
    label, partial = cfg.label("MODEL.WEIGHTS"), cfg.MODEL.WEIGHTS_PARTIAL
    if cfg.MODEL.WEIGHTS.startswith(BACKBONE):
        return fit_backbone(model, file, label, partial)
    if has_backbone(name):
        return fit_weights(model, file, label, partial, outputs, detector_filter(model, name, file, task.classes))
    if registered_builder(name) is None:  # in case the classifier in the file does not fit
        reset_classifier(model, outputs)
    return fit_weights(model, file, label, partial, outputs, timm_filter(model))


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


def build_untrained(cfg: CfgNode, task: ModelTask = ANY_TASK) -> nn.Module:
    """Return the model as `build_model` does, before weights are loaded and the memory format is set."""
    model = _build(cfg, task)
    takes_targets(model)  # refuses a forward that training could not call
    has_frozen_stages = has_backbone(cfg.MODEL.NAME) and _freeze_backbone(cfg, model)
    if cfg.MODEL.FREEZE or has_frozen_stages:
        freeze(model, [(rule["MATCH"], rule.get("UNTIL")) for rule in cfg.MODEL.FREEZE], cfg.label("MODEL.FREEZE"))
    return model


def _freeze_backbone(cfg: CfgNode, model: nn.Module) -> bool:
    """Freeze the stages and norms that MODEL.BACKBONE names; return whether a stage is frozen."""
    name, given = cfg.MODEL.NAME, cfg.MODEL.BACKBONE
    frozen, norm = trained_defaults(name) if cfg.MODEL.WEIGHTS else (0, "BN")
    frozen = frozen if given.FREEZE_AT is None else given.FREEZE_AT
    if (given.NORM or norm) == "FrozenBN":
        call(cfg.label("MODEL.BACKBONE.NORM"), name, freeze_norms, model)
    call(cfg.label("MODEL.BACKBONE.FREEZE_AT"), name, freeze_stages, model, frozen)
    return bool(frozen)


def check_model(cfg: CfgNode, task: ModelTask = ANY_TASK) -> None:
    """Raise ConfigError for names and arguments that can be refused without building the model.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["MODEL.NAME", "resnet18", "MODEL.ARGS.weights", "IMAGENET1K_V1"])
    >>> check_model(cfg)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: MODEL.ARGS.weights (override): set MODEL.WEIGHTS instead
    """
    name = cfg.MODEL.NAME
    check_name(name, cfg.label("MODEL.NAME"), task.model_family)
    check_model_arguments(name, cfg.MODEL.ARGS, "MODEL.ARGS", task.model_arguments)
    _check_backbone(cfg)
    if is_detector(name):
        check_detector_values(cfg.MODEL.ARGS, cfg.MODEL.IN_CHANNELS, "MODEL.ARGS")
    check_freeze(cfg)
    if cfg.MODEL.STEM == "small" and registered_builder(name) is None:
        check_small(name, None if is_timm(name) else torchvision_class(name), cfg.label("MODEL.STEM"))


def _check_backbone(cfg: CfgNode) -> None:
    """Raise ConfigError for keys that are for detectors and set for another model, or the other way round."""
    name, weights = cfg.MODEL.NAME, cfg.MODEL.WEIGHTS
    if weights.startswith(BACKBONE) and not is_detector(name):
        raise ConfigError(
            f"{cfg.label('MODEL.WEIGHTS')}: {BACKBONE} is for torchvision's detectors, and MODEL.NAME is {name};"
            f" write {weights.removeprefix(BACKBONE)}"
        )
    if has_backbone(name):
        if cfg.MODEL.COMPILE:  # measured: minutes for a small model and one shape of batch, and other random draws
            raise ConfigError(
                f"{cfg.label('MODEL.COMPILE')}: {name} is a detector, in which sizes follow from values, so that"
                " torch would compile it again and again; leave it out"
            )
        if cfg.MODEL.HEAD.dropout is not None:
            label = cfg.label("MODEL.HEAD.dropout")
            raise ConfigError(f"{label}: {name} is a detector, whose heads have no dropout; leave it out")
        return
    asked = {key: cfg.MODEL.BACKBONE[key] is not None for key in ("FREEZE_AT", "NORM")}
    keys = [f"MODEL.BACKBONE.{key}" for key, is_set in asked.items() if is_set]
    if keys:
        raise ConfigError(
            [
                f"{cfg.label(key)}: it is for torchvision's detectors and small_rcnn, and MODEL.NAME is {name};"
                " leave it out, or freeze parameters by their names with MODEL.FREEZE"
                for key in keys
            ]
        )


def _build(cfg: CfgNode, task: ModelTask) -> nn.Module:
    name, channels = cfg.MODEL.NAME, cfg.MODEL.IN_CHANNELS
    classes = cfg.MODEL.NUM_CLASSES + task.extra_outputs
    arguments = cfg.MODEL.ARGS.to_dict() | task_arguments(name, task.model_arguments)
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
    elif is_detector(name):
        model = call("MODEL.ARGS", name, build_detector, name, classes, channels, arguments)
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
