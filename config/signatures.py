"""Checks of arguments in a config against the signature of the function they are for."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from .errors import ConfigError, did_you_mean
from .fields import Bool, Field, Float, Int, OrNull, Str, shown
from .node import CfgNode

# Annotations that are checked here; all others are left to the function.
_DECLARED = re.compile(r"(Optional\[)?(bool|int|float|str)(?(1)\])( \| None)?")
_TYPES: dict[str, Field] = {"bool": Bool(False), "int": Int(0, minimum=None), "float": Float(0.0), "str": Str("")}


def check_arguments(
    label: str,
    name: str,
    function: Callable[..., Any] | inspect.Signature,
    arguments: Mapping[str, Any],
    given: Collection[str] = (),
    written: str = "",
) -> None:
    """Raise ConfigError if `function` does not accept `arguments`.

    Args:
        label: the key that contains the arguments, as the user writes it.
        name: the name of `function`, as the user writes it.
        function: a class or function, or its signature; with **kwargs it accepts all names.
        arguments: the user's arguments; for an open node the message also says where each was set.
        given: arguments that the caller fills in, which the user may not set.
        written: how an argument is written, with %s for its name, if it is missing: "{Resize: {%s: VALUE}}".

    >>> def StepLR(optimizer, step_size: int, gamma: float = 0.1): ...
    >>> check_arguments("ARGS", "StepLR", StepLR, {"step_size": 3}, given=["optimizer"])
    >>> check_arguments("ARGS", "StepLR", StepLR, {"stepsize": 3}, given=["optimizer"])
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: 2 problems:
      ARGS.stepsize: StepLR takes no argument 'stepsize'; did you mean 'step_size'? It takes: step_size, gamma
      ARGS.step_size: StepLR needs it; give it a value
    """
    signature = function if isinstance(function, inspect.Signature) else inspect.signature(function)
    parameters = signature.parameters
    kinds = {p.kind for p in parameters.values()}
    own = {
        n: p
        for n, p in parameters.items()
        if n not in given and n != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    problems = []
    for argument, value in arguments.items():
        where = f"{label}.{arguments.label(argument) if isinstance(arguments, CfgNode) else argument}"
        if argument in own:
            expected = _mismatch(own[argument], value)
            if expected:
                problems.append(f"{where}: {name} expects {expected}; got {shown(value)}")
        elif inspect.Parameter.VAR_KEYWORD not in kinds or argument in given:
            hint, takes = did_you_mean(argument, own), ", ".join(own) or "none"
            problems.append(f"{where}: {name} takes no argument {argument!r}{hint} It takes: {takes}")
    for argument, parameter in own.items():
        if parameter.default is parameter.empty and argument not in arguments:
            how = f": {written.replace('%s', argument)}" if written else ""
            problems.append(f"{label}.{argument}: {name} needs it; give it a value{how}")
    if problems:
        raise ConfigError(problems)


def call(label: str, name: str, function: Callable[..., Any], /, *args: Any, **arguments: Any) -> Any:
    """Return `function(*args, **arguments)`; convert its exceptions to a ConfigError that names the key.

    >>> call("MODEL.ARGS", "int", int, "x")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: MODEL.ARGS: int refuses it: invalid literal for int() with base 10: 'x'
    """
    try:
        return function(*args, **arguments)
    except ConfigError:
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        reason = str(error).partition("\nException raised from")[0]  # after it torch lists a stack trace
        raise ConfigError(f"{label}: {name} refuses it: {reason}") from error


def _mismatch(parameter: inspect.Parameter, value: Any) -> str:
    """Return the expected values in words if `value` does not match the parameter's annotation, else ""."""
    kind = parameter.annotation
    # Annotations are strings under `from __future__ import annotations`.
    match = _DECLARED.fullmatch(kind if isinstance(kind, str) else inspect.formatannotation(kind))
    if not match or value is parameter.default:  # `x: int = None` accepts None
        return ""
    field = _TYPES[match[2]]
    if match[1] or match[3]:
        field = OrNull(field)
    try:
        field.parse(value)
    except ValueError:
        return field.expected
    return ""
