"""Sources of config values: files with their base files, command lines, Python."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .errors import ConfigError
from .fields import shown
from .small_files import read_small_text
from .yaml12 import KEY, Loader

BASE_KEY = "_BASE_"
NO_CONFIG = "expected `KEY: value` lines"
_MOST_FILES = 100  # per config, including base files


class Assignment(NamedTuple):
    """One value for one key, and where it was set."""

    path: tuple[str, ...]
    value: Any
    source: str
    is_text: bool = False  # from a command line: the type of the key decides how the text is parsed

    @property
    def key(self) -> str:
        """The path as a dotted key."""
        return ".".join(self.path)


def leaves(tree: dict[Any, Any], source: str, prefix: tuple[str, ...] = ()) -> Iterator[Assignment]:
    """Yield one assignment for each value in nested dicts; an empty dict yields nothing.

    >>> [(a.key, a.value) for a in leaves({"SOLVER": {"GAMMA": 0.1}, "TEST.EVAL_PERIOD": 5}, "")]
    [('SOLVER.GAMMA', 0.1), ('TEST.EVAL_PERIOD', 5)]
    """
    for name, value in tree.items():
        path = (*prefix, *str(name).split("."))
        if isinstance(value, dict):
            yield from leaves(value, source, path)
        else:
            yield Assignment(path, value, source)


def pairs(words: Sequence[Any], source: str, is_key: Callable[[str], bool]) -> list[Assignment]:
    """Return the assignments of `[KEY, VALUE, ...]`, `["KEY=VALUE", ...]` or a mixture.

    Args:
        words: keys are strings; values are strings, parsed as on a command line, or Python values.
        source: where they come from.
        is_key: returns whether a word is a key, to find out which key lacks its value.

    Raises:
        ConfigError: a key has no value, or there is another word in place of a key.

    >>> [a.value for a in pairs(["SOLVER.BASE_LR", 0.1, "OUTPUT_DIR=a=b"], "", str.isupper)]
    [0.1, 'a=b']
    """
    rest = list(words)
    found = []
    while rest:
        word = rest.pop(0)
        key, equals, value = word.partition("=") if isinstance(word, str) else ("", "", "")
        # Only for dotted keys: in `OUTPUT_DIR TEST` the value has the name of a section by coincidence.
        follows = rest[0] if rest and isinstance(rest[0], str) and "." in rest[0] else ""
        lacks_value = not equals and (not rest or is_key(follows))
        if not key or (lacks_value and not is_key(key)):
            raise ConfigError(f"{source}: expected a key such as SOLVER.BASE_LR; got {word!r} ({_instead(word)})")
        if lacks_value:
            raise ConfigError(f"{source}: {key} has no value; write {key} VALUE or {key}=VALUE")
        value = value if equals else rest.pop(0)
        found.append(Assignment(tuple(key.split(".")), value, source, is_text=isinstance(value, str)))
    return found


def _instead(word: Any) -> str:
    """Return what to type for a word in place of a key.

    >>> _instead("photos.yaml"), _instead("epochs")
    ('a config file is given as --config-file photos.yaml', 'a length in epochs is one word: 90ep')
    """
    text = word if isinstance(word, str) else ""
    if text.endswith((".yaml", ".yml")):
        return f"a config file is given as --config-file {text}"
    if text.lower() in ("epoch", "epochs", "ep"):
        return "a length in epochs is one word: 90ep"
    if text.startswith(("imagefolder:", "csv:", "npz:", "webdataset:")):
        return f"a training set is given as DATASETS.TRAIN {text}"
    if os.path.isdir(text):
        return f"to train on the images in a folder, write DATASETS.TRAIN imagefolder:{text}"
    return "write KEY VALUE or KEY=VALUE, and a list as 1,2"


def load_file(name: str | Path) -> list[list[Assignment]]:
    """Read a YAML config and the files it inherits from.

    Args:
        name: the file; `recipe:digits.yaml` is a file that ships with the package.

    Returns:
        One list of assignments per file, base files first. A mapping is never a value: `{A: {B: 1}}` gives the
        path `("A", "B")`. An empty mapping gives nothing.

    Raises:
        ConfigError: a file is missing, is not plain YAML, is not a mapping, has a duplicate key, inherits from
            itself, or inherits from more than 100 files.
    """
    layers = list(islice(_with_bases(_locate(str(name), Path()), [], {}), _MOST_FILES + 1))
    if len(layers) > _MOST_FILES:
        raise _too_many_files(name)
    return layers


def _locate(name: str, folder: Path) -> Path:
    if not name.startswith("recipe:"):
        path = folder / os.path.expanduser(name)
        try:
            os.path.realpath(path)
        except ValueError:  # a NUL character, a lone surrogate
            raise ConfigError(f"{name!r} is not a valid path") from None
        return path
    recipes = Path(__file__).parent / "recipes"
    path = recipes / name.removeprefix("recipe:")
    if not path.is_file():
        known = ", ".join(sorted(p.name for p in recipes.glob("*.yaml")))
        raise ConfigError(f"{name}: no such recipe; the package carries {known}")
    return path


def _with_bases(path: Path, chain: list[Path], known: dict[Path, list[Assignment]]) -> Iterator[list[Assignment]]:
    """Yield the assignments of the base files of a file, then its own; `known` caches them by file."""
    resolved = path.resolve()
    chain = [*chain, resolved]
    if len(chain) > _MOST_FILES:
        raise _too_many_files(chain[0])
    if resolved not in known:
        known[resolved] = _load_one(path)
    own = known[resolved]
    for assignment in own:
        if assignment.key == BASE_KEY:
            bases = assignment.value if isinstance(assignment.value, list) else [assignment.value]
            for base in bases:
                yield from _with_bases(_locate_base(base, path, chain, assignment.source), chain, known)
    yield [a for a in own if a.key != BASE_KEY]


def _too_many_files(name: str | Path) -> ConfigError:
    return ConfigError(
        f"{name}: {BASE_KEY} brings in more than {_MOST_FILES} files, each counted as often as it is "
        "inherited from; name each base once"
    )


def _locate_base(base: Any, path: Path, chain: list[Path], source: str) -> Path:
    if not isinstance(base, str):
        raise ConfigError(f"{source}: {BASE_KEY} expects a file's path; got {shown(base)}")
    located = _locate(base, path.parent)
    if located.resolve() in chain:
        cycle = " -> ".join(p.name for p in [*chain, located])
        raise ConfigError(f"{source}: {BASE_KEY} has a cycle: {cycle}")
    if not os.path.exists(located):
        raise ConfigError(f"{source}: {BASE_KEY} {base}: there is no file {located}")
    return located


def _load_one(path: Path) -> list[Assignment]:
    try:
        text = read_small_text(path)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ConfigError(f"{path}: cannot read the config file: {reason}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: cannot read the config file: it is not UTF-8 text") from None
    try:
        found = _parse(text, path)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        # Names of anchors may be lines of a file that is not a config; `<block end>` comes from PyYAML.
        problem = re.sub(r" '[^'<]{2,}'", "", ", ".join(filter(None, (error.context, error.problem))))
        raise ConfigError(f"{path}{line}: not valid YAML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid YAML: it is nested too deeply, or within itself") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    first: dict[str, str] = {}
    for assignment in found:
        key, source = assignment.key, assignment.source
        if key in first:
            raise ConfigError(f"{source}: {key} is written twice, first at {first[key]}; keep one")
        first[key] = source
    return found


def _parse(text: str, path: Path) -> list[Assignment]:
    loader = Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return []
        if not isinstance(root, yaml.MappingNode):
            raise yaml.MarkedYAMLError(problem=NO_CONFIG, problem_mark=root.start_mark)
        return _flatten(loader, root, (), path)
    finally:
        loader.dispose()


def _flatten(loader: Loader, node: yaml.MappingNode, prefix: tuple[str, ...], path: Path) -> list[Assignment]:
    loader.flatten_mapping(
        node
    )  # resolves `<<`: merged values come first, and values of this mapping override them
    values = {str(loader.construct_object(key, deep=True)): (key, value) for key, value in node.value}
    found: list[Assignment] = []
    for name, (key, value) in values.items():
        if not KEY.fullmatch(name):
            raise yaml.MarkedYAMLError(problem=NO_CONFIG, problem_mark=key.start_mark)
        full = (*prefix, *name.split("."))
        if isinstance(value, yaml.MappingNode):
            found += _flatten(loader, value, full, path)
        else:
            source = f"{path}:{key.start_mark.line + 1}"
            found.append(Assignment(full, loader.construct_object(value, deep=True), source))
    return found
