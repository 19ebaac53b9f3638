"""Conversion of configs of earlier versions to the current keys."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from .errors import MOVED


def with_new_keys(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config, as a plain nested dict, with renamed keys replaced by their current names.

    >>> with_new_keys({"MODEL": {"NAME": "small_cnn"}, "TEST": {"FLIP": True, "EVAL_PERIOD": 7}})
    {'MODEL': {'NAME': 'small_cnn', 'TASK_ARGS': {'flip': True}}, 'TEST': {'EVAL_PERIOD': 7}}
    """
    config = copy.deepcopy(dict(saved))
    for old, new in MOVED.items():
        *sections, name = old.split(".")
        node: Any = config
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
        if not isinstance(node, dict) or name not in node:
            continue
        value, target = node.pop(name), config
        *sections, name = new.split(".")
        for section in sections:
            target = target.setdefault(section, {})
        target.setdefault(name, value)
    return config
