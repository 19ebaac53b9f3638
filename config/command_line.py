"""Flags and KEY VALUE overrides in any order on one command line.

argparse cannot do it: REMAINDER swallows a `--resume` that follows an override, and intermixed
parsing takes the value -1e-4 for a flag.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .errors import ConfigError, did_you_mean


class Flag(NamedTuple):
    """A flag of a tool.

    Attributes:
        name: "--config-file".
        value: what stands behind it: "none", "one", "many" for one or more, up to the next flag or key, or "path"
            for an optional path.
        help: one line for --help.
        repeated: whether each occurrence counts, instead of the last.
        convert: makes the value from its text, each of many from its own; ValueError for text that does not fit.
    """

    name: str
    value: Literal["none", "one", "many", "path"]
    help: str
    repeated: bool = False
    convert: Callable[[str], Any] = str

    @property
    def key(self) -> str:
        """The flag's name in the parsed result: "config_file"."""
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
        flags: the flags there are.
        is_key: tells whether a word names a config key; such a word is never an optional path.

    Returns:
        The value of each flag by its `key` (an optional path that is left out is ""), and the other
        words in order. A flag given twice: the last one wins.

    Raises:
        ConfigError: a flag is unknown, lacks its value or has one that does not fit.

    >>> flags = [Flag("--config-file", "one", ""), Flag("--resume", "path", "")]
    >>> parse_command_line(["SOLVER.BASE_LR", "-1e-4", "--resume", "--config-file", "x.yaml"], flags)
    ({'config_file': 'x.yaml', 'resume': ''}, ['SOLVER.BASE_LR', '-1e-4'])
    """
    by_name = {flag.name: flag for flag in flags}
    found: dict[str, Any] = {flag.key: flag.absent for flag in flags}
    overrides: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, text = word.partition("=")
        if not word.startswith("--"):
            overrides.append(word)
            continue
        if name not in by_name:
            hint = did_you_mean(name, by_name, f"; known: {', '.join(by_name)}", show=str)
            raise ConfigError(f"command line: unknown flag {name}{hint}")
        flag = by_name[name]
        value = _value(flag, text if equals else None, words, is_key)
        if flag.repeated:
            found[flag.key].append(value)
        else:
            found[flag.key] = value
    return found, overrides


def _value(flag: Flag, text: str | None, words: list[str], is_key: Callable[[str], bool]) -> Any:
    """Return the flag's value from the text behind its "=", or else from the words that follow it."""
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
    """Return the words of this process' command line in front of a tool's own: the script, and a command of it.

    Args:
        argv: the tool's own words. If the command line does not end with them, a program has passed them to the
            tool's `main`, and only the script is returned.

    >>> from unittest.mock import patch
    >>> with patch("sys.argv", ["bin/warmstart", "train", "--resume"]):
    ...     started_as(["--resume"]), started_as(["SEED", "1"])
    (['bin/warmstart', 'train'], ['bin/warmstart'])
    """
    own = len(sys.argv) - len(argv)
    return sys.argv[:own] if own > 0 and sys.argv[own:] == [*argv] else sys.argv[:1]


def program(argv: Sequence[str]) -> str:
    """Return a tool's name for its usage, as it was typed: "train_net.py" or "warmstart train".

    Args:
        argv: the tool's own words.

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
    return "\n".join([*lines, "", "config/defaults.py describes every KEY; flags may stand anywhere."])
