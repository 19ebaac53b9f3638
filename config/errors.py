"""The exception for mistakes of the user, and its messages."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from .common_words import common_word
from .printable import printable

_LISTED = 50  # problems of one error that its message lists
_BEGINNING = 4  # letters from which the beginning of a name suggests it


class ConfigError(ValueError):
    """A mistake in the user's input; the tools print it without a traceback and exit with code 2.

    Args:
        problems: one sentence, or one sentence per mistake.

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
        """Pickle the problems instead of the message, which joins them by line breaks."""
        return type(self), (self.problems,)


@contextmanager
def gathering(problems: list[str]) -> Iterator[None]:
    """Append the problems of a ConfigError to a list instead of raising it, so that others are found too.

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
    """Return the known name most similar to `name`, ignoring case; "" if none is similar enough.

    A name that begins with `name` is similar, too.

    >>> nearest("WarmupMultistepLR", ["WarmupCosineLR", "WarmupMultiStepLR"])
    'WarmupMultiStepLR'
    >>> nearest("multilabel", ["classification", "multilabel_classification"])
    'multilabel_classification'
    >>> nearest("zebra", ["WarmupCosineLR"])
    ''
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    folded = name.casefold()
    longer = [each for each in by_folded if each.startswith(folded) and " " not in each]
    matches = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6) or longer[: len(folded) >= _BEGINNING]
    return by_folded[matches[0]] if matches else ""


def did_you_mean(name: str, known: Iterable[str], otherwise: str = ".", show: Callable[[str], str] = repr) -> str:
    """Return how a message about an unknown name ends its sentence: with the nearest known name, if there is one.

    Args:
        name: what the user wrote.
        known: the names that are accepted.
        otherwise: returned if none of them is near.
        show: how the nearest name is written.

    >>> did_you_mean("Adm", ["SGD", "Adam"])
    "; did you mean 'Adam'?"
    >>> did_you_mean("zebra", ["SGD", "Adam"], otherwise="; known: SGD, Adam")
    '; known: SGD, Adam'
    """
    match = nearest(name, known)
    return f"; did you mean {show(match)}?" if match else otherwise


def unknown_name(label: str, what: str, name: str, known: Iterable[str]) -> ConfigError:
    """Return the error for an unknown name, which lists the known names and suggests the most similar one.

    Args:
        label: the key that contains the name, with its source.
        what: the kind of object, in words: "schedule".
        name: the unknown name.
        known: the known names.

    >>> print(unknown_name("SOLVER.OPTIMIZER", "optimizer", "Adm", ["SGD", "Adam"]))
    SOLVER.OPTIMIZER: no optimizer is called 'Adm'; did you mean 'Adam'? Known: Adam, SGD
    """
    names = sorted(known)
    hint = did_you_mean(name, names)
    return ConfigError(f"{label}: no {what} is called {name!r}{hint} Known: {', '.join(names)}")


#: Keys that were renamed, with their current names.
MOVED = {
    "MODEL.LABEL_SMOOTHING": "MODEL.TASK_ARGS.label_smoothing",
    "TEST.FLIP": "MODEL.TASK_ARGS.flip",
}


def unknown_key(source: str, key: str, known: Sequence[str]) -> ConfigError:
    """Return the error for a key that is not declared, which suggests the key that was probably intended.

    Args:
        source: where the key was set: "x.yaml:12".
        key: the unknown key.
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
    # The right name in the wrong section precedes any other spelling, followed by names in the same section.
    match = " or ".join(name for name in known if name.rpartition(".")[2] == last.upper())
    match = match or inside.get(nearest(last, inside), "")
    if not match and not inside:
        match = nearest(key, known)
    if last == "_BASE_":
        hint = "_BASE_ belongs at the top level of a file"
    elif match:
        hint = f"did you mean {match}?"
    elif "EPOCH" in last.upper():
        hint = "a length in epochs is written SOLVER.MAX_ITER 90ep"
    elif answer := common_word(last):
        hint = f"write {answer}"
    else:
        hint = "config/defaults.py lists all keys"
    return ConfigError(f"{source}: unknown key {key}; {hint}")
