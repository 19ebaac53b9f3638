"""What every classifier promises: losses and its error in training, logits in evaluation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, SupportsIndex, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from warmstart.config import ConfigError

# Weights of the auxiliary classifiers' losses, by the names torchvision gives their outputs. GoogLeNet's
# two: Szegedy et al. 2014, arXiv:1409.4842, section 5. Inception v3's one: the authors' own code
# (TF-Slim); the paper, arXiv:1512.00567, gives no number.
AUX_WEIGHTS = {"aux_logits1": 0.3, "aux_logits2": 0.3, "aux_logits": 0.4}

_METRIC = "train/"  # what a model returns under such a name is recorded, and no loss
_OTHERS_NAMES = ("target", "label", "labels")  # of what is called `targets` here
_HALF = (torch.bfloat16, torch.float16)


class Classifier(nn.Module):
    """The contract of MODEL.TASK classification, added to a model by `as_classifier`.

    Attributes:
        autocast_dtype: what layers compute in where that is safe, in training and evaluation; None: the types of
            their weights. The cross-entropy is computed in float32 in any case.
    """

    autocast_dtype: torch.dtype | None = None

    _label_smoothing: float
    _takes_targets: bool  # whether the model's own forward has a parameter of that name

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Return the losses in training mode, the logits (N, num_classes) in evaluation mode.

        A model whose own forward has a parameter named `targets` is called with them in training, and with None in
        evaluation mode. Where it returns a dict in training, these are its losses, and no other is computed.

        Args:
            images: (N, C, H, W), float.
            targets: class indices (N,), int64, or, from MixUp and CutMix, the classes' shares (N, num_classes),
                float; needed in training mode, else not looked at.

        Returns:
            In training 0-dim tensors: the model's own losses and metrics, or `loss_cls`, the mean cross-entropy
            against the smoothed targets, and one weighted loss for each auxiliary classifier, `loss_aux1` and
            `loss_aux2`, or `loss_aux`; then `train/error`, the share of images whose highest logit is not the
            target (of mixed ones, the class with the largest share). Names with `train/` are no losses, only
            recorded.

        Raises:
            TypeError: training mode without targets.
            ConfigError: the model returns neither logits nor losses, or its own losses cannot be smoothed.
        """
        if self.training and targets is None:
            raise TypeError("in training mode a classifier needs the targets: model(images, targets)")
        given = {"targets": targets if self.training else None} if self._takes_targets else {}
        if self.autocast_dtype is None:
            output = super().forward(images, **given)
        else:
            with torch.autocast(images.device.type, self.autocast_dtype):
                output = super().forward(images, **given)
        if not self.training:
            return _require_logits(output, self)
        if isinstance(output, Mapping):
            return _own_losses(output, self, self._label_smoothing)
        assert targets is not None
        outputs = _outputs(output, self)
        smoothing = self._label_smoothing
        losses = {"loss_cls": _cross_entropy(outputs["logits"], targets, smoothing)}
        for name, weight in AUX_WEIGHTS.items():
            if name in outputs:
                loss = _cross_entropy(outputs[name], targets, smoothing)
                losses[name.replace("aux_logits", "loss_aux")] = weight * loss
        return losses | {"train/error": _error(outputs["logits"], targets)}

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        # pickle finds a class by its name, and this one is made at run time: name the model's class instead.
        state: Any = super().__reduce_ex__(protocol)
        return (_new, (type(self).__bases__[1],), *state[2:])


def as_classifier(model: nn.Module, label_smoothing: float = 0.0) -> Classifier:
    """Give `model`, whose forward turns images into logits or losses, the contract of `Classifier`; returns it.

    The model stays the object it was, an instance of its own class, and changes class to a subclass
    made for it. A wrapper would put its prefix before every parameter's name, which checkpoints, rules on
    names and published weights would then have to know about. Copies, pickles and compiles as before.

    Args:
        model: is changed.
        label_smoothing: s, at least 0 and below 1. Each target t becomes (1 - s) t + s / num_classes: Szegedy et
            al. 2015, arXiv:1512.00567, section 7. Own losses of a model are not smoothed.

    Raises:
        ConfigError: the model's forward needs more than images and `targets`, or has another name for these.

    >>> import torch
    >>> model = as_classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    >>> images = torch.zeros(3, 1, 2, 2)
    >>> sorted(model(images, torch.tensor([0, 1, 1]))), [name for name, _ in model.named_parameters()]
    (['loss_cls', 'train/error'], ['1.weight', '1.bias'])
    >>> model.eval()(images).shape, isinstance(model, nn.Sequential)
    (torch.Size([3, 2]), True)
    """
    base: Any = type(model)  # mypy takes a class for unhashable where its instances are
    if "forward" in vars(model):
        raise ConfigError(
            f"MODEL.NAME: {base.__name__} sets `forward` on the instance, which hides the one of its class;"
            " define it as a method"
        )
    model.__class__ = _classifier_class(base)
    classifier = cast(Classifier, model)
    classifier._label_smoothing = label_smoothing
    return classifier


# Cached: two models of one class stay two models of one class.
@functools.cache
def _classifier_class(base: Any) -> Any:
    attributes = {"__doc__": base.__doc__, "_takes_targets": _has_targets(base)}
    return type(base.__name__, (Classifier, base), attributes)


def _has_targets(base: type[nn.Module]) -> bool:
    """Return whether a model's forward has a parameter named `targets`; refuse what nobody would fill in."""
    parameters = [*inspect.signature(base.forward).parameters.values()][1:]  # without self
    spread = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [each for each in parameters if each.kind not in spread]
    others = [each for each in named if each is not parameters[0] and each.name != "targets"]
    for each in others:
        if each.name in _OTHERS_NAMES or each.default is each.empty:
            raise ConfigError(
                f"MODEL.NAME: forward of {base.__name__} has a parameter {each.name!r}, but only images and"
                " `targets` are passed to it; rename it to `targets` if these are meant, else give it a default"
            )
    return any(each.name == "targets" for each in named)


def _new(base: Any) -> Any:
    cls = _classifier_class(base)
    return cls.__new__(cls)


def _outputs(output: Any, model: nn.Module) -> dict[str, Tensor]:
    """Return logits by their names: the model's own, and those of auxiliary classifiers."""
    if isinstance(output, Tensor):
        return {"logits": output}
    names = getattr(output, "_fields", ())  # GoogLeNet and Inception v3 give a named tuple
    if "logits" in names and AUX_WEIGHTS.keys() >= {*names} - {"logits"}:
        return output._asdict()  # type: ignore[no-any-return]
    what = f"{type(output).__name__} of {', '.join(names)}" if names else type(output).__name__
    raise ConfigError(
        f"MODEL.NAME: {type(model).__name__} returns a {what} in training; return logits, a tensor"
        ' (N, num_classes), or losses, a dict such as {"loss_focal": loss}'
    )


def _require_logits(output: Any, model: nn.Module) -> Tensor:
    if not isinstance(output, Tensor):
        raise ConfigError(
            f"MODEL.NAME: {type(model).__name__} returns a {type(output).__name__} in evaluation mode; return"
            " logits there, a tensor (N, num_classes)"
        )
    return output


def _own_losses(output: Mapping[Any, Any], model: nn.Module, smoothing: float) -> dict[str, Tensor]:
    """Return the losses and metrics that a model computes; in float32 where it gives them in half precision."""
    who = f"MODEL.NAME: {type(model).__name__}"
    for name, value in output.items():
        is_number = isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex()
        if not isinstance(name, str) or not is_number:
            found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(
                f"{who} returns {name!r}, {found}, among its losses; each is a tensor of one number (0-dim), and"
                f" what is only to be recorded has a name that begins with {_METRIC}"
            )
    if all(name.startswith(_METRIC) for name in output):
        raise ConfigError(f"{who} returns no loss in training, but {', '.join(output) or 'an empty dict'}")
    if smoothing:
        raise ConfigError(
            f"MODEL.LABEL_SMOOTHING: is {smoothing:g}, and {type(model).__name__} computes its own losses, which"
            " it does not change; set it to 0, and smooth the targets in the model"
        )
    return {name: value.float() if value.dtype in _HALF else value for name, value in output.items()}


def _cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    # In float32 also where the model runs in half precision; float() returns a float32 tensor as it is.
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


def _error(logits: Tensor, targets: Tensor) -> Tensor:
    classes = targets.argmax(dim=1) if targets.ndim == 2 else targets
    return (logits.argmax(dim=1) != classes).float().mean()  # of whole numbers: no gradient
