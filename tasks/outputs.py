"""Model outputs: one tensor per batch, and in training also the outputs of auxiliary classifiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from warmstart.config import ConfigError

# Weights of the auxiliary classifiers' losses, by torchvision's names for their outputs. For GoogLeNet's two:
# Szegedy et al. 2014, arXiv:1409.4842, section 5. For Inception v3's one: the authors' code (TF-Slim); the paper,
# arXiv:1512.00567, gives no number.
AUX_WEIGHTS = {"aux_logits1": 0.3, "aux_logits2": 0.3, "aux_logits": 0.4}


def named_outputs(output: Any) -> dict[str, Tensor]:
    """Return a model's outputs in training by name: "logits", and the outputs of auxiliary classifiers.

    Raises:
        ConfigError: the model returns something else.
    """
    if isinstance(output, Tensor):
        return {"logits": output}
    names = getattr(output, "_fields", ())  # GoogLeNet and Inception v3 return a named tuple
    if "logits" in names and AUX_WEIGHTS.keys() >= {*names} - {"logits"}:
        return output._asdict()  # type: ignore[no-any-return]
    what = f"{type(output).__name__} of {', '.join(names)}" if names else type(output).__name__
    raise ConfigError(
        f"MODEL.NAME: the model returns a {what} in training; return logits, a tensor (N, num_classes), or losses,"
        ' a dict such as {"loss_focal": loss}'
    )


def aux_losses(outputs: dict[str, Tensor], loss: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return the weighted losses of auxiliary classifiers: `loss_aux1` and `loss_aux2`, or `loss_aux`.

    Args:
        outputs: the result of `named_outputs`.
        loss: function that returns the loss of an output.
    """
    return {
        name.replace("aux_logits", "loss_aux"): weight * loss(outputs[name])
        for name, weight in AUX_WEIGHTS.items()
        if name in outputs
    }


def require_logits(output: Any) -> Tensor:
    """Return a model's output in evaluation mode.

    Raises:
        ConfigError: it is not a tensor.
    """
    if not isinstance(output, Tensor):
        raise ConfigError(
            f"MODEL.NAME: the model returns a {type(output).__name__} in evaluation mode; return logits there, a"
            " tensor (N, num_classes)"
        )
    return output


def require_shape(output: Tensor, count: int) -> Tensor:
    """Return an output as float32.

    Raises:
        ConfigError: its shape is not (N, count), so it would be silently broadcast against targets.
    """
    if output.ndim != 2 or output.shape[1] != count:
        raise ConfigError(
            f"MODEL.NAME: the model returns a tensor of shape {tuple(output.shape)}; return one of shape (N,"
            f" {count}), with {count} output{'s' if count > 1 else ''} for each image"
        )
    return output.float()


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Return the average precision of a class: the sum over thresholds of precision times gain in recall.

    Args:
        scores: (N,), higher for more likely positives; equal scores pass a threshold together.
        labels: (N,) booleans, at least one of them true.

    >>> round(average_precision(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([True, False, True])), 4)
    0.8333
    """
    scores, order = scores.sort(descending=True)
    is_last = torch.ones_like(scores, dtype=torch.bool)  # among equal scores
    is_last[:-1] = scores[1:] != scores[:-1]
    hits = labels[order].cumsum(dim=0)[is_last]
    precision = hits / (is_last.nonzero().flatten() + 1).double()
    gained = hits.diff(prepend=hits.new_zeros(1))
    return float((precision * gained).sum() / hits[-1])
