"""Importing what users name: modules and functions of theirs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import ConfigError, nearest


def import_module(name: str, label: str) -> ModuleType:
    """Return a module from the Python path or the current folder.

    Args:
        name: as in an import statement.
        label: who named it, for messages.

    Raises:
        ConfigError: there is no such module; what goes wrong inside it is raised as it is.

    >>> import_module("math", "command line: --import math").__name__
    'math'
    """
    if name.endswith(".py") or os.sep in name:
        stem = Path(name).stem
        raise ConfigError(f"{label}: takes a module's name; write {stem}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{label}: takes a module's name, as in an import statement; got {name!r}")
    # Behind everything else: a user's config.py must not shadow anyone's.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] and error.name != name:
            raise
        raise ConfigError(f"{label}: no such module on the Python path or in the current folder") from None


def import_function(path: str, label: str) -> Callable[..., Any]:
    """Return the function that "module:function" names.

    Raises:
        ConfigError: the path has no such form, or there is no such module or function.

    >>> import_function("math:sqrt", "ARGS")(9)
    3.0
    >>> import_function("math:sqr", "ARGS")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: ARGS: the module math has no function 'sqr'; did you mean 'sqrt'?
    """
    module_name, colon, name = path.partition(":")
    if not (colon and module_name and name):
        raise ConfigError(f'{label}: expected "module:function"; got {path!r}')
    module = import_module(module_name, f"{label}: {path}")
    function = getattr(module, name, None)
    if function is not None and not callable(function):
        raise ConfigError(f"{label}: {path} is no function, but {function!r}")
    if function is None:
        match = nearest(name, dir(module))
        hint = f"; did you mean {match!r}?" if match else ""
        raise ConfigError(f"{label}: the module {module_name} has no function {name!r}{hint}")
    found: Callable[..., Any] = function
    return found
