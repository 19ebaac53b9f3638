"""Entries of DATASETS.TRAIN and DATASETS.TEST."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from warmstart.config import ConfigError, check_arguments, did_you_mean

ROOT = "{ROOT}"  # in a path: DATASETS.ROOT
# Options of every kind, not passed to its builder. Without `holdout`, `part` is an option of the builder.
_SHARED = ("path", "name", "holdout", "part")
# The likely kind of a path, by its ending.
_KINDS = {".npz": "npz", ".tar": "webdataset", ".csv": "csv", ".tsv": "csv", ".json": "coco", ".yaml": "yolo"}


@dataclass(frozen=True)
class DatasetEntry:
    """One entry of DATASETS.TRAIN or DATASETS.TEST.

    Args:
        kind: a kind such as "imagefolder", or a registered name.
        path: the path that the kind reads; None for a registered name.
        options: keyword arguments of the registered builder.
        name: name of the set in scores and messages; "" if it has no name yet.
        holdout: share of the samples that are held out for testing, chosen by a hash of their names; 0: no split.
        part: with `holdout`, which samples these are: train or test.

    >>> print(DatasetEntry("digits_test"), DatasetEntry("imagefolder", "photos/val", name="val"))
    digits_test val (imagefolder:photos/val)
    """

    kind: str
    path: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    name: str = ""
    holdout: float = 0.0
    part: str = ""

    @property
    def text(self) -> str:
        """The entry without its name and options: "imagefolder:photos/val"."""
        return self.kind if self.path is None else f"{self.kind}:{self.path}"

    def __str__(self) -> str:
        text = f"{self.text}, {self.part} part" if self.holdout else self.text
        return f"{self.name} ({text})" if self.name not in ("", self.text) else text


EntryLike = str | Mapping[str, Any] | DatasetEntry  # the forms in which functions accept a data set


def entry_of(value: EntryLike, root: str = ROOT, label: str = "data set") -> DatasetEntry:
    """Return the entry that `value` means: a registered name, KIND:PATH, NAME=KIND:PATH or {KIND: options}.

    Args:
        value: the entry in a config, or one that is already parsed.
        root: DATASETS.ROOT, which replaces {ROOT}.
        label: the key that holds the value, for messages.

    Raises:
        ConfigError: the name is invalid, the path is not text, or a mapping has another form.

    >>> entry_of("val=npz:{ROOT}/x.npz", root="datasets")
    DatasetEntry(kind='npz', path='datasets/x.npz', options={}, name='val', holdout=0.0, part='')
    >>> entry_of({"csv": {"path": "a=b.csv", "label": "class"}})
    DatasetEntry(kind='csv', path='a=b.csv', options={'label': 'class'}, name='', holdout=0.0, part='')
    """
    if isinstance(value, DatasetEntry):
        entry = value
    elif isinstance(value, str):
        entry = _from_text(value, label)
    else:
        entry = _from_mapping(value, label)
    options = {
        name: each.replace(ROOT, root) if isinstance(each, str) else each for name, each in entry.options.items()
    }
    return replace(entry, path=None if entry.path is None else entry.path.replace(ROOT, root), options=options)


def _from_text(text: str, label: str) -> DatasetEntry:
    head, colon, path = text.partition(":")
    name, equals, kind = head.rpartition("=")
    if not equals or (not colon and "/" in name):  # photos/rate=0.1 is a path
        return DatasetEntry(head, path if colon else None)
    return DatasetEntry(kind, path if colon else None, name=_checked_name(name, label))


def _from_mapping(value: Mapping[str, Any], label: str) -> DatasetEntry:
    kinds = list(value.items()) if isinstance(value, Mapping) else []
    if len(kinds) != 1 or not isinstance(kinds[0][0], str) or not isinstance(kinds[0][1], Mapping):
        raise ConfigError(
            f"{label}: expected a registered name, KIND:PATH or {{KIND: {{path: PATH}}}}; got {value!r}"
        )
    kind, options = kinds[0]
    path = options.get("path")
    if "path" in options and not (isinstance(path, str) and path):
        raise ConfigError(f"{label}: {kind}: path is text; got {path!r}")
    name = _checked_name(options["name"], label) if "name" in options else ""
    holdout, part = _checked_holdout(options, f"{label}: {kind}")
    shared = {*_SHARED} if holdout else {*_SHARED} - {"part"}
    return DatasetEntry(
        kind, path, {key: each for key, each in options.items() if key not in shared}, name, holdout, part
    )


def _checked_holdout(options: Mapping[str, Any], where: str) -> tuple[float, str]:
    """Return the values of the options holdout and part; (0.0, "") without a holdout.

    Raises:
        ConfigError: one of them is missing or wrong.
    """
    if "holdout" not in options:
        return 0.0, ""
    holdout, part = options["holdout"], options.get("part")
    is_number = isinstance(holdout, (int, float)) and not isinstance(holdout, bool)
    if not is_number or not 0 < holdout < 1:
        raise ConfigError(f"{where}: holdout is a share above 0 and below 1, such as 0.2; got {holdout!r}")
    if part not in ("train", "test"):
        got = "" if part is None else f"; got {part!r}"
        raise ConfigError(
            f"{where}: holdout {holdout:g} needs part: train for the samples that are trained on, or part: test"
            f" for those that are held out{got}"
        )
    return float(holdout), part


def _checked_name(name: Any, label: str) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"{label}: a data set's name is text; write it in quotes: name: '{name}'")
    if problem := problem_of(name):
        raise ConfigError(f"{label}: {name!r} cannot be a data set's name because {problem}; choose another one")
    return name


def problem_of(name: str) -> str:
    """Return why `name` cannot name a data set, nor precede the slash in a score's name; "" if it can.

    >>> problem_of("val"), problem_of("a/val")
    ('', "it holds '/'")
    """
    if not name:
        return "it is empty"
    for character in "/=":
        if character in name:
            return f"it holds {character!r}"
    return "" if name.isprintable() and name == name.strip() else "it holds control characters or spaces around it"


def check_options(entry: DatasetEntry, builder: Callable[..., Any], filled: int, label: str) -> None:
    """Raise ConfigError if the builder of a data set does not take the entry's options.

    Args:
        entry: an entry whose kind the builder is registered for.
        builder: a function or class.
        filled: how many positional arguments the caller passes to it.
        label: the key that holds the entry.

    >>> def build(path, download, label: str = "class"): ...
    >>> check_options(entry_of({"csv": {"path": "x.csv", "labels": "a"}}), build, 2, "DATASETS.TEST")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: DATASETS.TEST: csv.labels: csv takes no argument 'labels'; did you mean \
'label'? It takes: path, name, holdout, part, label
    """
    try:
        parameters = list(inspect.signature(builder).parameters.values())
    except ValueError:  # a function in C has no signature
        return
    takes_part = any(p.name == "part" or p.kind is p.VAR_KEYWORD for p in parameters)
    if "part" in entry.options and not takes_part:
        raise ConfigError(f"{label}: {entry.kind}: part needs the share that is held out: holdout: 0.2")
    keyword = inspect.Parameter.KEYWORD_ONLY
    ours = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:filled]
    own = [
        p if p.kind is p.VAR_KEYWORD else p.replace(kind=keyword)
        for p in parameters
        if p.name not in (*ours, *_SHARED[:-1]) and p.kind not in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)
    ]
    taken = {p.name for p in own} | ({"path"} if entry.path is None else set())
    shared = [inspect.Parameter(name, keyword, default="") for name in _SHARED if name not in taken]
    signature = inspect.Signature([*shared, *own])
    check_arguments(f"{label}: {entry.kind}", entry.kind, signature, entry.options, given={*ours} - {*_SHARED})


def check_parts(training: Iterable[DatasetEntry], tests: Iterable[DatasetEntry], label: str) -> None:
    """Raise ConfigError if a test part holds samples of a training part of the same set; `label` is the tests'.

    >>> train, test = (DatasetEntry("npz", "x.npz", holdout=h, part=p) for h, p in ((0.2, "train"), (0.3, "test")))
    >>> check_parts([train], [test], "DATASETS.TEST")
    Traceback (most recent call last):
    warmstart.config.errors.ConfigError: DATASETS.TEST: npz:x.npz, test part has holdout 0.3, and its training \
part 0.2, which therefore holds some of the same samples; give both the same holdout
    """
    for test in tests:
        for train in training:
            same = (train.text, train.options) == (test.text, test.options)
            if same and (train.part, test.part) == ("train", "test") and train.holdout < test.holdout:
                raise ConfigError(
                    f"{label}: {test} has holdout {test.holdout:g}, and its training part {train.holdout:g}, which"
                    " therefore holds some of the same samples; give both the same holdout"
                )


def is_files(entry: DatasetEntry) -> bool:
    """Return whether an entry is of a kind that lists image files on disk.

    >>> is_files(entry_of("imagefolder:photos")), is_files(entry_of("npz:x.npz"))
    (True, False)
    """
    return entry.kind in ("imagefolder", "csv") and entry.path is not None


def registered_names(registered: Iterable[str]) -> list[str]:
    """Return the names of a registry as users write them, sorted; those that end in a colon with a path.

    >>> registered_names(["npz:", "digits_test"])
    ['digits_test', 'npz:PATH']
    """
    return sorted(f"{name}PATH" if name.endswith(":") else name for name in registered)


def unknown_entry(entry: DatasetEntry, registered: Collection[str], label: str) -> ConfigError:
    """Return the error for an entry that nothing is registered for; its message says what to write.

    >>> print(unknown_entry(entry_of("npy:x"), ["npz:", "digits_test"], "DATASETS.TEST"))
    DATASETS.TEST: no data set is called 'npy:x'; did you mean 'npz:x'? Known: digits_test, npz:PATH
    """
    kind, text, known = entry.kind, entry.text, registered_names(registered)
    if f"{kind}:" in registered:
        return ConfigError(f"{label}: {kind} needs a path; write {kind}:PATH or {{{kind}: {{path: PATH}}}}")
    if kind in registered:
        return ConfigError(f"{label}: {kind} is a registered name and takes no path; write {kind}")
    if entry.path is not None:
        kinds = [name.removesuffix(":") for name in registered if name.endswith(":")]
        hint = did_you_mean(kind, kinds, show=lambda match: repr(match + text[len(kind) :]))
    elif "/" in kind or os.path.exists(os.path.expanduser(kind)):
        likely = _KINDS.get(PurePath(kind).suffix, "imagefolder")
        hint = f"; a path needs its kind: write {likely}:{kind}."
    else:
        hint = did_you_mean(kind, known)
    return ConfigError(f"{label}: no data set is called {text!r}{hint} Known: {', '.join(known)}")


def path_beside(place: str) -> str:
    """Return how a message about a missing path ends: with the most similar file or folder beside it, if any."""
    path = Path(place).expanduser()
    try:
        beside = [each.stem for each in path.parent.iterdir() if each.suffix == path.suffix]
    except OSError:
        beside = []
    return did_you_mean(path.stem, beside, "; correct the path", lambda stem: str(path.with_stem(stem)))
