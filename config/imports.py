"""User code: modules that --import names, and functions in them as "module:function"."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import ConfigError, did_you_mean

# Filled by `import_module` only: a config, which may come from a stranger, cannot import anything.
_IMPORTED: dict[str, ModuleType] = {}


def import_module(name: str, label: str) -> ModuleType:
    """Import a module from the Python path or the current folder, so that configs may refer to its functions.

    Args:
        name: as in an import statement.
        label: where it was named, for messages.

    Raises:
        ConfigError: the module does not exist. Exceptions inside the module are not caught.

    >>> import_module("cmath", "command line: --import cmath").__name__
    'cmath'
    """
    _check_name(name, label)
    # After everything else: a file config.py of the user must not shadow another module.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        _IMPORTED[name] = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] and error.name != name:
            raise
        raise ConfigError(f"{label}: no such module on the Python path or in the current folder") from None
    return _IMPORTED[name]


def import_function(path: str, label: str) -> Callable[..., Any]:
    """Return the function "module:function" of a module that was imported by `import_module`.

    Submodules and the package of an imported module are not included.

    Raises:
        ConfigError: the path is not of this form, the module was not imported by `import_module`, or it does not
            have the function.

    >>> _ = import_module("cmath", "command line: --import cmath")
    >>> import_function("cmath:sqrt", "ARGS")(-9)
    3j
    >>> import_function("cmath:sqr", "ARGS")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: ARGS: the module cmath has no function 'sqr'; did you mean 'sqrt'?
    """
    module_name, colon, name = path.partition(":")
    if not (colon and module_name and name):
        raise ConfigError(f'{label}: expected "module:function"; got {path!r}')
    _check_name(module_name, f"{label}: {path}")
    if module_name not in _IMPORTED:
        raise ConfigError(
            f"{label}: {path} is in a module that no --import names, and a config cannot load code by itself; if "
            f"you trust it, add --import {module_name}"
        )
    function = getattr(_IMPORTED[module_name], name, None)
    if function is not None and not callable(function):
        raise ConfigError(f"{label}: {path} is not a function, but {function!r}")
    if function is None:
        hint = did_you_mean(name, dir(_IMPORTED[module_name]), otherwise="")
        raise ConfigError(f"{label}: the module {module_name} has no function {name!r}{hint}")
    found: Callable[..., Any] = function
    return found


def _check_name(name: str, label: str) -> None:
    if name.endswith(".py") or os.sep in name:
        raise ConfigError(f"{label}: takes a module's name; write {Path(name).stem}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{label}: takes a module's name, as in an import statement; got {name!r}")
