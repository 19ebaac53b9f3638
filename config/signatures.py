"""Checking a config's open arguments against the signature of what they are for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from .errors import ConfigError, nearest


def check_arguments(
    label: str,
    name: str,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    given: Collection[str] = (),
) -> None:
    """Raise ConfigError where `function` would not take `arguments`.

    Args:
        label: the key that holds the arguments, as the user writes it.
        name: the name of `function`, as the user writes it.
        function: a class or function; one that takes **kwargs gets anything.
        arguments: what the user wrote.
        given: arguments that the caller fills itself, and the user may not.

    >>> def StepLR(optimizer, step_size: int, gamma: float = 0.1): ...
    >>> check_arguments("ARGS", "StepLR", StepLR, {"step_size": 3}, given=["optimizer"])
    >>> check_arguments("ARGS", "StepLR", StepLR, {"stepsize": 3}, given=["optimizer"])
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: 2 problems:
      ARGS.stepsize: StepLR takes no argument 'stepsize'; did you mean 'step_size'? It takes: step_size, gamma
      ARGS.step_size: StepLR needs it; set ARGS.step_size
    """
    parameters = inspect.signature(function).parameters
    kinds = {p.kind for p in parameters.values()}
    own = {
        n: p
        for n, p in parameters.items()
        if n not in given and n != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    problems = []
    for argument, value in arguments.items():
        if argument in own:
            wrong = _mismatch(own[argument], value)
            if wrong:
                problems.append(f"{label}.{argument}: {name} expects {wrong}; got {value!r}")
        elif inspect.Parameter.VAR_KEYWORD not in kinds or argument in given:
            match = nearest(argument, own)
            hint = f" did you mean {match!r}?" if match else ""
            takes = ", ".join(own) or "none"
            problems.append(f"{label}.{argument}: {name} takes no argument {argument!r};{hint} It takes: {takes}")
    for argument, parameter in own.items():
        if parameter.default is parameter.empty and argument not in arguments:
            problems.append(f"{label}.{argument}: {name} needs it; set {label}.{argument}")
    if problems:
        raise ConfigError(problems)


def call(label: str, name: str, function: Callable[..., Any], *args: Any, **arguments: Any) -> Any:
    """Return `function(*args, **arguments)`; what it refuses becomes a ConfigError that names the key.

    >>> call("MODEL.ARGS", "int", int, "x")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: MODEL.ARGS: int refuses it: invalid literal for int() with base 10: 'x'
    """
    try:
        return function(*args, **arguments)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{label}: {name} refuses it: {error}") from error


def _mismatch(parameter: inspect.Parameter, value: Any) -> str:
    """Return what the parameter expects where `value` is plainly of another kind, else ""."""
    kind = parameter.annotation
    if kind is parameter.empty:
        kind = type(parameter.default)
    # Annotations are strings under `from __future__ import annotations`.
    kind = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    if kind in ("int", "float") and (isinstance(value, (bool, str, list, tuple, dict)) or value is None):
        return "a number" if kind == "float" else "a whole number"
    if kind == "int" and isinstance(value, float) and not value.is_integer():
        return "a whole number"
    if kind == "bool" and not isinstance(value, bool):
        return "true or false"
    return ""
