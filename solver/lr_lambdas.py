"""User-defined functions in schedules, as lr_lambda of LambdaLR and MultiplicativeLR or scale_fn of CyclicLR."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from warmstart.config import ConfigError, import_function

from .schedules import drops


@dataclass(frozen=True)
class Checked:
    """A user-defined function whose values are checked: each must be a finite number, and is returned as a float.

    Args:
        function: from the count to a factor.
        label: its name in messages.

    Raises:
        ConfigError: when called: the function fails, or returns something that is not a finite number.

    >>> Checked(lambda t: 1 / (1 + t), "lr_lambda inverse")(3)
    0.25
    >>> Checked(len, "lr_lambda len")(3)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: lr_lambda len: must take the count and return a number; at 3: \
object of type 'int' has no len()
    """

    function: Callable[[int], Any]
    label: str

    def __call__(self, t: int) -> float:
        """Return the value at t."""
        try:
            value = float(self.function(t))
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ConfigError(f"{self.label}: must take the count and return a number; at {t}: {error}") from error
        if not math.isfinite(value):
            raise ConfigError(f"{self.label}: returned {value} at {t}; a factor must be finite")
        return value

    def drops(self, end: int) -> Iterable[int]:
        """Return the drops of the function, if it has a method for them."""
        return drops(self.function, end)


LAMBDAS: dict[str, Callable[[int], float]] = {}


def register_lr_lambda(name: str, function: Callable[[int], float]) -> None:
    """Register a function under a name, for lr_lambda of LambdaLR and MultiplicativeLR and scale_fn of CyclicLR.

    Args:
        name: the name.
        function: from the count to a factor; for scale_fn with scale_mode "cycle", from the number of the cycle.

    Raises:
        ConfigError: the name is taken.

    >>> register_lr_lambda("inverse", lambda t: 1 / (1 + t))
    >>> user_function("lr_lambda", "inverse")(3)
    0.25
    >>> del LAMBDAS["inverse"]
    """
    if name in LAMBDAS:
        raise ConfigError(f"a function called {name!r} is registered already; choose another name")
    LAMBDAS[name] = function


def user_function(name: str, value: Any) -> Callable[[int], float]:
    """Return the function that an argument of a schedule refers to, with its values checked.

    Args:
        name: the argument, for messages.
        value: a function, a registered name, or "module:function" of a module that --import names.

    Raises:
        ValueError: `value` is none of these.
    """
    if callable(value):
        return Checked(value, name)
    if isinstance(value, str) and value in LAMBDAS:
        return Checked(LAMBDAS[value], f"{name} {value}")
    if isinstance(value, str) and re.fullmatch(r"[\w.]+:\w+", value):
        try:
            return Checked(import_function(value, name), f"{name} {value}")
        except ConfigError as error:
            raise ValueError(str(error)) from None  # the caller knows the key
    known = f"; registered: {', '.join(sorted(LAMBDAS))}" if LAMBDAS else ""
    raise ValueError(f'{name} must be a registered function or "module:function"; got {value!r}{known}')
