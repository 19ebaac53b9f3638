"""Names of data sets in scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from warmstart.config import ConfigError

from .entries import DatasetEntry, EntryLike, entry_of, problem_of

RESERVED = ("lr", "train", "memory", "ema")  # records use these words: lr/head, train/error, val/ema/loss


def named_sets(values: Sequence[EntryLike], root: str, label: str) -> dict[str, DatasetEntry]:
    """Return the entries of a list, each of which is scored separately, by name; each entry holds its name too.

    The name is the given one, the registered one, or the path's last component. If two paths share it, it is the
    shortest tail of the path that distinguishes them, joined by "_".

    Args:
        values: entries in the forms that DATASETS.TEST takes.
        root: DATASETS.ROOT.
        label: the key that holds them, for messages.

    Raises:
        ConfigError: a value is not an entry, two entries have the same name, or a name cannot be used in scores.

    >>> [*named_sets(["npz:a/val", "npz:/data/b/val/", "npz:c/x.npz", "v2=npz:d"], "datasets", "DATASETS.TEST")]
    ['a_val', 'b_val', 'x.npz', 'v2']
    """
    entries = [entry_of(value, root, label) for value in values]
    paths = [_components(entry) for entry in entries]
    tails = Counter(tail for path in paths for tail in _tails(path))
    taken = {name for entry in entries if (name := _fixed_name(entry))}
    found: dict[str, DatasetEntry] = {}  # the entries as they were given
    for entry, path in zip(entries, paths, strict=True):
        apart = (name for tail in _tails(path) if tails[tail] == 1 and (name := "_".join(tail)) not in taken)
        name = _fixed_name(entry) or next(apart, "_".join(path))
        _require_name(name, entry, path, label)
        if name in found:
            raise ConfigError(_same_name(name, found[name], entry, label))
        found[name] = entry
    return {name: replace(entry, name=name) for name, entry in found.items()}


def _fixed_name(entry: DatasetEntry) -> str:
    """Return the name that does not depend on the other entries, or "" if there is none."""
    return entry.name or (entry.kind if entry.path is None else "")


def _components(entry: DatasetEntry) -> tuple[str, ...]:
    """Return the path components that a name can be made of; () if the entry already has a name."""
    if _fixed_name(entry) or entry.path is None:
        return ()
    # In a path of shards, what follows "#" names the members to read.
    path = entry.path.partition("#")[0] if entry.kind == "webdataset" else entry.path
    return tuple(part for part in PurePath(path).parts if part.strip("/\\") not in ("", ".", "..", "~"))


def _tails(path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the ends of a path, the shortest first."""
    return [path[-length:] for length in range(1, len(path) + 1)]


def _require_name(name: str, entry: DatasetEntry, path: tuple[str, ...], label: str) -> None:
    """Raise ConfigError if a name cannot be used in scores; the message suggests one that can."""
    problem = problem_of(name)
    if problem or name in RESERVED:
        why = f"because {problem}" if problem else f"because records use the word {name!r} themselves"
        better = "_".join(path[-2:] if len(path) > 1 else [*path, "set"]).replace("=", "_")
        better = better if path and not problem_of(better) else "NAME"
        raise ConfigError(
            f"{label}: the scores of {entry.text} cannot be called {name!r} {why}; give it another name: "
            f"{_with_name(entry, better)}"
        )


def _same_name(name: str, one: DatasetEntry, other: DatasetEntry, label: str) -> str:
    """Return the message for two entries with the same name."""
    if one.text.rstrip("/") == other.text.rstrip("/") and replace(one, path="") == replace(other, path=""):
        what, fix = f"{other.text} is listed twice", "list it once, or give one of them another name"
    else:
        what = f"the scores of {one.text} and {other.text} would both be called {name!r}"
        fix = "give one of them another name"
    return f"{label}: {what}; {fix}: {_with_name(other, 'NAME')}"


def _with_name(entry: DatasetEntry, name: str) -> str:
    """Return the text of an entry with a name, as users write it."""
    if not entry.options and not entry.holdout:
        return f"{name}={entry.text}"
    path = "" if entry.path is None else f"path: {entry.path}, "
    return f"{{{entry.kind}: {{{path}name: {name}, ...}}}}"
