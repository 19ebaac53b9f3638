"""Defaults of INPUT's keys that follow from the model and its weights."""

from __future__ import annotations

from warmstart.config import CfgNode, ConfigError
from warmstart.data import DataSpec
from warmstart.modeling import build_input_defaults, check_model
from warmstart.tasks import Task

_SOURCE = "default of "  # how the source of such a value begins; the rest says whose default it is
_NORMALISATION = ("MEAN", "STD")


def with_input_defaults(cfg: CfgNode, data: DataSpec, task: Task) -> CfgNode:
    """Return a config in which keys of INPUT that are not set have the values that the weights expect.

    `build_input_defaults` says which these are; the same config is returned if there are none. MEAN and STD are
    filled in for images of three channels and a task that normalises.

    """
    try:
        check_model(cfg)
    except ConfigError:  # `resolve_config` checks it again, with everything else
        return cfg
    found = build_input_defaults(cfg)
    if found is None:
        return cfg
    normalises = task.normalise and data.train.channels == len(found.values["MEAN"])
    missing = [
        (f"INPUT.{key}", [*value])
        for key, value in found.values.items()
        if not cfg.is_set(f"INPUT.{key}") and not cfg.INPUT[key] and (normalises or key not in _NORMALISATION)
    ]
    filled: CfgNode = cfg.clone()
    filled.defrost()
    filled.merge_from_list([each for pair in missing for each in pair], source=f"{_SOURCE}{found.source}")
    return filled


def describe_input_defaults(cfg: CfgNode) -> str:
    """Return a line with the keys of INPUT that `with_input_defaults` has filled in; "" if there are none.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["INPUT.MEAN", [0.5]], source="default of timm:resnet18")
    >>> describe_input_defaults(cfg)
    'default of timm:resnet18, unless the key is set: INPUT.MEAN [0.5]'
    """
    shown, whose = [], ""
    for key, value in cfg.INPUT.items():
        source = cfg.source(f"INPUT.{key}")
        if source.startswith(_SOURCE):
            entries = [{name: arguments} for name, arguments in value] if "TRANSFORMS" in key else [*value]
            shown.append(f"INPUT.{key} {entries}".replace("'", ""))
            whose = source
    return f"{whose}, unless the key is set: {', '.join(shown)}" if shown else ""
