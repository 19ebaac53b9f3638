"""Reading YAML as data only: YAML 1.2 scalars, no tags, no doubled keys, each key with its line.

PyYAML follows YAML 1.1, where `1e-4` is text, `010` is 8, `12:30` is 750 and `on` is true. Configs
are full of the first and never mean the others.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .errors import ConfigError

BASE_KEY = "_BASE_"


class Assignment(NamedTuple):
    """One value for one key, and who set it."""

    path: tuple[str, ...]
    value: Any
    source: str
    is_text: bool = False  # typed on a command line: the key's type decides what the text means


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        return int(text, 0) if re.match(r"[-+]?0[ox]", text) else int(text)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return float(str(self.construct_scalar(node)).replace(".inf", "inf").replace(".nan", "nan"))


# The core schema of YAML 1.2, chapter 10.3.2; `null` first letters etc. only speed PyYAML's look-up.
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def parse_scalar(text: str) -> Any:
    """Return what `text` means as a YAML 1.2 value; text that is no valid YAML is returned as it is.

    >>> parse_scalar("1e-4"), parse_scalar("[1e-4, 2]"), parse_scalar("true"), parse_scalar("on")
    (0.0001, [0.0001, 2], True, 'on')
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError):
        return text


def load_file(path: str | Path) -> list[list[Assignment]]:
    """Read a YAML config and the files it inherits from.

    Args:
        path: the file; `recipe:digits.yaml` names one that ships with the package.

    Returns:
        One list of assignments a file, the most basic file first. A mapping is never a value here:
        `{A: {B: 1}}` gives the path `("A", "B")`. An empty mapping gives nothing.

    Raises:
        ConfigError: a file is missing, is not safe YAML, is not a mapping, holds a key twice, or
            inherits from itself.
    """
    return _load_with_bases(_locate(str(path)), [])


def _locate(name: str) -> Path:
    if not name.startswith("recipe:"):
        return Path(name).expanduser()
    folder = Path(__file__).parent / "recipes"
    path = folder / name.removeprefix("recipe:")
    if not path.is_file():
        known = ", ".join(sorted(p.name for p in folder.glob("*.yaml")))
        raise ConfigError(f"{name}: no such recipe; the package carries {known}")
    return path


def _load_with_bases(path: Path, chain: list[Path]) -> list[list[Assignment]]:
    if path.resolve() in chain:
        cycle = " -> ".join(p.name for p in [*chain, path])
        raise ConfigError(f"{path}: {BASE_KEY} goes in a circle: {cycle}")
    chain = [*chain, path.resolve()]
    own = _load_one(path)
    layers: list[list[Assignment]] = []
    for assignment in own:
        if assignment.path == (BASE_KEY,):
            bases = assignment.value if isinstance(assignment.value, list) else [assignment.value]
            for base in bases:
                if not isinstance(base, str):
                    raise ConfigError(f"{assignment.source}: {BASE_KEY} expects a file's path; got {base!r}")
                located = _locate(base)
                if not base.startswith("recipe:"):
                    located = path.parent / located
                layers += _load_with_bases(located, chain)
    layers.append([a for a in own if a.path != (BASE_KEY,)])
    return layers


def _load_one(path: Path) -> list[Assignment]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ConfigError(f"{path}: cannot read the config file: {reason}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: cannot read the config file: it is not UTF-8 text") from None
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return []
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{path}: expected `KEY: value` lines, found {root.id}")
        return _flatten(loader, root, (), path)
    except yaml.constructor.ConstructorError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(
            f"{path}{line}: {error.problem}; a config is data, tags such as !!python/... are refused"
        ) from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()


def _flatten(loader: _Loader, node: yaml.MappingNode, prefix: tuple[str, ...], path: Path) -> list[Assignment]:
    _refuse_doubled_keys(node, prefix, path)
    loader.flatten_mapping(node)  # resolves `<<`
    found: list[Assignment] = []
    for key_node, value_node in node.value:
        source = f"{path}:{key_node.start_mark.line + 1}"
        key = loader.construct_object(key_node, deep=True)
        full = (*prefix, *str(key).split("."))
        if isinstance(value_node, yaml.MappingNode) and value_node.tag.endswith(":map"):
            found += _flatten(loader, value_node, full, path)
        else:
            found.append(Assignment(full, loader.construct_object(value_node, deep=True), source))
    return found


def _refuse_doubled_keys(node: yaml.MappingNode, prefix: tuple[str, ...], path: Path) -> None:
    lines: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        name = str(key_node.value)
        if name in lines and name != "<<":
            full = ".".join([*prefix, name])
            raise ConfigError(f"{path}:{line}: {full} is written twice, first in line {lines[name]}; keep one")
        lines[name] = line
