"""Escaping of untrusted text (names, paths, values, content of files) for terminals and logs."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return a text in one line, with each character that is not printable replaced by its escape, as in `repr`.

    This includes line breaks, with which a name could start a separate line in a log, and control characters of
    terminals (ESC) and of the writing direction, which can disguise a line.

    >>> for text in ("a name", "a\nname", "\x1b[2Jname", "na\u202eme"):
    ...     print(printable(text))
    a name
    a\nname
    \x1b[2Jname
    na\u202eme
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
