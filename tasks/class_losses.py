"""Losses of a classifier: cross-entropy, binary cross-entropy and focal loss, with smoothing and class weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from warmstart.config import ConfigError, unknown_name

LOSSES = ("cross_entropy", "bce", "focal")
GAMMA, ALPHA = 2.0, 0.25
BALANCED = "balanced"


class ClassLoss:
    """The mean loss of logits (N, K) for class indices (N,), or for shares of classes (N, K) as MixUp makes them.

    With t the shares (one-hot for an index), s the label smoothing, u = (1 - s) t + s / K, p = softmax(x),
    q = sigmoid(x) and class weights w (1 without them):

    - cross_entropy: sum over n, k of w[k] u[n, k] (-log p[n, k]), divided by N. This is torch's definition for
      shares. For indices torch divides by the sum of the weights of the batch instead, so that the result depends
      on which samples are in it, and with several processes or micro-batches on how it is divided.
    - bce: the mean over n, k of v[n] times the binary cross-entropy of q[n, k] and u[n, k]: Wightman et al. 2021,
      "ResNet strikes back", arXiv:2110.00476, section 3.
    - focal: the same with the sigmoid focal loss in its place, (1 - r)^gamma times the binary cross-entropy, where
      r = q u + (1 - q) (1 - u), times alpha u + (1 - alpha) (1 - u): Lin et al. 2017, arXiv:1708.02002, in
      torchvision's form.

    v[n] = sum over k of t[n, k] w[k] is the weight of a sample, by its class: Cui et al. 2019, "Class-Balanced
    Loss Based on Effective Number of Samples", arXiv:1901.05555, section 4.

    Args:
        loss: one of LOSSES.
        gamma: exponent of the focal loss, at least 0.
        alpha: weight of the class that is right in the focal loss, from 0 to 1; all others have weight 1 - alpha.
            None: all have weight 1.
        label_smoothing: s, at least 0 and below 1.
        class_weights: K numbers; None: 1 each.

    >>> loss = ClassLoss("cross_entropy", class_weights=[1.0, 3.0])
    >>> round(loss(torch.zeros(2, 2), torch.tensor([0, 1])).item(), 4)  # (1 + 3) / 2 * log(2)
    1.3863
    """

    def __init__(
        self,
        loss: str = "cross_entropy",
        *,
        gamma: float = GAMMA,
        alpha: float | None = ALPHA,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        self.loss, self.gamma, self.alpha = loss, gamma, -1.0 if alpha is None else alpha
        self.label_smoothing = label_smoothing
        self._weights = None if class_weights is None else torch.tensor([*class_weights], dtype=torch.float32)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, a 0-dim tensor."""
        # In float32 even if the model runs in half precision; float() returns a float32 tensor as it is.
        logits, weights, smoothing = logits.float(), self._weights_on(targets.device), self.label_smoothing
        if self.loss == "cross_entropy" and weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=smoothing)
        if self.loss == "cross_entropy":
            total = F.cross_entropy(logits, targets, weights, label_smoothing=smoothing, reduction="sum")
            return total / len(targets)
        shares = targets if targets.ndim == 2 else F.one_hot(targets, logits.shape[1]).to(logits.dtype)
        each = self._binary(logits, shares * (1 - smoothing) + smoothing / logits.shape[1])
        return each.mean() if weights is None else (each * (shares @ weights)[:, None]).mean()

    def _binary(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.loss == "bce":
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        from torchvision.ops import sigmoid_focal_loss  # slow to import, and needed only for this loss

        each: Tensor = sigmoid_focal_loss(logits, targets, self.alpha, self.gamma)
        return each

    def _weights_on(self, device: torch.device) -> Tensor | None:
        if self._weights is not None and self._weights.device != device:  # once: a copy waits for the device
            self._weights = self._weights.to(device)
        return self._weights


def require_loss(loss: str, known: Sequence[str], gamma: float, alpha: float | None) -> None:
    """Raise ConfigError if MODEL.TASK_ARGS names no known loss, or parameters of the focal loss that are wrong.

    >>> require_loss("bce", ["bce", "focal"], 3.0, 0.25)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: MODEL.TASK_ARGS.gamma: only the focal loss has it, but loss is bce; \
leave it out, or set loss to focal
    """
    if loss not in known:
        raise unknown_name("MODEL.TASK_ARGS.loss", "loss", loss, known)
    require(gamma >= 0, "gamma", "a number of at least 0", gamma)
    require(alpha is None or 0 <= alpha <= 1, "alpha", "a number from 0 to 1, or null", alpha)
    if loss != "focal" and (gamma, alpha) != (GAMMA, ALPHA):
        raise ConfigError(
            f"MODEL.TASK_ARGS.{'gamma' if gamma != GAMMA else 'alpha'}: only the focal loss has it, but"
            f" loss is {loss}; leave it out, or set loss to focal"
        )


def require(fits: bool, name: str, expected: str, value: Any) -> None:
    """Raise ConfigError that MODEL.TASK_ARGS.name is not as expected, unless it fits."""
    if not fits:
        raise ConfigError(f"MODEL.TASK_ARGS.{name}: expected {expected}; got {value}")


def class_weights_of(given: str | Sequence[float], counts: Sequence[int], num_classes: int) -> list[float]:
    """Return MODEL.TASK_ARGS.class_weights as one number per class.

    Args:
        given: the numbers, or "balanced": n / (K count), for the K classes that occur among n samples, as in
            scikit-learn; over the training set the mean weight of a sample is then 1. A class without samples has
            weight 0.
        counts: samples of each class in the training set; () if they are not known.
        num_classes: outputs of the model.

    Raises:
        ConfigError: they are not such numbers, or the counts are not known.

    >>> class_weights_of("balanced", [6, 2, 0], 3)
    [0.6666666666666666, 2.0, 0.0]
    """
    if given == BALANCED:
        if not counts:
            raise ConfigError(
                "MODEL.TASK_ARGS.class_weights: balanced needs the number of samples of each class, which the"
                f" training set does not provide; give a list of {num_classes} numbers, give the data set an"
                " attribute targets, or register it with a DatasetInfo that has class_counts"
            )
        present = sum(count > 0 for count in counts)
        weights = [sum(counts) / (present * count) if count else 0.0 for count in counts]
        return [*weights, *[0.0] * num_classes][:num_classes]
    weights = [each for each in given if type(each) in (int, float)] if isinstance(given, (list, tuple)) else []
    fits = len(weights) == num_classes == len(given) and all(0 <= each < math.inf for each in weights)
    if not fits or not any(weights):
        raise ConfigError(
            f"MODEL.TASK_ARGS.class_weights: expected balanced, or a list of {num_classes} numbers of at least 0"
            f" and not all 0, one for each class; got {given}"
        )
    return [float(each) for each in weights]
