"""The names under which data sets are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from warmstart.config import ConfigError

from .entries import DatasetEntry, EntryLike, entry_of, problem_of

RESERVED = ("lr", "train", "memory", "ema")  # records use them themselves: lr/head, train/error, val/ema/loss


def named_sets(values: Sequence[EntryLike], root: str, label: str) -> dict[str, DatasetEntry]:
    """Return the data sets of a list, which are scored separately, by their names and with them.

    The name is the given one, the registered one, or the path's last component; if two entries share it, it is the
    shortest tail of the path that tells them apart, joined by "_".

    Args:
        values: as DATASETS.TEST holds them.
        root: DATASETS.ROOT.
        label: the key that holds them, for messages.

    Raises:
        ConfigError: a value is no entry, two entries have the same name, or a name cannot be that of scores.

    >>> [*named_sets(["npz:a/val", "npz:/data/b/val/", "npz:c/x.npz", "v2=npz:d"], "datasets", "DATASETS.TEST")]
    ['a_val', 'b_val', 'x.npz', 'v2']
    """
    entries = [entry_of(value, root, label) for value in values]
    paths = [_components(entry) for entry in entries]
    tails = Counter(tail for path in paths for tail in _tails(path))
    taken = {name for entry in entries if (name := _fixed_name(entry))}
    found: dict[str, DatasetEntry] = {}  # as they were given
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
    """Return the components of the path that a name can be made of; () if the entry has a name anyway."""
    if _fixed_name(entry) or entry.path is None:
        return ()
    # After a "#" the path of shards names the members to read.
    path = entry.path.partition("#")[0] if entry.kind == "webdataset" else entry.path
    return tuple(part for part in PurePath(path).parts if part.strip("/\\") not in ("", ".", "..", "~"))


def _tails(path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the ends of a path, the shortest first."""
    return [path[-length:] for length in range(1, len(path) + 1)]


def _require_name(name: str, entry: DatasetEntry, path: tuple[str, ...], label: str) -> None:
    """Raise ConfigError if a name cannot be that of scores; the message suggests one that can."""
    problem = problem_of(name)
    if problem or name in RESERVED:
        why = f"since {problem}" if problem else f"as records use the word {name!r} themselves"
        better = "_".join(path[-2:] if len(path) > 1 else [*path, "set"]).replace("=", "_")
        better = better if path and not problem_of(better) else "NAME"
        raise ConfigError(
            f"{label}: the scores of {entry.text} cannot be called {name!r}, {why}; give it another name: "
            f"{_with_name(entry, better)}"
        )


def _same_name(name: str, one: DatasetEntry, other: DatasetEntry, label: str) -> str:
    """Return the message for two entries with the same name."""
    if one.text.rstrip("/") == other.text.rstrip("/") and (one.name, one.options) == (other.name, other.options):
        what, fix = f"{other.text} is listed twice", "list it once, or give one of them a name of its own"
    else:
        what = f"the scores of {one.text} and {other.text} would both be called {name!r}"
        fix = "give one of them a name of its own"
    return f"{label}: {what}; {fix}: {_with_name(other, 'NAME')}"


def _with_name(entry: DatasetEntry, name: str) -> str:
    """Return how an entry is written with a name."""
    if not entry.options:
        return f"{name}={entry.text}"
    path = "" if entry.path is None else f"path: {entry.path}, "
    return f"{{{entry.kind}: {{{path}name: {name}, ...}}}}"
