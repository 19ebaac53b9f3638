"""Attributes that are set once, or that another object has."""

from __future__ import annotations

from typing import Any


class _Kept:
    # Without __get__: what is in the instance is found as fast as without this.

    def __init__(self, instead: str) -> None:
        self._instead = instead

    def __set_name__(self, owner: type, name: str) -> None:
        self._name, self._owner = name, owner.__name__

    def __set__(self, instance: object, value: object) -> None:
        if self._name in vars(instance):
            raise AttributeError(
                f"a {self._owner} keeps its {self._name}, which other objects of the run hold too; {self._instead}"
            )
        vars(instance)[self._name] = value


def kept(instead: str) -> Any:
    """Return an attribute of a class that can be set once in each instance, typically by its constructor.

    Args:
        instead: what to do instead of setting it again, for the message of the AttributeError.

    >>> class Run:
    ...     seed: int = kept("make another Run")
    >>> run = Run()
    >>> run.seed = 1
    >>> run.seed = 2
    Traceback (most recent call last):
    AttributeError: a Run keeps its seed, which other objects of the run hold too; make another Run
    """
    return _Kept(instead)


class _Delegated:
    def __init__(self, to: str) -> None:
        self._to = to

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else getattr(getattr(instance, self._to), self._name)

    def __set__(self, instance: object, value: object) -> None:
        setattr(getattr(instance, self._to), self._name, value)


def delegated(to: str) -> Any:
    """Return an attribute that is read from, and written to, the object in another attribute.

    >>> class Engine:
    ...     oil = 3
    >>> class Car:
    ...     oil: int = delegated("engine")
    ...     def __init__(self): self.engine = Engine()
    >>> car = Car()
    >>> car.oil = 5
    >>> car.engine.oil
    5
    """
    return _Delegated(to)
