"""The type of config keys that list data sets."""

from __future__ import annotations

from typing import Any

import yaml

from .fields import Field, Str, shown
from .yaml12 import dump_yaml, parse_scalar, split_list

Entry = str | dict[str, dict[str, Any]]

_LONGEST = 300  # characters of a mapping in a message


class DatasetList(Field):
    """Data sets, each as text or as a kind with options: `[digits_test, {npz: {path: x.npz, name: val}}]`.

    Text is not interpreted. The registry of data sets checks kinds and options.

    >>> DatasetList().parse_text("digits_test, val=npz:x.npz")
    ('digits_test', 'val=npz:x.npz')
    >>> DatasetList().parse_text("[{npz: {path: x.npz, name: val}}]")
    ({'npz': {'path': 'x.npz', 'name': 'val'}},)
    """

    expected = "a list of data sets, each a registered name, KIND:PATH, NAME=KIND:PATH or {KIND: {path: PATH}}"
    example = "[digits_test, {imagefolder: {path: photos/val, name: val}}]"

    def __init__(self, *default: str) -> None:
        super().__init__(default)

    def parse(self, value: Any) -> tuple[Entry, ...]:
        """Return a tuple of texts and of mappings that contain only plain data."""
        if isinstance(value, str):
            return self.parse_text(value)
        if not isinstance(value, (list, tuple)):
            value = [value]
        return tuple(self._entry(number, entry) for number, entry in enumerate(value, start=1))

    def parse_text(self, text: str) -> tuple[Entry, ...]:
        """Return the same from "A,B", "[A, B]" or "{KIND: {path: PATH}}"."""
        try:
            words = split_list(text)
        except ValueError as error:
            hint = "put quotes around a path with braces or commas: {npz: {path: '{ROOT}/x.npz'}}"
            raise ValueError(*error.args or [hint] * ("path:" in text)) from None
        if all(isinstance(word, str) for word in words):
            return tuple(words)
        inner = text.strip()
        if inner[:1] + inner[-1:] in ("()", "[]"):
            inner = inner[1:-1]
        typed = parse_scalar(f"[{inner}]")
        # Text is kept as typed, such as 2024; options are converted to numbers and booleans, as in YAML.
        return self.parse([w if isinstance(w, str) else value for w, value in zip(words, typed, strict=True)])

    @staticmethod
    def _entry(number: int, entry: Any) -> Entry:
        if not isinstance(entry, dict):
            return Str("").parse(entry)
        if len(entry) != 1:
            raise ValueError(f"entry {number} {_of_several_keys(entry)}")
        ((kind, options),) = entry.items()
        if isinstance(options, str):
            # "imagefolder: photos", with a space, is a mapping in YAML.
            raise ValueError(f"entry {number}: write {kind}:{options} or {_written({kind: {'path': options}})}")
        options = {} if options is None else options
        if not isinstance(kind, str) or not isinstance(options, dict):
            raise ValueError(f"entry {number} is {shown(entry)}; write {{KIND: {{path: PATH}}}}")
        return {kind: {name: _plain(number, name, value) for name, value in options.items()}}


def _of_several_keys(entry: dict[Any, Any]) -> str:
    """Return the mistake in a mapping that does not have exactly one key, and the correct form."""
    if not entry:
        return "is empty; write {KIND: {path: PATH}}"
    first, *others = entry
    if all(isinstance(options, dict) for options in entry.values()):
        several = ", ".join(_written({kind: options}) for kind, options in entry.items())
        return f"names the kinds {', '.join(map(str, entry))}; write an entry for each: [{several}]"
    options = entry[first]
    inner = {"path": options} if isinstance(options, str) else dict(options) if isinstance(options, dict) else {}
    whole = {first: inner | {name: entry[name] for name in others}}
    return f"has the keys {', '.join(map(str, entry))}; options belong below the kind: {_written(whole)}"


def _written(entry: dict[Any, Any]) -> str:
    """Return a mapping on one line as a user would type it, for a message."""
    try:
        text = dump_yaml(entry, default_flow_style=True, width=10**6).strip()
    except yaml.YAMLError:  # set in Python to an object that YAML cannot represent
        return shown(entry)
    return text if len(text) <= _LONGEST else shown(entry)


def _plain(number: int, name: Any, value: Any) -> Any:
    """Return the value of an option with tuples converted to lists, as in YAML."""
    if not isinstance(name, str):
        raise ValueError(f"entry {number} has the option {shown(name)}, which is not text")
    if isinstance(value, (list, tuple)):
        return [_plain(number, name, each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(number, name, each) for key, each in value.items()}
    if value is not None and type(value) not in (str, bool, int, float):
        kind = type(value).__name__
        raise ValueError(f"entry {number}: {name} is of the type {kind}; options are plain data, as in YAML")
    return value
