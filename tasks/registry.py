"""The registry of tasks."""

from __future__ import annotations

import inspect

from warmstart.config import ConfigError

from .task import Task

_REGISTRY: dict[str, type[Task]] = {}


def register_task(name: str, cls: type[Task]) -> None:
    """Make `name` usable in MODEL.TASK.

    Args:
        name: the name.
        cls: a subclass of `Task` that implements its abstract methods.

    Raises:
        ConfigError: the name is taken, or the class cannot be a task.

    >>> register_task("numbers", int)
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: task 'numbers': int is not a subclass of warmstart.tasks.Task
    """
    if name in _REGISTRY:
        raise ConfigError(f"a task called {name!r} is registered already; choose another name")
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise ConfigError(
            f"task {name!r}: {getattr(cls, '__name__', cls)} is not a subclass of warmstart.tasks.Task"
        )
    if missing := sorted(cls.__abstractmethods__):
        raise ConfigError(f"task {name!r}: {cls.__name__} does not implement {', '.join(missing)}")
    parameters = [*inspect.signature(cls).parameters.values()]
    if not parameters or parameters[0].name != "info" or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise ConfigError(
            f"task {name!r}: the first argument of {cls.__name__}.__init__ must be info, the DatasetInfo of the"
            " training set; those after it are MODEL.TASK_ARGS"
        )
    kinds = {parameter.kind for parameter in parameters}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        raise ConfigError(
            f"task {name!r}: {cls.__name__}.__init__ takes **kwargs, so a misspelt MODEL.TASK_ARGS would have no"
            " effect; name its arguments"
        )
    _REGISTRY[name] = cls


def task_names() -> list[str]:
    """Return all names that MODEL.TASK may have, sorted.

    >>> "classification" in task_names()
    True
    """
    return sorted(_REGISTRY)


def task_class(name: str) -> type[Task] | None:
    """Return the task registered as `name`; None if there is none."""
    return _REGISTRY.get(name)
