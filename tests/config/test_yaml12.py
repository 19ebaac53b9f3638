"""YAML 1.2 where PyYAML reads 1.1, and plain data only."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from warmstart.config.yaml12 import Loader, dump_yaml, numbers_in, parse_scalar, split_list


@pytest.mark.need("F5", "S11")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-1e-4", -1e-4),
        ("+2", 2),
        (".5", 0.5),
        ("5.", 5.0),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("[1e-4, 1e-3]", [1e-4, 1e-3]),
        ("{a: 1e3}", {"a": 1e3}),
        ("-.INF", -math.inf),
        ("true", True),
        ("False", False),
        ("~", None),
        ("Null", None),
        ("", None),
        ("'10'", "10"),
        ('"1e-4"', "1e-4"),
        ("on", "on"),
        ("yes", "yes"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("1e", "1e"),
        ("=", "="),
        ("a: b: c", "a: b: c"),
        ("*.png", "*.png"),
        ("!!python/name:os.system", "!!python/name:os.system"),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    parsed = parse_scalar(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_nan_is_a_float() -> None:
    assert math.isnan(parse_scalar(".NaN"))


@pytest.mark.parametrize("text", ["[1, 2", "{", "{a: 1, a: 2}", "[!!int 3]"])
def test_parse_scalar_refuses_a_broken_list_or_mapping(text: str) -> None:
    with pytest.raises(ValueError, match="expected|written twice|takes no tags"):
        parse_scalar(text)


@pytest.mark.need("F4")
@pytest.mark.parametrize("text", ["1,2", "1, 2", "(1, 2)", "[1, 2]", "(1,2,)", " [1,2] ", "'1', \"2\""])
def test_split_list_accepts_all_forms_of_a_list(text: str) -> None:
    assert split_list(text) == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("x-{00..11}.tar", ["x-{00..11}.tar"]),
        ("{a,b}/x-{0..9}.tar#image=png, y", ["{a,b}/x-{0..9}.tar#image=png", "y"]),
        ("[x-{a,b}.tar,y-{a, b}.tar]", ["x-{a,b}.tar", "y-{a, b}.tar"]),
    ],
)
def test_braces_within_a_word_belong_to_it(text: str, entries: list[str]) -> None:
    assert split_list(text) == entries


@pytest.mark.parametrize("text", ["1,,2", "[1", "(1], 2", "x-{a,b", "x-{a,,{b}"])
def test_split_list_refuses_broken_lists(text: str) -> None:
    with pytest.raises(ValueError, match="^$"):
        split_list(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.9,0.999", [0.9, 0.999]),
        ("(0.9, 0.999)", [0.9, 0.999]),
        ("30,", [30]),
        ("30", "30"),
        ("a,1", "a,1"),
        ("1,[2]", "1,[2]"),
        ("1,,2", "1,,2"),
    ],
)
def test_numbers_with_commas_are_a_list_where_no_type_is_declared(text: str, value: Any) -> None:
    assert numbers_in(text) == value


@pytest.mark.parametrize(
    "value",
    [
        "1e5",
        "on",
        "yes",
        "0o17",
        "010",
        "12:30",
        "null",
        "",
        " a ",
        "a: b",
        "2.5%",
        "ü",
        "a\nb",
        1e-5,
        1e20,
        3,
        None,
    ]
    + [True, [0.9, 0.95], [["A", {}], ["B", {"c": 1}]], {"a": {"b": ["1"]}}],
)
def test_dump_yaml_is_read_back_unchanged(value: Any) -> None:
    text = dump_yaml({"KEY": value, "AGAIN": value})
    assert yaml.load(text, Loader) == {"KEY": value, "AGAIN": value}
    assert "&id" not in text


def laughs(of: str, depth: int) -> str:
    """A list or mapping with some lines of aliases, nine on each level."""
    lines = ["X0: &a0 " + of.format("1, 1, 1" if "[" in of else "x: 1")]
    for level in range(1, depth):
        several = [f"*a{level - 1}" if "[" in of else f"k{n}: *a{level - 1}" for n in range(9)]
        lines.append(f"X{level}: &a{level} " + of.format(", ".join(several)))
    return "\n".join(lines)


@pytest.mark.parametrize("of", ["[{}]", "{{{}}}"])
def test_aliases_that_stand_for_billions_of_values_are_refused(of: str) -> None:
    with pytest.raises(yaml.MarkedYAMLError, match="more than 50,000 values"):
        yaml.load(laughs(of, 12), Loader)
    assert len(yaml.load(laughs(of, 4), Loader)["X3"]) == 9


def test_merge_keys_of_aliases_are_counted_too() -> None:
    lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12))]
    with pytest.raises(yaml.MarkedYAMLError, match="more than 50,000 values"):
        yaml.load("\n".join(lines), Loader)


def test_a_list_as_text_has_a_greatest_length() -> None:
    assert len(split_list(",".join("1" * 1000))) == 1000
    with pytest.raises(ValueError, match="more than 65,536 characters"):
        split_list("1," * 40_000)
