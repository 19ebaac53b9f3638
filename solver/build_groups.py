"""The parameter groups that a config describes: norm and bias rules, LAYER_DECAY, PARAM_GROUPS, Muon's split."""

from __future__ import annotations

from typing import Any

from torch import nn

from warmstart.config import CfgNode, ConfigError, gathering, pattern_problem

from .layer_decay import check_layer_decay, layer_rates
from .muon import split_groups
from .param_groups import GroupRule, get_default_optimizer_params


def build_param_groups(
    cfg: CfgNode, model: nn.Module, decays: bool, for_muon: bool = False
) -> list[dict[str, Any]]:
    """Return the groups of `get_default_optimizer_params` for the settings in SOLVER.

    Args:
        cfg: the config.
        model: its parameters with requires_grad are used, and those named in its attribute `trains_later`, which
            MODEL.FREEZE freezes for a part of the run.
        decays: whether the optimizer supports weight decay.
        for_muon: whether Muon's parameters are put into separate groups, see `hidden_matrices`.

    Raises:
        ConfigError: a rule or LAYER_DECAY does not suit the model, or the model has no trainable parameters.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.BASE_LR", 0.1, "SOLVER.PARAM_GROUPS", [{"MATCH": "^1", "LR_FACTOR": 0}]])
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    >>> [(group["name"], group["lr"]) for group in build_param_groups(cfg, model, decays=True)]
    [('default', 0.1), ('^1', 0.0)]
    """
    solver, layers, rules = cfg.SOLVER, None, _rules(cfg)
    if solver.LAYER_DECAY != 1:
        layers = layer_rates(model, solver.LAYER_DECAY, cfg.label("SOLVER.LAYER_DECAY"))
    try:
        groups = get_default_optimizer_params(
            model,
            base_lr=solver.BASE_LR,
            weight_decay=solver.WEIGHT_DECAY if decays else None,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM if decays else None,
            bias_lr_factor=solver.BIAS_LR_FACTOR,
            weight_decay_bias=solver.WEIGHT_DECAY_BIAS if decays else None,
            layers=layers,
            rules=rules,
            later=getattr(model, "trains_later", ()),
        )
    except ConfigError as error:
        label = cfg.label("SOLVER.PARAM_GROUPS")
        raise ConfigError([f"{label}: {problem}" for problem in error.problems]) from None
    if not groups:
        raise ConfigError("the model has no parameter to train: all are frozen, or there are none")
    if for_muon:
        groups = split_groups(groups, model)
        if not any(group["use_muon"] for group in groups):
            none = "this model has no parameters for Muon: no weights of linear or convolution layers"
            raise ConfigError(f"{cfg.label('SOLVER.OPTIMIZER')}: {none} before the last layer; use AdamW")
    return groups


def check_param_groups(cfg: CfgNode) -> None:
    """Raise ConfigError for all mistakes in PARAM_GROUPS and LAYER_DECAY that can be found without a model.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["SOLVER.PARAM_GROUPS", [{"MATCH": "fc", "LR": 0.1, "LR_FACTOR": 2}]])
    >>> check_param_groups(cfg)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: SOLVER.PARAM_GROUPS (override): rule 1, MATCH 'fc': LR and LR_FACTOR \
both set the learning rate; give one of them
    """
    problems: list[str] = []
    with gathering(problems):
        _rules(cfg)
    with gathering(problems):
        if cfg.SOLVER.LAYER_DECAY != 1:
            check_layer_decay(cfg.MODEL.NAME, cfg.label("SOLVER.LAYER_DECAY"))
    if problems:
        raise ConfigError(problems)


def _rules(cfg: CfgNode) -> list[GroupRule]:
    rules: list[GroupRule] = []
    names: set[str] = set()
    problems = []
    for number, entry in enumerate(cfg.SOLVER.PARAM_GROUPS, start=1):
        match, name = entry["MATCH"], entry.get("NAME") or entry["MATCH"]
        where = f"{cfg.label('SOLVER.PARAM_GROUPS')}: rule {number}, MATCH {match!r}"
        if problem := pattern_problem(match):
            problems.append(f"{where}: {problem}")
        if "LR" in entry and "LR_FACTOR" in entry:
            problems.append(f"{where}: LR and LR_FACTOR both set the learning rate; give one of them")
        if not {"LR", "LR_FACTOR", "WEIGHT_DECAY"} & entry.keys():
            problems.append(f"{where}: changes nothing; give it LR, LR_FACTOR or WEIGHT_DECAY")
        if name in names:
            problems.append(f"{where}: an earlier rule is called {name!r} too; give one of them another NAME")
        names.add(name)
        factor = entry.get("LR_FACTOR", 1.0)
        rules.append(GroupRule(match, name, entry.get("LR"), factor, entry.get("WEIGHT_DECAY")))
    if problems:
        raise ConfigError(problems)
    return rules
