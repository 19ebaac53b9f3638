"""The types a config key can be declared with.

A field knows three things about its key: what values it takes, how to say so, and an example. The
value itself lies in the node. Declared types win over what YAML guessed: 1 becomes 1.0 where a float
is declared, 1e5 becomes 100000 where an int is, and text stays text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from .yaml12 import parse_scalar


class Field:
    """A declared key: its default and the values it takes.

    Attributes:
        expected: the values in words, to follow "expected".
        example: one of them, as a user would type it.
    """

    expected = "a value"
    example = "1"

    def __init__(self, default: Any) -> None:
        self.default = self.parse(default)

    def parse(self, value: Any) -> Any:
        """Return `value` in the declared type; raise ValueError where it does not fit."""
        raise NotImplementedError

    def parse_text(self, text: str) -> Any:
        """Return what `text` from a command line means for this key; ValueError where it does not fit."""
        return self.parse(parse_scalar(text))

    def __deepcopy__(self, memo: dict[int, Any]) -> Field:
        return self  # a field never changes, and configs are cloned often


class Bool(Field):
    """True or false.

    >>> Bool(False).parse_text("true")
    True
    """

    expected, example = "true or false", "true"

    def parse(self, value: Any) -> bool:
        """Return a bool; 0, 1, "yes" and "on" are refused."""
        if not isinstance(value, bool):
            raise ValueError
        return value


class Int(Field):
    """A whole number, also written 1e5.

    >>> Int(0).parse(1e5)
    100000
    """

    def __init__(self, default: int, *, minimum: int | None = 0) -> None:
        self.minimum = minimum
        self.expected = "a whole number" + ("" if minimum is None else f", {minimum} or more")
        self.example = str(default or max(minimum or 0, 1))
        super().__init__(default)

    def parse(self, value: Any) -> int:
        """Return an int."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not float(value).is_integer():
            raise ValueError
        if self.minimum is not None and value < self.minimum:
            raise ValueError
        return int(value)


class Float(Field):
    """A finite number.

    >>> Float(0.1, above=0).parse(1)
    1.0
    """

    def __init__(
        self,
        default: float,
        *,
        above: float | None = None,
        minimum: float | None = None,
        maximum: float | None = None,
    ) -> None:
        self.above, self.minimum, self.maximum = above, minimum, maximum
        limits = [
            f"above {above:g}" if above is not None else "",
            f"{minimum:g} or more" if minimum is not None else "",
            f"{maximum:g} or less" if maximum is not None else "",
        ]
        self.expected = " ".join(["a number", ", ".join(filter(None, limits))]).strip()
        self.example = f"{default:g}"
        super().__init__(default)

    def parse(self, value: Any) -> float:
        """Return a float."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError
        too_low = (self.above is not None and value <= self.above) or (
            self.minimum is not None and value < self.minimum
        )
        if too_low or (self.maximum is not None and value > self.maximum):
            raise ValueError
        return float(value)


class Str(Field):
    """Text; on the command line whatever stands there, in a file a number must be quoted.

    >>> Str("").parse_text("2024"), Str("").parse_text("'2024'")
    ('2024', '2024')
    """

    expected, example = "text", "name"

    def parse(self, value: Any) -> str:
        """Return the text unchanged."""
        if not isinstance(value, str):
            raise ValueError
        return value

    def parse_text(self, text: str) -> str:
        """Return the text, without quotes around it."""
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        return text[1:-1] if quoted else text


class OneOf(Str):
    """One of a few words.

    >>> OneOf("linear", ["constant", "linear"]).expected
    'one of constant, linear'
    """

    def __init__(self, default: str, choices: Sequence[str]) -> None:
        self.choices = tuple(choices)
        self.expected = "one of " + ", ".join(self.choices)
        self.example = default
        super().__init__(default)

    def parse(self, value: Any) -> str:
        """Return the word."""
        if value not in self.choices:
            raise ValueError
        return str(value)

    def parse_text(self, text: str) -> str:
        """Return the word."""
        return self.parse(super().parse_text(text))


class OrNull(Field):
    """What another field takes, or null, where 0 or "" would already mean something.

    >>> OrNull(Float(0.0)).parse_text("null") is None
    True
    """

    def __init__(self, field: Field) -> None:
        self.field = field
        self.expected = f"{field.expected}, or null"
        self.example = field.example
        super().__init__(None)

    def parse(self, value: Any) -> Any:
        """Return None or the inner field's value."""
        return None if value is None else self.field.parse(value)

    def parse_text(self, text: str) -> Any:
        """Return None for null, None and ~, else the inner field's value."""
        return None if text in ("null", "None", "~", "") else self.field.parse_text(text)


class Duration(Field):
    """A length or point in time: iterations, or a string with the unit ep (epochs) or % (of MAX_ITER).

    >>> field = Duration("5%")
    >>> field.parse_text("1e3"), field.parse_text("90ep"), field.parse("2.5%")
    (1000, '90ep', '2.5%')
    """

    _PATTERN = re.compile(r"\d+(\.\d+)?(ep|%)")

    def __init__(self, default: int | str, *, minimum: int = 0, percent: bool = True) -> None:
        self.minimum = minimum
        self.percent = percent
        units = '"90ep" or "5%"' if percent else '"90ep"'
        self.expected = f"iterations ({minimum} or more) or a string with a unit such as {units}"
        self.example = "1000"
        super().__init__(default)

    def parse(self, value: Any) -> int | str:
        """Return an int, or the string without spaces."""
        if not isinstance(value, str):
            return Int(self.minimum, minimum=self.minimum).parse(value)
        text = value.replace(" ", "")
        if not self._PATTERN.fullmatch(text) or (text.endswith("%") and not self.percent):
            raise ValueError
        return text


class ListOf(Field):
    """Several values of one kind, kept as a tuple; a list, a tuple, one value and "1,2" are one thing.

    >>> steps = ListOf(Duration(1), ())
    >>> [steps.parse_text(t) for t in ("100", "100,200", "(100,)", "[100, 5%]", "()")]
    [(100,), (100, 200), (100,), (100, '5%'), ()]
    """

    def __init__(self, item: Field, default: Sequence[Any]) -> None:
        self.item = item
        self.expected = f"a list; each entry {item.expected}"
        self.example = f"[{item.example}]"
        super().__init__(default)

    def parse(self, value: Any) -> tuple[Any, ...]:
        """Return a tuple."""
        if isinstance(value, str):
            return self.parse_text(value)
        if isinstance(value, (list, tuple)):
            return tuple(self.item.parse(v) for v in value)
        return (self.item.parse(value),)

    def parse_text(self, text: str) -> tuple[Any, ...]:
        """Return a tuple from "a,b", "(a, b)" or "[a, b]"."""
        inner = text.strip()
        if inner[:1] + inner[-1:] in ("()", "[]"):
            inner = inner[1:-1]
        words = [word.strip() for word in inner.split(",")]
        if words[-1] == "":
            words.pop()  # "(100,)" and ""
        return tuple(self.item.parse_text(word) for word in words)


class Entries(Field):
    """An ordered list of named things with arguments: `[Name, {Name: {argument: value}}]`.

    >>> Entries().parse(["ToImage", {"RandomCrop": {"size": 28}}])
    (('ToImage', {}), ('RandomCrop', {'size': 28}))
    >>> Entries().parse_text("[RandomHorizontalFlip]")
    (('RandomHorizontalFlip', {}),)
    """

    expected = "a list of names, each with or without arguments"
    example = "[RandomHorizontalFlip, {RandomCrop: {size: 28, padding: 4}}]"

    def __init__(self) -> None:
        super().__init__(())

    def parse(self, value: Any) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Return a tuple of (name, arguments)."""
        if isinstance(value, (str, dict)):
            value = [value]
        if not isinstance(value, (list, tuple)):
            raise ValueError
        return tuple(self._entry(entry) for entry in value)

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
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise ValueError
        return name, dict(arguments)


class Open:
    """Declares a node whose keys are the arguments of what another key names.

    The keys are not known here; whoever builds the named thing checks them against its signature.
    When a later file or command line changes the name, arguments set before it are dropped, because
    they belonged to the old name.

    Args:
        owner: the key beside the node that holds the name, such as "OPTIMIZER" for OPTIMIZER_ARGS.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner

    def __deepcopy__(self, memo: dict[int, Any]) -> Open:
        return self


def field_like(default: Any) -> Field:
    """Return the field that a plain default value declares, as yacs does: by its type.

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
