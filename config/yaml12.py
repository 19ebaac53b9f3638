"""YAML as plain data: numbers as in YAML 1.2, no tags, no duplicate keys.

PyYAML follows YAML 1.1, in which `1e-4` is text, `010` is 8, `12:30` is 750 and `on` is true. Numbers such as 1e-4
are common in configs, and the other conversions are never intended.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

KEY = re.compile(
    r"[\w.-]{1,100}"
)  # anything else may be a line of a file that is not a config, and is not repeated in messages

# A word of a list, with braces that YAML does not allow inside it: shard-{0..9}.tar
_WORD = r"""(?:[^\s,\[\](){}'"]|\{[^\[\](){}'"]*\})+"""

_MOST_VALUES = 50_000  # per document
_LONGEST_LIST = 2**16  # characters of a list given as text


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the core schema of YAML 1.2; tags and duplicate keys are errors."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._open: list[str | None] = []  # the anchors, or None, of the nodes that are being composed
        self._count = 0  # values so far, with aliases expanded
        self._counts: dict[str, int] = {}  # values below each anchor, with aliases expanded

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse tags (`!!python/...`), before any object is constructed from them."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        name: Any = getattr(event, "anchor", None)
        within_itself = isinstance(event, yaml.AliasEvent) and name in self._open
        if within_itself:
            raise yaml.MarkedYAMLError(
                problem="an alias refers to a value that contains it", problem_mark=event.start_mark
            )
        if len(self._open) > 50:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=event.start_mark)
        tag = getattr(event, "tag", None)
        if tag:
            own, _, kind = tag.partition("tag:yaml.org,2002:")
            problem = f"a config is plain data and takes no tags{'' if own else f'; got !!{kind}'}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        before = self._count
        self._open.append(name)
        try:
            node = super().compose_node(parent, index)
        finally:
            self._open.pop()
        is_alias = isinstance(event, yaml.AliasEvent)
        self._count += self._counts[str(name)] if is_alias else 1
        if self._count > _MOST_VALUES:  # a few lines of aliases can expand to billions
            raise yaml.MarkedYAMLError(problem=f"more than {_MOST_VALUES:,} values", problem_mark=event.start_mark)
        if name is not None and not is_alias:
            self._counts[name] = self._count - before
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse duplicate keys in a mapping; YAML forbids them, PyYAML uses the last one."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                known = name if KEY.fullmatch(name) else "a key"
                problem = f"{known} is written twice, first in line {lines[name]}; keep one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[name] = line
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Return a decimal, 0o17 or 0x1f."""
        text = str(self.construct_scalar(node))
        if text.startswith(("0o", "0x")) and len(text) > 1000:  # Python would parse it, but not print it
            raise ValueError("a number of more than 1,000 digits")
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Return a float; infinity is `.inf`."""
        return float(str(self.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan"))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True  # a value that two keys share is written twice


# Chapter 10.3.2 of YAML 1.2; the first letters only speed up PyYAML's lookup. The dumper also keeps the resolvers
# of 1.1, so that text which either version would convert is quoted.
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
    for _class in (Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
Loader.add_constructor("tag:yaml.org,2002:float", Loader.construct_yaml_float)
# PyYAML writes these line breaks unescaped, and reads them as \n.
_Dumper.add_representer(
    str,
    lambda dumper, value: dumper.represent_scalar(
        "tag:yaml.org,2002:str", value, style='"' if re.search("[\x85\u2028\u2029]", value) else None
    ),
)
for _type in (list, tuple):
    _Dumper.add_representer(
        _type, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
    )


def parse_scalar(text: str) -> Any:
    """Return the value of `text` as YAML 1.2; text that is not valid YAML is returned unchanged.

    Raises:
        ValueError: the text starts like a list or mapping, but is not valid.

    >>> parse_scalar("1e-4"), parse_scalar("[1e-4, 2]"), parse_scalar("true"), parse_scalar("on")
    (0.0001, [0.0001, 2], True, 'on')
    """
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        if text.lstrip().startswith(("[", "{")):
            problem = getattr(error, "problem", None) or "not valid YAML"
            raise ValueError(problem) from None
        return text


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML 1.2 document of plain data.

    Raises:
        ValueError: it is not valid.

    >>> parse_yaml("names: {0: on, 1: off}")
    {'names': {0: 'on', 1: 'off'}}
    """
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"it is not valid YAML: {' '.join(str(error).split())}") from None


def split_list(text: str) -> list[Any]:
    """Return the entries of a list on a command line, "1,2" or "(1, 2)" or "[1, 2]", each as text.

    Braces inside a word are part of it, as in patterns of file names.

    Raises:
        ValueError: the text is not such a list.

    >>> split_list("(100,)"), split_list("a, 'b,c'"), split_list("")
    (['100'], ['a', 'b,c'], [])
    >>> split_list("x-{0..9}.tar, {a,b}.tar")
    ['x-{0..9}.tar', '{a,b}.tar']
    """
    if len(text) > _LONGEST_LIST:
        raise ValueError(f"more than {_LONGEST_LIST:,} characters")
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("()", "[]"):
        inner = inner[1:-1]
    try:
        return list(yaml.load(f"[{inner}]", yaml.BaseLoader))
    except (yaml.YAMLError, RecursionError):
        if not re.fullmatch(rf"{_WORD}(,\s*{_WORD})*", inner):
            raise ValueError from None
        return re.findall(_WORD, inner)


def numbers_in(text: str) -> Any:
    """Return the list of numbers in "0.9,0.999" or "(0.9, 0.999)", for values without a type; else the text.

    >>> numbers_in("(30, 60)"), numbers_in("a,b"), numbers_in("3")
    ([30, 60], 'a,b', '3')
    """
    if "," not in text:
        return text
    try:
        entries = [parse_scalar(entry) for entry in split_list(text)]
    except (ValueError, AttributeError):  # AttributeError: an entry is a list or a mapping
        return text
    return entries if all(isinstance(entry, (int, float)) for entry in entries) else text


def dump_yaml(tree: dict[str, Any], **kwargs: Any) -> str:
    """Return nested dicts as YAML that `Loader` reads back unchanged; `kwargs` are passed to yaml.dump.

    >>> print(dump_yaml({"STEPS": (30, 60), "NAME": "1e5"}), end="")
    STEPS: [30, 60]
    NAME: '1e5'
    """
    return str(yaml.dump(tree, Dumper=_Dumper, **{"sort_keys": False, "allow_unicode": True, **kwargs}))
