"""Values that each declared type accepts, from files and Python (`parse`) and a command line (`parse_text`)."""

from __future__ import annotations

import copy
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from warmstart.config import ConfigError
from warmstart.config.fields import Bool, Duration, Field, FilePath, Float, Int, OneOf, OrNull, Str, shown

HUGE = 10**400


@pytest.mark.need("F3", "S11")
@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        (Float(0.1), 1, 1.0),
        (Float(0.1), np.float32(0.5), 0.5),
        (Float(0.1), np.int64(3), 3.0),
        (Float(0.1), Fraction(1, 4), 0.25),
        (Float(0.1, above=0), 1e-300, 1e-300),
        (Float(0.1, minimum=0, maximum=1), 1, 1.0),
        (Int(0), 1e5, 100000),
        (Int(0), np.int64(7), 7),
        (Int(0), 2**63 - 1, 2**63 - 1),
        (Int(0, minimum=None), -3, -3),
        (Bool(False), True, True),
        (Str(""), "10", "10"),
        (OneOf("a", ("a", "b")), "b", "b"),
        (OrNull(Float(0.0)), None, None),
        (OrNull(Float(0.0)), 0, 0.0),
        (Duration(1), 1e3, 1000),
        (Duration(1), "2.5 %", "2.5%"),
        (Duration(1), "90 ep", "90ep"),
        (Duration(1), "0ep", "0ep"),
    ],
)
def test_fields_parse_python_values(field: Field, value: Any, expected: Any) -> None:
    parsed = field.parse(value)
    assert parsed == expected
    assert type(parsed) is type(expected)


@pytest.mark.need("F3", "F5")
@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        (Float(0.1), "1", 1.0),
        (Float(0.1), "1e-4", 1e-4),
        (Float(0.1), "-1e-4", -1e-4),
        (Float(0.1), "1E5", 1e5),
        (Int(0), "1e5", 100000),
        (Int(0), "010", 10),
        (Bool(False), "True", True),
        (Bool(True), "false", False),
        (Str(""), "2024", "2024"),
        (Str(""), "'2024'", "2024"),
        (Str(""), "true", "true"),
        (Str(""), "", ""),
        (Str(""), "'", "'"),
        (Str(""), "a'b'", "a'b'"),
        (OneOf("a", ("a", "b")), "'b'", "b"),
        (OrNull(Float(0.0)), "null", None),
        (OrNull(Float(0.0)), "None", None),
        (OrNull(Float(0.0)), "NULL", None),
        (OrNull(Float(0.0)), "~", None),
        (OrNull(Float(0.0)), "", None),
        (OrNull(Float(0.0)), "0", 0.0),
        (Duration(1), "1e3", 1000),
        (Duration(1), "90ep", "90ep"),
        (Duration(1), "'5%'", "5%"),
    ],
)
def test_fields_parse_text_of_a_command_line(field: Field, text: str, expected: Any) -> None:
    parsed = field.parse_text(text)
    assert parsed == expected
    assert type(parsed) is type(expected)


@pytest.mark.need("F3")
@pytest.mark.parametrize(
    ("field", "values"),
    [
        (Float(0.1), ["0.1", True, None, [0.1], math.nan, math.inf, HUGE, 1j, {}]),
        (Float(0.1, above=0), [0, -1e-9]),
        (Float(0.1, minimum=0, maximum=1), [-1e-9, 1.0000001]),
        (Int(0), ["1", 1.5, True, None, math.nan, math.inf, -1, (1,)]),
        (Int(0, maximum=2**63 - 1), [2**63]),
        (Bool(False), [0, 1, "true", None, np.bool_(True)]),
        (Str(""), [1, 1.5, True, None, ["a"], b"a"]),
        (OneOf("a", ("a", "b")), ["c", "A", None, 1]),
        (OrNull(Float(0.0)), ["null", "0"]),
        (Duration(1), ["100", "5 percent", "90epochs", "-5%", "ep", "1e1%", -1, 1.5, None, True]),
        (Duration(1, minimum=1), [0, "0ep", "0.0%"]),
        (Duration(1, minimum=1, percent=False), ["5%"]),
    ],
)
def test_fields_refuse_other_values(field: Field, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=r"^KEY \(x.yaml:3\): expected "):
            field.read("KEY", "x.yaml:3", value)


@pytest.mark.need("F3")
@pytest.mark.parametrize(
    ("field", "value", "is_text", "message"),
    [
        (Float(0.5, above=0), "abc", True, "a number above 0; got 'abc' (for example: KEY 0.5)"),
        (Float(0.5, above=0), "'0.1'", True, "a number above 0; got \"'0.1'\" (for example: KEY 0.5)"),
        (Float(0.5), "10", False, "a number; got '10' (for example: KEY 0.5)"),
        (Float(0.0, minimum=0), None, False, "a number of at least 0; got null (for example: KEY 0)"),
        (
            Float(0.1, minimum=0, maximum=1),
            2,
            False,
            "a number of at least 0 and at most 1; got 2 (for example: KEY 0.1)",
        ),
        (Int(0), 1.5, False, "a whole number of at least 0; got 1.5 (for example: KEY 1)"),
        (Int(5, minimum=None), "x", True, "a whole number; got 'x' (for example: KEY 5)"),
        (Bool(False), "yes", True, "true or false; got 'yes' (for example: KEY true)"),
        (Str("a"), 2024, False, 'text; got 2024 (write it in quotes: "2024")'),
        (Str("a"), True, False, 'text; got true (write it in quotes: "true")'),
        (Str("a"), None, False, 'text; got null (write "" for none)'),
        (Str("a"), ["b"], False, "text; got ['b'] (for example: KEY a)"),
        (
            OneOf("linear", ("constant", "linear")),
            "Linaer",
            True,
            "one of constant, linear; got 'Linaer' (did you mean linear?)",
        ),
        (
            OneOf("linear", ("constant", "linear")),
            "xyz",
            True,
            "one of constant, linear; got 'xyz' (for example: KEY linear)",
        ),
        (OrNull(Float(0.0)), "x", True, "null or a number; got 'x' (for example: KEY 0)"),
        (
            Duration("5%"),
            "90epochs",
            True,
            'a number of iterations, 0 or more, or a string with a unit such as "90ep" or "5%"; got \'90epochs\''
            " (write 90ep)",
        ),
        (Float(0.1), "0,5", True, "a number; got '0,5' (write it with a point: 0.5)"),
        (
            Duration(40, minimum=1, percent=False),
            "5%",
            True,
            "a number of iterations, 1 or more, or a string with a unit such as \"90ep\"; got '5%'"
            " (for example: KEY 40)",
        ),
    ],
)
def test_fields_say_what_they_expect(field: Field, value: Any, is_text: bool, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        field.read("KEY", "", value, is_text=is_text)
    assert str(caught.value) == f"KEY: expected {message}"


def test_a_default_must_fit_its_own_field() -> None:
    with pytest.raises(ValueError, match="^$"):
        Float(0.0, above=0)


def test_a_field_is_never_copied() -> None:
    field = OrNull(Int(3))
    assert copy.deepcopy({"a": field})["a"] is field


def test_shown_is_what_a_file_would_hold() -> None:
    assert [shown(v) for v in (None, True, False, "None", 1, [None])] == [
        *("null", "true", "false", "'None'", "1", "[None]"),
    ]


def test_shown_of_a_long_value_is_its_ends() -> None:
    assert shown(list(range(100_000))).startswith("[0, 1, 2,")
    assert shown(list(range(100_000))).endswith("99998, 99999]")
    assert len(shown(list(range(100_000)))) == 300
    assert shown(10**5000) == "a number of very many digits"


@pytest.mark.parametrize("field", [Int(0), Duration(1), OrNull(Int(0))])
@pytest.mark.parametrize("value", ["1e308", "9223372036854775808", 2**63, 1e300])
def test_int_refuses_numbers_above_64_bits(field: Field, value: Any) -> None:
    message = r"^X \(x.yaml:1\): expected .*; got .* \(whole numbers go up to 9,223,372,036,854,775,807\)$"
    with pytest.raises(ConfigError, match=message):
        field.read("X", "x.yaml:1", value, is_text=isinstance(value, str))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a\0b", "a path cannot contain a NUL character"),
        ("x" * 256, "a name in a path has at most 255 bytes"),
        ("a/" + "é" * 128, "a name in a path has at most 255 bytes"),
    ],
)
def test_file_path_refuses_text_that_is_not_a_path(path: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"^OUTPUT_DIR \(x.yaml:1\): expected text; got .* \({reason}\)$"):
        FilePath("").read("OUTPUT_DIR", "x.yaml:1", path)
    assert FilePath("").parse("/".join(["x" * 255] * 3)) == "/".join(["x" * 255] * 3)
