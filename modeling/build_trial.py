"""A trial of the model on the shape of its images, on the meta device: without memory or arithmetic."""

from __future__ import annotations

import functools
from typing import Any

import torch
import yaml

from warmstart.config import CfgNode, ConfigError, get_cfg

from .build import build_untrained
from .catalog import is_ours, registered_builder, task_arguments
from .contract import ANY_TASK, ModelTask

Shape = tuple[int, int, int]  # (C, H, W)


def check_images(
    cfg: CfgNode, shape: Shape, key: str, batch: int = 2, trains: bool = False, task: ModelTask = ANY_TASK
) -> None:
    """Raise ConfigError if the model fails on images of this shape.

    A copy on torch's meta device is tried, whose tensors have shapes but no data. Only models of torchvision and
    of this package are tried: user-defined code may do anything when it is built or called, and fails with a
    traceback.

    Args:
        cfg: the config, whose MODEL is filled in.
        shape: shape of an image.
        key: the key that determines the size of images, for the message.
        batch: images per batch.
        trains: whether to try training mode instead of evaluation mode.
        task: what the model is built for.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["MODEL.NAME", "vit_b_16", "MODEL.NUM_CLASSES", 10, "MODEL.IN_CHANNELS", 3])
    >>> check_images(cfg, (3, 224, 224), "INPUT.TRANSFORMS_TEST")
    >>> check_images(cfg, (3, 64, 64), "INPUT.TRANSFORMS_TEST")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: MODEL.NAME (override): vit_b_16 fails on 2 images of 3x64x64: Wrong \
image height! Expected 224 but got 64!; change their size in INPUT.TRANSFORMS_TEST, or choose another model
    """
    problem = _try(_text_of(cfg, task), shape, batch, trains)
    if problem.startswith("MODEL."):  # the model's own message for users
        raise ConfigError(problem)
    if problem:
        images = f"{batch} image{'' if batch == 1 else 's'} of {'x'.join(map(str, shape))}"
        more = "SOLVER.IMS_PER_BATCH, " if trains and batch == 1 else ""
        raise ConfigError(
            f"{cfg.label('MODEL.NAME')}: {cfg.MODEL.NAME} fails on {images}: {problem}; change their size in"
            f" {key}, {more}or choose another model"
        )


def parameter_bytes(cfg: CfgNode, task: ModelTask = ANY_TASK) -> int:
    """Return the memory in bytes that the model's parameters take; 0 if it is not known without building it."""
    model = _on_meta(_text_of(cfg, task))
    return 0 if model is None else sum(p.numel() * p.element_size() for p in model.parameters())


def _text_of(cfg: CfgNode, task: ModelTask) -> str:
    """Return MODEL as YAML, with the outputs and arguments that the task adds to it."""
    model = cfg.MODEL.clone()
    model.defrost()
    model["NUM_CLASSES"] = model.NUM_CLASSES + task.extra_outputs
    model.ARGS.update(task_arguments(model.NAME, task.model_arguments))
    return model.dump()  # type: ignore[no-any-return]


# Cached by the text of MODEL, because a config is resolved several times in a run.
@functools.cache
def _try(text: str, shape: Shape, batch: int, trains: bool) -> str:
    """Return the error that the model raises for such images, or ""."""
    model = _on_meta(text)
    if model is None:
        return ""
    model.train(trains)
    try:
        with torch.no_grad(), torch.device("meta"):
            _pass(model, torch.zeros(batch, *shape))
    except NotImplementedError:  # an operation that the meta device does not have
        return ""
    except Exception as error:  # whatever a model raises
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _pass(model: Any, images: torch.Tensor) -> None:
    """Pass images through a model; through a detector's backbone only, because boxes follow from values."""
    if hasattr(model, "transform"):
        model.backbone(model.transform.eval()([*images])[0].tensors)
    else:
        model(images)


@functools.cache
def _on_meta(text: str) -> torch.nn.Module | None:
    """Return the model on the meta device; None if it is user-defined or cannot be built there."""
    cfg = get_cfg()
    cfg.merge_from_other_cfg({"MODEL": yaml.safe_load(text)})
    builder = registered_builder(cfg.MODEL.NAME)
    if builder is not None and not is_ours(builder):
        return None
    try:
        with torch.device("meta"):
            return build_untrained(cfg)
    except Exception:  # building it on a real device will report the problem, if there is one
        return None
