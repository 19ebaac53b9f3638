"""Types of config keys with several values or with arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .errors import did_you_mean
from .fields import Bool, Field, Float, Int, Str, shown
from .yaml12 import parse_scalar, split_list


class ListOf(Field):
    """Several values of one type, stored as a tuple; accepts a list, a tuple, one value or text such as "1,2".

    >>> steps = ListOf(Int(1), ())
    >>> [steps.parse_text(text) for text in ("100", "100,200", "(100,)", "[100, 1e3]", "()")]
    [(100,), (100, 200), (100,), (100, 1000), ()]
    """

    def __init__(self, item: Field, default: Sequence[Any]) -> None:
        self.item = item
        self.expected = f"a list, each entry {item.expected}"
        self.example = f"[{item.example}]"
        super().__init__(default)

    def parse(self, value: Any) -> tuple[Any, ...]:
        """Return a tuple."""
        if isinstance(value, str):
            return self.parse_text(value)
        if isinstance(value, (list, tuple)):
            return tuple(self.item.parse(entry) for entry in value)
        return (self.item.parse(value),)

    def parse_text(self, text: str) -> tuple[Any, ...]:
        """Return a tuple from "a,b", "(a, b)" or "[a, b]"."""
        entries = split_list(text)
        if not all(isinstance(entry, str) for entry in entries):
            raise ValueError
        return tuple(self.item.parse_text(entry) for entry in entries)


class Entries(Field):
    """An ordered list of names with arguments: `[Name, {Name: {argument: value}}]`.

    >>> Entries().parse(["ToImage", {"RandomCrop": {"size": 28}}])
    (('ToImage', {}), ('RandomCrop', {'size': 28}))
    >>> Entries().parse_text("RandomHorizontalFlip")
    (('RandomHorizontalFlip', {}),)
    """

    expected = "a list of names, each with or without arguments"
    example = "[RandomHorizontalFlip, {RandomCrop: {size: 28, padding: 4}}]"

    def __init__(self) -> None:
        super().__init__(())

    def parse(self, value: Any) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Return a tuple of (name, arguments)."""
        if isinstance(value, str):
            return self.parse_text(value)
        if isinstance(value, dict):
            value = [value]
        if not isinstance(value, (list, tuple)):
            raise ValueError
        return tuple(self._entry(entry) for entry in value)

    def parse_text(self, text: str) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Return the same from "[A, B]", "A,B" or "A"."""
        return self.parse(parse_scalar(text if text.startswith("[") else f"[{text}]"))

    @staticmethod
    def _entry(entry: Any) -> tuple[str, dict[str, Any]]:
        if isinstance(entry, str):
            return entry, {}
        if isinstance(entry, dict) and len(entry) == 1:
            entry = next(iter(entry.items()))
        if not isinstance(entry, (list, tuple)) or len(entry) != 2:
            raise ValueError
        name, arguments = entry
        arguments = {} if arguments is None else arguments
        if isinstance(name, str) and isinstance(arguments, (int, float)):
            argument = "size" if name.endswith(("Resize", "Crop")) else "ARGUMENT"
            raise ValueError(f"arguments have names: write {{{name}: {{{argument}: {shown(arguments)}}}}}")
        if not isinstance(arguments, dict) or not all(isinstance(text, str) for text in (name, *arguments)):
            raise ValueError
        return name, dict(arguments)


class Arguments(Field):
    """Arguments by name, which are checked where they are used.

    >>> Arguments().parse_text("{step_size: 30ep, gamma: 0.5}")
    {'step_size': '30ep', 'gamma': 0.5}
    """

    expected, example = "arguments by their names", "{step_size: 30ep}"

    def __init__(self) -> None:
        super().__init__({})

    def parse(self, value: Any) -> dict[str, Any]:
        """Return a dict; null gives an empty one."""
        value = {} if value is None else value
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise ValueError
        return dict(value)


class Records(Field):
    """An ordered list of mappings with declared keys; a mapping contains the keys that were given.

    >>> phases = Records({"NAME": Str(""), "FROM": Int(0)}, required=["NAME"])
    >>> phases.parse_text("[{NAME: a, FROM: 5}, {NAME: b}]")
    ({'NAME': 'a', 'FROM': 5}, {'NAME': 'b'})
    >>> phases.read("PHASES", "x.yaml:3", [{"NAME": "a", "FORM": 5}])
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: PHASES (x.yaml:3): expected a list of mappings with the keys NAME, FROM; \
got [{'NAME': 'a', 'FORM': 5}] (entry 1 has no key FORM; did you mean FROM?)

    With `text_key` an entry may be text, which is the value of that key:

    >>> Records({"MATCH": Str(""), "UNTIL": Int(0)}, text_key="MATCH").parse(["^b", {"MATCH": "^a", "UNTIL": 5}])
    ({'MATCH': '^b'}, {'MATCH': '^a', 'UNTIL': 5})
    """

    def __init__(self, keys: dict[str, Field], required: Sequence[str] = (), text_key: str = "") -> None:
        self.keys, self.required, self.text_key = keys, tuple(required), text_key
        texts = f"values of {text_key}, or " if text_key else ""
        self.expected = f"a list of {texts}mappings with the keys {', '.join(keys)}"
        self.example = "[{" + ", ".join(f"{key}: {field.example}" for key, field in keys.items()) + "}]"
        super().__init__(())

    def parse(self, value: Any) -> tuple[dict[str, Any], ...]:
        """Return a tuple of dicts."""
        if isinstance(value, str):
            return self.parse_text(value)
        if isinstance(value, dict):
            value = [value]
        if not isinstance(value, (list, tuple)):
            raise ValueError
        return tuple(self._entry(number, entry) for number, entry in enumerate(value, start=1))

    def parse_text(self, text: str) -> tuple[dict[str, Any], ...]:
        """Return the same from "[{A: 1}, {A: 2}]" or "{A: 1}"; with `text_key` other text is one value of it."""
        if self.text_key and not text.lstrip().startswith(("[", "{")):
            return self.parse([text])
        try:
            value = parse_scalar(text)
        except ValueError as error:
            raise ValueError(
                f"{error}; put text with special characters in quotes" if self.text_key else error
            ) from None
        if isinstance(value, str):
            raise ValueError
        return self.parse(value)

    def _entry(self, number: int, entry: Any) -> dict[str, Any]:
        if self.text_key and isinstance(entry, str):
            entry = {self.text_key: entry}
        if not isinstance(entry, dict):
            raise ValueError(f"entry {number} is {shown(entry)}")
        parsed = {}
        for key, value in entry.items():
            if key not in self.keys:
                hint = did_you_mean(str(key), self.keys, otherwise="", show=str)
                raise ValueError(f"entry {number} has no key {key}{hint}")
            try:
                parsed[key] = self.keys[key].parse(value)
            except ValueError as error:
                hint = f"; {error}" if str(error) else ""
                expected = self.keys[key].expected
                raise ValueError(f"entry {number}: {key} is {expected}; got {shown(value)}{hint}") from None
        missing = [key for key in self.required if key not in parsed]
        if missing:
            raise ValueError(f"entry {number} needs {missing[0]}")
        return parsed


class Open:
    """Declares a node whose keys are the arguments of the object that another key names.

    The keys are not known here; they are checked against the signature of the named object when it is built. When
    the name changes, arguments from earlier files or statements are dropped, because they belong to the old name.
    Within one command line or file the order does not matter.

    Args:
        owner: the key in the same section that contains the name, such as "OPTIMIZER" for OPTIMIZER_ARGS.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner

    def __deepcopy__(self, memo: dict[int, Any]) -> Open:
        return self


def field_like(default: Any) -> Field:
    """Return the field that a plain default value declares by its type, as in yacs.

    >>> field_like(0.5).expected, field_like((1, 2)).parse([3])
    ('a number', (3,))
    """
    if isinstance(default, bool):
        return Bool(default)
    if isinstance(default, int):
        return Int(default, minimum=None)
    if isinstance(default, float):
        return Float(default)
    if isinstance(default, str):
        return Str(default)
    if isinstance(default, (list, tuple)):
        return ListOf(field_like(default[0]) if default else Str(""), default)
    raise TypeError(f"no field for a default of type {type(default).__name__}; declare one, as OrNull(Float(0))")
