"""Gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm

from warmstart.config import CfgNode


def build_gradient_clipping(cfg: CfgNode) -> GradientClipping | None:
    """Return the gradient clipping that SOLVER.CLIP_GRADIENTS describes, or None if it is off.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> build_gradient_clipping(cfg)
    >>> cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.ENABLED", "true"])
    >>> build_gradient_clipping(cfg)
    GradientClipping(clip_type='value', clip_value=1.0, norm_type=2.0)
    """
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    if not clipping.ENABLED:
        return None
    return GradientClipping(clipping.CLIP_TYPE, clipping.CLIP_VALUE, clipping.NORM_TYPE)


@dataclass(frozen=True)
class GradientClipping:
    """Clips gradients in place, without waiting for the device.

    Attributes:
        clip_type: "value" clamps each element to [-clip_value, clip_value]; "norm" scales the gradient of each
            parameter separately to a norm of at most clip_value; "full_model" scales all gradients together, as
            one vector, whose direction is preserved.
        clip_value: above 0.
        norm_type: the p of the p-norm.

    >>> import torch
    >>> parameter = nn.Parameter(torch.zeros(2))
    >>> parameter.grad = torch.tensor([3.0, 4.0])
    >>> GradientClipping("full_model", clip_value=1.0)([parameter]), parameter.grad
    (tensor(5.), tensor([0.6000, 0.8000]))
    """

    clip_type: str
    clip_value: float
    norm_type: float = 2.0

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip the gradients of `parameters` and return their total norm before clipping, a 0-dim tensor."""
        parameters = list(parameters)
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None], self.norm_type)
        if self.clip_type == "full_model":
            clip_grads_with_norm_(parameters, self.clip_value, norm)
        elif self.clip_type == "norm":
            for parameter in parameters:
                clip_grad_norm_(parameter, self.clip_value, self.norm_type)
        else:
            clip_grad_value_(parameters, self.clip_value)
        if hasattr(norm, "full_tensor"):  # of sharded gradients, which may be in host memory
            norm = norm.full_tensor().to(norm.device_mesh.device_type)  # type: ignore[attr-defined]
        return norm
