"""Reading of states from a checkpoint: each entry must be of the kind that was saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warmstart.config import ConfigError

Kind = type | tuple["Kind", ...] | list["Kind"] | dict[type, "Kind"] | None

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    None: "null",
}


def read_state(state: Any, where: str, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Return the entries of a state that `kinds` names.

    Without this, a tensor in the place of a flag, say, would be an error only in the middle of a run.

    Args:
        state: from a checkpoint; entries that `kinds` does not name are ignored.
        where: its key path in the checkpoint, for messages.
        kinds: the kind of each entry. bool, int, float (an int will do), str; None for null; a tuple for one of
            several; [kind] for a list of such; {str: kind} for a mapping.

    Raises:
        ConfigError: an entry is missing or of another kind.

    >>> read_state({"best": 0.5, "bad": 2}, "hooks.Mine", {"best": (float, None), "bad": int})
    {'best': 0.5, 'bad': 2}
    >>> read_state({"bad": "2"}, "hooks.Mine", {"bad": int})
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: the checkpoint's hooks.Mine.bad is a str, not a whole number
    """
    if not isinstance(state, dict):
        raise ConfigError(f"the checkpoint's {where} is {_article(state)}, not a mapping")
    for name, kind in kinds.items():
        if name not in state:
            raise ConfigError(f"the checkpoint's {where} lacks {name}")
        _require(state[name], kind, f"{where}.{name}")
    return {name: state[name] for name in kinds}


def _require(value: Any, kind: Kind, where: str) -> None:
    if isinstance(kind, list) and type(value) in (list, tuple):
        for index, each in enumerate(value):
            _require(each, kind[0], f"{where}[{index}]")
    elif isinstance(kind, dict) and isinstance(value, dict):
        for key, each in value.items():
            _require(key, str, f"{where} (a key)")
            _require(each, kind[str], f"{where}.{key}")
    elif not _is_of(value, kind):
        raise ConfigError(f"the checkpoint's {where} is {_article(value)}, not {_words(kind)}")


def _is_of(value: Any, kind: Kind) -> bool:
    if isinstance(kind, tuple):
        return any(_is_of(value, each) for each in kind)
    if kind is None:
        return value is None
    return type(value) is kind or (kind is float and type(value) is int)


def _words(kind: Kind) -> str:
    if isinstance(kind, tuple):
        return " or ".join(map(_words, kind))
    if isinstance(kind, (list, dict)):
        return "a list" if isinstance(kind, list) else "a mapping"
    return _WORDS[kind]


def _article(value: Any) -> str:
    name = type(value).__name__.lower()
    return "null" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
