"""The contract between a model and what is trained: a task's demands, and the arguments of forward."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from warmstart.config import ConfigError

_OTHER_NAMES = ("target", "label", "labels")  # names that other code uses for `targets`


class ModelTask(Protocol):
    """The part of a task that models are built for; `warmstart.tasks.Task` documents each member."""

    extra_outputs: int
    model_family: str
    model_arguments: Mapping[str, Any]
    classes: Sequence[str]


class AnyTask:
    """No particular task: any model, with MODEL.NUM_CLASSES outputs and the arguments in MODEL.ARGS."""

    extra_outputs: int = 0
    model_family: str = ""
    model_arguments: Mapping[str, Any] = {}
    classes: Sequence[str] = ()


ANY_TASK = AnyTask()


def takes_targets(model: nn.Module) -> bool:
    """Return whether a model's forward has a parameter named `targets`.

    Such a model is called as `model(images, targets=targets)` in training, and with None in evaluation mode.

    Raises:
        ConfigError: forward requires more than images and `targets`, or uses another name for `targets`.

    >>> takes_targets(nn.Linear(4, 2))
    False
    """
    name, parameters = type(model).__name__, [*inspect.signature(model.forward).parameters.values()]
    spread = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [each for each in parameters if each.kind not in spread]
    for each in named:
        if each is parameters[0] or each.name == "targets":
            continue
        if each.name in _OTHER_NAMES or each.default is each.empty:
            raise ConfigError(
                f"MODEL.NAME: forward of {name} has a parameter {each.name!r}, but only images and `targets` are"
                " passed to it; rename it to `targets` if it takes the targets, else give it a default"
            )
    return any(each.name == "targets" for each in named)
