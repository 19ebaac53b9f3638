"""Text from elsewhere, made fit for a terminal and a log: names, paths, values, what a file holds."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return a text in one line, each character that is not printable as its escape, as in `repr`.

    Line breaks are among them, with which a name could begin a line of its own in a log, and so are control
    characters of terminals (ESC) and of the direction of writing, which make a line look like another one.

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
