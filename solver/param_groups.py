"""Parameter groups: learning rate and weight decay of each parameter, in as few groups as possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from warmstart.config import ConfigError, first_matches

from .layer_decay import LayerRate

# Without nn.RMSNorm, as in detectron2, whose rule this is.
NORM_LAYERS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


@dataclass(frozen=True)
class GroupRule:
    """The settings of the parameters whose names match a regex: an entry in SOLVER.PARAM_GROUPS.

    Args:
        match: a regex, searched for in the full name of a parameter (re.search): "^fc" matches at the beginning,
            "bias$" at the end.
        name: the name of the resulting groups.
        lr: the learning rate; None: as without the rule.
        lr_factor: multiple of the learning rate that the parameter has without the rule.
        weight_decay: the weight decay; None: as without the rule.
    """

    match: str
    name: str
    lr: float | None = None
    lr_factor: float = 1.0
    weight_decay: float | None = None


class _Setting(NamedTuple):
    lr: float | None
    decay: float | None


class _Member(NamedTuple):
    name: str
    parameter: nn.Parameter
    kind: str  # a key of the dict that _settings returns


_NO_LAYER = LayerRate("", 1.0)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float = 1.0,
    weight_decay_bias: float | None = None,
    *,
    layers: Mapping[str, LayerRate] | None = None,
    rules: Sequence[GroupRule] = (),
    later: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer, with the norm and bias rules of detectron2.

    A bias is a parameter whose last name component is exactly "bias" (not "in_proj_bias"); a norm layer is an
    instance of `NORM_LAYERS`. For the bias of a norm layer the rule for biases applies. After that, the learning
    rate is multiplied by the factor of the parameter's layer, and then the first matching entry of `rules`
    applies; settings that it does not mention stay. Frozen parameters are omitted, except `later`; a shared one is
    included once, under its first name. Parameters with equal settings are in one group. Groups without a rule
    come first, by layer, then the groups of each rule, in the order default, norm, bias, norm bias; but groups at
    base_lr precede all others. Parameters are in the order of the model.

    Args:
        model: its parameters with requires_grad are used.
        base_lr: the base learning rate; None: the optimizer's default.
        weight_decay: None: the optimizer's default.
        weight_decay_norm: weight decay of the parameters of norm layers; None: no special rule.
        bias_lr_factor: learning rate of biases, as a multiple of base_lr.
        weight_decay_bias: weight decay of biases; None: no special rule.
        layers: the layer of each parameter by its name, as returned by `layer_rates`.
        rules: in order of precedence.
        later: names of frozen parameters that will train later in the run.

    Returns:
        One dict per group: "name", "params" as (name, parameter) pairs (so that the optimizer's state
        has "param_names"), and "lr" and "weight_decay" if they are given.

    Raises:
        ValueError: a factor is given without base_lr.
        ConfigError: a rule applies to no parameter, or two groups would have the same name.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    >>> rules = [GroupRule("^2", name="head", lr_factor=10.0)]
    >>> for group in get_default_optimizer_params(model, 0.1, 1e-4, weight_decay_norm=0.0, rules=rules):
    ...     print(group["name"], [name for name, _ in group["params"]], group["lr"], group["weight_decay"])
    default ['0.weight', '0.bias'] 0.1 0.0001
    norm ['1.weight', '1.bias'] 0.1 0.0
    head ['2.weight', '2.bias'] 1.0 0.0001
    """
    factors = {bias_lr_factor, *(rule.lr_factor for rule in rules)} - {1.0}
    if base_lr is None and (factors or layers):
        factor = f"bias_lr_factor {bias_lr_factor}" if bias_lr_factor != 1.0 else "a learning rate factor"
        raise ValueError(f"{factor} needs a base_lr to multiply")
    settings = _settings(base_lr, weight_decay, weight_decay_norm, bias_lr_factor, weight_decay_bias)
    found = list(_trainable(model, later))
    followed = first_matches([rule.match for rule in rules], [member.name for member in found])
    # By the number of the rule (0: none) and by the layer, which does not matter if the rule sets the learning
    # rate.
    members: dict[tuple[int, LayerRate], list[_Member]] = {}
    for member in found:
        number = followed[member.name]
        has_rate = number > 0 and rules[number - 1].lr is not None
        layer = _NO_LAYER if has_rate else (layers or {}).get(member.name, _NO_LAYER)
        members.setdefault((number, layer), []).append(member)
    groups = []
    layers_of = Counter(number for number, _ in members)
    for number, layer in sorted(members):
        rule = rules[number - 1] if number else None
        adjusted = {kind: _adjusted(setting, layer, rule) for kind, setting in settings.items()}
        words = [rule.name] if rule else []
        if rule is None or layers_of[number] > 1:
            words.append(layer.name)
        groups += _group(members[number, layer], adjusted, " ".join(filter(None, words)))
    # The learning rate of the first group is recorded as "lr", which should be the one that the user has set.
    groups.sort(key=lambda group: group.get("lr") != base_lr)
    _check_names([group["name"] for group in groups])
    return groups


def _settings(
    lr: float | None, decay: float | None, norm: float | None, bias_lr_factor: float, bias: float | None
) -> dict[str, _Setting]:
    """Return learning rate and weight decay of each kind of parameter, in the order of the groups."""
    bias_lr = lr if lr is None else lr * bias_lr_factor

    def first(*decays: float | None) -> float | None:
        return next((decay for decay in decays if decay is not None), None)

    return {
        "default": _Setting(lr, decay),
        "norm": _Setting(lr, first(norm, decay)),
        "bias": _Setting(bias_lr, first(bias, decay)),
        "norm bias": _Setting(bias_lr, first(bias, norm, decay)),
    }


def _adjusted(setting: _Setting, layer: LayerRate, rule: GroupRule | None) -> _Setting:
    lr = setting.lr if setting.lr is None else setting.lr * layer.factor
    if rule is None:
        return _Setting(lr, setting.decay)
    lr = lr if lr is None else lr * rule.lr_factor
    decay = setting.decay if rule.weight_decay is None else rule.weight_decay
    return _Setting(lr if rule.lr is None else rule.lr, decay)


def _group(members: list[_Member], settings: Mapping[str, _Setting], prefix: str) -> list[dict[str, Any]]:
    """Return one group for each distinct setting of the members."""
    groups = []
    for setting in dict.fromkeys(settings.values()):
        kinds = [k for k, own in settings.items() if own == setting and any(m.kind == k for m in members)]
        if not kinds:
            continue
        chosen = [member for member in members if member.kind in kinds]
        name = _group_name(prefix, kinds, is_only=len(chosen) == len(members))
        group: dict[str, Any] = {"name": name, "params": [(member.name, member.parameter) for member in chosen]}
        if setting.lr is not None:
            group["lr"] = setting.lr
        if setting.decay is not None:
            group["weight_decay"] = setting.decay
        groups.append(group)
    return groups


def _group_name(prefix: str, kinds: list[str], is_only: bool) -> str:
    """Return a short name that is unique within a model: of the rule and layer, and of the kinds if needed.

    Args:
        prefix: the names of the rule and the layer, "" if there are none.
        kinds: of the parameters in the group.
        is_only: whether no other group has this rule and layer.
    """
    if "default" in kinds or (prefix and is_only):
        return prefix or "default"
    kind = "+".join(kind for kind in kinds if kind != "norm bias") or "norm bias"
    return f"{prefix} {kind}".lstrip()


def _check_names(names: list[str]) -> None:
    doubled = next((name for name, count in Counter(names).items() if count > 1), None)
    if doubled is not None:
        raise ConfigError(f"two groups would be called {doubled!r}; give the rule another NAME")


def _trainable(model: nn.Module, later: Collection[str]) -> Iterator[_Member]:
    """Yield each parameter that trains, now or later, once."""
    seen = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full_name = f"{prefix}.{name}" if prefix else name
            if parameter in seen or not (parameter.requires_grad or full_name in later):
                continue
            seen.add(parameter)
            kinds = ["norm"] * isinstance(module, NORM_LAYERS) + ["bias"] * (name == "bias")
            yield _Member(full_name, parameter, " ".join(kinds) or "default")
