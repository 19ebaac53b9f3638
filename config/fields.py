"""Types of config keys with a single value; compound_fields.py has those with several values.

A field checks the values of its key, describes them and has an example. The value itself is stored in the node.
Declared types take precedence over YAML's: 1 becomes 1.0 if a float is declared, 1e5 becomes 100000 if an int is
declared, and text is not converted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from numbers import Real
from typing import Any

from .errors import ConfigError, did_you_mean
from .yaml12 import parse_scalar

_GREATEST = 2**63 - 1
_SHOWN = 300  # characters of a value in a message
WITH_UNIT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) ?(ep|%)")


def shown(value: Any) -> str:
    """Return a value as text for a message: in YAML's spelling, and shortened in the middle if it is long.

    >>> shown(None), shown(True), shown("1"), shown(1)
    ('null', 'true', "'1'", '1')
    >>> len(shown([0] * 1000))
    300
    """
    try:
        text = repr(value)
    except ValueError:  # an int with more digits than Python prints
        return "a number of very many digits"
    text = {"None": "null", "True": "true", "False": "false"}.get(text, text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 60]} ... {text[-55:]}"


class Field:
    """A declared key: its default and its valid values.

    Attributes:
        expected: the valid values in words, to follow "expected".
        example: a valid value, as a user would type it.
    """

    expected = "a value"
    example = "1"

    def __init__(self, default: Any) -> None:
        self.default = self.parse(default)

    def parse(self, value: Any) -> Any:
        """Return `value` in the declared type; raise ValueError, optionally with a hint, if it is invalid."""
        raise NotImplementedError

    def parse_text(self, text: str) -> Any:
        """Return the value of `text` from a command line; raise ValueError if it is invalid."""
        return self.parse(parse_scalar(text))

    def read(self, key: str, source: str, value: Any, *, is_text: bool = False) -> Any:
        """Return `value` in the declared type.

        Args:
            key: the full name of the key.
            source: where it was set, for the message.
            value: the value that the user wrote.
            is_text: whether it is text from a command line.

        Raises:
            ConfigError: names the key, its source, the expected and the actual value, and an example.

        >>> Float(0.1, above=0).read("SOLVER.BASE_LR", "x.yaml:3", None)
        Traceback (most recent call last):
        warmstart.config.errors.ConfigError: SOLVER.BASE_LR (x.yaml:3): expected a number above 0; \
got null (for example: SOLVER.BASE_LR 0.1)
        """
        try:
            return self.parse_text(value) if is_text else self.parse(value)
        except ValueError as error:
            hint = str(error) or f"for example: {key} {self.example}"
            label = f"{key} ({source})" if source else key
            raise ConfigError(f"{label}: expected {self.expected}; got {shown(value)} ({hint})") from None

    def __deepcopy__(self, memo: dict[int, Any]) -> Field:
        return self  # fields are immutable, and configs are cloned often


class Bool(Field):
    """True or false; 0, 1, "yes" and "on" are refused.

    >>> Bool(False).parse_text("true")
    True
    """

    expected, example = "true or false", "true"

    def parse(self, value: Any) -> bool:
        """Return a bool."""
        if not isinstance(value, bool):
            raise ValueError
        return value


class Float(Field):
    """A finite number within bounds.

    >>> Float(0.1, above=0).parse(1)
    1.0
    >>> Float(0.1, minimum=0, maximum=1).expected
    'a number of at least 0 and at most 1'
    >>> Float(0.1, minimum=0, below=1).expected
    'a number of at least 0 and below 1'
    """

    kind = "a number"

    def __init__(
        self,
        default: float,
        *,
        above: float | None = None,
        minimum: float | None = None,
        maximum: float | None = None,
        below: float | None = None,
    ) -> None:
        self.above, self.minimum, self.maximum, self.below = above, minimum, maximum, below
        limits = (("above", above), ("of at least", minimum), ("at most", maximum), ("below", below))
        words = " and ".join(f"{word} {limit}" for word, limit in limits if limit is not None)
        self.expected = f"{self.kind} {words}".strip()
        self.example = f"{default:g}"
        super().__init__(default)

    def parse(self, value: Any) -> float:
        """Return a float; NumPy numbers are accepted."""
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]*,[0-9]+", value):
            raise ValueError(f"write it with a point: {value.replace(',', '.')}")
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError
        number = self._convert(value)
        inside = (
            (self.above is None or number > self.above)
            and (self.minimum is None or number >= self.minimum)
            and (self.maximum is None or number <= self.maximum)
            and (self.below is None or number < self.below)
        )
        if not inside:
            raise ValueError
        return number

    def _convert(self, value: Any) -> float:
        try:
            number = float(value)
        except OverflowError:  # an int with more than 308 digits
            raise ValueError from None
        if not math.isfinite(number):
            raise ValueError
        return number


class Int(Float):
    """An integer within bounds, also written as 1e5.

    >>> Int(0).parse(1e5)
    100000
    """

    kind = "a whole number"

    def __init__(self, default: int, *, minimum: int | None = 0, maximum: int | None = None) -> None:
        super().__init__(default, minimum=minimum, maximum=maximum)
        self.example = str(default or 1)

    def _convert(self, value: Any) -> int:
        if value != value // 1:  # also true for nan, and for infinity, whose // is nan
            raise ValueError
        if abs(value) > _GREATEST:  # torch uses 64-bit integers
            raise ValueError(f"whole numbers go up to {_GREATEST:,}")
        return int(value)


class Str(Field):
    """Text; on the command line any word, in a file numbers must be quoted.

    >>> Str("").parse_text("2024"), Str("").parse_text("'2024'")
    ('2024', '2024')
    """

    expected = "text"

    def __init__(self, default: str) -> None:
        self.example = default or "name"
        super().__init__(default)

    def parse(self, value: Any) -> str:
        """Return the text unchanged."""
        if value is None:
            raise ValueError('write "" for none')
        if isinstance(value, (int, float)):
            raise ValueError(f'write it in quotes: "{shown(value)}"')
        if not isinstance(value, str):
            raise ValueError
        return value

    def parse_text(self, text: str) -> str:
        """Return the text, without quotes around it."""
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        return text[1:-1] if quoted else text


class FilePath(Str):
    """The path of a file or folder, which does not have to exist.

    >>> FilePath("").parse("a" * 300)
    Traceback (most recent call last):
    ValueError: a name in a path has at most 255 bytes
    """

    def parse(self, value: Any) -> str:
        """Return the text unchanged."""
        path = super().parse(value)
        if "\0" in path:
            raise ValueError("a path cannot contain a NUL character")
        if any(len(name.encode("utf-8", "surrogatepass")) > 255 for name in path.split("/")):
            raise ValueError("a name in a path has at most 255 bytes")
        return path


class OneOf(Str):
    """One of several words.

    >>> OneOf("linear", ["constant", "linear"]).expected
    'one of constant, linear'
    """

    def __init__(self, default: str, choices: Sequence[str]) -> None:
        self.choices = tuple(choices)
        self.expected = "one of " + ", ".join(choice or '""' for choice in self.choices)
        super().__init__(default)
        self.example = default or next(filter(None, self.choices))

    def parse(self, value: Any) -> str:
        """Return the word."""
        if value not in self.choices:
            hint = did_you_mean(str(value), self.choices, otherwise="", show=str)
            raise ValueError(hint.removeprefix("; "))
        return str(value)

    def parse_text(self, text: str) -> str:
        """Return the word."""
        return self.parse(super().parse_text(text))


class Duration(Field):
    """A duration or point in time: iterations, or a string with the unit ep (epochs) or % (of MAX_ITER).

    >>> field = Duration("5%")
    >>> field.parse_text("1e3"), field.parse_text("90ep"), field.parse("2.5 %")
    (1000, '90ep', '2.5%')
    """

    def __init__(self, default: int | str, *, minimum: int = 0, percent: bool = True) -> None:
        self.iterations = Int(minimum, minimum=minimum)
        self.percent = percent
        units = '"90ep" or "5%"' if percent else '"90ep"'
        self.expected = f"a number of iterations, {minimum} or more, or a string with a unit such as {units}"
        self.example = str(default or 1000)
        super().__init__(default)

    def parse(self, value: Any) -> int | str:
        """Return an int, or the string without spaces."""
        if not isinstance(value, str):
            return int(self.iterations.parse(value))
        match = WITH_UNIT.fullmatch(value)
        if epochs := re.fullmatch(r"([0-9]{1,18}) ?e(poch(e?s)?)?", value.lower()):
            raise ValueError(f"write {epochs[1]}ep")
        if not match or (match[2] == "%" and not self.percent):
            raise ValueError
        if float(match[1]) == 0:
            self.iterations.parse(0)  # 0 of any unit is 0 iterations, which not every key accepts
        return match[1] + match[2]


class OrNull(Field):
    """The values of another field, or null, for keys for which 0 or "" has a meaning.

    >>> OrNull(Float(0.0)).parse_text("null") is None
    True
    """

    def __init__(self, field: Field) -> None:
        self.field = field
        self.expected = f"null or {field.expected}"
        self.example = field.example
        super().__init__(None)

    def parse(self, value: Any) -> Any:
        """Return None or the value of the inner field."""
        return None if value is None else self.field.parse(value)

    def parse_text(self, text: str) -> Any:
        """Return None for null, None, ~ and empty text, else the value of the inner field."""
        return None if text in ("", "~", "null", "Null", "NULL", "None") else self.field.parse_text(text)
