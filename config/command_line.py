"""Command lines of flags and KEY VALUE overrides in any order.

argparse does not support this: REMAINDER includes a `--resume` that follows an override, and intermixed parsing
treats the value -1e-4 as a flag.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .common_words import common_word
from .errors import ConfigError, did_you_mean


class Flag(NamedTuple):
    """A flag of a tool.

    Attributes:
        name: "--config-file".
        value: the values that follow it: "none", "one", "many" (one or more, up to the next flag or key), or
            "path" (an optional path).
        help: one line for --help.
        repeated: whether all occurrences are collected; otherwise the last one is used.
        convert: converts the text of a value; raises ValueError if the text is invalid.
    """

    name: str
    value: Literal["none", "one", "many", "path"]
    help: str
    repeated: bool = False
    convert: Callable[[str], Any] = str

    @property
    def key(self) -> str:
        """The name of the flag in the parsed result: "config_file"."""
        return self.name.lstrip("-").replace("-", "_")

    @property
    def absent(self) -> Any:
        """The value of a flag that was not given."""
        return [] if self.repeated else False if self.value == "none" else None


def parse_command_line(
    argv: Sequence[str], flags: Sequence[Flag], is_key: Callable[[str], bool] = lambda word: False
) -> tuple[dict[str, Any], list[str]]:
    """Split a command line into flags and overrides.

    Args:
        argv: the words after the program's name.
        flags: the known flags.
        is_key: returns whether a word is a config key; such a word is never an optional path.

    Returns:
        The value of each flag by its `key` ("" for an omitted optional path), and the other words in order. Of a
        flag that is given twice the last value is used, unless it is `repeated`.

    Raises:
        ConfigError: a flag is unknown, lacks its value or has an invalid one.

    >>> flags = [Flag("--config-file", "one", ""), Flag("--resume", "path", "")]
    >>> parse_command_line(["SOLVER.BASE_LR", "-1e-4", "--resume", "--config-file", "x.yaml"], flags)
    ({'config_file': 'x.yaml', 'resume': ''}, ['SOLVER.BASE_LR', '-1e-4'])
    """
    by_name = {flag.name: flag for flag in flags}
    found: dict[str, Any] = {flag.key: flag.absent for flag in flags}
    overrides: list[str] = []
    problems: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, text = word.partition("=")
        if not word.startswith("--") and not (_is_short_flag(name) and not (overrides and is_key(overrides[-1]))):
            overrides.append(word)
            continue
        if name not in by_name:
            if not equals and words and _is_argument(words[0], is_key):
                text = words.pop(0)
            problems.append(f"command line: unknown flag {name}{_instead(name, text, by_name, is_key)}")
            continue
        flag = by_name[name]
        value = _value(flag, text if equals else None, words, is_key)
        if flag.repeated:
            found[flag.key].append(value)
        else:
            found[flag.key] = value
    if problems:
        raise ConfigError(problems)
    return found, overrides


def _is_short_flag(word: str) -> bool:
    """Return whether a word is a flag of one dash that other programs have: -b, -lr; -1e-4 is a value."""
    return word.startswith("-") and bool(common_word(word))


def _is_argument(word: str, is_key: Callable[[str], bool]) -> bool:
    """Return whether the word after an unknown flag is its value."""
    return not word.startswith("-") and not is_key(word.partition("=")[0])


def _instead(name: str, value: str, known: Collection[str], is_key: Callable[[str], bool]) -> str:
    """Return how the message about an unknown flag ends: with what to type instead, if that is known."""
    answer = common_word(name, value)
    word = answer.partition(" ")[0]
    begins = any(flag.startswith(name) for flag in known)  # --gpu, where the tool has --gpus
    if not begins and (word in known or is_key(word)):
        return f"; write {answer}"
    return did_you_mean(name, known, f"; known: {', '.join(known)}", show=str)


def _value(flag: Flag, text: str | None, words: list[str], is_key: Callable[[str], bool]) -> Any:
    """Return the value of a flag from the text after its "=", or else from the words that follow it."""
    if flag.value == "none":
        if text is not None:
            raise ConfigError(f"command line: {flag.name} takes no value; got {text!r}")
        return True
    if text is None:
        text = words.pop(0) if words and _is_value(flag, words[0], is_key) else ""
    if not text and flag.value in ("one", "many"):
        raise ConfigError(f"command line: {flag.name} needs a value")
    try:
        if flag.value != "many":
            return flag.convert(text)
        values = [flag.convert(text)]
        while words and _is_value(flag, words[0], is_key):
            text = words.pop(0)
            values.append(flag.convert(text))
        return values
    except ValueError as error:
        raise ConfigError(f"command line: {flag.name} {text}: {error}") from None


def _is_value(flag: Flag, word: str, is_key: Callable[[str], bool]) -> bool:
    if flag.value == "one":
        return not word.startswith("--")
    if flag.value == "many":
        return not word.startswith("--") and not is_key(word.partition("=")[0])
    return (word.endswith(".pth") or os.path.exists(word)) and not is_key(word.partition("=")[0])


def started_as(argv: Sequence[str]) -> list[str]:
    """Return the words of the process's command line before the arguments of a tool: the script and its command.

    Args:
        argv: the arguments of the tool. If the command line does not end with them, a program has passed them to
            the tool's `main`, and only the script is returned.

    >>> from unittest.mock import patch
    >>> with patch("sys.argv", ["bin/warmstart", "train", "--resume"]):
    ...     started_as(["--resume"]), started_as(["SEED", "1"])
    (['bin/warmstart', 'train'], ['bin/warmstart'])
    """
    own = len(sys.argv) - len(argv)
    return sys.argv[:own] if own > 0 and sys.argv[own:] == [*argv] else sys.argv[:1]


def program(argv: Sequence[str]) -> str:
    """Return the name of a tool for its usage, as it was typed: "train_net.py" or "warmstart train".

    Args:
        argv: the arguments of the tool.

    >>> from unittest.mock import patch
    >>> with patch("sys.argv", ["bin/warmstart", "train", "--help"]):
    ...     program(["--help"])
    'warmstart train'
    """
    script, *command = started_as(argv)
    return " ".join([Path(script).name, *command])


def usage(program: str, summary: str, flags: Sequence[Flag]) -> str:
    """Return the text of --help."""
    value = {"none": "", "one": " VALUE", "many": " VALUES", "path": " [PATH]"}
    lines = [f"usage: {program} [flags] [KEY VALUE | KEY=VALUE ...]", "", *textwrap.wrap(summary, 100), ""]
    lines += [f"  {flag.name + value[flag.value]:<24} {flag.help}" for flag in flags]
    return "\n".join([*lines, "", "config/defaults.py describes every KEY; flags may appear anywhere."])
