"""Parameters on the meta device: a shape and a type, without memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook


@contextmanager
def without_weights() -> Iterator[None]:
    """Put the parameters of modules that are constructed within the block on the meta device: no memory is used.

    Buffers, and all else that a module computes in its constructor, are there as usual.

    >>> with without_weights():
    ...     norm = nn.BatchNorm1d(3)
    >>> norm.weight.device, norm.running_var
    (device(type='meta'), tensor([1., 1., 1.]))
    """

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        return _on_meta(parameter)

    # torch's annotation does not say that such a hook may return another parameter.
    handle = register_module_parameter_registration_hook(on_meta)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


def take_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's parameters by name, tied ones once, and move the model to the meta device.

    >>> model = nn.Linear(1, 2)
    >>> weights = take_weights(model)
    >>> weights["bias"].shape, model.bias.device, take_weights(model)
    (torch.Size([2]), device(type='meta'), {})
    """
    weights = {name: parameter.detach() for name, parameter in model.named_parameters() if not parameter.is_meta}
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in [*module.named_parameters(recurse=False, remove_duplicate=False)]:
            if parameter not in made:
                made[parameter] = _on_meta(parameter)
            module.register_parameter(name, made[parameter])
    return weights


def _on_meta(parameter: nn.Parameter) -> nn.Parameter:
    # What is there already is kept, so that tied weights stay so.
    return parameter if parameter.is_meta else nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
