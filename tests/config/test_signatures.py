"""Arguments checked against signatures."""

from __future__ import annotations

import inspect
from typing import Any, Optional

import pytest
import torch

from warmstart.config import CfgNode, ConfigError, call, check_arguments, get_cfg
from warmstart.config.signatures import _mismatch


def takes(size: int, rate: float = 0.1, flag: bool = False, name: str = "a", *, limit: int = None, any=3):  # type: ignore  # noqa
    return size


class Anything:
    def __init__(self, first: int, **rest: Any) -> None: ...


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 3},
        {"size": 1e3},
        {"size": 3, "rate": 1, "flag": True, "name": "b", "limit": None},
        {"size": 3, "any": [1]},
        {"size": 3, "any": 0.5},
    ],
)
def test_check_arguments_accepts_matching_arguments(arguments: dict[str, Any]) -> None:
    check_arguments("ARGS", "takes", takes, arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "^ARGS.size: takes needs it; give it a value$"),
        (
            {"size": 3, "rat": 1},
            "^ARGS.rat: takes takes no argument 'rat'; did you mean 'rate'.* size, rate, ",
        ),
        (
            {"size": 3, "zzz": 1},
            "^ARGS.zzz: takes takes no argument 'zzz'. It takes: size, rate, flag, name, limit, any$",
        ),
        ({"size": 1.5}, "^ARGS.size: takes expects a whole number; got 1.5$"),
        ({"size": "3"}, "^ARGS.size: takes expects a whole number; got '3'$"),
        ({"size": True}, "^ARGS.size: takes expects a whole number; got true$"),
        ({"size": None}, "^ARGS.size: takes expects a whole number; got null$"),
        ({"size": 3, "rate": [0.1]}, r"^ARGS.rate: takes expects a number; got \[0.1\]$"),
        ({"size": 3, "flag": 1}, "^ARGS.flag: takes expects true or false; got 1$"),
        ({"size": 3, "name": 1}, "^ARGS.name: takes expects text; got 1$"),
        ({"rat": 1, "flag": "x"}, r"(?s)^3 problems:.*'rat'.*true or false.*needs it"),
    ],
)
def test_check_arguments_refuses_unknown_missing_and_wrong_arguments(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_arguments("ARGS", "takes", takes, arguments)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (bool | None, "maybe", "null or true or false"),
        (Optional[bool], "maybe", "null or true or false"),  # noqa: UP045
        ("bool | None", "maybe", "null or true or false"),
        ("Optional[int]", 1.5, "null or a whole number"),
        (Optional[float], None, ""),  # noqa: UP045
        ("float | None", 1, ""),
        (int | str, 1.5, ""),
        ("list[int]", 3, ""),
        (tuple[float, float], 3, ""),
    ],
)
def test_optional_types(annotation: Any, value: Any, expected: str) -> None:
    parameter = inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
    assert _mismatch(parameter, value) == expected


def test_check_arguments_refuses_arguments_that_the_caller_fills_in() -> None:
    check_arguments("ARGS", "SGD", torch.optim.SGD, {"dampening": 0.1}, given=("params", "lr"))
    with pytest.raises(ConfigError, match="^ARGS.lr: SGD takes no argument 'lr'. It takes: momentum, dampening, "):
        check_arguments("ARGS", "SGD", torch.optim.SGD, {"lr": 0.1}, given=("params", "lr"))
    with pytest.raises(ConfigError, match="^ARGS.first: Anything takes no argument 'first'. It takes: none$"):
        check_arguments("ARGS", "Anything", Anything, {"first": 1, "x": 2}, given=("first",))


def test_check_arguments_of_an_open_node_names_the_source_of_each_argument(merged: Any) -> None:
    cfg = merged("MODEL:\n  ARGS:\n    size: big\n", "MODEL.ARGS.rat", "1")
    with pytest.raises(ConfigError) as caught:
        check_arguments("MODEL.ARGS", "takes", takes, cfg.MODEL.ARGS)
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [
        "MODEL.ARGS.size (x.yaml:3)",
        "MODEL.ARGS.rat (override)",
    ]


def test_call_names_the_key_of_arguments_that_the_function_refuses() -> None:
    assert call("ARGS", "takes", takes, 3) == 3
    for error in (TypeError("a bad type"), ValueError("a bad value")):
        with pytest.raises(ConfigError, match=f"^ARGS: it refuses it: {error}$") as caught:
            call("ARGS", "it", _raising, error)
        assert caught.value.__cause__ is error
    with pytest.raises(ConfigError, match="^told already$"):
        call("ARGS", "it", _raising, ConfigError("told already"))
    with pytest.raises(RuntimeError, match="a bug"):
        call("ARGS", "it", _raising, RuntimeError("a bug"))


def _raising(error: Exception) -> None:
    raise error


def test_check_arguments_of_an_empty_open_node() -> None:
    node: CfgNode = get_cfg().MODEL.ARGS
    with pytest.raises(ConfigError, match="needs it"):
        check_arguments("MODEL.ARGS", "takes", takes, node)
