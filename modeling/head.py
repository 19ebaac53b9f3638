"""The classifier at the end of a model: its parameters, their initialization, and dropout in front of it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


class DropoutLinear(nn.Linear):
    """A linear layer that applies dropout to its input in training; its parameters have the names of nn.Linear's.

    Args:
        linear: the layer whose parameters it takes over.
        p: probability with which each input value is set to 0; the others are divided by 1 - p.

    >>> DropoutLinear(nn.Linear(4, 2), 0.2)
    DropoutLinear(in_features=4, out_features=2, bias=True, p=0.2)
    """

    def __init__(self, linear: nn.Linear, p: float) -> None:
        nn.Module.__init__(self)  # the layer's own parameters: no random number is drawn
        self.in_features, self.out_features, self.p = linear.in_features, linear.out_features, p
        self.weight = linear.weight
        self.register_parameter("bias", linear.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (N, out_features) for inputs (N, in_features)."""
        return super().forward(F.dropout(input, self.p, self.training))

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{super().extra_repr()}, p={self.p}"


def set_dropout(model: nn.Module, p: float, num_classes: int) -> None:
    """Apply dropout to the input of a model's classifier: its last linear layer with `num_classes` outputs.

    A dropout layer that the model has directly in front of the classifier gets the probability `p`; without one
    the linear layer becomes a `DropoutLinear`. The names of the parameters do not change, so weights of the model
    without it can be loaded. A model of timm with several classifiers gets it in front of each.

    Args:
        model: changed in place.
        p: probability with which each input value is set to 0 in training, at least 0 and below 1.
        num_classes: number of outputs of the classifier.

    Raises:
        ValueError: the model has no such layer, or a convolution without dropout in its place.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> set_dropout(model, 0.2, 2)
    >>> model[2]
    DropoutLinear(in_features=3, out_features=2, bias=True, p=0.2)
    """
    heads = _classifiers(model, num_classes)
    if not heads:
        raise ValueError(f"{type(model).__name__} does not end in a layer with {num_classes} outputs")
    for parent in [*model.modules()]:
        before: nn.Module | None = None
        for name, child in [*parent.named_children()]:
            if child in heads and isinstance(before, nn.Dropout):
                before.p = p
            elif child in heads and isinstance(child, nn.Linear):
                setattr(parent, name, DropoutLinear(child, p))
            elif child in heads:
                raise ValueError(f"the classifier of {type(model).__name__} is a convolution without dropout")
            before = child


_STD = 0.01


def reset_classifier(model: nn.Module, num_classes: int) -> None:
    """Give a model's classifier weights from a normal distribution of standard deviation 0.01, and biases of 0.

    The outputs of a new classifier on pretrained features are then close to 0. Some models, such as EfficientNet,
    initialise it with a standard deviation of 0.58 / sqrt(num_classes): of two classes one is certain before the
    first update, and fine-tuning spends its first epochs on undoing that.

    Leaves torch's random number generator as it was.

    Args:
        model: changed in place.
        num_classes: number of outputs of the classifier.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1000))
    >>> reset_classifier(model, 1000)
    >>> 0.009 < model[1].weight.std() < 0.011, model[1].bias.any()
    (tensor(True), tensor(False))
    """
    heads = _classifiers(model, num_classes)
    with torch.random.fork_rng(devices=[]):
        for layer in model.modules():  # their order is fixed, unlike a set's
            if layer in heads:
                assert isinstance(layer, (nn.Linear, nn.Conv2d))
                nn.init.normal_(layer.weight, std=_STD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def _classifiers(model: nn.Module, num_classes: int) -> set[nn.Module]:
    """Return the layers that give the outputs: of timm's models each one, of others the last one."""

    def layers(inside: nn.Module) -> list[nn.Module]:
        return [
            each
            for each in inside.modules()
            if (isinstance(each, nn.Linear) and each.out_features == num_classes)
            or (isinstance(each, nn.Conv2d) and each.out_channels == num_classes and each.kernel_size == (1, 1))
        ]

    get_classifier: Any = getattr(model, "get_classifier", tuple)  # timm's models have it
    own = get_classifier()
    named = [each for each in (own if isinstance(own, tuple) else (own,)) if isinstance(each, nn.Module)]
    return {layer for each in named for layer in layers(each)} or {*layers(model)[-1:]}


def head_parameters(model: nn.Module, num_classes: int | None = None) -> list[nn.Parameter]:
    """Return the parameters of the classifier: the last layer with weights for each of `num_classes` outputs.

    Args:
        model: any model.
        num_classes: number of outputs; None: the last layer with a weight matrix, whatever its outputs.

    >>> model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> [tuple(each.shape) for each in head_parameters(model, 3)], len(head_parameters(model, 5))
    ([(3, 2), (3,)], 0)
    """

    def is_output(parameter: nn.Parameter) -> bool:
        return not is_lazy(parameter) and parameter.ndim > 0 and num_classes in (None, parameter.shape[0])

    head: list[nn.Parameter] = []
    for module in model.modules():
        own = [each for each in module.parameters(recurse=False) if is_output(each)]
        if any(each.ndim > 1 for each in own):
            head = own
    return head
