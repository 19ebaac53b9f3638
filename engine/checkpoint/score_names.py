"""Names of scores as older versions recorded them: beginning with the entry of DATASETS.TEST, path included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warmstart.data import DatasetEntry


def current_name(score: str, sets: Mapping[str, DatasetEntry]) -> str:
    """Return a score's name as it is recorded now; any other text is returned as it is.

    Args:
        score: the name in a record of this version or of an older one.
        sets: the test sets by their names.

    >>> current_name("npz:/data/x.npz/ema/loss", {"x.npz": DatasetEntry("npz", "/data/x.npz")})
    'x.npz/ema/loss'
    """
    found = [(entry.text, name) for name, entry in sets.items() if score.startswith(f"{entry.text}/")]
    if not found:
        return score
    text, name = max(found, key=lambda each: len(each[0]))  # npz:a/b, not npz:a
    return name + score.removeprefix(text)


def with_current_names(content: dict[str, Any], sets: Mapping[str, DatasetEntry]) -> dict[str, Any]:
    """Return a checkpoint's content whose hook states use the current names of scores.

    They hold the score that a hook watches, and the scores of an evaluation that is not recorded yet.

    >>> content = {"iteration": 3, "hooks": {"BestHook": {"metric": "npz:x.npz/loss", "best": 0.5}}}
    >>> with_current_names(content, {"x.npz": DatasetEntry("npz", "x.npz")})
    {'iteration': 3, 'hooks': {'BestHook': {'metric': 'x.npz/loss', 'best': 0.5}}}
    """
    hooks = content.get("hooks")
    if not isinstance(hooks, dict):  # whoever loads it says so
        return content
    return {**content, "hooks": {name: _renamed(state, sets) for name, state in hooks.items()}}


def _renamed(state: Any, sets: Mapping[str, DatasetEntry]) -> Any:
    if not isinstance(state, dict):
        return state
    metric, scalars = state.get("metric"), state.get("scalars")
    renamed: dict[str, Any] = {}
    if isinstance(metric, str):
        renamed["metric"] = current_name(metric, sets)
    if isinstance(scalars, dict) and all(isinstance(name, str) for name in scalars):
        renamed["scalars"] = {current_name(name, sets): value for name, value in scalars.items()}
    return {**state, **renamed}
