"""Regular expressions that select parameters by name: the first of a list that matches applies."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from .errors import ConfigError

_SHOWN = 3  # patterns without effect


def pattern_problem(pattern: str) -> str:
    """Return what is wrong with a regular expression for names; "" if nothing is.

    >>> pattern_problem("^fc"), pattern_problem("")
    ('', "is empty and matches everything; write '.' if that is intended")
    """
    if not pattern:
        return "is empty and matches everything; write '.' if that is intended"
    try:
        re.compile(pattern)
    except re.error as error:
        return f"is not a regular expression: {error}"
    return ""


def first_matches(patterns: Sequence[str], names: Sequence[str], what: str = "rule") -> dict[str, int]:
    """Return for each name the number of the first pattern that is found in it (re.search), from 1; 0: none is.

    Args:
        patterns: valid regular expressions.
        names: of the trainable parameters of a model.
        what: what a pattern is called in messages.

    Raises:
        ConfigError: a pattern is the first match of no name.

    >>> first_matches(["bias$", "^fc"], ["conv.weight", "fc.weight", "fc.bias"])
    {'conv.weight': 0, 'fc.weight': 2, 'fc.bias': 1}
    >>> first_matches(["^head"], ["conv.weight", "fc.weight"])
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: rule 1, MATCH '^head': matches no trainable parameter; the nearest names \
are fc.weight, conv.weight
    """
    first = dict.fromkeys(names, 0)
    for number, pattern in enumerate(patterns, start=1):
        search = re.compile(pattern).search
        for name in [name for name, found in first.items() if not found and search(name)]:
            first[name] = number
    idle = sorted({*range(1, len(patterns) + 1)} - {*first.values()})
    problems = []
    for number in idle[:_SHOWN]:
        pattern = patterns[number - 1]
        taken = [name for name in names if re.search(pattern, name)]
        if taken:
            above = f"{what} {first[taken[0]]} above it"
            reason = f"{above} matches all of its parameters, such as {taken[0]}; put this {what} first"
        else:
            plain = re.sub(r"\\[AbBdDsSwWZ]|[^\w.]", "", pattern)
            near = difflib.get_close_matches(plain, names, n=3, cutoff=0.0)
            reason = f"matches no trainable parameter; the nearest names are {', '.join(near)}"
        problems.append(f"{what} {number}, MATCH {pattern!r}: {reason}")
    if idle[_SHOWN:]:
        problems.append(f"{len(idle) - _SHOWN:,} more of the {len(patterns):,} {what}s have no effect either")
    if problems:
        raise ConfigError(problems)
    return first
