"""What every classifier promises: losses and its error in training, logits in evaluation."""

from __future__ import annotations

import functools
from typing import Any, SupportsIndex, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Weights of the auxiliary classifiers' losses, by the names torchvision gives their outputs. GoogLeNet's
# two: Szegedy et al. 2014, arXiv:1409.4842, section 5. Inception v3's one: the authors' own code
# (TF-Slim); the paper, arXiv:1512.00567, gives no number.
AUX_WEIGHTS = {"aux_logits1": 0.3, "aux_logits2": 0.3, "aux_logits": 0.4}


class Classifier(nn.Module):
    """The contract of MODEL.TASK classification, added to a model by `as_classifier`.

    Attributes:
        autocast_dtype: what layers compute in where that is safe, in training and evaluation; None: the types of
            their weights. Losses are computed in float32 in any case.
    """

    autocast_dtype: torch.dtype | None = None

    _label_smoothing: float

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Return the losses in training mode, the logits (N, num_classes) in evaluation mode.

        Args:
            images: (N, C, H, W), float.
            targets: class indices (N,), int64, or, from MixUp and CutMix, the classes' shares (N, num_classes),
                float; needed in training mode, else not looked at.

        Returns:
            In training 0-dim tensors: `loss_cls`, the mean cross-entropy against the smoothed targets, and one
            weighted loss for each auxiliary classifier, `loss_aux1` and `loss_aux2`, or `loss_aux`; then
            `train/error`, the share of images whose highest logit is not the target (of mixed ones, the class with
            the largest share). Names with `train/` are no losses, only recorded.

        Raises:
            TypeError: training mode without targets.
        """
        if self.autocast_dtype is None:
            output = super().forward(images)
        else:
            with torch.autocast(images.device.type, self.autocast_dtype):
                output = super().forward(images)
        if not self.training:
            return output  # type: ignore[no-any-return]
        if targets is None:
            raise TypeError("in training mode a classifier needs the targets: model(images, targets)")
        # GoogLeNet and Inception v3 give a named tuple.
        outputs = {"logits": output} if isinstance(output, Tensor) else output._asdict()
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
    """Give `model`, whose forward turns images into logits, the contract of `Classifier`; returns it.

    The model stays the object it was, an instance of its own class, and changes class to a subclass
    made for it. A wrapper would put its prefix before every parameter's name, which checkpoints, rules on
    names and published weights would then have to know about. Copies, pickles and compiles as before.

    Args:
        model: is changed.
        label_smoothing: s, at least 0 and below 1. Each target t becomes (1 - s) t + s / num_classes: Szegedy et
            al. 2015, arXiv:1512.00567, section 7.

    >>> import torch
    >>> model = as_classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    >>> images = torch.zeros(3, 1, 2, 2)
    >>> sorted(model(images, torch.tensor([0, 1, 1]))), [name for name, _ in model.named_parameters()]
    (['loss_cls', 'train/error'], ['1.weight', '1.bias'])
    >>> model.eval()(images).shape, isinstance(model, nn.Sequential)
    (torch.Size([3, 2]), True)
    """
    base: Any = type(model)  # mypy takes a class for unhashable where its instances are
    model.__class__ = _classifier_class(base)
    classifier = cast(Classifier, model)
    classifier._label_smoothing = label_smoothing
    return classifier


# Cached: two models of one class stay two models of one class.
@functools.cache
def _classifier_class(base: Any) -> Any:
    return type(base.__name__, (Classifier, base), {"__doc__": base.__doc__})


def _new(base: Any) -> Any:
    cls = _classifier_class(base)
    return cls.__new__(cls)


def _cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    # In float32 also where the model runs in half precision; float() returns a float32 tensor as it is.
    return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


def _error(logits: Tensor, targets: Tensor) -> Tensor:
    classes = targets.argmax(dim=1) if targets.ndim == 2 else targets
    return (logits.argmax(dim=1) != classes).float().mean()  # of whole numbers: no gradient
