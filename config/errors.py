"""The one exception for what a user typed wrong, and the sentences it is made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from .printable import printable

_LISTED = 50  # problems of one error that its message lists


class ConfigError(ValueError):
    """A mistake in what the user wrote; the tools print it without a traceback and exit with code 2.

    Args:
        problems: one sentence, or one sentence for each mistake.

    >>> print(ConfigError("SOLVER.BASE_LR: expected a number above 0; got -1"))
    SOLVER.BASE_LR: expected a number above 0; got -1
    >>> print(ConfigError(["first", "second"]))
    2 problems:
      first
      second
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        given = [problems] if isinstance(problems, str) else problems
        self.problems = [printable(problem) for problem in given]
        if len(self.problems) == 1:
            super().__init__(self.problems[0])
        else:
            first, more = self.problems[:_LISTED], len(self.problems) - _LISTED
            last = [f"and {more:,} more"] if more > 0 else []
            super().__init__("\n  ".join([f"{len(self.problems)} problems:", *first, *last]))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        """Pickle the problems: their common text has line breaks of its own."""
        return type(self), (self.problems,)


@contextmanager
def gathering(problems: list[str]) -> Iterator[None]:
    """Put the problems of a ConfigError into a list instead of raising it, so that others are found too.

    >>> problems = []
    >>> with gathering(problems):
    ...     raise ConfigError("first")
    >>> problems
    ['first']
    """
    try:
        yield
    except ConfigError as error:
        problems += error.problems


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name most like `name`, or "" where none is near; case does not count.

    >>> nearest("WarmupMultistepLR", ["WarmupCosineLR", "WarmupMultiStepLR"])
    'WarmupMultiStepLR'
    >>> nearest("zebra", ["WarmupCosineLR"])
    ''
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[matches[0]] if matches else ""


def unknown_name(label: str, what: str, name: str, known: Iterable[str]) -> ConfigError:
    """Return the error for a name that must be one of a set: it lists the set and the nearest match.

    Args:
        label: the key that holds the name, with its source.
        what: what the name stands for, in words: "schedule".
        name: what the user wrote.
        known: the names that would do.

    >>> print(unknown_name("SOLVER.OPTIMIZER", "optimizer", "Adm", ["SGD", "Adam"]))
    SOLVER.OPTIMIZER: no optimizer is called 'Adm'; did you mean 'Adam'? Known: Adam, SGD
    """
    names = sorted(known)
    match = nearest(name, names)
    hint = f"; did you mean {match!r}?" if match else "."
    return ConfigError(f"{label}: no {what} is called {name!r}{hint} Known: {', '.join(names)}")


#: Keys that are called something else now.
MOVED = {
    "MODEL.LABEL_SMOOTHING": "MODEL.TASK_ARGS.label_smoothing",
    "TEST.FLIP": "MODEL.TASK_ARGS.flip",
}


def unknown_key(source: str, key: str, known: Sequence[str]) -> ConfigError:
    """Return the error for a key that is not declared; it names the key that was probably meant.

    Args:
        source: who wrote the key: "x.yaml:12".
        key: what stands there.
        known: all sections and keys.

    >>> known = ["SOLVER", "SOLVER.BASE_LR", "SOLVER.GAMMA"]
    >>> for key in ("SOLVER.BASE_RL", "base_lr", "SOLVER.MAX_EPOCHS"):
    ...     print(unknown_key("x.yaml:1", key, known))
    x.yaml:1: unknown key SOLVER.BASE_RL; did you mean SOLVER.BASE_LR?
    x.yaml:1: unknown key base_lr; did you mean SOLVER.BASE_LR?
    x.yaml:1: unknown key SOLVER.MAX_EPOCHS; a length in epochs is written SOLVER.MAX_ITER 90ep
    """
    if key in MOVED:
        return ConfigError(f"{source}: unknown key {key}; it is called {MOVED[key]} now")
    section, _, last = key.rpartition(".")
    inside = {name.removeprefix(f"{section}."): name for name in known if name.startswith(f"{section}.")}
    # The right name in the wrong section is nearer than any spelling; a name in its own section comes next.
    match = " or ".join(name for name in known if name.rpartition(".")[2] == last.upper())
    match = match or inside.get(nearest(last, inside), "")
    if not match and not inside:
        match = nearest(key, known)
    if last == "_BASE_":
        hint = "_BASE_ stands at the top level of a file"
    elif match:
        hint = f"did you mean {match}?"
    elif "EPOCH" in last.upper():
        hint = "a length in epochs is written SOLVER.MAX_ITER 90ep"
    else:
        hint = "config/defaults.py lists all keys"
    return ConfigError(f"{source}: unknown key {key}; {hint}")
