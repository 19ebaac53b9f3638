"""The model as a task calls it, in training and in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from warmstart.config import ConfigError
from warmstart.data import Batch, map_tensors
from warmstart.modeling import takes_targets
from warmstart.tasks import Task

METRIC = "train/"  # what is returned under such a name is recorded, and no loss
_HALF = (torch.bfloat16, torch.float16)


class ModelForward:
    """Calls a model with images, under autocast; outputs in half precision come back in float32.

    Args:
        module: the model, or a data parallel or compiled form of it.
        takes_targets: whether its forward has a parameter `targets`, which is None unless a caller passes them.
        autocast: the type that layers compute in when that is safe; None: the type of their weights.
        device_type: "cuda" or "cpu".

    >>> forward = ModelForward(torch.nn.Linear(2, 1), autocast=torch.bfloat16)
    >>> forward(torch.zeros(4, 2)).dtype
    torch.float32
    """

    def __init__(
        self,
        module: Callable[..., Any],
        *,
        takes_targets: bool = False,
        autocast: torch.dtype | None = None,
        device_type: str = "cpu",
    ) -> None:
        self.module, self.takes_targets = module, takes_targets
        self.autocast, self.device_type = autocast, device_type

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what the model does."""
        if self.takes_targets and not args:
            kwargs.setdefault("targets", None)
        if self.autocast is None:
            output = self.module(images, *args, **kwargs)
        else:
            with torch.autocast(self.device_type, self.autocast):
                output = self.module(images, *args, **kwargs)
        if type(output) is Tensor:
            return output.float() if output.dtype in _HALF else output
        return _in_float32(output)


class _OwnLosses(Exception):
    """The model has returned losses, so that no others are computed."""

    def __init__(self, losses: dict[str, Tensor]) -> None:
        self.losses = losses


class TaskLosses:
    """The losses of a batch by a task; or those that the model returns, if it returns losses.

    Args:
        task: computes them.
        forward: calls the model.
        model: the name of its class, for messages.
    """

    def __init__(self, task: Task, forward: ModelForward, model: str) -> None:
        self.task, self.forward, self.model = task, forward, model
        self._targets: Any = None
        self._is_checked = False

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return losses and metrics by name."""
        self._targets = batch.targets
        try:
            values = self.task.losses(self._call, batch)
        except _OwnLosses as own:
            refuse_losses(own.losses, f"MODEL.NAME: {self.model}")
            return self.task.own_losses(own.losses)
        finally:
            self._targets = None  # else it would outlive the batch
        if not self._is_checked:  # the first batch; later ones only if they cannot be trained on
            try:
                refuse_losses(values, f"losses() of {type(self.task).__name__}")
            except ConfigError as error:
                raise ConfigError(f"{error}{_samples(batch)}") from None
            self._is_checked = True
        return values

    def _call(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        if self.forward.takes_targets and not args and "targets" not in kwargs:
            kwargs["targets"] = self._targets
        output = self.forward(images, *args, **kwargs)
        if type(output) is not Tensor and isinstance(output, Mapping) and _are_losses(output):
            raise _OwnLosses(dict(output))
        return output


def losses_of(
    model: nn.Module,
    task: Task | None,
    forward: Callable[..., Any] | None = None,
    autocast: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Callable[[Any], Mapping[str, Tensor]]:
    """Return what turns a batch into losses and metrics by name, as training does.

    Args:
        model: the model.
        task: computes them; None: the model itself, called as `model(*batch)`, returns them.
        forward: called in place of the model, as a compiled or a data parallel form of it.
        autocast: what layers compute in where that is safe; None: the types of their weights.
        device: where the model is.
    """
    forward, device_type = model if forward is None else forward, torch.device(device).type
    if task is not None:
        takes = takes_targets(model)
        call = ModelForward(forward, takes_targets=takes, autocast=autocast, device_type=device_type)
        return TaskLosses(task, call, type(model).__name__)
    module = forward if autocast is None else ModelForward(forward, autocast=autocast, device_type=device_type)
    return lambda batch: module(*batch)


def _are_losses(output: Mapping[Any, Any]) -> bool:
    """Return whether a model's output is losses: numbers, or names that say so; maps of outputs are not."""
    return not output or any(
        str(name).startswith(("loss", METRIC)) or (isinstance(value, Tensor) and value.ndim == 0)
        for name, value in output.items()
    )


def refuse_losses(values: Any, who: str, samples: str = "") -> None:
    """Raise ConfigError if something is not losses by name.

    Args:
        values: what `who` has returned.
        who: such as "losses() of Depth".
        samples: of the batch, for the message.
    """
    expected = (
        'return a dict of 0-dim tensors, such as {"loss_l1": loss}, with at least one loss; what is only to be'
    )
    expected += f" recorded has a name that begins with {METRIC}"
    if not isinstance(values, Mapping):
        raise ConfigError(f"{who} returned a {type(values).__name__}; {expected}{samples}")
    for name, value in values.items():
        is_number = isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex()
        if not isinstance(name, str) or not is_number:
            found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ConfigError(f"{who} returned {name!r}, {found}, among its losses; {expected}{samples}")
    if all(name.startswith(METRIC) for name in values):
        listed = f"but {', '.join(values)}" if values else "but an empty dict"
        raise ConfigError(f"{who} returned no loss, {listed}; {expected}{samples}")


def _samples(batch: Batch) -> str:
    """Return which samples a batch has, for a message: at most 16."""
    indices = [] if batch.indices is None else batch.indices.tolist()
    listed = ", ".join([*map(str, indices[:16]), *(["..."] if len(indices) > 16 else [])])
    return f"; samples of its batch: {listed}" if listed else ""


def _in_float32(output: Any) -> Any:
    """Return an output of any form with tensors in half precision as float32; without such, the object itself."""
    is_half = False

    def convert(tensor: Tensor) -> Tensor:
        nonlocal is_half
        is_half |= tensor.dtype in _HALF
        return tensor.float() if tensor.dtype in _HALF else tensor

    converted = map_tensors(convert, output)
    return converted if is_half else output
