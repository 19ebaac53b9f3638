"""Defaults of INPUT's keys that follow from the model and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warmstart.config import CfgNode, ConfigError
from warmstart.data import DataSpec
from warmstart.modeling import InputDefaults, build_input_defaults, check_model, peek_tensor_file
from warmstart.tasks import Task

from ..distributed.errors import on_main
from .data_diff import CONTENT
from .init_from_data import weights_in

_SOURCE = "default of "  # how the source of such a value begins; the rest says whose default it is
_NORMALISATION = ("MEAN", "STD")


def read_input_defaults(cfg: CfgNode) -> InputDefaults | None:
    """Return INPUT.MEAN and STD of the run that wrote the file in MODEL.WEIGHTS; None if they are not known.

    Its weights expect the values that it was trained with, and these may have been defaults, so that no config
    that a user wrote has them. Waits for all ranks: they all use what rank 0 finds in the file.
    """
    if not cfg.MODEL.WEIGHTS or all(cfg.is_set(f"INPUT.{key}") for key in _NORMALISATION):
        return None
    return on_main(lambda: _defaults_in(weights_in(cfg.MODEL.WEIGHTS)))


def _defaults_in(path: str) -> InputDefaults | None:
    content = peek_tensor_file(path)
    try:
        # Checkpoints of earlier versions have no such entry; what was trained from them keeps its values.
        saved = content["config"]["INPUT"] if content.get(CONTENT) else {}
        found = InputDefaults(path, {key: saved[key] for key in _NORMALISATION if saved.get(key)})
    except (AttributeError, KeyError, TypeError, ValueError):  # not a checkpoint of a run
        return None
    return found if found.values else None


def with_input_defaults(cfg: CfgNode, data: DataSpec, task: Task, saved: InputDefaults | None = None) -> CfgNode:
    """Return a config in which keys of INPUT that are not set have the values that the weights expect.

    `build_input_defaults` and `read_input_defaults` say which these are; the same config is returned if there are
    none. MEAN and STD are filled in for images of as many channels and a task that normalises.

    Args:
        cfg: the config.
        data: its data sets.
        task: its task.
        saved: the result of `read_input_defaults`, which precedes the others.

    Raises:
        ConfigError: `saved` has values that are none of these keys.
    """
    try:
        check_model(cfg, task)
    except ConfigError:  # `resolve_config` checks it again, with everything else
        return cfg
    filled = cfg
    for found in filter(None, (saved, build_input_defaults(cfg))):
        filled = _filled(filled, found, task.normalise, data)
    return filled


def _filled(cfg: CfgNode, found: InputDefaults, normalises: bool, data: DataSpec) -> CfgNode:
    missing = [
        (f"INPUT.{key}", [*value])
        for key, value in found.values.items()
        if not cfg.is_set(f"INPUT.{key}")
        and not cfg.INPUT[key]
        and (key not in _NORMALISATION or (normalises and len(value) in (1, data.train.channels)))
    ]
    filled: CfgNode = cfg.clone()
    filled.defrost()
    filled.merge_from_list([each for pair in missing for each in pair], source=f"{_SOURCE}{found.source}")
    return filled


def with_saved_input(cfg: CfgNode, saved: Mapping[str, Any]) -> CfgNode:
    """Return a config with a checkpoint's INPUT.MEAN and STD, unless the user has set the key.

    A run that continues without its first weights, or whose MODEL.WEIGHTS is another file now, keeps them.

    Args:
        cfg: resolved.
        saved: the checkpoint's config.

    Raises:
        ConfigError: the checkpoint has something else there.
    """
    before = saved.get("INPUT")
    before = before if isinstance(before, Mapping) else {}
    for key in _NORMALISATION:
        name = f"INPUT.{key}"
        is_free = not cfg.is_set(name) or cfg.source(name).startswith(_SOURCE)
        if is_free and key in before and before[key] != cfg.INPUT[key]:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.merge_from_list([name, before[key]], source=f"{_SOURCE}the checkpoint")
            cfg.freeze()
    return cfg


def describe_input_defaults(cfg: CfgNode) -> str:
    """Return a line with the keys of INPUT that `with_input_defaults` has filled in; "" if there are none.

    >>> from warmstart.config import get_cfg
    >>> cfg = get_cfg()
    >>> cfg.merge_from_list(["INPUT.MEAN", [0.5]], source="default of timm:resnet18")
    >>> describe_input_defaults(cfg)
    'default of timm:resnet18, unless the key is set: INPUT.MEAN [0.5]'
    """
    shown: dict[str, list[str]] = {}
    for key, value in cfg.INPUT.items():
        source = cfg.source(f"INPUT.{key}")
        if source.startswith(_SOURCE):
            entries = value and [*value]
            if "TRANSFORMS" in key:
                entries = [{name: arguments} for name, arguments in value]
            shown.setdefault(source, []).append(f"INPUT.{key} {entries}".replace("'", ""))
    return "; ".join(f"{source}, unless the key is set: {', '.join(keys)}" for source, keys in shown.items())
