"""Muon for the hidden weight matrices of a model and AdamW for all other parameters, as one optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, ParamsT

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)


class MuonWithAdamW(Optimizer):
    """torch's Muon for parameter groups with `"use_muon": True`, torch's AdamW for all others.

    Results are identical to `torch.optim.Muon` (torch 2.9 or later) and `torch.optim.AdamW`, bit for bit. torch's
    Muon accepts parameters with two dimensions; the weight of a convolution is passed to it as a matrix with one
    row per output channel, as in the implementation of Muon's author (Jordan 2024,
    https://kellerjordan.github.io/posts/muon). `split_groups` creates the groups for a model.

    Arguments are the same as for torch's Muon, except:

    Args:
        params: parameter groups; parameters without a group are trained by AdamW.
        lr: one learning rate for both, suited to both by `adjust_lr_fn`.
        adjust_lr_fn: "match_rms_adamw" (not torch's default) gives Muon's updates the usual size of AdamW's, so
            that a learning rate and weight decay tuned for AdamW suit all groups (Liu et al. 2025,
            https://arxiv.org/abs/2502.16982). Muon's author uses "original", with learning rates about 20 times
            higher.
        adamw_betas, adamw_eps: betas and eps of AdamW.
        fused: whether AdamW uses its fused implementation; None: torch's choice.

    Raises:
        ValueError: torch's classes reject a value, or a group of Muon contains a vector.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> group = {"name": "default", "params": list(model.named_parameters())}
    >>> optimizer = MuonWithAdamW(split_groups([group], model), lr=0.01)
    >>> [(group["name"], group["param_names"]) for group in optimizer.param_groups]
    [('default muon', ['0.weight']), ('default', ['0.bias', '2.weight', '2.bias'])]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = "match_rms_adamw",
        adamw_betas: tuple[float, float] = (0.9, 0.999),
        adamw_eps: float = 1e-8,
        fused: bool | None = None,
    ) -> None:
        # Without parameters: they check the arguments, have the defaults, and update the groups that step() lends.
        self._muon = torch.optim.Muon(
            [{"params": []}], lr, weight_decay, momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn
        )
        self._adamw = torch.optim.AdamW([{"params": []}], lr, adamw_betas, adamw_eps, weight_decay, fused=fused)
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "use_muon": False})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with the settings of its optimizer only: momentum for Muon, betas for AdamW."""
        kind = self._muon if param_group.get("use_muon") else self._adamw
        super().add_param_group({**kind.defaults, **param_group})
        group = self.param_groups[-1]
        vectors = [tuple(p.shape) for p in group["params"] if p.ndim < 2]
        if group["use_muon"] and vectors:
            raise ValueError(
                f"Muon takes matrices and weights of convolutions, not a parameter of shape {vectors[0]}"
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Perform one update with the current learning rate, weight decay, momentum and betas of each group."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices: defaultdict[Tensor, Any] = defaultdict(dict)
        muon, adamw = [], []
        for group in self.param_groups:
            if group["use_muon"]:
                found = dict(self._matrices(group["params"]))
                matrices.update(found)
                muon.append({**group, "params": list(found)})
            else:
                adamw.append(group)
        _lend(self._muon, muon, matrices)
        _lend(self._adamw, adamw, self.state)
        return loss

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies, including the two optimizers, which torch's method omits."""
        return {**super().__getstate__(), "_muon": self._muon, "_adamw": self._adamw}

    def _matrices(self, parameters: Iterable[Tensor]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield each parameter with a gradient as a matrix that shares its memory, and its state likewise."""
        for p in parameters:
            if p.grad is None:
                continue
            state = self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(p.grad)
            # Columns in memory order, which differs from the order of the dimensions with channels_last.
            order = (0, *sorted(range(1, p.ndim), key=p.stride, reverse=True))
            matrix = p.detach().permute(order).flatten(1)
            matrix.grad = p.grad.permute(order).flatten(1)
            yield matrix, {"momentum_buffer": state["momentum_buffer"].permute(order).flatten(1)}


def _lend(optimizer: Optimizer, groups: list[dict[str, Any]], state: defaultdict[Tensor, Any]) -> None:
    """Let `optimizer` update the given groups once, and drop its references to them afterwards."""
    optimizer.param_groups, optimizer.state = groups, state
    optimizer.step()
    optimizer.param_groups, optimizer.state = [], defaultdict(dict)


def split_groups(groups: Iterable[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """Return the groups with Muon's parameters split off into separate groups, such as "default muon".

    Args:
        groups: as returned by `get_default_optimizer_params`.
        model: the model that the parameters belong to.
    """
    hidden = set(hidden_matrices(model))
    split = []
    for group in groups:
        for use_muon in (True, False):
            members = [(name, p) for name, p in group["params"] if (p in hidden) == use_muon]
            if members:
                name = group["name"] + " muon" * use_muon
                split.append({**group, "name": name, "params": members, "use_muon": use_muon})
    return split


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that Muon should train: the weight matrices of hidden layers.

    These are the weights of linear, attention and convolution layers, including the first layer. AdamW trains:

    - the last layer of the model in module order, which is the head of a classifier: its rows are classes, and
      Muon's author found AdamW better there.
    - embeddings, also if a linear layer shares their weight: an update changes only few of their rows.
    - convolutions with groups: each group is a separate matrix, a single row in a depthwise convolution.
    - everything else: biases, norm layers, position embeddings, tables.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(8, 2))
    >>> [tuple(parameter.shape) for parameter in hidden_matrices(model)]
    [(8, 3, 3, 3)]
    """
    layers = [module for module in model.modules() if isinstance(module, _LAYERS)]
    tables = [m.weight for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    excluded = {*tables, *(layers[-1].parameters() if layers else ())}
    return [
        parameter
        for layer in layers
        if getattr(layer, "groups", 1) == 1
        for name, parameter in layer.named_parameters(recurse=False)
        if name.endswith("weight") and parameter not in excluded
    ]
